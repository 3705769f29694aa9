"""Answers for a person: text and tables that fit the terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lambda_migrate.cli.entries import Entry, Gap, abridged, counts, entries_of
from lambda_migrate.cli.times import clock_time, duration, local_time, until
from lambda_migrate.errors import legible

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import RenderableType

    from lambda_migrate.cli.preview import Preview, Step
    from lambda_migrate.lease.state import Failure, LeaseState
    from lambda_migrate.maintenance import Status
    from lambda_migrate.migrations import Divergence, HistoryRow, Manifest

__all__ = [
    "bullets",
    "facts",
    "lease_facts",
    "number",
    "plan_view",
    "row_list",
    "status_view",
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
_STATEMENTS_SHOWN = 3
_STEPS_IN_FULL = 10
_STEPS_SHOWN = 15


def number(count: int, noun: str) -> str:
    """``1 migration``, ``2 migrations``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def facts(pairs: Sequence[tuple[str, RenderableType]]) -> Table:
    """Names and values, one pair a line."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        grid.add_row(name, legible(value) if isinstance(value, str) else value)
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
    status: Status,
    manifest: Manifest,
    place: dict[str, str],
    *,
    has_table: bool,
    now_ms: int,
    width: int,
    whole: bool,
) -> list[RenderableType]:
    """The answer of ``status``, from top to bottom.

    Args:
        status: What was found.
        manifest: The migrations at hand.
        place: Where it was found.
        has_table: Whether there is a lease table.
        now_ms: Wall clock.
        width: Columns.
        whole: Every migration, however many.
    """
    entries = entries_of(status)
    pairs: list[tuple[str, RenderableType]] = [
        ("target", place["target"]),
        ("database", place["database"]),
        ("environment", place["environment"] or Text("not named", style="dim")),
        ("migrations", _manifest_fact(manifest, place["directory"])),
    ]
    pairs += lease_facts(status.lease, now_ms=now_ms) if has_table else [_NO_TABLE]
    if has_table:
        pairs.append(("ready", _ready_fact(status)))
    shown: list[RenderableType] = [facts(pairs), ""]
    if entries:
        lines = list(entries) if whole else abridged(entries)
        shown += [_entry_table(lines, width=width), ""]
    shown.append(_summary(entries))
    shown += _advice(status)
    return shown


_NO_TABLE: tuple[str, RenderableType] = (
    "lease table",
    Text("none: PostgreSQL's fence alone", style="dim"),
)


def _manifest_fact(manifest: Manifest, directory: str) -> Text:
    count = number(len(manifest), "migration")
    return Text.assemble(
        f"{directory}: {count}, digest ", (manifest.digest[:_DIGEST_SHOWN], "bold")
    )


def _ready_fact(status: Status) -> Text:
    if status.is_marked_ready and status.plan.is_current:
        return Text("yes: this code is served", style="green")
    if status.is_marked_ready:
        return Text("marked so, but the history says no: see `verify`", style="bold red")
    if status.plan.is_current:
        return Text("not marked yet: the next start, or `up`, marks it")
    return Text("no", style="yellow")


def lease_facts(state: LeaseState, *, now_ms: int) -> list[tuple[str, RenderableType]]:
    """Holder, progress and failure."""
    pairs: list[tuple[str, RenderableType]] = [("lease", _holder(state, now_ms=now_ms))]
    progress = state.progress
    if state.owner is not None and progress is not None:
        began = duration(max(0, now_ms - progress.started_ms) / 1000)
        done = f"{progress.done} of {progress.total} done"
        pairs.append(("progress", f"at {progress.migration} for {began}, {done}"))
    if state.failure is not None:
        pairs.append(("failure", _failure(state.failure, now_ms=now_ms)))
    return pairs


def _holder(state: LeaseState, *, now_ms: int) -> Text:
    if state.owner is None:
        return Text(f"free, fence {state.fence}")
    at = clock_time(state.lease_until_ms, now_ms=now_ms)
    when = until(state.lease_until_ms, now_ms=now_ms)
    is_over = state.lease_until_ms < now_ms
    verb = "ran out" if is_over else "until"
    style = "red" if is_over else "yellow"
    return Text.assemble(
        (f"held by {legible(state.owner)}", style), f", fence {state.fence}, {verb} {at} ({when})"
    )


def _failure(failure: Failure, *, now_ms: int) -> Text:
    code = f" [{failure.sqlstate}]" if failure.sqlstate else ""
    what = f"{failure.migration}: {failure.cause}" if failure.migration else failure.cause
    if failure.retry_at_ms > now_ms:
        at = clock_time(failure.retry_at_ms, now_ms=now_ms)
        retry = f"functions try again at {at} ({until(failure.retry_at_ms, now_ms=now_ms)})"
    else:
        retry = "the next start tries again"
    return Text.assemble((legible(what + code), "red"), f"\nattempt {failure.attempts}; {retry}")


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
    return "baseline" if entry.state == "applied" and _is_baseline(entry.row) else entry.state


def _is_baseline(row: HistoryRow | None) -> bool:
    return row is not None and row.baseline


def _applied_text(entry: Entry) -> str:
    return local_time(entry.row.applied_at) if entry.row else ""


def _gap_cells(gap: Gap) -> list[Text]:
    return [Text(f"… {gap.count} more {gap.state} (--all)", style="dim")]


def _cells(entry: Entry, is_wide: bool) -> list[Text]:
    columns = _COLUMNS if is_wide else _COLUMNS[:3]
    styles = ("", _STYLES[entry.state], "", "", "dim")
    return [Text(text(entry), style) for (_, text), style in zip(columns, styles, strict=False)]


def _took(entry: Entry) -> str:
    row = entry.row
    if row is None or row.applied_at is None or row.baseline:
        return ""
    return duration(row.duration_ms / 1000)


def _who(entry: Entry) -> str:
    """Function and process; the random rest of an owner tells a person nothing."""
    row = entry.row
    return legible(row.owner.rpartition("/")[0] or row.owner) if row else ""


_COLUMNS: tuple[tuple[str, Callable[[Entry], str]], ...] = (
    ("migration", lambda entry: legible(entry.name)),
    ("state", _state_text),
    ("applied", _applied_text),
    ("took", _took),
    ("by", _who),
)


def _summary(entries: Sequence[Entry]) -> Text:
    if not entries:
        return Text("no migrations yet: `lambda-migrate new NAME` writes the first")
    text = Text()
    for state, count in counts(entries).items():
        if count:
            text.append(", " if text else "")
            text.append(f"{count} {state}", style=_STYLES[state])
    return text


def _advice(status: Status) -> Iterator[RenderableType]:
    plan = status.plan
    if plan.divergences:
        yield ""
        yield _divergence_list(plan.divergences)
    elif plan.in_doubt:
        yield Text("in doubt: interrupted outside a transaction; `lambda-migrate up` settles it")
    elif plan.pending:
        yield Text("`lambda-migrate plan` shows what is pending, `lambda-migrate up` applies it")


def _divergence_list(divergences: Sequence[Divergence]) -> RenderableType:
    heading = Text("files and history contradict each other; nothing is applied until they agree:")
    heading.stylize("bold red")
    shown = [str(each) for each in divergences[:_STEPS_SHOWN]]
    hidden = len(divergences) - len(shown)
    return Group(heading, bullets(shown + ([f"and {hidden} more"] if hidden else []), style="red"))


# --- plan


def plan_view(
    preview: Preview, place: dict[str, str], *, width: int, whole: bool
) -> list[RenderableType]:
    """The answer of ``plan``.

    Args:
        preview: What `up` would do.
        place: Where.
        width: Columns.
        whole: Every migration, with its first statements.
    """
    if preview.divergences:
        return [_divergence_list(preview.divergences)]
    where = place["database"]
    if not preview.steps and not preview.in_doubt:
        return [Text(f"nothing to do: {where} has every migration of {place['directory']}")]
    shown: list[RenderableType] = [
        Text(
            f"`lambda-migrate up` would apply {number(len(preview.steps), 'migration')} to {where}"
        )
    ]
    shown += [
        Text(f"first it would settle {row.name}, which was interrupted", style="red")
        for row in preview.in_doubt
    ]
    shown.append("")
    most = len(preview.steps) if whole else _STEPS_SHOWN
    few = whole or len(preview.steps) <= _STEPS_IN_FULL
    shown += [_step_view(step, width=width, in_full=few) for step in preview.steps[:most]]
    hidden = len(preview.steps) - most
    if hidden > 0:
        shown.append(Text(f"… {hidden} more (--all)", style="dim"))
    hidden_faults = [fault for step in preview.steps[most:] for fault in step.faults]
    if hidden_faults:
        shown.append(bullets(hidden_faults, style="bold red"))
    if not preview.can_go_on:
        shown.append(Text("nothing is applied until these files are mended", style="bold red"))
    return shown


def _step_view(step: Step, *, width: int, in_full: bool) -> RenderableType:
    manner = _manner(step)
    fits = len(step.name) + 2 + len(manner) <= width
    gap = "  " if fits else "\n    "
    lines: list[RenderableType] = [Text.assemble((step.name, "bold"), (gap + manner, "dim"))]
    if in_full:
        lines += [_statement_line(each) for each in step.statements[:_STATEMENTS_SHOWN]]
        rest = len(step.statements) - _STATEMENTS_SHOWN
        if rest > 0:
            lines.append(Padding(Text(f"… {rest} more", style="dim"), (0, 0, 0, 4)))
    if step.faults:
        lines.append(Padding(bullets(step.faults, style="bold red"), (0, 0, 0, 2)))
    if in_full:
        lines.append("")
    return Group(*lines)


def _statement_line(statement: str) -> RenderableType:
    text = Text(statement, no_wrap=True, overflow="ellipsis")
    return Padding(text, (0, 0, 0, 4))


def _manner(step: Step) -> str:
    where = "in a transaction" if step.transactional else "outside a transaction"
    down = "" if step.has_down_script else ", no down script"
    return f"{number(len(step.statements), 'statement')} {where}{down}"


# --- what is about to be destroyed


def row_list(rows: Sequence[HistoryRow]) -> Table:
    """History rows with their dates, the first fifteen."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, overflow="ellipsis")
    grid.add_column(no_wrap=True, style="dim")
    for row in rows[:_STEPS_SHOWN]:
        grid.add_row("  " + legible(row.name), f"applied {local_time(row.applied_at)}")
    if len(rows) > _STEPS_SHOWN:
        grid.add_row(f"  … and {len(rows) - _STEPS_SHOWN} more", "")
    return grid
