"""`demo`: many Lambda runtimes on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lambda_migrate.cli.options import app
from lambda_migrate.errors import ConfigurationError, MigrateError


@app.command("demo")
def demo(
    context: typer.Context,
    environments: Annotated[
        int,
        typer.Option("--environments", min=1, help="Start this many runtimes at once."),
    ] = 100,
    report: Annotated[
        Path, typer.Option("--report", help="Write the timeline and the figures to this directory.")
    ] = Path("demo-report"),
) -> int:
    """Start 100 Lambda runtimes at once and watch one of them migrate."""
    from lambda_migrate.cli.signals import restore_keyboard_interrupt

    if context.obj is not None:
        raise ConfigurationError("`demo` runs on this machine: remove --function")
    _require_local_extra()
    from lambda_migrate.local.demo.run import run_demo
    from lambda_migrate.local.runtime.process import ProcessError

    restore_keyboard_interrupt()
    try:
        return int(run_demo(environments=environments, report=report))
    except ProcessError as failed:
        raise MigrateError(str(failed)) from failed


def _require_local_extra() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("moto", "awslambdaric", "matplotlib") if find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f"the demo needs {' and '.join(missing)}, not installed here: "
            "pip install 'lambda-migrate[local]'"
        )
