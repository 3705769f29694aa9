"""The plan: the difference between a manifest and a history.

`Manifest.make_plan` calls `make_plan` with what the manifest contains; this module does not import
it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lambda_migrate.migrations.history import RowState, is_versioned
from lambda_migrate.migrations.repeatable import plan_repeatables

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lambda_migrate.migrations.history import HistoryRow
    from lambda_migrate.migrations.migration import Hook, Migration
    from lambda_migrate.migrations.version import Version

__all__ = ["Divergence", "Plan", "make_plan"]


@dataclass(frozen=True, slots=True)
class Divergence:
    """One contradiction between history and manifest.

    Attributes:
        kind: ``edited`` (the file changed after it was applied), ``missing`` (applied, but not
            here, though the manifest reaches beyond it) or ``out-of-order`` (pending below the
            highest applied version).
        version: Which migration.
        name: Its name.
        advice: What the user can do about it.
    """

    kind: str
    version: Version
    name: str
    advice: str

    def __str__(self) -> str:
        return f"{self.name}: {self.advice}"


@dataclass(frozen=True, slots=True)
class Plan:
    """The difference between a manifest and a history.

    Attributes:
        pending: Migrations to apply, in order; the repeatable ones come last.
        applied: Rows that match the manifest, in the order of versions.
        ahead: Rows above the manifest's last version, applied by newer code, and those of newer
            texts of repeatable migrations.
        in_doubt: Rows of interrupted non-transactional migrations, to be resolved first.
        partly_applied: Rows of another tool's pending migrations of which a part is committed, and
            after which the tool continues.
        divergences: Contradictions; while there is one, nothing is applied.
        needs_revision_graph: Whether another tool has to load its revisions first; see `revisions`.
    """

    pending: tuple[Migration, ...] = ()
    applied: tuple[HistoryRow, ...] = ()
    ahead: tuple[HistoryRow, ...] = ()
    in_doubt: tuple[HistoryRow, ...] = ()
    partly_applied: tuple[HistoryRow, ...] = ()
    divergences: tuple[Divergence, ...] = ()
    needs_revision_graph: bool = False

    @property
    def repeatables_ahead(self) -> tuple[str, ...]:
        """Repeatable migrations whose text is not applied, because a newer one was."""
        return tuple(row.name for row in self.ahead if not is_versioned(row))

    @property
    def interrupted(self) -> tuple[HistoryRow, ...]:
        """Every row of which a part may be committed."""
        return (*self.in_doubt, *self.partly_applied)

    @property
    def is_current(self) -> bool:
        """Whether code with this manifest may serve on this database as it is."""
        return not (self.pending or self.in_doubt or self.divergences or self.needs_revision_graph)


def make_plan(
    migrations: Sequence[Migration],
    history: Sequence[HistoryRow],
    *,
    repeatables: Sequence[Migration],
    hooks: Mapping[str, Hook],
    allow_out_of_order: bool,
) -> Plan:
    """Compare the migrations of a manifest with ``history``.

    Args:
        migrations: The versioned migrations that this code ships, in order.
        history: All rows, in any order.
        repeatables: The repeatable migrations that it ships, in order.
        hooks: Name -> hook.
        allow_out_of_order: Apply pending migrations below the highest applied one as well.

    Returns:
        The plan; it applies nothing.
    """
    by_version = {migration.version: migration for migration in migrations}
    last_version = migrations[-1].version if migrations else -1
    rows = sorted(filter(is_versioned, history), key=lambda row: row.version)
    in_doubt = tuple(
        row for row in rows if row.state is not RowState.APPLIED and row.version <= last_version
    )
    applied_rows = {row.version: row for row in rows if row.state is RowState.APPLIED}
    recorded_versions = {row.version for row in rows}
    divergences: list[Divergence] = []
    applied: list[HistoryRow] = []
    ahead: list[HistoryRow] = [
        # A row in doubt above the manifest is resolved by the newer code that needs it.
        row
        for row in rows
        if row.state is not RowState.APPLIED and row.version > last_version
    ]
    for row in applied_rows.values():
        migration = by_version.get(row.version)
        if migration is not None and migration.checksum == row.checksum:
            applied.append(row)
        elif migration is not None:
            divergences.append(_edited_divergence(row, migration))
        elif row.version > last_version:
            ahead.append(row)
        else:
            divergences.append(_missing_divergence(row))
    pending = tuple(m for m in migrations if m.version not in recorded_versions)
    if not allow_out_of_order:
        highest = max(applied_rows, default=0)
        divergences += [
            _out_of_order_divergence(m, highest) for m in pending if m.version < highest
        ]
    repeatable_plan = plan_repeatables(
        repeatables, history, last_version=last_version, is_older_code=bool(ahead)
    )
    return Plan(
        pending=_add_hooks(pending + repeatable_plan.pending, hooks),
        applied=(*applied, *repeatable_plan.applied),
        ahead=(*sorted(ahead, key=lambda row: row.version), *repeatable_plan.ahead),
        in_doubt=in_doubt,
        divergences=tuple(sorted(divergences, key=lambda d: d.version)),
    )


def _add_hooks(pending: tuple[Migration, ...], hooks: Mapping[str, Hook]) -> tuple[Migration, ...]:
    """Give each hook to the migrations in whose transactions it runs.

    A migration outside a transaction has none, so that the first and the last transactional ones
    count.
    """
    transactional = [each for each in pending if each.up.transactional]
    if not (hooks and transactional):
        return pending
    first, last = transactional[0], transactional[-1]

    def add(migration: Migration) -> Migration:
        before = ["beforeMigrate"] * (migration is first)
        after = ["afterEachMigrate"] + ["afterMigrate"] * (migration is last)
        return replace(
            migration,
            before=tuple(hooks[name] for name in before if name in hooks),
            after=tuple(hooks[name] for name in after if name in hooks),
        )

    return tuple(add(each) if each.up.transactional else each for each in pending)


def _edited_divergence(row: HistoryRow, migration: Migration) -> Divergence:
    where = f" ({migration.path})" if migration.path else ""
    return Divergence(
        "edited",
        row.version,
        migration.name,
        f"the file{where} changed after it was applied; restore it and write a new migration, "
        f"or accept the new text with `lambda-migrate repair {row.version} --as edited`",
    )


def _missing_divergence(row: HistoryRow) -> Divergence:
    return Divergence(
        "missing",
        row.version,
        row.name,
        "it was applied but its file is missing; deploy it again, or roll it back with "
        f"`lambda-migrate down --only {row.version}`",
    )


def _out_of_order_divergence(migration: Migration, highest: Version) -> Divergence:
    return Divergence(
        "out-of-order",
        migration.version,
        migration.name,
        f"it is pending below version {highest}, which is applied; renumber it above, "
        "or allow it with LAMBDA_MIGRATE_ALLOW_OUT_OF_ORDER=true",
    )
