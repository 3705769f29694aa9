"""`status`, `plan`, `verify`: what look and change nothing in the database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.text import Text

from lambda_migrate.cli.call import Call
from lambda_migrate.cli.documents import plan_document, status_document
from lambda_migrate.cli.failures import DONE, FAILED, PENDING
from lambda_migrate.cli.registry import (
    Whole,
    app,
    command,
)
from lambda_migrate.cli.render import (
    bullets,
    number,
    plan_view,
    status_view,
)

if TYPE_CHECKING:
    from lambda_migrate.maintenance import Verification


@command(app, "status")
def status(
    call: Call,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 3 unless this code may be served.")
    ] = False,
    whole: Whole = False,
) -> int:
    """Show what is applied and who is at it."""
    found = call.maintenance.status(call.deadline)
    view = status_view(
        found,
        call.manifest,
        call.place,
        has_table=call.has_table,
        now_ms=call.clock.wall_ms(),
        width=call.terminal.width,
        whole=whole,
    )
    document = status_document(found, call.manifest, call.place, has_table=call.has_table)
    call.terminal.answer(document, *view)
    return PENDING if exit_code and not found.plan.is_current else DONE


@command(app, "plan")
def plan(
    call: Call,
    to: Annotated[int | None, typer.Option("--to", help="As of `up`.", metavar="VERSION")] = None,
    whole: Whole = False,
) -> int:
    """Show what `up` would do."""
    from lambda_migrate.cli.preview import preview_of

    planned, manifest = call.maintenance.plan(call.deadline, to=to)
    preview = preview_of(planned, manifest)
    call.terminal.answer(
        plan_document(preview, call.place),
        *plan_view(preview, call.place, width=call.terminal.width, whole=whole),
    )
    return DONE if preview.can_go_on else FAILED


@command(app, "verify")
def verify(
    call: Call,
    resync: Annotated[
        bool,
        typer.Option("--resync", help="Let the lease table say what the history proves."),
    ] = False,
) -> int:
    """Compare files, history, lease table."""
    if resync:
        call.require_table()
        call.maintenance.resync(call.deadline)
    found = call.maintenance.verify(call.deadline)
    document = {
        **call.place,
        "agree": not found.problems,
        "problems": list(found.problems),
        "resynced": resync,
    }
    call.terminal.answer(document, _verdict(found, resynced=resync))
    return FAILED if found.problems else DONE


def _verdict(found: Verification, *, resynced: bool) -> Group:
    shown: list[Any] = ["the lease table now says what the history proves"] if resynced else []
    if found.problems:
        shown += [Text("they disagree:", style="bold red"), bullets(found.problems, style="red")]
    else:
        applied = number(len(found.status.plan.applied), "applied migration")
        pending = f", {len(found.status.plan.pending)} pending" * bool(found.status.plan.pending)
        shown.append(Text(f"files, history and lease table agree: {applied}{pending}", "green"))
    return Group(*shown)
