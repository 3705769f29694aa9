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
    from lambda_migrate.clock import Deadline
    from lambda_migrate.engine.flags import Flags, FlagSource
    from lambda_migrate.engine.target import Policy, Target
    from lambda_migrate.events import Event, Observer
    from lambda_migrate.migrations.manifest import Manifest
    from lambda_migrate.migrations.migration import Migration, Script
    from lambda_migrate.migrations.plan import Plan
    from lambda_migrate.migrations.source import read_manifest
    from lambda_migrate.outcome import Outcome
    from lambda_migrate.runner import MigrationRunner
    from lambda_migrate.settings import Settings

__all__ = [
    "Deadline",
    "Event",
    "FlagSource",
    "Flags",
    "Manifest",
    "Migration",
    "MigrationRunner",
    "Observer",
    "Outcome",
    "Plan",
    "Policy",
    "Script",
    "Settings",
    "Target",
    "__version__",
    "errors",
    "migrate_on_cold_start",
    "read_manifest",
    "service_unavailable",
]

_MODULES = {
    "Deadline": "lambda_migrate.clock",
    "Event": "lambda_migrate.events",
    "FlagSource": "lambda_migrate.engine.flags",
    "Flags": "lambda_migrate.engine.flags",
    "Manifest": "lambda_migrate.migrations.manifest",
    "Migration": "lambda_migrate.migrations.migration",
    "MigrationRunner": "lambda_migrate.runner",
    "Observer": "lambda_migrate.events",
    "Outcome": "lambda_migrate.outcome",
    "Plan": "lambda_migrate.migrations.plan",
    "Policy": "lambda_migrate.engine.target",
    "Script": "lambda_migrate.migrations.migration",
    "Settings": "lambda_migrate.settings",
    "Target": "lambda_migrate.engine.target",
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
