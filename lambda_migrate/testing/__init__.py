"""Fakes for users' tests: a clock, randomness, a lease table, a database, feature flags.

::

    clock = FakeClock()
    database = InMemoryDatabase(clock=clock)
    target = Target("orders", InMemoryLeaseTable(clock=clock), database, clock=clock)
    MigrationRunner(read_manifest("migrations"), target).ensure()
    assert database.effects == ["0001_create_orders", "0002_index_orders"]

The fakes pass the same contract tests as DynamoDB and PostgreSQL. They run no SQL.
"""

from __future__ import annotations

from lambda_migrate.lease.memory import InMemoryLeaseTable
from lambda_migrate.testing.clock import FakeClock, FixedRandom
from lambda_migrate.testing.database import (
    InMemoryDatabase,
    InMemoryDryRun,
    InMemorySession,
)
from lambda_migrate.testing.flags import InMemoryFlags
from lambda_migrate.testing.observer import RecordingObserver
from lambda_migrate.testing.request_log import InMemoryRequestLog

__all__ = [
    "FakeClock",
    "FixedRandom",
    "InMemoryDatabase",
    "InMemoryDryRun",
    "InMemoryFlags",
    "InMemoryLeaseTable",
    "InMemoryRequestLog",
    "InMemorySession",
    "RecordingObserver",
]
