"""`up` and `down`."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text

from lambda_migrate.cli.invocation import Call
from lambda_migrate.cli.options import IgnoreOtherHistory, Yes, app, command
from lambda_migrate.cli.render import number
from lambda_migrate.cli.times import duration


@command(app, "up")
def up(
    call: Call,
    to: Annotated[
        int | None, typer.Option("--to", help="Stop after this version.", metavar="VERSION")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="If somebody else is at it, wait and go on then.")
    ] = False,
    despite_flags: Annotated[
        bool, typer.Option("--despite-flags", help="Do not ask the feature flags.")
    ] = False,
    ignore_other_history: IgnoreOtherHistory = False,
) -> int:
    """Apply what is pending."""
    return call.answer(
        call.do(
            "up",
            to=to,
            wait=wait,
            despite_flags=despite_flags,
            ignore_other_history=ignore_other_history,
        ),
        lambda document: [_applied(document, to=to)],
    )


def _applied(document: dict[str, Any], *, to: int | None) -> Text:
    where, applied = document["database"], document["applied"]
    if not applied:
        text = f"nothing to do: {where} is up to date" + (f" with {to}" if to is not None else "")
    else:
        took = duration(document["seconds"])
        text = f"applied {number(len(applied), 'migration')} to {where} in {took}"
    return Text(text, style="green")


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
    call.yes = yes
    return call.answer(call.do("down", to=to, steps=steps, only=only), _reverted)


def _reverted(document: dict[str, Any]) -> list[Text]:
    count = len(document["reverted"])
    said = f"took back {number(count, 'migration')}" if count else "nothing to take back"
    return [Text(said, style="green")]
