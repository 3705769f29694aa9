"""Answers for a person: text and tables that fit the terminal, made from the JSON documents."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lambda_migrate.cli.times import clock_time, duration, local_time, until
from lambda_migrate.commands.documents import entries_in
from lambda_migrate.commands.status_rows import Entry, Gap, abridged
from lambda_migrate.errors import escape_text
from lambda_migrate.lease.readiness import UNKNOWN_IDENTITY

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.console import RenderableType

    from lambda_migrate.commands.prompt import Question

__all__ = [
    "bullets",
    "facts",
    "lease_facts",
    "number",
    "plan_view",
    "question_view",
    "status_view",
    "verdict",
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

_WIDE = 76
"""Columns from which on the table says how long each migration took and who applied it."""

_NAME_AT_LEAST = 12
_OWNER_WIDTH = 32
_DIGEST_SHOWN = 12
_STEPS_IN_FULL = 10
_STEPS_SHOWN = 15
_ASKED_SHOWN = 15


def number(count: int, noun: str) -> str:
    """``1 migration``, ``2 migrations``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def facts(pairs: Sequence[tuple[str, RenderableType]]) -> Table:
    """Names and values, one pair a line."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        grid.add_row(name, escape_text(value) if isinstance(value, str) else value)
    return grid


def bullets(lines: Sequence[str], *, style: str = "") -> Table:
    """One sentence a line; what does not fit hangs below its own beginning."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for line in lines:
        grid.add_row(Text("-", style=style), Text(line))
    return grid


# --- status


def status_view(
    document: Mapping[str, Any], *, now_ms: int, width: int, whole: bool
) -> list[RenderableType]:
    """The answer of ``status``, from top to bottom.

    Args:
        document: See `status_document`.
        now_ms: Wall clock.
        width: Columns.
        whole: Every migration, however many.
    """
    entries = entries_in(document)
    lease = document["lease"]
    pairs: list[tuple[str, RenderableType]] = [
        ("target", document["target"]),
        ("database", document["database"]),
        ("environment", document["environment"] or Text("not named", style="dim")),
        ("migrations", _manifest_fact(document)),
    ]
    pairs += lease_facts(lease, now_ms=now_ms) if lease is not None else [_NO_TABLE]
    if lease is not None:
        pairs.append(("ready", _ready_fact(document)))
        pairs += _others(lease["databases"], document["database"])
    if document.get("flags"):
        pairs.append(("flags", _flags_fact(document["flags"])))
    shown: list[RenderableType] = [facts(pairs), ""]
    if entries:
        lines = list(entries) if whole else abridged(entries)
        shown += [_entry_table(lines, width=width), ""]
    shown.append(_summary(document))
    shown += _advice(document)
    return shown


_NO_TABLE: tuple[str, RenderableType] = (
    "lease table",
    Text("none: PostgreSQL's fence alone", style="dim"),
)


def _manifest_fact(document: Mapping[str, Any]) -> Text:
    count = number(document["files"], "migration")
    digest = document["digest"][:_DIGEST_SHOWN]
    return Text.assemble(f"{document['directory']}: {count}, digest ", (digest, "bold"))


def _flags_fact(flags: Mapping[str, Any]) -> Text:
    if flags["unavailable"]:
        return Text(flags["unavailable"], style="red")
    said = [
        "paused" if flags["paused"] else "",
        f"held back at {flags['hold_back_at']}" if flags["hold_back_at"] else "",
        f"mode {flags['mode']}" if flags["mode"] != "migrate" else "",
    ]
    shown = ", ".join(each for each in said if each)
    return Text(shown, style="yellow") if shown else Text("stop nobody", style="dim")


def _ready_fact(document: Mapping[str, Any]) -> Text:
    if document["is_marked_ready"] and document["is_current"]:
        return Text("yes: this code is served", style="green")
    if document["is_marked_ready"]:
        return Text("marked so, but the history says no: see `verify`", style="bold red")
    if document["is_current"]:
        return Text("not marked yet: the next start, or `up`, marks it")
    return Text("no", style="yellow")


def _others(
    databases: Sequence[Mapping[str, Any]], address: str
) -> list[tuple[str, RenderableType]]:
    """Databases that share the target with the one at ``address``."""
    others = [
        ", ".join(escape_text(each["address"]) for each in database["addresses"])
        for database in databases
        if database["identity"] != UNKNOWN_IDENTITY and address not in _addresses(database)
    ]
    if not others:
        return []
    return [("shared with", Text("\n".join(others) + _SHARED, style="yellow"))]


_SHARED = "\na target is for one database: give each its own LAMBDA_MIGRATE_TARGET"


def _addresses(database: Mapping[str, Any]) -> list[str]:
    return [each["address"] for each in database["addresses"]]


def lease_facts(lease: Mapping[str, Any], *, now_ms: int) -> list[tuple[str, RenderableType]]:
    """Holder, progress and failure of a `lease_document`."""
    pairs: list[tuple[str, RenderableType]] = [("lease", _holder(lease, now_ms=now_ms))]
    progress = lease["progress"]
    if lease["owner"] is not None and progress is not None:
        began = duration(max(0, now_ms - progress["started_ms"]) / 1000)
        done = f"{progress['done']} of {progress['total']} done"
        pairs.append(("progress", f"applying {progress['migration']} for {began}, {done}"))
    if lease["failure"] is not None:
        pairs.append(("failure", _failure(lease["failure"], now_ms=now_ms)))
    return pairs


def _holder(lease: Mapping[str, Any], *, now_ms: int) -> Text:
    if lease["owner"] is None:
        return Text(f"free, fence {lease['fence']}")
    until_ms = lease["lease_until_ms"]
    when = f"{clock_time(until_ms, now_ms=now_ms)} ({until(until_ms, now_ms=now_ms)})"
    is_over = until_ms < now_ms
    verb = "ran out" if is_over else "until"
    style = "red" if is_over else "yellow"
    return Text.assemble(
        (f"held by {escape_text(lease['owner'])}", style),
        f", fence {lease['fence']}, {verb} {when}",
    )


def _failure(failure: Mapping[str, Any], *, now_ms: int) -> Text:
    code = f" [{failure['sqlstate']}]" if failure["sqlstate"] else ""
    migration, cause, retry_ms = failure["migration"], failure["cause"], failure["retry_at_ms"]
    what = f"{migration}: {cause}" if migration else cause
    if retry_ms > now_ms:
        at = clock_time(retry_ms, now_ms=now_ms)
        retry = f"functions try again at {at} ({until(retry_ms, now_ms=now_ms)})"
    else:
        retry = "the next start tries again"
    return Text.assemble(
        (escape_text(what + code), "red"), f"\nattempt {failure['attempts']}; {retry}"
    )


def _entry_table(lines: Sequence[Entry | Gap], *, width: int) -> Table:
    is_wide = width >= _WIDE
    shown = [line for line in lines if isinstance(line, Entry)]
    rest = _COLUMNS[1:] if is_wide else _COLUMNS[1:3]
    widths = [max(len(title), *(len(text(each)) for each in shown)) for title, text in rest]
    if is_wide:
        widths[-1] = min(widths[-1], _OWNER_WIDTH)
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    # A name that does not fit is cut; what follows it never is.
    left = max(_NAME_AT_LEAST, width - sum(each + 2 for each in widths))
    table.add_column(_COLUMNS[0][0], overflow="ellipsis", no_wrap=True, max_width=left)
    for (title, _), columns in zip(rest, widths, strict=True):
        side: Literal["left", "right"] = "right" if title == "took" else "left"
        table.add_column(title, justify=side, overflow="ellipsis", no_wrap=True, width=columns)
    for line in lines:
        table.add_row(*(_gap_cells(line) if isinstance(line, Gap) else _cells(line, is_wide)))
    return table


def _state_text(entry: Entry) -> str:
    return "baseline" if entry.state == "applied" and entry.baseline else entry.state


def _applied_text(entry: Entry) -> str:
    return local_time(entry.applied_at)


def _gap_cells(gap: Gap) -> list[Text]:
    return [Text(f"… {gap.count} more {gap.state} (--all)", style="dim")]


def _cells(entry: Entry, is_wide: bool) -> list[Text]:
    columns = _COLUMNS if is_wide else _COLUMNS[:3]
    styles = ("", _STYLES[entry.state], "", "", "dim")
    return [Text(text(entry), style) for (_, text), style in zip(columns, styles, strict=False)]


def _took(entry: Entry) -> str:
    return "" if entry.duration_ms is None else duration(entry.duration_ms / 1000)


def _who(entry: Entry) -> str:
    """Function and process; the random rest of an owner tells a person nothing."""
    owner = entry.owner or ""
    return escape_text(owner.rpartition("/")[0] or owner)


_COLUMNS: tuple[tuple[str, Callable[[Entry], str]], ...] = (
    ("migration", lambda entry: escape_text(entry.name)),
    ("state", _state_text),
    ("applied", _applied_text),
    ("took", _took),
    ("by", _who),
)


def _summary(document: Mapping[str, Any]) -> Text:
    if not document["migrations"]:
        return Text("no migrations yet: `lambda-migrate new NAME` writes the first")
    text = Text()
    for key, count in document["counts"].items():
        if count:
            state = key.replace("_", " ")
            text.append(", " if text else "")
            text.append(f"{count} {state}", style=_STYLES.get(state, ""))
    return text


def _advice(document: Mapping[str, Any]) -> Iterator[RenderableType]:
    if document["divergences"]:
        yield ""
        yield _divergence_list(document["divergences"])
    elif document["in_doubt"]:
        yield Text("in doubt: interrupted outside a transaction; `lambda-migrate up` settles it")
    elif document["counts"]["pending"]:
        yield Text("`lambda-migrate plan` shows what is pending, `lambda-migrate up` applies it")


def _divergence_list(divergences: Sequence[Mapping[str, Any]]) -> RenderableType:
    heading = Text("files and history contradict each other; nothing is applied until they agree:")
    heading.stylize("bold red")
    shown = [f"{each['name']}: {each['advice']}" for each in divergences[:_STEPS_SHOWN]]
    hidden = len(divergences) - len(shown)
    return Group(heading, bullets(shown + ([f"and {hidden} more"] if hidden else []), style="red"))


# --- plan


def plan_view(document: Mapping[str, Any], *, width: int, whole: bool) -> list[RenderableType]:
    """The answer of ``plan``.

    Args:
        document: See `plan_document`.
        width: Columns.
        whole: Every migration, with its first statements.
    """
    if document["divergences"]:
        return [_divergence_list(document["divergences"])]
    where, steps = document["database"], document["pending"]
    if not steps and not document["in_doubt"]:
        return [Text(f"nothing to do: {where} has every migration of {document['directory']}")]
    shown: list[RenderableType] = [
        Text(f"`lambda-migrate up` would apply {number(len(steps), 'migration')} to {where}")
    ]
    shown += [
        Text(f"first it would settle {name}, which was interrupted", style="red")
        for name in document["in_doubt"]
    ]
    shown.append("")
    most = len(steps) if whole else _STEPS_SHOWN
    few = whole or len(steps) <= _STEPS_IN_FULL
    shown += [_step_view(step, width=width, in_full=few) for step in steps[:most]]
    hidden = len(steps) - most
    if hidden > 0:
        shown.append(Text(f"… {hidden} more (--all)", style="dim"))
    hidden_faults = [fault for step in steps[most:] for fault in step["faults"]]
    if hidden_faults:
        shown.append(bullets(hidden_faults, style="bold red"))
    if not document["can_go_on"]:
        shown.append(Text("nothing is applied until these files are mended", style="bold red"))
    return shown


def _step_view(step: Mapping[str, Any], *, width: int, in_full: bool) -> RenderableType:
    manner, name = _manner(step), step["name"]
    fits = len(name) + 2 + len(manner) <= width
    gap = "  " if fits else "\n    "
    lines: list[RenderableType] = [Text.assemble((name, "bold"), (gap + manner, "dim"))]
    if in_full:
        lines += [_statement_line(each) for each in step["first_statements"]]
        rest = step["statements"] - len(step["first_statements"])
        if rest > 0:
            lines.append(Padding(Text(f"… {rest} more", style="dim"), (0, 0, 0, 4)))
    if step["faults"]:
        lines.append(Padding(bullets(step["faults"], style="bold red"), (0, 0, 0, 2)))
    if in_full:
        lines.append("")
    return Group(*lines)


def _statement_line(statement: str) -> RenderableType:
    text = Text(statement, no_wrap=True, overflow="ellipsis")
    return Padding(text, (0, 0, 0, 4))


def _manner(step: Mapping[str, Any]) -> str:
    where = "in a transaction" if step["transactional"] else "outside a transaction"
    down = "" if step["has_down_script"] else ", no down script"
    return f"{number(step['statements'], 'statement')} {where}{down}"


# --- verify


def verdict(document: Mapping[str, Any]) -> Group:
    """The answer of ``verify``."""
    shown: list[RenderableType] = (
        ["the lease table now says what the history proves"] if document["resynced"] else []
    )
    if document["problems"]:
        shown += [
            Text("they disagree:", style="bold red"),
            bullets(document["problems"], style="red"),
        ]
    else:
        applied = number(document["applied"], "applied migration")
        pending = f", {document['pending']} pending" * bool(document["pending"])
        shown.append(Text(f"files, history and lease table agree: {applied}{pending}", "green"))
    return Group(*shown)


# --- what is about to be destroyed or declared


def question_view(question: Question, *, now_ms: int) -> Group:
    """What a person should see before they say yes."""
    shown: list[RenderableType] = []
    if question.lease is not None:
        shown.append(facts(lease_facts(question.lease, now_ms=now_ms)))
    shown.append(Text(question.heading))
    if question.compared:
        shown += _comparison(question.compared)
    elif question.migrations:
        shown.append(_migration_list(question.migrations))
    if question.notes:
        shown.append(bullets(question.notes, style="yellow"))
    return Group(*shown)


def _comparison(compared: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    """Another tool's history beside ours: whatever differs, and the newest of the rest."""
    odd = [n for n, each in enumerate(compared) if each["here"] != "recorded"][:_ASKED_SHOWN]
    plain = [n for n, each in enumerate(compared) if each["here"] == "recorded"]
    chosen = sorted({*odd, *plain[max(0, len(plain) - _ASKED_SHOWN + len(odd)) :]})
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for title in ("version", "file", "there", "here"):
        table.add_column(title, overflow="ellipsis", no_wrap=True)
    for n in chosen:
        each = compared[n]
        style = "" if each["here"] == "recorded" else "yellow"
        table.add_row(
            escape_text(each["version"]),
            escape_text(each["file"]) or "-",
            each["theirs"],
            _HERE[each["here"]],
            style=style,
        )
    left_out = len(compared) - len(chosen)
    return [table, *([Text(f"… and {left_out} more", style="dim")] if left_out else [])]


_HERE = {
    "recorded": "will be recorded",
    "recorded before": "recorded already",
    "pending": "stays pending",
    "no file": "no file",
}


def _migration_list(migrations: Sequence[Mapping[str, Any]]) -> Table:
    """Names with their dates, the first ones."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, overflow="ellipsis")
    grid.add_column(no_wrap=True, style="dim")
    for each in migrations[:_ASKED_SHOWN]:
        applied_at = each["applied_at"]
        when = f"applied {local_time(applied_at)}" if applied_at else ""
        grid.add_row("  " + escape_text(each["name"]), when)
    if len(migrations) > _ASKED_SHOWN:
        grid.add_row(f"  … and {len(migrations) - _ASKED_SHOWN} more", "")
    return grid
