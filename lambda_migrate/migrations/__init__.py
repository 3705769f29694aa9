"""What is to be applied: migrations, the manifest that orders them, the plan against a history.

Nothing is loaded before it is asked for: a cold start's fast path needs `digest` and no more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lambda_migrate.migrations.digest import EMPTY_DIGEST, chain_digest
    from lambda_migrate.migrations.manifest import Manifest
    from lambda_migrate.migrations.migration import Migration, Script
    from lambda_migrate.migrations.plan import Divergence, HistoryRow, Plan, RowState, make_plan
    from lambda_migrate.migrations.source import parse_migration, read_manifest

__all__ = [
    "EMPTY_DIGEST",
    "Divergence",
    "HistoryRow",
    "Manifest",
    "Migration",
    "Plan",
    "RowState",
    "Script",
    "chain_digest",
    "make_plan",
    "parse_migration",
    "read_manifest",
]

_MODULES = {
    "digest": ("EMPTY_DIGEST", "chain_digest"),
    "source": ("parse_migration", "read_manifest"),
    "manifest": ("Manifest",),
    "migration": ("Migration", "Script"),
    "plan": ("Divergence", "HistoryRow", "Plan", "RowState", "make_plan"),
}


def __getattr__(name: str) -> object:
    """Load a name when it is first asked for (PEP 562)."""
    import importlib

    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
