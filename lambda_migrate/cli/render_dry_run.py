"""The answer of `plan --execute` for a person."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from lambda_migrate.cli.errors import told
from lambda_migrate.cli.render import bullets, number
from lambda_migrate.cli.times import duration
from lambda_migrate.commands.errors import error_of
from lambda_migrate.errors import escape_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.console import RenderableType

__all__ = ["rehearsal_view"]

_STYLES = {
    "rehearsed": "green",
    "not_rehearsed": "yellow",
    "failed": "bold red",
    "not_reached": "dim",
}
_UNITS = ("bytes", "kB", "MB", "GB", "TB")
_NAME_AT_LEAST = 12
_CHANGES_AT_LEAST = 6 + 16
"""Columns for rows and sizes, and the space between all four."""
_HELD = "*"


def rehearsal_view(document: Mapping[str, Any], *, width: int) -> list[RenderableType]:
    """What ``rehearsal`` in the answer says, from top to bottom.

    Args:
        document: The answer.
        width: Columns.
    """
    found, where = document["rehearsal"], document["database"]
    steps = found["migrations"]
    if not steps:
        return [Text(f"nothing to rehearse: {where} has every migration of {_directory(document)}")]
    shown: list[RenderableType] = [_heading(found, where), "", *_tables(steps, width=width), ""]
    if any(map(_has_held, steps)):
        shown.append(_HELD_NOTE)
    reasons = [f"{step['name']}: {step['reason']}" for step in steps if step["reason"]]
    if reasons:
        shown += [Text("not rehearsed:", style="yellow"), bullets(reasons, style="yellow")]
    if found["retried"]:
        shown += [Text("begun anew, as others were in the way:"), bullets(found["retried"])]
    if found["advice"]:
        shown += [Text("advice:", style="bold"), bullets(found["advice"])]
    left = list(_left_behind(found["not_undone"]))
    if left:
        shown += [Text("what no rollback undoes:", style="bold"), bullets(left)]
    if found["error"] is not None:
        shown += told(error_of(found["error"]), committed=[], width=width)
    return shown


def _directory(document: Mapping[str, Any]) -> str:
    return escape_text(str(document["directory"]))


def _heading(found: Mapping[str, Any], where: str) -> Text:
    steps = found["migrations"]
    done = sum(step["outcome"] == "rehearsed" for step in steps)
    end = (
        "and rolled it all back"
        if found["rollback_confirmed"]
        else "and was not told that all of it was rolled back"
    )
    of = "" if done == len(steps) else f"{done} of "
    return Text(
        f"rehearsed {of}{number(len(steps), 'migration')} on {where} in "
        f"{duration(found['seconds'])}, {end}",
        style={"passed": "green", "incomplete": "yellow"}.get(found["outcome"], "bold red"),
    )


_HELD_NOTE = Text(
    f"{_HELD} held by an earlier migration of this rehearsal, so whether this one takes it too "
    "cannot be seen",
    style="dim",
)


# --- the tables


def _tables(steps: Sequence[Mapping[str, Any]], *, width: int) -> Iterator[RenderableType]:
    """Each migration on a line of its own, what it did below it, in columns that all share."""
    rows = [list(_relations(step)) for step in steps]
    cells = [row for of_step in rows for row in of_step]
    if cells:
        widths = [max(len(title), *(len(row[n]) for row in cells)) for n, title in _NARROW_TITLES]
        widths[0] = min(widths[0], max(_NAME_AT_LEAST, width - sum(widths[1:]) - _CHANGES_AT_LEAST))
        grid = partial(_grid, widths)
        yield grid([[Text(each, "dim") for each in _TITLES]])
    for step, of_step in zip(steps, rows, strict=True):
        yield _title(step)
        if of_step:
            yield grid(of_step)


_TITLES = ("  table", "lock", "blocks", "rows, size")
_NARROW_TITLES = tuple(enumerate(_TITLES[:-1]))
"""Columns that are as wide as what stands in them."""


def _grid(widths: Sequence[int], rows: Sequence[Sequence[Text]]) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    for columns in widths:
        grid.add_column(width=columns, overflow="ellipsis", no_wrap=True)
    grid.add_column(overflow="fold")
    for row in rows:
        grid.add_row(*row)
    return grid


def _title(step: Mapping[str, Any]) -> Text:
    said = step["outcome"].replace("_", " ")
    if step["seconds"] is not None:
        said = f"{said} in {duration(step['seconds'])}"
    name = (escape_text(step["name"]), "bold")
    return Text.assemble(name, "  ", (said, _STYLES[step["outcome"]]))


def _relations(step: Mapping[str, Any]) -> Iterator[tuple[Text, Text, Text, Text]]:
    """One row for each table, and for whatever else keeps others waiting."""
    changes = {change["table"]: change for change in step["tables"]}
    locks = {lock["relation"]: lock for lock in step["locks"]}
    telling = [name for name, lock in locks.items() if lock["blocks"] or name in changes]
    for name in dict.fromkeys([*telling, *changes]):
        lock, change = locks.get(name), changes.get(name)
        is_new = bool(change and change["is_new"])
        blocks = _blocks(lock, change)
        style = "red" if "reads" in blocks else "yellow" if "writes" in blocks else "dim"
        yield (
            Text(f"  {escape_text(name)}"),
            Text("new" if is_new else _mode(lock, change) if lock else "", style),
            Text(blocks, style),
            Text(_changes(change) if change else ""),
        )


def _blocks(lock: Mapping[str, Any] | None, change: Mapping[str, Any] | None) -> str:
    """Who waits for it; rows that were written are locked, whatever the table's own lock is."""
    if lock and lock["blocks"]:
        return " and ".join(lock["blocks"])
    writes_rows = change and not change["is_new"] and (change["updated"] or change["deleted"])
    return "the same rows" if writes_rows else "nobody"


def _mode(lock: Mapping[str, Any], change: Mapping[str, Any] | None) -> str:
    return str(lock["mode"]) + _HELD * _is_held(lock, change)


def _is_held(lock: Mapping[str, Any], change: Mapping[str, Any] | None) -> bool:
    """Whether its lock is an earlier one's, and nothing proves that it takes it as well."""
    if not lock["since"]:
        return False
    if change is None:
        return True
    has_written = change["inserted"] or change["updated"] or change["deleted"]
    is_gone = change["rewritten"] or change["bytes_after"] is None
    return not (is_gone or (has_written and lock["mode"] == "ROW EXCLUSIVE"))


def _has_held(step: Mapping[str, Any]) -> bool:
    changes = {change["table"]: change for change in step["tables"]}
    return any(_is_held(lock, changes.get(lock["relation"])) for lock in step["locks"])


def _changes(change: Mapping[str, Any]) -> str:
    parts = [
        f"{change[what]:,} {what}"
        for what in ("inserted", "updated", "deleted", "scanned")
        if change[what]
    ]
    if change["rewritten"]:
        parts.insert(0, "rewritten")
    if change["inserted"] is None:
        parts.append("rows not counted")
    return "; ".join(filter(None, (", ".join(parts), _size(change))))


def _size(change: Mapping[str, Any]) -> str:
    before, after = change["bytes_before"], change["bytes_after"]
    if after is None:
        return f"{_bytes(before)}, dropped" if before is not None else ""
    if before is None or _bytes(before) == _bytes(after):
        return _bytes(after)
    return f"{_bytes(before)} to {_bytes(after)}"


def _bytes(count: int) -> str:
    size, unit = float(count), 0
    while size >= 1024 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.1f} {_UNITS[unit]}" if 0 < size < 10 and unit else f"{size:.0f} {_UNITS[unit]}"


# --- what stays


def _left_behind(left: Mapping[str, Any]) -> Iterator[str]:
    for each in left["dead_rows"]:
        rows = f"{each['rows']:,} dead row version{'s' * (each['rows'] != 1)}"
        yield f"{each['table']} holds {rows} until it is vacuumed"
    for each in left["sequences"]:
        before = "no value" if each["before"] is None else each["before"]
        after = "somewhere that may not be read" if each["after"] is None else each["after"]
        yield f"{each['sequence']} went from {before} to {after}"
    yield from left["effects"]
