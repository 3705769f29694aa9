"""Migrate a PostgreSQL schema on AWS Lambda cold start, however many environments start together.

    from lambda_migrate import migrate_on_cold_start

    @migrate_on_cold_start
    def handler(event, context): ...

Importing this package loads the decorator and nothing else: no boto3, no pg8000, no Powertools.
The names in ``__all__`` are public, and so are the modules that the API reference names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lambda_migrate.decorator import migrate_on_cold_start, service_unavailable

if TYPE_CHECKING:
    from lambda_migrate import errors
    from lambda_migrate._version import __version__
    from lambda_migrate.clock import Clock, Deadline
    from lambda_migrate.engine.flags import Flags, FlagSource
    from lambda_migrate.engine.target import Policy, Target
    from lambda_migrate.events import Event, Observer
    from lambda_migrate.lease.store import LeaseStore
    from lambda_migrate.migrations.history import HistoryRow
    from lambda_migrate.migrations.manifest import Manifest
    from lambda_migrate.migrations.migration import Hook, Migration, Script
    from lambda_migrate.migrations.plan import Divergence, Plan
    from lambda_migrate.migrations.source import read_manifest
    from lambda_migrate.migrations.version import Version
    from lambda_migrate.outcome import Outcome
    from lambda_migrate.postgresql.ports import Database
    from lambda_migrate.randomness import Random
    from lambda_migrate.runner import MigrationRunner
    from lambda_migrate.settings import Settings

__all__ = [
    "Clock",
    "Database",
    "Deadline",
    "Divergence",
    "Event",
    "FlagSource",
    "Flags",
    "HistoryRow",
    "Hook",
    "LeaseStore",
    "Manifest",
    "Migration",
    "MigrationRunner",
    "Observer",
    "Outcome",
    "Plan",
    "Policy",
    "Random",
    "Script",
    "Settings",
    "Target",
    "Version",
    "__version__",
    "errors",
    "migrate_on_cold_start",
    "read_manifest",
    "service_unavailable",
]

_MODULES = {
    "Clock": "lambda_migrate.clock",
    "Database": "lambda_migrate.postgresql.ports",
    "Deadline": "lambda_migrate.clock",
    "Divergence": "lambda_migrate.migrations.plan",
    "Event": "lambda_migrate.events",
    "FlagSource": "lambda_migrate.engine.flags",
    "Flags": "lambda_migrate.engine.flags",
    "HistoryRow": "lambda_migrate.migrations.history",
    "Hook": "lambda_migrate.migrations.migration",
    "LeaseStore": "lambda_migrate.lease.store",
    "Manifest": "lambda_migrate.migrations.manifest",
    "Migration": "lambda_migrate.migrations.migration",
    "MigrationRunner": "lambda_migrate.runner",
    "Observer": "lambda_migrate.events",
    "Outcome": "lambda_migrate.outcome",
    "Plan": "lambda_migrate.migrations.plan",
    "Policy": "lambda_migrate.engine.target",
    "Random": "lambda_migrate.randomness",
    "Script": "lambda_migrate.migrations.migration",
    "Settings": "lambda_migrate.settings",
    "Target": "lambda_migrate.engine.target",
    "Version": "lambda_migrate.migrations.version",
    "__version__": "lambda_migrate._version",
    "read_manifest": "lambda_migrate.migrations.source",
}
"""Public names that are imported on first use, and the module that defines each."""


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    import importlib

    if name == "errors":
        return importlib.import_module("lambda_migrate.errors")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """Every public name, including those not imported yet."""
    return sorted({*globals(), *__all__})
