"""What a forked environment does: invocations of the library, each told to the conductor.

It sees nothing but what a Lambda environment sees: variables, files, a context with a deadline.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lambda_migrate.clock import Deadline
from lambda_migrate.errors import MigrateError

if TYPE_CHECKING:
    from lambda_migrate.engine.target import Target
    from lambda_migrate.events import Event
    from lambda_migrate.migrations import Manifest

__all__ = ["live"]

Emit = Callable[[dict[str, Any]], None]

_TEXT = 600
"""How much of a message goes into an event."""


class ShiftedClock:
    """A clock whose wall time is off, and jumps once; its monotonic time is nobody's to change.

    Args:
        offset: By how many seconds the wall clock is off.
        jump_after: Seconds until it jumps.
        jump: By how many seconds.
    """

    def __init__(self, offset: float, *, jump_after: float, jump: float) -> None:
        self._offset_ms = round(offset * 1000)
        self._jumps_at = time.monotonic() + jump_after
        self._jump_ms = round(jump * 1000)

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        return time.monotonic()

    def wall_ms(self) -> int:
        """See `Clock.wall_ms`."""
        jumped = self._jump_ms if time.monotonic() >= self._jumps_at else 0
        return time.time_ns() // 1_000_000 + self._offset_ms + jumped

    def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`."""
        time.sleep(seconds)


class _Context:
    """What Lambda passes to a handler, as far as anybody here asks."""

    def __init__(self, ends: float, *, request_id: str) -> None:
        self.aws_request_id = request_id
        self.function_name = "chaos"
        self.memory_limit_in_mb = 128
        self.invoked_function_arn = "arn:aws:lambda:us-east-1:123456789012:function:chaos"
        self._ends = ends

    def get_remaining_time_in_millis(self) -> int:
        return max(0, round((self._ends - time.monotonic()) * 1000))


def live(order: dict[str, Any], emit: Emit) -> None:
    """Do what the order says, to its end or ours."""
    os.environ.update(order["environ"])
    {"serve": _serve, "roll back": _roll_back, "traffic": _write}[order["role"]](order, emit)


# --- a function's environment


def _serve(order: dict[str, Any], emit: Emit) -> None:
    invoke = _handler(order) if order["entrance"] == "handler" else _runner(order)
    for number in range(order["invocations"]):
        ends = time.monotonic() + order["timeout"]
        emit({"event": "invoked", "ends": ends})
        try:
            answer = invoke(_Context(ends, request_id=f"{order['name']}-{number}"))
        except MigrateError as error:
            emit(_raised(error))
            if not error.retryable and order["entrance"] == "runner":
                time.sleep(0.3)
            continue
        emit({"event": "served", **answer})
        emit({"event": "checked", **_found(order["check"])})
        return


def _raised(error: MigrateError) -> dict[str, Any]:
    return {
        "event": "raised",
        "error": type(error).__name__,
        "retryable": error.retryable,
        "message": str(error)[:_TEXT],
        "migration": str(getattr(error, "migration", "")),
        "sqlstate": str(getattr(error, "sqlstate", "")),
    }


def _handler(order: dict[str, Any]) -> Callable[[_Context], dict[str, Any]]:
    """The decorated handler, with nothing but the environment's variables."""
    from lambda_migrate import migrate_on_cold_start

    del order

    @migrate_on_cold_start
    def handler(_event: Any, _context: Any) -> dict[str, Any]:
        return {"outcome": "served"}

    return lambda context: handler({}, context)


def _runner(order: dict[str, Any]) -> Callable[[_Context], dict[str, Any]]:
    """A runner put together as the wiring does, with a clock and a lease of the schedule's."""
    from lambda_migrate.aws.telemetry import PowertoolsObserver
    from lambda_migrate.runner import MigrationRunner

    manifest, target = _parts(order, PowertoolsObserver().observe)
    runner = MigrationRunner(manifest, target)

    def invoke(context: _Context) -> dict[str, Any]:
        deadline = Deadline.from_context(context, target.clock)
        return {"outcome": runner.ensure(deadline, request_id=context.aws_request_id).value}

    return invoke


def _parts(order: dict[str, Any], observe: Callable[[Event], None]) -> tuple[Manifest, Target]:
    from lambda_migrate.settings import Settings
    from lambda_migrate.wiring import make_manifest, make_target

    settings = Settings.load(os.environ)
    # Shorter than users may set it: otherwise every takeover would take the round's whole time.
    settings = replace(settings, lease_seconds=order["lease_seconds"])
    clock = ShiftedClock(order["clock"], jump_after=order["jump_after"], jump=order["jump"])
    target = make_target(settings, observer=_Told(observe), clock=clock)
    return make_manifest(settings, os.environ), target


class _Told:
    def __init__(self, observe: Callable[[Event], None]) -> None:
        self._observe = observe

    def observe(self, event: Event) -> None:
        self._observe(event)


# --- a person


def _roll_back(order: dict[str, Any], emit: Emit) -> None:
    """As a person at the command line: when it may succeed later, try again, for a while."""
    from lambda_migrate.engine.operations import Maintenance
    from lambda_migrate.events import MigrationReverted

    def told(event: Event) -> None:
        if isinstance(event, MigrationReverted):
            emit({"event": "reverted", "migration": event.migration})

    manifest, target = _parts(order, told)
    ends = time.monotonic() + order["timeout"]
    emit({"event": "invoked", "ends": ends})
    while True:
        try:
            down = Maintenance(manifest, target).down(
                Deadline(ends, target.clock).earlier(2.0), to=order["to"]
            )
        except MigrateError as error:
            if error.retryable and time.monotonic() < ends - 4.0:
                time.sleep(0.3)
                continue
            emit(_raised(error))
        else:
            emit({"event": "rolled back", "migrations": list(down)})
        return


# --- an application


def _write(order: dict[str, Any], _emit: Emit) -> None:
    """Short transactions on the migrated table, one after another, on a connection of their own."""
    import pg8000.native

    number = 0
    while True:
        try:
            connection = _connect(order["check"], "application")
            while True:
                number += 1
                connection.run("BEGIN")
                connection.run(
                    "UPDATE orders SET amount = amount WHERE id = :id", id=number % 900 + 1
                )
                time.sleep(0.4)
                connection.run("COMMIT")
                time.sleep(0.1)
        except (pg8000.native.Error, OSError):
            time.sleep(0.1)  # no table yet, or no server


# --- looking


def _found(check: dict[str, Any]) -> dict[str, Any]:
    """What the database holds at the moment of serving, by a connection that no fault touches."""
    import pg8000.native

    for _ in range(100):
        try:
            connection = _connect(check, "chaos check")
            try:
                (row,) = connection.run(LOOK)
                versions = connection.run("SELECT version FROM effects") if row[0] else []
            finally:
                connection.close()
        except (pg8000.native.Error, OSError):
            time.sleep(0.1)  # it is being restarted
            continue
        return {"versions": sorted(version for (version,) in versions), "indexes": row[1]}
    return {"versions": None, "indexes": None}


LOOK = """
    SELECT to_regclass('effects') IS NOT NULL,
           ARRAY(SELECT c.relname::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
                 WHERE i.indisvalid AND c.relname LIKE 'orders\\_%' AND c.relname <> 'orders_pkey'
                 ORDER BY 1)
"""


def _connect(check: dict[str, Any], name: str) -> Any:
    import pg8000.native

    return pg8000.native.Connection(
        "postgres",
        database=check["database"],
        unix_sock=str(Path(check["socket"])),
        application_name=name,
    )
