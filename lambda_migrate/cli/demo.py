"""`demo`: many Lambda runtimes on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lambda_migrate.cli.options import add_local_command
from lambda_migrate.commands.registry import Option
from lambda_migrate.errors import ConfigurationError, MigrateError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lambda_migrate.cli.invocation import CommandInvocation

_ENVIRONMENTS = 100
_REPORT = "demo-report"


@add_local_command(
    "demo",
    "Start 100 Lambda runtimes at the same time and watch one of them migrate.",
    options=(
        Option(
            "app",
            str,
            "Run the example with SQL files (`sql`), or with FastAPI, SQLAlchemy and Alembic "
            "(`alembic`).",
            "NAME",
            default="sql",
        ),
        Option(
            "environments",
            int,
            "Start this many runtimes at the same time.",
            "N",
            default=str(_ENVIRONMENTS),
        ),
        Option(
            "report",
            str,
            "Write the timeline and the figures to this directory.",
            "PATH",
            default=_REPORT,
        ),
    ),
    examples=("demo", "demo --environments 20", "demo --app alembic"),
)
def _demo(
    _invocation: CommandInvocation,
    *,
    app: str | None,
    environments: int | None,
    report: str | None,
) -> int:
    from lambda_migrate.cli.signals import restore_keyboard_interrupt

    if environments is not None and environments < 1:
        raise ConfigurationError(f"--environments {environments}: write 1 or more")
    _require_packages(app)
    from lambda_migrate.local.demo.run import run_demo
    from lambda_migrate.local.runtime.process import ProcessError

    restore_keyboard_interrupt()
    try:
        return run_demo(
            environments=environments or _ENVIRONMENTS,
            report=Path(report or _REPORT),
            source=app or "sql",
        )
    except ProcessError as failed:
        raise MigrateError(str(failed)) from failed


def _require_packages(app: str | None) -> None:
    _require(
        ("moto", "awslambdaric", "matplotlib"),
        "pip install 'lambda-migrate[local]' (in a clone: pip install '.[local]')",
    )
    if app == "alembic":
        _require(
            ("alembic", "fastapi", "mangum", "psycopg", "sqlalchemy"),
            "pip install -r examples/fastapi-alembic/requirements.txt",
        )


def _require(packages: Sequence[str], command: str) -> None:
    from importlib.util import find_spec

    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f"the demo needs {' and '.join(missing)}, not installed here: {command}"
        )
