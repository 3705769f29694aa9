"""`status`, `plan`, `verify`, `doctor` and `wait` at a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.text import Text

from lambda_migrate.cli.options import add_target_command
from lambda_migrate.cli.render import render_findings, render_plan, render_status, render_verify
from lambda_migrate.cli.render_dry_run import render_dry_run
from lambda_migrate.cli.times import format_duration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import RenderableType

    from lambda_migrate.cli.invocation import CommandInvocation


@add_target_command("status", has_show_all=True)
def _show_status(
    document: dict[str, Any], invocation: CommandInvocation, options: Mapping[str, Any]
) -> Sequence[RenderableType]:
    return render_status(
        document,
        now_ms=invocation.clock.wall_ms(),
        width=invocation.terminal.width,
        show_all=options["all"],
    )


@add_target_command("plan", has_show_all=True)
def _show_plan(
    document: dict[str, Any], invocation: CommandInvocation, options: Mapping[str, Any]
) -> Sequence[RenderableType]:
    width = invocation.terminal.width
    if "dry_run" in document:
        return render_dry_run(
            document,
            width=width,
            show_all=options["all"],
            function=invocation.options.function,
        )
    return render_plan(document, width=width, show_all=options["all"])


@add_target_command("verify")
def _show_verification(
    document: dict[str, Any], _invocation: CommandInvocation, _options: Mapping[str, Any]
) -> Sequence[RenderableType]:
    return [render_verify(document)]


@add_target_command("doctor")
def _show_findings(
    document: dict[str, Any], _invocation: CommandInvocation, _options: Mapping[str, Any]
) -> Sequence[RenderableType]:
    return render_findings(document)


@add_target_command("wait")
def _show_wait(
    document: dict[str, Any], _invocation: CommandInvocation, _options: Mapping[str, Any]
) -> Sequence[RenderableType]:
    duration = format_duration(document["seconds"])
    return [Text(f"{document['database']} responded after {duration}", style="green")]
