"""Fixtures of the security tests: the servers of the PostgreSQL tests."""

from __future__ import annotations

from tests.integration.postgresql.conftest import databases, db, each_db, servers

__all__ = ["databases", "db", "each_db", "servers"]
