"""`status`, `plan`, `verify`: what look and change nothing in the database."""

from __future__ import annotations

from typing import Annotated

import typer

from lambda_migrate.cli.call import Call
from lambda_migrate.cli.registry import Whole, app, command
from lambda_migrate.cli.render import plan_view, status_view, verdict
from lambda_migrate.verbs import looking


@command(app, "status")
def status(
    call: Call,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 3 unless this code may be served.")
    ] = False,
    whole: Whole = False,
) -> int:
    """Show what is applied and who is at it."""
    answer = looking.status(call.site, exit_code=exit_code)
    now_ms, width = call.clock.wall_ms(), call.terminal.width
    return call.answer(
        answer, *status_view(answer.document, now_ms=now_ms, width=width, whole=whole)
    )


@command(app, "plan")
def plan(
    call: Call,
    to: Annotated[int | None, typer.Option("--to", help="As of `up`.", metavar="VERSION")] = None,
    whole: Whole = False,
) -> int:
    """Show what `up` would do."""
    answer = looking.plan(call.site, to=to)
    return call.answer(answer, *plan_view(answer.document, width=call.terminal.width, whole=whole))


@command(app, "verify")
def verify(
    call: Call,
    resync: Annotated[
        bool,
        typer.Option("--resync", help="Let the lease table say what the history proves."),
    ] = False,
) -> int:
    """Compare files, history, lease table."""
    answer = looking.verify(call.site, resync=resync)
    return call.answer(answer, verdict(answer.document))
