"""Results rendered for a terminal: text and tables from the JSON documents."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lambda_migrate.cli.times import (
    format_duration,
    format_iso_as_local,
    format_time_until,
    format_wall_time,
)
from lambda_migrate.commands.documents import parse_entries
from lambda_migrate.commands.status_entries import OmittedEntries, StatusEntry, truncate_entries
from lambda_migrate.errors import escape_text
from lambda_migrate.lease.readiness import UNKNOWN_IDENTITY
from lambda_migrate.migrations.revisions import PARTLY_COMMITTED_ADVICE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.console import RenderableType

    from lambda_migrate.commands.prompt import Question

__all__ = [
    "build_lease_rows",
    "format_count",
    "render_bullets",
    "render_findings",
    "render_plan",
    "render_question",
    "render_status",
    "render_summary_rows",
    "render_verify",
]

_STYLES = {
    "applied": "green",
    "ahead": "cyan",
    "pending": "yellow",
    "in doubt": "bold red",
    "edited": "bold red",
    "missing": "bold red",
    "out of order": "bold red",
}

_WIDE_COLUMNS = 76
"""From this width on the table also has the duration and the owner."""

_MIN_NAME_WIDTH = 12
_OWNER_WIDTH = 32
_DIGEST_LENGTH = 12
_MAX_DETAILED_STEPS = 10
_MAX_STEPS = 15
_MAX_LISTED = 15


def format_count(count: int, noun: str) -> str:
    """``1 migration``, ``2 migrations``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def render_summary_rows(rows: Sequence[tuple[str, RenderableType]]) -> Table:
    """Render names and values, one pair per line."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(name, escape_text(value) if isinstance(value, str) else value)
    return grid


def render_bullets(lines: Sequence[str], *, style: str = "") -> Table:
    """Render one sentence per line, with a hanging indent."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for line in lines:
        grid.add_row(Text("-", style=style), Text(line))
    return grid


# --- status


def render_status(
    document: Mapping[str, Any], *, now_ms: int, width: int, show_all: bool
) -> list[RenderableType]:
    """Render the result of ``status``.

    Args:
        document: See `status_document`.
        now_ms: Wall-clock time in milliseconds.
        width: Columns of the terminal.
        show_all: Show every migration, also in a long list.
    """
    lease = document["lease"]
    rows: list[tuple[str, RenderableType]] = [
        ("target", document["target"]),
        ("database", document["database"]),
        ("environment", document["environment"] or Text("not set", style="dim")),
    ]
    if "requirements" in document:
        return _render_requirements(document, rows, now_ms=now_ms)
    entries = parse_entries(document)
    rows.append(("files", _render_manifest(document)))
    rows += build_lease_rows(lease, now_ms=now_ms) if lease is not None else [_NO_TABLE_ROW]
    if lease is not None:
        rows.append(("ready", _render_readiness(document)))
        rows += _build_shared_rows(lease["databases"], document["database"])
    if document.get("flags"):
        rows.append(("flags", _render_flags(document["flags"])))
    shown: list[RenderableType] = [render_summary_rows(rows), ""]
    if entries:
        lines = list(entries) if show_all else truncate_entries(entries)
        shown += [_render_entries(lines, width=width), ""]
    shown.append(_render_summary(document))
    shown += _render_advice(document)
    return shown


def _render_requirements(
    document: Mapping[str, Any], rows: list[tuple[str, RenderableType]], *, now_ms: int
) -> list[RenderableType]:
    """Render the result of ``status`` where another tool migrates the database."""
    for each in document["requirements"]:
        state = Text("applied", style="green")
        if not each["is_applied"]:
            state = Text(f"not applied: {escape_text(each['reason'])}", style="yellow")
        rows.append(("requires", Text.assemble(escape_text(each["requirement"]), "  ", state)))
    lease = document["lease"]
    if lease is None:
        rows.append(_NO_TABLE_ROW)
    else:
        rows += build_lease_rows(lease, now_ms=now_ms)
        rows.append(("ready", _render_readiness(document)))
    return [render_summary_rows(rows)]


_NO_TABLE_ROW: tuple[str, RenderableType] = (
    "lease table",
    Text("none: only the fence in PostgreSQL", style="dim"),
)


def _render_manifest(document: Mapping[str, Any]) -> Text:
    count = format_count(document["files"], "migration")
    digest = document["digest"][:_DIGEST_LENGTH]
    return Text.assemble(f"{count} in {document['directory']}, digest ", (digest, "bold"))


def _render_flags(flags: Mapping[str, Any]) -> Text:
    if flags["unavailable"]:
        return Text(flags["unavailable"], style="red")
    states = [
        "paused" if flags["paused"] else "",
        f"held back at {flags['hold_back_at']}" if flags["hold_back_at"] else "",
        f"mode {flags['mode']}" if flags["mode"] != "migrate" else "",
    ]
    shown = ", ".join(each for each in states if each)
    return Text(shown, style="yellow") if shown else Text("migrations are allowed", style="dim")


def _render_readiness(document: Mapping[str, Any]) -> Text:
    if document["is_marked_ready"] and document["is_current"]:
        return Text("yes: functions with this code serve requests", style="green")
    if document["is_marked_ready"]:
        return Text(
            "marked, but not supported by the history: see `verify`",
            style="bold red",
        )
    if document["is_current"]:
        command = "" if "requirements" in document else " or `up`"
        return Text(f"not marked yet: the next cold start{command} marks it")
    return Text("no", style="yellow")


def _build_shared_rows(
    databases: Sequence[Mapping[str, Any]], address: str
) -> list[tuple[str, RenderableType]]:
    """Build the rows of other databases that use the same target as the one at ``address``."""
    others = [
        ", ".join(escape_text(each["address"]) for each in database["addresses"])
        for database in databases
        if database["identity"] != UNKNOWN_IDENTITY and address not in _list_addresses(database)
    ]
    if not others:
        return []
    return [("shared with", Text("\n".join(others) + _SHARED_TARGET_TEXT, style="yellow"))]


_SHARED_TARGET_TEXT = "\neach database needs its own target: set LAMBDA_MIGRATE_TARGET"


def _list_addresses(database: Mapping[str, Any]) -> list[str]:
    return [each["address"] for each in database["addresses"]]


def build_lease_rows(lease: Mapping[str, Any], *, now_ms: int) -> list[tuple[str, RenderableType]]:
    """Build holder, progress and failure from a `build_lease_document`."""
    rows: list[tuple[str, RenderableType]] = [("lease", _render_holder(lease, now_ms=now_ms))]
    progress = lease["progress"]
    if lease["owner"] is not None and progress is not None:
        began = format_duration(max(0, now_ms - progress["started_ms"]) / 1000)
        done = f"{progress['done']} of {progress['total']} done"
        rows.append(("progress", f"applying {progress['migration']} for {began}, {done}"))
    if lease["failure"] is not None:
        label = "waiting" if lease["failure"]["is_unmet_requirement"] else "failure"
        rows.append((label, _render_failure(lease["failure"], now_ms=now_ms)))
    return rows


def _render_holder(lease: Mapping[str, Any], *, now_ms: int) -> Text:
    if lease["owner"] is None:
        return Text(f"free, fence {lease['fence']}")
    until_ms = lease["lease_until_ms"]
    at = format_wall_time(until_ms, now_ms=now_ms)
    when = f"{at} ({format_time_until(until_ms, now_ms=now_ms)})"
    is_over = until_ms < now_ms
    verb = "expired" if is_over else "until"
    style = "red" if is_over else "yellow"
    return Text.assemble(
        (f"held by {escape_text(lease['owner'])}", style),
        f", fence {lease['fence']}, {verb} {when}",
    )


def _render_failure(failure: Mapping[str, Any], *, now_ms: int) -> Text:
    code = f" [{failure['sqlstate']}]" if failure["sqlstate"] else ""
    migration, cause, retry_ms = failure["migration"], failure["cause"], failure["retry_at_ms"]
    what = f"{migration}: {cause}" if migration else cause
    if retry_ms > now_ms:
        at = format_wall_time(retry_ms, now_ms=now_ms)
        retry = f"functions retry at {at} ({format_time_until(retry_ms, now_ms=now_ms)})"
    else:
        retry = "the next cold start retries"
    return Text.assemble(
        (escape_text(what + code), "red"), f"\nattempt {failure['attempts']}; {retry}"
    )


def _render_entries(lines: Sequence[StatusEntry | OmittedEntries], *, width: int) -> Table:
    is_wide = width >= _WIDE_COLUMNS
    shown = [line for line in lines if isinstance(line, StatusEntry)]
    rest = _COLUMNS[1:] if is_wide else _COLUMNS[1:3]
    widths = [max(len(title), *(len(text(each)) for each in shown)) for title, text in rest]
    if is_wide:
        widths[-1] = min(widths[-1], _OWNER_WIDTH)
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    # Only the name is cut if the row does not fit.
    left = max(_MIN_NAME_WIDTH, width - sum(each + 2 for each in widths))
    table.add_column(_COLUMNS[0][0], overflow="ellipsis", no_wrap=True, max_width=left)
    for (title, _), columns in zip(rest, widths, strict=True):
        side: Literal["left", "right"] = "right" if title == "took" else "left"
        table.add_column(title, justify=side, overflow="ellipsis", no_wrap=True, width=columns)
    for line in lines:
        table.add_row(
            *(
                _render_omitted(line)
                if isinstance(line, OmittedEntries)
                else _render_entry(line, is_wide)
            )
        )
    return table


def _format_state(entry: StatusEntry) -> str:
    return "baseline" if entry.state == "applied" and entry.baseline else entry.state


def _format_applied_at(entry: StatusEntry) -> str:
    return format_iso_as_local(entry.applied_at)


def _render_omitted(omitted_entries: OmittedEntries) -> list[Text]:
    return [Text(f"… {omitted_entries.count} more {omitted_entries.state} (--all)", style="dim")]


def _render_entry(entry: StatusEntry, is_wide: bool) -> list[Text]:
    columns = _COLUMNS if is_wide else _COLUMNS[:3]
    styles = ("", _STYLES[entry.state], "", "", "dim")
    return [Text(text(entry), style) for (_, text), style in zip(columns, styles, strict=False)]


def _format_entry_duration(entry: StatusEntry) -> str:
    return "" if entry.duration_ms is None else format_duration(entry.duration_ms / 1000)


def _format_owner(entry: StatusEntry) -> str:
    """Return function and process of the owner, without its random part."""
    owner = entry.owner or ""
    return escape_text(owner.rpartition("/")[0] or owner)


_COLUMNS: tuple[tuple[str, Callable[[StatusEntry], str]], ...] = (
    ("migration", lambda entry: escape_text(entry.name)),
    ("state", _format_state),
    ("applied", _format_applied_at),
    ("took", _format_entry_duration),
    ("by", _format_owner),
)


_NEW_COMMANDS = {"alembic": "alembic revision -m NAME", "django": "manage.py makemigrations"}
"""How to create a migration of a tool."""


def _render_summary(document: Mapping[str, Any]) -> Text:
    if not document["migrations"]:
        command = _NEW_COMMANDS.get(document["directory"], "lambda-migrate new NAME")
        return Text(f"no migrations yet: create one with `{command}`")
    text = Text()
    for key, count in document["counts"].items():
        if count:
            state = key.replace("_", " ")
            text.append(", " if text else "")
            text.append(f"{count} {state}", style=_STYLES.get(state, ""))
    return text


def _render_advice(document: Mapping[str, Any]) -> Iterator[RenderableType]:
    if document["divergences"]:
        yield ""
        yield _render_divergences(document["divergences"])
    elif document["in_doubt"]:
        resolution = "interrupted outside a transaction; `lambda-migrate up` resolves it"
        is_revision = document["directory"] in _NEW_COMMANDS
        yield Text(f"in doubt: {PARTLY_COMMITTED_ADVICE if is_revision else resolution}")
    elif document["counts"]["pending"]:
        yield Text("`lambda-migrate plan` shows what is pending, `lambda-migrate up` applies it")
    yield from _render_repeatables_ahead(document)


def _render_repeatables_ahead(document: Mapping[str, Any]) -> Iterator[RenderableType]:
    for name in document.get("repeatables_ahead", ()):
        yield Text(
            f"{name} has a newer text in the database. To apply the text of this file: "
            f"`lambda-migrate repair {name} --as pending`, then `lambda-migrate up`"
        )


def _render_divergences(divergences: Sequence[Mapping[str, Any]]) -> RenderableType:
    heading = Text("files and history contradict each other; nothing is applied until they agree:")
    heading.stylize("bold red")
    shown = [f"{each['name']}: {each['advice']}" for each in divergences[:_MAX_STEPS]]
    hidden = len(divergences) - len(shown)
    return Group(
        heading, render_bullets(shown + ([f"and {hidden} more"] if hidden else []), style="red")
    )


# --- plan


def render_plan(document: Mapping[str, Any], *, width: int, show_all: bool) -> list[RenderableType]:
    """Render the result of ``plan``.

    Args:
        document: See `plan_document`.
        width: Columns of the terminal.
        show_all: Show every migration with its first statements.
    """
    if document["divergences"]:
        return [_render_divergences(document["divergences"])]
    where, steps = document["database"], document["pending"]
    if not steps and not document["in_doubt"]:
        done = Text(f"nothing to do: {where} has every migration in {document['directory']}")
        return [done, *_render_repeatables_ahead(document)]
    shown: list[RenderableType] = [
        Text(f"`lambda-migrate up` would apply {format_count(len(steps), 'migration')} to {where}")
    ]
    is_revision = document["directory"] in _NEW_COMMANDS
    shown += [
        Text(
            f"{name}: {PARTLY_COMMITTED_ADVICE}"
            if is_revision
            else f"first it would resolve {name}, which was interrupted",
            style="red",
        )
        for name in document["in_doubt"]
    ]
    shown.append("")
    most = len(steps) if show_all else _MAX_STEPS
    few = show_all or len(steps) <= _MAX_DETAILED_STEPS
    if any("sql" in step for step in steps):
        most, few = len(steps), True
    shown += [_render_step(step, width=width, in_full=few) for step in steps[:most]]
    hidden = len(steps) - most
    if hidden > 0:
        shown.append(Text(f"… {hidden} more (--all)", style="dim"))
    hidden_faults = [fault for step in steps[most:] for fault in step["faults"]]
    if hidden_faults:
        shown.append(render_bullets(hidden_faults, style="bold red"))
    if not document["can_be_applied"]:
        shown.append(Text("nothing is applied until these files are fixed", style="bold red"))
    return shown


def _render_step(step: Mapping[str, Any], *, width: int, in_full: bool) -> RenderableType:
    description, name = _describe_script(step), step["name"]
    fits = len(name) + 2 + len(description) <= width
    gap = "  " if fits else "\n    "
    lines: list[RenderableType] = [Text.assemble((name, "bold"), (gap + description, "dim"))]
    if "sql" in step:
        lines += [Text(line) for each in step["sql"] for line in _wrap_sql(each, width=width)]
    elif in_full and step["statements"] is not None:
        lines += [_render_statement(each) for each in step["first_statements"]]
        rest = step["statements"] - len(step["first_statements"])
        if rest > 0:
            lines.append(Padding(Text(f"… {rest} more", style="dim"), (0, 0, 0, 4)))
    if step["faults"]:
        lines.append(Padding(render_bullets(step["faults"], style="bold red"), (0, 0, 0, 2)))
    if step.get("warnings"):
        lines.append(Padding(render_bullets(step["warnings"], style="yellow"), (0, 0, 0, 2)))
    if in_full and step["statements"] is not None:
        lines.append("")
    return Group(*lines)


def _wrap_sql(statement: str, *, width: int) -> Iterator[str]:
    """Yield the lines of a statement, indented; what continues a line is indented further."""
    for line in f"{statement};".splitlines():
        body = line.lstrip()
        indent = " " * (4 + len(line) - len(body))
        yield from textwrap.wrap(
            body,
            width,
            initial_indent=indent,
            subsequent_indent=f"{indent}  ",
            break_long_words=False,
            break_on_hyphens=False,
        ) or [""]


def _render_statement(statement: str) -> RenderableType:
    text = Text(statement, no_wrap=True, overflow="ellipsis")
    return Padding(text, (0, 0, 0, 4))


def _describe_script(step: Mapping[str, Any]) -> str:
    if step["transactional"] is None:  # another tool's: only that tool reads the file
        return str(step["path"])
    where = "in a transaction" if step["transactional"] else "outside a transaction"
    isolation = step.get("isolation", "read-committed")
    if isolation != "read-committed":
        where += f" ({isolation.replace('-', ' ')})"
    is_repeatable = step["name"].startswith("R__")
    down = "" if step["has_down_script"] or is_repeatable else ", no down script"
    hooks = f", with {', '.join(step['hooks'])}" if step.get("hooks") else ""
    return f"{format_count(step['statements'], 'statement')} {where}{down}{hooks}"


# --- verify


def render_verify(document: Mapping[str, Any]) -> Group:
    """Render the result of ``verify``."""
    shown: list[RenderableType] = (
        ["corrected the lease table from the history"] if document["resynced"] else []
    )
    *first, last = document["compared"]
    compared = f"{', '.join(first)} and {last}" if first else last
    if document["problems"]:
        shown += [
            Text(f"{compared} disagree:", style="bold red"),
            render_bullets(document["problems"], style="red"),
        ]
    else:
        noun = "requirement" if "other tools" in document["compared"] else "migration"
        applied = format_count(document["applied"], f"applied {noun}")
        pending = f", {document['pending']} pending" * bool(document["pending"])
        shown.append(Text(f"{compared} agree: {applied}{pending}", "green"))
    return Group(*shown)


# --- questions


def render_question(question: Question, *, now_ms: int) -> Group:
    """Render what the user should see before answering."""
    shown: list[RenderableType] = []
    if question.lease is not None:
        shown.append(render_summary_rows(build_lease_rows(question.lease, now_ms=now_ms)))
    shown.append(Text(question.heading))
    if question.compared:
        shown += _render_comparison(question.compared)
    elif question.migrations:
        shown.append(_render_migrations(question.migrations))
    if question.notes:
        hidden = len(question.notes) - _MAX_LISTED
        more = [f"and {hidden} more"] if hidden > 0 else []
        shown.append(render_bullets([*question.notes[:_MAX_LISTED], *more], style="yellow"))
    return Group(*shown)


def _render_comparison(comparisons: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    """Render another tool's history beside lambda-migrate's: differences and the newest rows."""
    different = [n for n, each in enumerate(comparisons) if each["state"] != "recorded"][
        :_MAX_LISTED
    ]
    same = [n for n, each in enumerate(comparisons) if each["state"] == "recorded"]
    chosen = sorted({*different, *same[max(0, len(same) - _MAX_LISTED + len(different)) :]})
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for title in ("version", "file", "other tool", "lambda-migrate"):
        table.add_column(title, overflow="ellipsis", no_wrap=True)
    for n in chosen:
        each = comparisons[n]
        style = "" if each["state"] == "recorded" else "yellow"
        table.add_row(
            escape_text(each["version"]),
            escape_text(each["file"]) or "-",
            each["tool_state"],
            _HISTORY_STATE_LABELS[each["state"]],
            style=style,
        )
    left_out = len(comparisons) - len(chosen)
    return [table, *([Text(f"… and {left_out} more", style="dim")] if left_out else [])]


_HISTORY_STATE_LABELS = {
    "recorded": "will be marked",
    "recorded before": "applied already",
    "pending": "stays pending",
    "no file": "no file",
}


def _render_migrations(migrations: Sequence[Mapping[str, Any]]) -> Table:
    """Render the first names with their dates."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, overflow="ellipsis")
    grid.add_column(no_wrap=True, style="dim")
    for each in migrations[:_MAX_LISTED]:
        applied_at = each["applied_at"]
        when = f"applied {format_iso_as_local(applied_at)}" if applied_at else ""
        grid.add_row("  " + escape_text(each["name"]), when)
    if len(migrations) > _MAX_LISTED:
        grid.add_row(f"  … and {len(migrations) - _MAX_LISTED} more", "")
    return grid


# --- doctor

_FINDING_STYLES = {"ok": "green", "warning": "yellow", "failed": "bold red", "skipped": "dim"}


def render_findings(document: Mapping[str, Any]) -> list[RenderableType]:
    """Render the result of ``doctor``: a line for each check, and one for each advice."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for finding in document["checks"]:
        took = finding["milliseconds"]
        result = finding["result"] + ("" if took is None else f" ({took} ms)")
        status = Text(finding["status"], style=_FINDING_STYLES[finding["status"]])
        grid.add_row(status, finding["check"], Text(escape_text(result)))
        if finding["advice"]:
            advice = escape_text(finding["advice"], kept_characters="\n")
            grid.add_row("", "", Text("next: " + advice, style="dim"))
    counts = Counter(finding["status"] for finding in document["checks"])
    failed, warnings = counts["failed"], counts["warning"]
    is_table_skipped = any(
        (finding["check"], finding["status"]) == ("lease table: read", "skipped")
        for finding in document["checks"]
    )
    if failed:
        summary = format_count(failed, "check") + " failed"
    elif is_table_skipped:  # a function on Lambda does not start without one
        summary = "no check failed; the lease table was not checked"
    else:
        summary = "ready for cold starts"
    if warnings:
        summary += f", {format_count(warnings, 'warning')}"
    return [grid, "", Text(summary, style="red" if failed else "green")]
