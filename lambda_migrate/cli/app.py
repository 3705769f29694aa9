"""The complete app: importing a module of commands adds them, in the order of ``--help``."""

from __future__ import annotations

# isort: off
from lambda_migrate.cli.help import HELP
from lambda_migrate.cli.options import COMMON_OPTIONS, CURRENT_INVOCATION, app
from lambda_migrate.cli import new, manifest, inspect, migrate, repair, adopt, lease, demo
# isort: on

__all__ = [
    "COMMON_OPTIONS",
    "CURRENT_INVOCATION",
    "HELP",
    "adopt",
    "app",
    "demo",
    "inspect",
    "lease",
    "manifest",
    "migrate",
    "new",
    "repair",
]
