"""Errors rendered for a terminal."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lambda_migrate.cli.render import render_bullets
from lambda_migrate.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    Diverged,
    FlagsUnavailable,
    LeaseHeld,
    LeaseLost,
    LeaseStoreUnavailable,
    MigrateError,
    MigrationFailed,
    NotReady,
    RepairRequired,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

__all__ = ["render_error"]


def render_error(
    error: MigrateError, *, committed_migrations: list[str], width: int
) -> list[RenderableType]:
    """Render an error: what happened, where, and what to do next.

    Args:
        error: The error.
        committed_migrations: Migrations that were committed before it and stay committed.
        width: Columns of the terminal.
    """
    if isinstance(error, ConfigurationError):
        return _render_faults(error)
    title = Text(_get_title(error), style="bold red")
    shown: list[RenderableType] = [title, *_render_message(str(error), width=width)]
    shown += [Text(f"next: {step}") for step in _get_next_steps(error, committed_migrations)]
    return shown


def _get_title(error: MigrateError) -> str:
    for kind, title in _TITLES:
        if isinstance(error, kind):
            return title
    return "failed"


_TITLES: tuple[tuple[type[MigrateError], str], ...] = (
    (Diverged, "files and history contradict each other"),
    (RepairRequired, "a migration is in doubt"),
    (MigrationFailed, "migration failed"),
    (LeaseHeld, "busy"),
    (LeaseLost, "lost the lease"),
    (DatabaseUnavailable, "the database cannot be reached"),
    (LeaseStoreUnavailable, "the lease table cannot be reached"),
    (FlagsUnavailable, "the feature flags cannot be read"),
    (NotReady, "not ready"),
)


def _render_faults(error: ConfigurationError) -> list[RenderableType]:
    if len(error.faults) == 1:
        return [Text.assemble(("error: ", "bold red"), error.faults[0])]
    heading = str(error).partition("\n")[0]
    return [Text(heading, style="bold red"), render_bullets(error.faults, style="red")]


def _render_message(message: str, *, width: int) -> Iterator[RenderableType]:
    """Render the message line by line; carets stay below their column, labels get an indent."""
    lines = message.splitlines()
    for line, next_line in zip(lines, [*lines[1:], ""], strict=True):
        code = _CODE.match(line)
        label = _LABEL.match(line)
        if code is not None:
            yield from _render_excerpt(line, next_line, margin=code.end(), width=width)
        elif label is not None:
            yield _render_labelled(label[0], line[label.end() :])
        elif line.strip() != "^":
            yield Text(line)


_CODE = re.compile(r"  \d+ \| ")
_LABEL = re.compile(r"  (?:-|detail:|hint:|where:|next:) ")


def _render_excerpt(
    line: str, caret_line: str, *, margin: int, width: int
) -> Iterator[RenderableType]:
    """Render a line of SQL and its caret, cut on the left if the caret would not be visible."""
    has_caret = caret_line.strip() == "^"
    excess = len(caret_line) + 8 - width if has_caret else 0
    if excess > 0 and excess < len(caret_line) - margin - 1:
        line = line[:margin] + "…" + line[margin + excess + 1 :]
        caret_line = caret_line[excess:]
    yield Padding(Text(line, no_wrap=True, overflow="ellipsis"), 0)
    if has_caret:
        yield Padding(Text(caret_line, style="bold red", no_wrap=True, overflow="crop"), 0)


def _render_labelled(label: str, text: str) -> RenderableType:
    grid = Table.grid()
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    grid.add_row(Text(label), Text(text))
    return grid


def _get_next_steps(error: MigrateError, committed_migrations: list[str]) -> list[str]:
    if isinstance(error, (Diverged, RepairRequired)):
        return ["run `lambda-migrate status` to see every migration"]
    if isinstance(error, MigrationFailed) and error.migration:
        count = len(committed_migrations)
        migrations = "1 migration" if count == 1 else f"{count} migrations"
        is_rollback = "(stored down script)" in str(error)
        state = "rolled back" if is_rollback else "applied"
        stay = f"; {migrations} before it {'stays' if count == 1 else 'stay'} {state}"
        fix = "fix the migration and run the command again"
        if is_rollback:
            fix = (
                "correct the down script in the file, accept it with `lambda-migrate repair "
                "VERSION --as edited`, and run the command again"
            )
        elif error.is_partly_committed:
            fix += "; it continues after the part that is committed, or reports what to repair"
        else:
            fix = f"it was rolled back; {fix}"
        return [fix + stay * bool(count)]
    if isinstance(error, LeaseStoreUnavailable):
        return [
            "check AWS_REGION and that this machine reaches DynamoDB; then run the command again"
        ]
    if isinstance(error, FlagsUnavailable):
        return ["fix the access to the flags, or run `lambda-migrate up --despite-flags`"]
    if isinstance(error, LeaseHeld):
        is_backend_named = ": backend " in str(error)  # without a lease table there is no more
        look = (
            "look it up in pg_stat_activity"
            if is_backend_named
            else "see `lambda-migrate lease show`"
        )
        return [f"wait with `lambda-migrate up --wait`, or {look}"]
    return []
