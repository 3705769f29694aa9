"""For users' tests: fakes, and the pytest plugin.

The fakes are a clock, randomness, a lease table, a database and feature flags::

    clock = FakeClock()
    database = InMemoryDatabase(clock=clock)
    target = Target("orders", InMemoryLeaseStore(clock=clock), database, clock=clock)
    MigrationRunner(read_manifest("migrations"), target).ensure()
    assert database.effects == ["0001_create_orders", "0002_index_orders"]

The fakes pass the same contract tests as DynamoDB and PostgreSQL. They run no SQL. The plugin,
`lambda_migrate.testing.pytest_plugin`, has fixtures on a real PostgreSQL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lambda_migrate.lease.memory import InMemoryLeaseStore
    from lambda_migrate.testing.clock import FakeClock, FixedRandom
    from lambda_migrate.testing.database import (
        InMemoryDatabase,
        InMemoryDryRun,
        InMemorySession,
    )
    from lambda_migrate.testing.flags import InMemoryFlags
    from lambda_migrate.testing.observer import RecordingObserver
    from lambda_migrate.testing.request_log import InMemoryRequestLog
    from lambda_migrate.testing.scratch import ScratchDatabase

__all__ = [
    "FakeClock",
    "FixedRandom",
    "InMemoryDatabase",
    "InMemoryDryRun",
    "InMemoryFlags",
    "InMemoryLeaseStore",
    "InMemoryRequestLog",
    "InMemorySession",
    "RecordingObserver",
    "ScratchDatabase",
]

_MODULES = {
    "FakeClock": "lambda_migrate.testing.clock",
    "FixedRandom": "lambda_migrate.testing.clock",
    "InMemoryDatabase": "lambda_migrate.testing.database",
    "InMemoryDryRun": "lambda_migrate.testing.database",
    "InMemoryFlags": "lambda_migrate.testing.flags",
    "InMemoryLeaseStore": "lambda_migrate.lease.memory",
    "InMemoryRequestLog": "lambda_migrate.testing.request_log",
    "InMemorySession": "lambda_migrate.testing.database",
    "RecordingObserver": "lambda_migrate.testing.observer",
    "ScratchDatabase": "lambda_migrate.testing.scratch",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use: pytest loads this package in every test suite."""
    import importlib

    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
