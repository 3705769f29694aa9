"""`wait`: until the database accepts a connection, as in a script that starts both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lambda_migrate.commands.result import CommandResult
from lambda_migrate.errors import ConfigurationError, DatabaseUnavailable

if TYPE_CHECKING:
    from lambda_migrate.commands.context import CommandContext

__all__ = ["wait"]

_ATTEMPT_SECONDS = 5.0
_PAUSE_SECONDS = 0.5


def wait(context: CommandContext) -> CommandResult:
    """Wait until the database accepts a connection and answers a query.

    Needs neither migration files nor a lease table.

    Raises:
        ConfigurationError: It refuses, and waiting will not change that: a wrong password.
        DatabaseUnavailable: It did not respond before the deadline.
    """
    from lambda_migrate.postgresql.connection import ConnectionFailed, ConnectionLost, PostgresError
    from lambda_migrate.wiring import make_connect

    settings, deadline = context.settings.require_configured(database=True), context.deadline
    connect = make_connect(settings)
    started, attempts = context.clock.monotonic(), 0
    while True:
        attempts += 1
        seconds = min(_ATTEMPT_SECONDS, max(0.1, deadline.remaining()))
        try:
            with connect("lambda-migrate:wait", seconds) as connection:
                connection.run("SELECT 1", timeout=seconds)
            break
        except ConnectionFailed as failed:
            if failed.permanent:
                raise ConfigurationError(str(failed)) from failed
            reason = str(failed)
        except (ConnectionLost, PostgresError, DatabaseUnavailable) as error:
            reason = str(error)
        waited = context.clock.monotonic() - started
        if deadline.is_over:
            raise DatabaseUnavailable(
                f"the database did not respond within {waited:.0f} s ({attempts} attempts): "
                f"{reason}"
            )
        context.prompter.report_waiting(reason, seconds=waited)
        context.clock.sleep(min(_PAUSE_SECONDS, deadline.remaining()))
    return CommandResult(
        {
            "database": settings.address_text,
            "attempts": attempts,
            "seconds": round(context.clock.monotonic() - started, 3),
        }
    )
