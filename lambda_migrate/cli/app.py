"""The whole app: importing a module of commands adds them, in the order of ``--help``."""

from __future__ import annotations

# isort: off
from lambda_migrate.cli.registry import COMMON, CURRENT, app
from lambda_migrate.cli import writing, looking, moving, mending, leases, demonstrating
# isort: on

__all__ = [
    "COMMON",
    "CURRENT",
    "app",
    "demonstrating",
    "leases",
    "looking",
    "mending",
    "moving",
    "writing",
]
