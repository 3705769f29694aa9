"""What a forked process of a round does: it serves, operates, or migrates with a tool alone.

It sees only what a Lambda environment sees: variables, files, a context with a deadline. Each event
goes to the round as one datagram.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from lambda_migrate import migrate_on_cold_start
from lambda_migrate.aws.telemetry import PowertoolsObserver
from lambda_migrate.clock import Clock, Deadline
from lambda_migrate.engine.operations import Operations
from lambda_migrate.engine.target import Target
from lambda_migrate.errors import MigrateError
from lambda_migrate.events import Observer, null_observer
from lambda_migrate.migrations import Manifest
from lambda_migrate.runner import MigrationRunner
from lambda_migrate.settings import Settings
from lambda_migrate.wiring import make_manifest, make_target
from load.chaos.migrations import REFERENCE_DATABASE_SUFFIX

EmitEvent = Callable[[dict[str, Any]], None]

_MAX_MESSAGE_CHARACTERS = 600  # how much of an error's message goes into an event


def run(job: dict[str, Any]) -> None:
    """Do one job and end the process, as Lambda ends one: without waiting for its threads."""
    code = 1
    try:
        events = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        events.connect(job["events"])

        def emit(event: dict[str, Any]) -> None:
            stamped = {"name": job["name"], "at": time.monotonic(), "wall": time.time(), **event}
            events.send(json.dumps(stamped).encode())

        try:
            _ROLES[job["role"]](job, emit)
        except MigrateError as error:
            emit(_make_error_event(error))
        code = 0
    except BaseException:  # noqa: BLE001 - it is printed to the log, then the process ends
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class _ShiftedClock(Clock):
    """A clock whose wall time is wrong, and jumps once; its monotonic time is the real one."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._offset_ms = round(1000 * float(job.get("clock_offset", 0.0)))
        self._jumps_at = time.monotonic() + float(job.get("clock_jumps_after", 0.0))
        self._jump_ms = round(1000 * float(job.get("clock_jump", 0.0)))

    def wall_ms(self) -> int:
        jumped = self._jump_ms if time.monotonic() >= self._jumps_at else 0
        return super().wall_ms() + self._offset_ms + jumped


def _make_context(ends: float, *, request_id: str) -> Any:
    """The part of Lambda's context that is read here."""
    return SimpleNamespace(
        aws_request_id=request_id,
        get_remaining_time_in_millis=lambda: max(0, round((ends - time.monotonic()) * 1000)),
    )


# --- an execution environment


def _run_environment(job: dict[str, Any], emit: EmitEvent) -> None:
    is_handler = job["entry_point"] == "handler"
    invoke = _make_handler() if is_handler else _make_runner(job)
    for number in range(job.get("invocations", 1)):
        ends = time.monotonic() + job["timeout"]
        emit({"event": "invoked", "ends": ends, "outlives": job.get("outlives_deadline", False)})
        try:
            answer = invoke(_make_context(ends, request_id=f"{job['name']}-{number}"))
        except MigrateError as error:
            emit(_make_error_event(error))
            if not error.retryable and not is_handler:
                time.sleep(0.3)
            continue
        emit({"event": "served", **answer})
        return


def _make_error_event(error: MigrateError) -> dict[str, Any]:
    return {
        "event": "raised",
        "error": type(error).__name__,
        "message": str(error)[:_MAX_MESSAGE_CHARACTERS],
    }


def _make_handler() -> Callable[[Any], dict[str, Any]]:
    """The decorated handler, configured by the environment's variables alone."""

    @migrate_on_cold_start
    def handler(_event: Any, _context: Any) -> dict[str, Any]:
        return {"outcome": "served"}

    return lambda context: handler({}, context)


def _make_runner(job: dict[str, Any]) -> Callable[[Any], dict[str, Any]]:
    """A runner with the schedule's clock and lease."""
    manifest, target = _make_manifest_and_target(job, PowertoolsObserver())
    runner = MigrationRunner(manifest, target)

    def invoke(context: Any) -> dict[str, Any]:
        deadline = Deadline.from_context(context, target.clock)
        return {"outcome": runner.ensure(deadline, request_id=context.aws_request_id).value}

    return invoke


def _make_manifest_and_target(job: dict[str, Any], observer: Observer) -> tuple[Manifest, Target]:
    settings = Settings.load(os.environ)
    # Shorter than users may set it: otherwise every takeover would take the round's whole time.
    settings = settings.replace(lease_seconds=job["lease_seconds"])
    target = make_target(settings, observer=observer, clock=_ShiftedClock(job))
    return make_manifest(settings, os.environ), target


# --- an operator


def _roll_back(job: dict[str, Any], emit: EmitEvent) -> None:
    """Roll back as a person at the command line, who retries for a while."""
    manifest, target = _make_manifest_and_target(job, null_observer)
    ends = time.monotonic() + job["timeout"]
    emit({"event": "invoked", "ends": ends, "outlives": False})
    while True:
        deadline = Deadline(ends, target.clock).shortened_by(2.0)
        try:
            down = Operations(manifest, target).down(deadline, to=job["target_version"])
        except MigrateError as error:
            if not error.retryable or time.monotonic() >= ends - 4.0:
                raise
            time.sleep(0.3)
        else:
            emit({"event": "rolled back", "migrations": list(down)})
            return


def _repair(job: dict[str, Any], emit: EmitEvent) -> None:
    """Declare that a migration of a tool, which was reversed by hand, is pending."""
    deadline = Deadline.after(job["timeout"])
    emit({"event": "invoked", "ends": deadline.at, "outlives": False})
    operations = Operations(*_make_manifest_and_target(job, null_observer))
    operations.repair(job["version"], deadline, declared_state="pending")
    emit({"event": "repaired"})


def _migrate_reference_database(_job: dict[str, Any], _emit: EmitEvent) -> None:
    """Migrate another database with the tool alone."""
    del os.environ["LAMBDA_MIGRATE_SOURCE"]
    os.environ["DATABASE_URL"] += REFERENCE_DATABASE_SUFFIX
    os.chdir(os.environ["LAMBDA_TASK_ROOT"])
    sys.path.insert(0, os.environ["LAMBDA_TASK_ROOT"])
    importlib.import_module("app").handler({}, None)


_ROLES: dict[str, Callable[[dict[str, Any], EmitEvent], None]] = {
    "serve": _run_environment,
    "roll back": _roll_back,
    "repair": _repair,
    "migrate reference database": _migrate_reference_database,
}
