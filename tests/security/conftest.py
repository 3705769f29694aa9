"""Fixtures of the security tests: the servers of the PostgreSQL tests."""

from __future__ import annotations

from tests.integration.postgresql.conftest import bench, databases, each_bench, servers

__all__ = ["bench", "databases", "each_bench", "servers"]
