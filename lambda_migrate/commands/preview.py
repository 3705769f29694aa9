"""What `up` would do: each pending migration with its statements and faults."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lambda_migrate.migrations.sql.excerpt import redact
from lambda_migrate.migrations.sql.lint import (
    check_migration,
    find_script_warnings,
    remove_transaction_block,
)
from lambda_migrate.migrations.sql.tokens import split_statements

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lambda_migrate.migrations import Divergence, HistoryRow, Manifest, Migration, Plan
    from lambda_migrate.migrations.version import Version

__all__ = ["PlanPreview", "PlannedMigration", "build_preview"]

_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_STATEMENT_LENGTH = 200


@dataclass(frozen=True, slots=True)
class PlannedMigration:
    """One pending migration.

    Attributes:
        version: Its version.
        name: Its name.
        path: Its file.
        transactional: Whether it runs in a transaction.
        isolation: The isolation level of that transaction, as the marker writes it.
        has_down_script: Whether it could be rolled back.
        hooks: Names of the hooks that run in its transaction.
        statements: Each on one line, redacted and truncated.
        sql: Each in full as it is in the file, redacted.
        faults: Why it cannot run; empty if it can.
        warnings: What runs, but hardly as intended.
    """

    version: Version
    name: str
    path: str
    transactional: bool
    has_down_script: bool
    hooks: tuple[str, ...]
    statements: tuple[str, ...]
    sql: tuple[str, ...]
    faults: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    isolation: str = "read-committed"


@dataclass(frozen=True, slots=True)
class PlanPreview:
    """What `up` would do.

    Attributes:
        digest: The digest of the manifest.
        migrations: The pending migrations, in order.
        in_doubt: History rows that would be resolved first; see `Plan.interrupted`.
        repeatables_ahead: See `Plan.repeatables_ahead`.
        divergences: Contradictions between files and history; with any, `up` applies nothing.
    """

    digest: str
    migrations: tuple[PlannedMigration, ...]
    in_doubt: tuple[HistoryRow, ...]
    divergences: tuple[Divergence, ...]
    repeatables_ahead: tuple[str, ...]

    @property
    def can_be_applied(self) -> bool:
        """Whether `up` would start."""
        return not (self.divergences or any(migration.faults for migration in self.migrations))


def build_preview(plan: Plan, manifest: Manifest, placeholders: Mapping[str, str]) -> PlanPreview:
    """Build the preview of a plan from the scripts of its migrations."""
    return PlanPreview(
        digest=manifest.digest,
        migrations=tuple(
            _build_planned_migration(migration, placeholders) for migration in plan.pending
        ),
        in_doubt=plan.interrupted,
        divergences=plan.divergences,
        repeatables_ahead=plan.repeatables_ahead,
    )


def _build_planned_migration(
    migration: Migration, placeholders: Mapping[str, str]
) -> PlannedMigration:
    # Redact before truncating: the cut may split the literal of a secret.
    script = migration.up.sql
    if migration.up.transactional:
        script = remove_transaction_block(script)
    sql = tuple(redact(statement.text) for statement in split_statements(script))
    hooks = (*migration.before, *migration.after)
    scripts = [(migration.up, migration.path or migration.name)]
    scripts += [(hook.script, hook.path) for hook in hooks]
    return PlannedMigration(
        version=migration.version,
        name=migration.name,
        path=migration.path,
        transactional=migration.up.transactional,
        isolation=migration.up.isolation or "read-committed",
        has_down_script=migration.down is not None,
        hooks=tuple(hook.name for hook in hooks),
        statements=tuple(map(_join_lines, sql)),
        sql=sql,
        faults=tuple(check_migration(migration, placeholders)),
        warnings=tuple(
            warning
            for script, path in scripts
            for warning in find_script_warnings(script, path=path)
        ),
    )


def _join_lines(text: str) -> str:
    line = " ".join(text.split()) if "'" in text or "$" in text else _strip_comments(text)
    shown = "".join(c if c.isprintable() else "\ufffd" for c in line)
    return shown if len(shown) <= _STATEMENT_LENGTH else shown[: _STATEMENT_LENGTH - 1] + "…"


def _strip_comments(text: str) -> str:
    return " ".join(_COMMENT.sub(" ", text).split())
