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
    error: MigrateError,
    *,
    committed_migrations: list[str],
    width: int,
    command: str = "",
    function: str | None = None,
) -> list[RenderableType]:
    """Render an error: what happened, where, and what to do next.

    Args:
        error: The error.
        committed_migrations: Migrations that were committed before it and stay committed.
        width: Columns of the terminal.
        command: The command that failed: ``up``, ``lease show``.
        function: The admin function in which it ran; None if it ran here.
    """
    if isinstance(error, ConfigurationError):
        return _render_faults(error)
    title = Text(_get_title(error), style="bold red")
    shown: list[RenderableType] = [title, *_render_message(str(error), width=width)]
    if isinstance(error, MigrationFailed):
        step = _get_step_after_failure(
            error, committed_migrations, command=command, function=function
        )
    else:
        step = _get_next_step(error, command=command, function=function)
    return [*shown, Text(f"next: {step}")] if step else shown


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
    (DatabaseUnavailable, "the database is not available"),
    (LeaseStoreUnavailable, "the lease table is not available"),
    (FlagsUnavailable, "the feature flags cannot be read"),
    (NotReady, "failed: try again later"),
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


def _get_step_after_failure(
    error: MigrationFailed,
    committed_migrations: list[str],
    *,
    command: str,
    function: str | None,
) -> str:
    program = _get_program(function)
    if isinstance(error, (Diverged, RepairRequired)):
        return f"run `{program} status` to see every migration"
    if not error.migration:
        return ""
    is_rollback = command == "down"
    if error.is_timeout and function is None:
        step = "run the command again with a longer `--timeout`"
    elif error.is_timeout:
        step = "give the function a longer timeout, then run the command again"
    elif error.sqlstate == _LOCK_NOT_AVAILABLE:
        step = "run the command again when no other session holds that lock"
    elif not is_rollback:
        step = "fix the migration and run the command again"
    elif "(stored down script)" in str(error):
        version = error.migration.partition("_")[0]
        step = (
            f"correct the down script in the file, accept it with `{program} repair {version} "
            "--as edited`, and run the command again"
        )
    else:  # the connection broke, or the down script is code of Alembic or Django
        step = "fix the cause and run the command again"
    if error.is_partly_committed:
        step += "; it continues after the part that is committed, or reports what to repair"
    elif is_rollback:
        step = f"the rollback failed, so {error.migration} is still applied; {step}"
    else:
        step = f"it was rolled back; {step}"
    if not committed_migrations:
        return step
    count = len(committed_migrations)
    stay = "1 migration before it stays" if count == 1 else f"{count} migrations before it stay"
    return f"{step}; {stay} {'rolled back' if is_rollback else 'applied'}"


_LOCK_NOT_AVAILABLE = "55P03"


def _get_next_step(error: MigrateError, *, command: str, function: str | None) -> str:
    program = _get_program(function)
    again = "run the command again"
    if isinstance(error, LeaseStoreUnavailable):
        if "DynamoDB did not respond" not in str(error):
            return again
        place = "this machine" if function is None else "the function"
        return f"check AWS_REGION and that {place} reaches DynamoDB; then {again}"
    if isinstance(error, DatabaseUnavailable):
        return f"{again}; if it still fails, `{program} doctor` shows what to fix"
    if isinstance(error, FlagsUnavailable):
        if command == "up":
            return f"fix the access to the flags, or run `{program} up --despite-flags`"
        return f"fix the access to the flags, then {again}"
    if isinstance(error, LeaseHeld) and _HOLDER.search(str(error)):
        wait = ", or now with `--wait`" if command == "up" else ""
        is_backend_named = ": backend " in str(error)  # without a lease table there is no more
        look = (
            "look it up in pg_stat_activity"
            if is_backend_named
            else f"`{program} lease show` shows it"
        )
        return f"{again} when the other process is done{wait}; {look}"
    return ""


_HOLDER = re.compile("(?:holds|renewed) the lease|is migrating this database")
"""In the message of a `LeaseHeld` with a holder to wait for; the others name the next step."""


def _get_program(function: str | None) -> str:
    return "lambda-migrate" if function is None else f"lambda-migrate --function {function}"
