"""What to apply: migration files, their manifest, and the plan against a history.

A *migration* is one versioned change with an up and, perhaps, a down script (`migration`). `source`
reads them from a directory, a package or a zip into a *manifest* (`manifest`), which its digest
names (`manifest_digest`). `plan` compares a manifest with a database's history (`history`): what is
pending, applied, ahead or diverged; `repeatable` does so for repeatable migrations. `rollback` and
`baseline` choose what a rollback reverses and what a baseline records. `revisions` are those of
Alembic and Django, which name their parents; `requirements` and `requirement_check` decide what a
function waits for if another tool migrates. `sql` parses scripts. The package reads files and
decides; it uses no database.

Modules are imported when a name is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lambda_migrate.migrations.history import HistoryRow, RowState
    from lambda_migrate.migrations.manifest import Manifest
    from lambda_migrate.migrations.migration import Migration, Script
    from lambda_migrate.migrations.plan import Divergence, Plan
    from lambda_migrate.migrations.source import parse_migration, read_manifest

__all__ = [
    "Divergence",
    "HistoryRow",
    "Manifest",
    "Migration",
    "Plan",
    "RowState",
    "Script",
    "parse_migration",
    "read_manifest",
]

_MODULES = {
    "source": ("parse_migration", "read_manifest"),
    "manifest": ("Manifest",),
    "migration": ("Migration", "Script"),
    "history": ("HistoryRow", "RowState"),
    "plan": ("Divergence", "Plan"),
}


def __getattr__(name: str) -> object:
    """Import a name when it is first used (PEP 562)."""
    import importlib

    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
