"""Migrate a PostgreSQL schema on AWS Lambda cold start, however many environments start at once.

    from lambda_migrate import migrate_on_cold_start

    @migrate_on_cold_start
    def handler(event, context): ...

Importing this package loads the decorator and nothing else: no boto3, no pg8000, no Powertools.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lambda_migrate._version import __version__
from lambda_migrate.decorator import migrate_on_cold_start, service_unavailable

if TYPE_CHECKING:
    from lambda_migrate import errors
    from lambda_migrate.engine.runner import MigrationRunner, Outcome
    from lambda_migrate.migrations.manifest import Manifest
    from lambda_migrate.migrations.migration import Migration
    from lambda_migrate.migrations.plan import Plan
    from lambda_migrate.settings import Settings

__all__ = [
    "Manifest",
    "Migration",
    "MigrationRunner",
    "Outcome",
    "Plan",
    "Settings",
    "__version__",
    "errors",
    "migrate_on_cold_start",
    "service_unavailable",
]

_LATER = {
    "Manifest": "lambda_migrate.migrations.manifest",
    "Migration": "lambda_migrate.migrations.migration",
    "MigrationRunner": "lambda_migrate.engine.runner",
    "Outcome": "lambda_migrate.engine.runner",
    "Plan": "lambda_migrate.migrations.plan",
    "Settings": "lambda_migrate.settings",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for (PEP 562)."""
    import importlib

    if name == "errors":
        return importlib.import_module("lambda_migrate.errors")
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LATER[name]), name)


def __dir__() -> list[str]:
    """All public names, those not loaded yet as well."""
    return sorted({*globals(), *__all__})
