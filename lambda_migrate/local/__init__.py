"""For workstations and tests: a local Lambda, PostgreSQL and DynamoDB. Needs the extra ``local``.

Public are the names below; the modules are internal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lambda_migrate.local.cloudwatch import Alarm, CloudWatch, Metric, read_alarms
    from lambda_migrate.local.runtime.environment import InvocationResult
    from lambda_migrate.local.runtime.function import LocalFunction
    from lambda_migrate.local.servers.dynamodb import LocalDynamoDB
    from lambda_migrate.local.servers.postgresql import LocalPostgreSQL

__all__ = [
    "Alarm",
    "CloudWatch",
    "InvocationResult",
    "LocalDynamoDB",
    "LocalFunction",
    "LocalPostgreSQL",
    "Metric",
    "read_alarms",
]

_MODULES = {
    "Alarm": "lambda_migrate.local.cloudwatch",
    "CloudWatch": "lambda_migrate.local.cloudwatch",
    "InvocationResult": "lambda_migrate.local.runtime.environment",
    "LocalDynamoDB": "lambda_migrate.local.servers.dynamodb",
    "LocalFunction": "lambda_migrate.local.runtime.function",
    "LocalPostgreSQL": "lambda_migrate.local.servers.postgresql",
    "Metric": "lambda_migrate.local.cloudwatch",
    "read_alarms": "lambda_migrate.local.cloudwatch",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: each loads a server's own dependencies."""
    import importlib

    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
