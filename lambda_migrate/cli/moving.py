"""`up` and `down`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.text import Text

from lambda_migrate.cli.call import Call
from lambda_migrate.cli.failures import DONE
from lambda_migrate.cli.registry import (
    Yes,
    app,
    command,
    left_alone,
)
from lambda_migrate.cli.render import (
    number,
    row_list,
)
from lambda_migrate.cli.times import duration
from lambda_migrate.errors import LeaseHeld

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lambda_migrate.migrations import HistoryRow

_WAIT_AT_LEAST = 0.2
"""Seconds between two attempts of ``up --wait``, each of which may open a connection."""


@command(app, "up")
def up(
    call: Call,
    to: Annotated[
        int | None, typer.Option("--to", help="Stop after this version.", metavar="VERSION")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="If somebody else is at it, wait and go on then.")
    ] = False,
) -> int:
    """Apply what is pending."""
    began = call.clock.monotonic()
    call.maintenance.status(call.deadline)  # says at once what else would be retried for an hour
    applied = _when_free(call, lambda: call.maintenance.up(call.deadline, to=to), wait=wait)
    seconds = call.clock.monotonic() - began
    document = {**call.place, "applied": list(applied), "seconds": round(seconds, 3)}
    where = call.place["database"]
    shown = (
        f"applied {number(len(applied), 'migration')} to {where} in {duration(seconds)}"
        if applied
        else f"nothing to do: {where} is up to date" + (f" with {to}" if to is not None else "")
    )
    call.terminal.answer(document, Text(shown, style="green"))
    return DONE


def _when_free(call: Call, act: Callable[[], tuple[str, ...]], *, wait: bool) -> tuple[str, ...]:
    """Act, and as long as somebody else holds the lease, wait and try again if that was wished."""
    from lambda_migrate.deadline import system_random
    from lambda_migrate.lease.backoff import Backoff

    backoff = Backoff(system_random())
    began = call.clock.monotonic()
    while True:
        try:
            return act()
        except LeaseHeld as held:
            if not wait or call.deadline.is_over:
                raise
            waited = call.clock.monotonic() - began
            call.reporter.wait(str(held), seconds=waited)
            delay = max(_WAIT_AT_LEAST, backoff.delay(waited))
            call.clock.sleep(min(delay, call.deadline.remaining()))


@command(app, "down")
def down(
    call: Call,
    to: Annotated[
        int | None,
        typer.Option(
            "--to", help="Down to this version, which stays; 0 for all.", metavar="VERSION"
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", help="So many of the newest.", metavar="N")
    ] = None,
    only: Annotated[
        int | None, typer.Option("--only", help="This one alone.", metavar="VERSION")
    ] = None,
    yes: Yes = False,
) -> int:
    """Take migrations back, the newest first."""
    refused: list[bool] = []

    def confirm(rows: Sequence[HistoryRow]) -> bool:
        what = number(len(rows), "migration")
        heading = Text(f"this runs the down scripts of {what} on {call.place['database']}:")
        agreed = call.terminal.confirm(
            f"take back {what}?", yes=yes, shown=Group(heading, row_list(rows))
        )
        if agreed:
            call.reporter.expect([row.name for row in rows])
        else:
            refused.append(True)
        return agreed

    reverted = call.maintenance.down(call.deadline, to=to, steps=steps, only=only, confirm=confirm)
    if refused:
        return left_alone(call)
    shown = (
        f"took back {number(len(reverted), 'migration')}" if reverted else "nothing to take back"
    )
    call.terminal.answer({**call.place, "reverted": list(reverted)}, Text(shown, style="green"))
    return DONE
