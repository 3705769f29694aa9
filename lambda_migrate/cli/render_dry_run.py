"""The result of `plan --dry-run` rendered for a terminal."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from lambda_migrate.cli.errors import render_error
from lambda_migrate.cli.render import format_count, render_bullets
from lambda_migrate.cli.times import format_duration
from lambda_migrate.commands.errors import parse_error_document
from lambda_migrate.errors import escape_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.console import RenderableType

__all__ = ["render_dry_run"]

_STYLES = {
    "ran": "green",
    "skipped": "yellow",
    "failed": "bold red",
    "not_reached": "dim",
}
_UNITS = ("bytes", "kB", "MB", "GB", "TB")
_MIN_NAME_WIDTH = 12
_MIN_CHANGES_WIDTH = 6 + 16
"""Columns for rows and sizes, and the space between all four."""
_EARLIER_LOCK_SYMBOL = "*"
_MAX_STEPS = 15
_MAX_NAMES = 3
"""How many migrations a sentence names that applies to several."""


def render_dry_run(
    document: Mapping[str, Any], *, width: int, show_all: bool, function: str | None = None
) -> list[RenderableType]:
    """Render ``dry_run`` of the result.

    Args:
        document: The result of ``plan --dry-run``.
        width: Columns of the terminal.
        show_all: Show every migration, also of a long list.
        function: The admin function in which it ran; None if it ran here.
    """
    result, location = document["dry_run"], document["database"]
    steps = result["migrations"]
    if not steps:
        return [
            Text(f"nothing to run: {location} has every migration in {_get_directory(document)}")
        ]
    chosen = steps if show_all else _shorten(steps)
    shown: list[RenderableType] = [
        _render_heading(result, location),
        "",
        *_render_tables(chosen, width=width),
    ]
    if len(chosen) < len(steps):
        shown.append(Text(f"… {len(steps) - len(chosen)} more (--all)", style="dim"))
    shown.append("")
    if any(map(_has_earlier_locks, chosen)):
        shown.append(_EARLIER_LOCK_NOTE)
    reasons = list(_group_reasons(steps, show_all=show_all))
    if reasons:
        shown += [Text("skipped:", style="yellow"), render_bullets(reasons, style="yellow")]
    if result["retried"]:
        shown += [Text("restarted after:"), render_bullets(result["retried"])]
    if result["advice"]:
        shown += [Text("advice:", style="bold"), render_bullets(result["advice"])]
    remaining = list(_list_remaining_effects(result["not_undone"]))
    if remaining:
        shown += [Text("not rolled back:", style="bold"), render_bullets(remaining)]
    if result["error"] is not None:
        shown += render_error(
            parse_error_document(result["error"]),
            committed_migrations=[],
            width=width,
            command="plan",
            function=function,
        )
    return shown


def _shorten(steps: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Leave out of a long list what did not run and, beyond the first ones, what succeeded."""
    if len(steps) <= _MAX_STEPS:
        return list(steps)
    first = [step for step in steps if step["outcome"] == "ran"][:_MAX_STEPS]
    return [step for step in steps if step["outcome"] == "failed" or step in first]


def _group_reasons(steps: Sequence[Mapping[str, Any]], *, show_all: bool) -> Iterator[str]:
    """Say each reason once, with the migrations that were skipped for it."""
    names_by_reason: dict[str, list[str]] = {}
    for step in steps:
        if step["reason"]:
            names_by_reason.setdefault(step["reason"], []).append(step["name"])
    for reason, names in names_by_reason.items():
        most = len(names) if show_all else _MAX_NAMES
        more = f" and {len(names) - most} more" if len(names) > most else ""
        yield f"{', '.join(names[:most])}{more}: {reason}"


def _get_directory(document: Mapping[str, Any]) -> str:
    return escape_text(str(document["directory"]))


def _render_heading(result: Mapping[str, Any], location: str) -> Text:
    steps = result["migrations"]
    done = sum(step["outcome"] == "ran" for step in steps)
    end = (
        "and rolled back"
        if result["rollback_confirmed"]
        else "but PostgreSQL did not confirm the rollback"
    )
    of = "" if done == len(steps) else f"{done} of "
    return Text(
        f"ran {of}{format_count(len(steps), 'migration')} on {location} in "
        f"{format_duration(result['seconds'])} {end}",
        style={"passed": "green", "incomplete": "yellow"}.get(result["outcome"], "bold red"),
    )


_EARLIER_LOCK_NOTE = Text(
    f"{_EARLIER_LOCK_SYMBOL} already held by an earlier migration of this dry run; cannot "
    "determine whether this one takes it too",
    style="dim",
)


# --- the tables


def _render_tables(steps: Sequence[Mapping[str, Any]], *, width: int) -> Iterator[RenderableType]:
    """Render each migration with its tables below it, in the same columns for all."""
    rows = [list(_render_relations(step)) for step in steps]
    cells = [row for of_step in rows for row in of_step]
    if cells:
        widths = [max(len(title), *(len(row[n]) for row in cells)) for n, title in _NARROW_TITLES]
        widths[0] = min(
            widths[0], max(_MIN_NAME_WIDTH, width - sum(widths[1:]) - _MIN_CHANGES_WIDTH)
        )
        grid = partial(_make_grid, widths)
        yield grid([[Text(each, "dim") for each in _TITLES]])
    for step, of_step in zip(steps, rows, strict=True):
        yield _render_title(step)
        if of_step:
            yield grid(of_step)


_TITLES = ("  table", "lock", "blocks", "rows, size")
_NARROW_TITLES = tuple(enumerate(_TITLES[:-1]))
"""Columns that are as wide as their content."""


def _make_grid(widths: Sequence[int], rows: Sequence[Sequence[Text]]) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    for columns in widths:
        grid.add_column(width=columns, overflow="ellipsis", no_wrap=True)
    grid.add_column(overflow="fold")
    for row in rows:
        grid.add_row(*row)
    return grid


def _render_title(step: Mapping[str, Any]) -> Text:
    outcome = step["outcome"].replace("_", " ")
    if step["seconds"] is not None:
        outcome = f"{outcome} in {format_duration(step['seconds'])}"
    name = (escape_text(step["name"]), "bold")
    return Text.assemble(name, "  ", (outcome, _STYLES[step["outcome"]]))


def _render_relations(step: Mapping[str, Any]) -> Iterator[tuple[Text, Text, Text, Text]]:
    """Render a row for each table, and for each other relation that is locked."""
    changes = {change["table"]: change for change in step["tables"]}
    locks = {lock["relation"]: lock for lock in step["locks"]}
    relevant = [name for name, lock in locks.items() if lock["blocks"] or name in changes]
    for name in dict.fromkeys([*relevant, *changes]):
        lock, change = locks.get(name), changes.get(name)
        is_new = bool(change and change["is_new"])
        blocks = _describe_blocked(lock, change)
        style = "red" if "reads" in blocks else "yellow" if "writes" in blocks else "dim"
        yield (
            Text(f"  {escape_text(name)}"),
            Text("new" if is_new else _describe_mode(lock, change) if lock else "", style),
            Text(blocks, style),
            Text(_describe_changes(change) if change else ""),
        )


def _describe_blocked(lock: Mapping[str, Any] | None, change: Mapping[str, Any] | None) -> str:
    """Describe what waits for the lock; written rows are locked whatever the table's lock is."""
    if lock and lock["blocks"]:
        return " and ".join(lock["blocks"])
    writes_rows = change and not change["is_new"] and (change["updated"] or change["deleted"])
    return "the same rows" if writes_rows else "nothing"


def _describe_mode(lock: Mapping[str, Any], change: Mapping[str, Any] | None) -> str:
    return str(lock["mode"]) + _EARLIER_LOCK_SYMBOL * _is_lock_of_earlier_migration(lock, change)


def _is_lock_of_earlier_migration(
    lock: Mapping[str, Any], change: Mapping[str, Any] | None
) -> bool:
    """Whether an earlier migration holds the lock, and this one is not known to take it."""
    if not lock["earlier_migration"]:
        return False
    if change is None:
        return True
    has_written = change["inserted"] or change["updated"] or change["deleted"]
    is_gone = change["rewritten"] or change["bytes_after"] is None
    return not (is_gone or (has_written and lock["mode"] == "ROW EXCLUSIVE"))


def _has_earlier_locks(step: Mapping[str, Any]) -> bool:
    """Whether a lock of the step is marked with the symbol."""
    return any(mode.plain.endswith(_EARLIER_LOCK_SYMBOL) for _, mode, *_ in _render_relations(step))


def _describe_changes(change: Mapping[str, Any]) -> str:
    parts = [
        f"{change[what]:,} {what}"
        for what in ("inserted", "updated", "deleted", "scanned")
        if change[what]
    ]
    if change["rewritten"]:
        parts.insert(0, "rewritten")
    if change["inserted"] is None:
        parts.append("rows not counted")
    return "; ".join(filter(None, (", ".join(parts), _format_size_change(change))))


def _format_size_change(change: Mapping[str, Any]) -> str:
    before, after = change["bytes_before"], change["bytes_after"]
    if after is None:
        return f"{_format_bytes(before)}, dropped" if before is not None else ""
    if before is None or _format_bytes(before) == _format_bytes(after):
        return _format_bytes(after)
    return f"{_format_bytes(before)} to {_format_bytes(after)}"


def _format_bytes(count: int) -> str:
    size, unit = float(count), 0
    while size >= 1024 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.1f} {_UNITS[unit]}" if 0 < size < 10 and unit else f"{size:.0f} {_UNITS[unit]}"


# --- what is not rolled back


def _list_remaining_effects(effects: Mapping[str, Any]) -> Iterator[str]:
    for each in effects["dead_rows"]:
        rows = f"{each['rows']:,} dead row version{'s' * (each['rows'] != 1)}"
        yield f"{each['table']} keeps {rows} until it is vacuumed"
    for each in effects["sequences"]:
        before = "no value" if each["before"] is None else each["before"]
        after = "a value that this role may not read" if each["after"] is None else each["after"]
        yield f"{each['sequence']} advanced from {before} to {after}"
    yield from effects["effects"]
