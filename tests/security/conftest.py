"""What these tests share: the servers of the PostgreSQL wing's tests."""

from __future__ import annotations

from tests.integration.postgresql.conftest import bench, databases, each_bench, servers

__all__ = ["bench", "databases", "each_bench", "servers"]
