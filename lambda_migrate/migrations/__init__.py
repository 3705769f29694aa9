"""What is to be applied: migrations, the manifest that orders them, the plan against a history."""

from lambda_migrate.migrations.directory import parse, read_manifest
from lambda_migrate.migrations.manifest import EMPTY_DIGEST, Manifest, chain
from lambda_migrate.migrations.migration import Migration, Script
from lambda_migrate.migrations.plan import Divergence, HistoryRow, Plan, RowState, make_plan

__all__ = [
    "EMPTY_DIGEST",
    "Divergence",
    "HistoryRow",
    "Manifest",
    "Migration",
    "Plan",
    "RowState",
    "Script",
    "chain",
    "make_plan",
    "parse",
    "read_manifest",
]
