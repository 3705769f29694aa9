"""`status`, `plan`, `verify`: what look and change nothing in the database."""

from __future__ import annotations

from typing import Annotated

import typer

from lambda_migrate.cli.invocation import Call
from lambda_migrate.cli.options import IgnoreOtherHistory, Whole, Yes, app, command
from lambda_migrate.cli.render import plan_view, status_view, verdict
from lambda_migrate.cli.render_dry_run import rehearsal_view


@command(app, "status")
def status(
    call: Call,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 3 unless this code may be served.")
    ] = False,
    whole: Whole = False,
) -> int:
    """Show what is applied and who is at it."""
    return call.answer(
        call.do("status", exit_code=exit_code),
        lambda document: status_view(
            document, now_ms=call.clock.wall_ms(), width=call.terminal.width, whole=whole
        ),
    )


@command(app, "plan")
def plan(
    call: Call,
    to: Annotated[int | None, typer.Option("--to", help="As of `up`.", metavar="VERSION")] = None,
    execute: Annotated[
        bool,
        typer.Option("--execute", help="Do it in a transaction, measure it, and roll it back."),
    ] = False,
    in_production: Annotated[
        bool,
        typer.Option("--in-production", help="Execute it even where users wait for its locks."),
    ] = False,
    ignore_other_history: IgnoreOtherHistory = False,
    whole: Whole = False,
    yes: Yes = False,
) -> int:
    """Show what `up` would do."""
    call.yes = yes
    return call.answer(
        call.do(
            "plan",
            to=to,
            execute=execute,
            in_production=in_production,
            ignore_other_history=ignore_other_history,
        ),
        lambda document: (
            rehearsal_view(document, width=call.terminal.width)
            if "rehearsal" in document
            else plan_view(document, width=call.terminal.width, whole=whole)
        ),
    )


@command(app, "verify")
def verify(
    call: Call,
    resync: Annotated[
        bool,
        typer.Option("--resync", help="Let the lease table say what the history proves."),
    ] = False,
) -> int:
    """Compare files, history, lease table."""
    return call.answer(call.do("verify", resync=resync), lambda document: [verdict(document)])
