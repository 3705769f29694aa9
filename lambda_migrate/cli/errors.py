"""What went wrong, as a text for a person."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lambda_migrate.cli.render import bullets
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

__all__ = ["told"]


def told(error: MigrateError, *, committed: list[str], width: int) -> list[RenderableType]:
    """An error for a person: what, where, and what to do next.

    Args:
        error: What went wrong.
        committed: Migrations that were committed before, and stay so.
        width: Columns of the terminal.
    """
    if isinstance(error, ConfigurationError):
        return _faults(error)
    title = Text(_title(error), style="bold red")
    shown: list[RenderableType] = [title, *_report(str(error), width=width)]
    shown += [Text(f"next: {step}") for step in _next_steps(error, committed)]
    return shown


def _title(error: MigrateError) -> str:
    for kind, title in _TITLES:
        if isinstance(error, kind):
            return title
    return "failed"


_TITLES: tuple[tuple[type[MigrateError], str], ...] = (
    (Diverged, "files and history contradict each other"),
    (RepairRequired, "a migration is in doubt"),
    (MigrationFailed, "a migration failed"),
    (LeaseHeld, "busy"),
    (LeaseLost, "the lease was lost"),
    (DatabaseUnavailable, "the database cannot be reached"),
    (LeaseStoreUnavailable, "the lease table cannot be reached"),
    (FlagsUnavailable, "the feature flags cannot be read"),
    (NotReady, "not now"),
)


def _faults(error: ConfigurationError) -> list[RenderableType]:
    if len(error.faults) == 1:
        return [Text.assemble(("error: ", "bold red"), error.faults[0])]
    heading = str(error).partition("\n")[0]
    return [Text(heading, style="bold red"), bullets(error.faults, style="red")]


def _report(report: str, *, width: int) -> Iterator[RenderableType]:
    """The library's report line by line: the caret stays under its place, labels hang."""
    lines = report.splitlines()
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        code = _CODE.match(line)
        label = _LABEL.match(line)
        if code is not None:
            yield from _excerpt(line, below, margin=code.end(), width=width)
        elif label is not None:
            yield _hanging(label[0], line[label.end() :])
        elif line.strip() != "^":
            yield Text(line)


_CODE = re.compile(r"  \d+ \| ")
_LABEL = re.compile(r"  (?:-|detail:|hint:|where:|next:) ")


def _excerpt(line: str, below: str, *, margin: int, width: int) -> Iterator[RenderableType]:
    """A line of SQL and its caret, cut on the left where the caret would stand out of sight."""
    has_caret = below.strip() == "^"
    excess = len(below) + 8 - width if has_caret else 0
    if excess > 0 and excess < len(below) - margin - 1:
        line = line[:margin] + "…" + line[margin + excess + 1 :]
        below = below[excess:]
    yield Padding(Text(line, no_wrap=True, overflow="ellipsis"), 0)
    if has_caret:
        yield Padding(Text(below, style="bold red", no_wrap=True, overflow="crop"), 0)


def _hanging(label: str, text: str) -> RenderableType:
    grid = Table.grid()
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    grid.add_row(Text(label), Text(text))
    return grid


def _next_steps(error: MigrateError, committed: list[str]) -> list[str]:
    if isinstance(error, (Diverged, RepairRequired)):
        return ["run `lambda-migrate status` to see all of it"]
    if isinstance(error, MigrationFailed) and error.migration:
        verb = "stays" if len(committed) == 1 else "stay"
        stays = f"{len(committed)} before it {verb}; " if committed else ""
        return [f"nothing of it was committed; {stays}mend it and run the same command again"]
    if isinstance(error, FlagsUnavailable):
        return ["mend it, or run `lambda-migrate up --despite-flags`"]
    if isinstance(error, LeaseHeld):
        return ["wait for it with `lambda-migrate up --wait`, or see `lambda-migrate lease show`"]
    return []
