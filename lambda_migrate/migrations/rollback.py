"""Chooses the migrations that a rollback rolls back, before it begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.migrations.history import RowState, is_versioned

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lambda_migrate.migrations.history import HistoryRow
    from lambda_migrate.migrations.version import Version

__all__ = [
    "choose_rollback",
    "require_down_scripts",
    "require_one_choice",
    "require_placeholder_values",
]

_MAX_LISTED = 50
"""How many versions an error lists."""


def choose_rollback(
    history: Sequence[HistoryRow],
    *,
    to: Version | None = None,
    steps: int | None = None,
    only: Version | None = None,
) -> tuple[HistoryRow, ...]:
    """The rows to roll back, the newest first.

    Args:
        history: All rows.
        to: Roll back everything above this version; 0: all, except a version 0.
        steps: Roll back the last N migrations.
        only: Roll back only this version.

    Raises:
        ConfigurationError: See `require_one_choice`; or a version is not in the history, or a row
            to roll back has no down script. A row in doubt is checked after it is resolved; see
            `require_down_scripts`.
    """
    require_one_choice(to=to, steps=steps, only=only)
    newest_first = sorted(filter(is_versioned, history), key=lambda row: row.version, reverse=True)
    if steps is not None:
        chosen = newest_first[:steps]
    elif only is not None:
        _require_in_history(only, newest_first, option="--only")
        chosen = [row for row in newest_first if row.version == only]
    else:
        assert to is not None  # noqa: S101 - one of the three is given
        if to != 0:
            _require_in_history(to, newest_first, option="--to")
        chosen = [row for row in newest_first if row.version > to]
    require_down_scripts(chosen)
    return tuple(chosen)


def require_one_choice(*, to: Version | None, steps: int | None, only: Version | None) -> None:
    """Check how far to roll back.

    Raises:
        ConfigurationError: Not exactly one of the three is given, or too few steps.
    """
    if sum(choice is not None for choice in (to, steps, only)) != 1:
        raise ConfigurationError(
            (
                "--steps N rolls back the last N migrations: --steps 1 only the newest",
                "--to VERSION rolls back every migration above this version, and keeps it; "
                "--to 0 rolls back all versions above 0",
                "--only VERSION rolls back this version, whatever was applied after it",
            ),
            heading="choose how far to roll back: one of --to, --steps and --only",
        )
    if steps is not None and steps < 1:
        raise ConfigurationError(f"--steps {steps}: write 1 or more")


def _require_in_history(version: Version, history: Sequence[HistoryRow], *, option: str) -> None:
    if all(row.version != version for row in history):
        known = [str(row.version) for row in reversed(history[:_MAX_LISTED])]
        hidden = len(history) - len(known)
        shown = ", ".join([f"{hidden} older ones"] * bool(hidden) + known) or "none"
        raise ConfigurationError(
            f"{option} {version}: no such version was applied; applied versions: {shown}"
        )


def require_down_scripts(rows: Sequence[HistoryRow]) -> None:
    """Refuse to roll back anything if one row has no down script.

    Raises:
        ConfigurationError: Names every such row.
    """
    faults = [
        f"{row.name} was applied without a down script; write a new migration that reverses it"
        for row in rows
        if row.state is RowState.APPLIED and row.down is None
    ]
    if faults:
        raise ConfigurationError(faults, heading="nothing was rolled back:")


def require_placeholder_values(rows: Sequence[HistoryRow], values: Mapping[str, str]) -> None:
    """Refuse to roll back anything if a placeholder in a down script has no usable value.

    Raises:
        ConfigurationError: Names every such placeholder.
    """
    from lambda_migrate.migrations.sql.placeholders import check_placeholders

    faults = [
        f"{row.name} (stored down script):{line}: {fault}"
        for row in rows
        if row.down is not None
        for line, fault in check_placeholders(row.down, values)
    ]
    if faults:
        raise ConfigurationError(faults, heading="nothing was rolled back:")
