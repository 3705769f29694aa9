"""One check for all the processes of an environment of Lambda Managed Instances.

There, a Python function runs as up to 16 processes per vCPU in one execution environment, each with
memory of its own and a shared ``/tmp`` (AWS Lambda Developer Guide, "Python runtime for Lambda
Managed Instances"). The first process checks and leaves a file behind; the others wait for a lock
on it and do not read the lease table.

The file is trusted by this environment only. Its name is a hash of what no other environment has in
common with it: the boot of the machine, and the process that started all of them, with its start
time. Whatever fails here, the process makes a check of its own.
"""

from __future__ import annotations

import os
from contextlib import suppress
from hashlib import sha256
from tempfile import gettempdir
from typing import TYPE_CHECKING

from lambda_migrate.clock import Deadline
from lambda_migrate.engine.check import DEFAULT_DEADLINE_SECONDS
from lambda_migrate.errors import NotReady
from lambda_migrate.outcome import Outcome

if TYPE_CHECKING:
    from lambda_migrate.runner import MigrationRunner

__all__ = ["ensure_once"]

_POLL_INTERVAL_SECONDS = 0.05
_READY = b"ready"


def ensure_once(
    runner: MigrationRunner, deadline: Deadline | None, *, request_id: str = ""
) -> Outcome:
    """As `MigrationRunner.ensure`, at most once for all processes of this environment.

    Raises:
        NotReady: Another process of this environment was still checking at the deadline.
        MigrateError: As `MigrationRunner.ensure`.
    """
    file = _open_file(runner)
    if file is None:
        return runner.ensure(deadline, request_id=request_id)
    try:
        _lock(file, runner, deadline)
        with suppress(OSError):
            if os.pread(file, len(_READY), 0) == _READY:
                return Outcome.UP_TO_DATE
        outcome = runner.ensure(deadline, request_id=request_id)
        if outcome is not Outcome.UNCHECKED:
            with suppress(OSError):  # the disk is full: the next process checks again
                os.pwrite(file, _READY, 0)
        return outcome
    finally:
        os.close(file)  # unlocks it, as the end of the process does


def _open_file(runner: MigrationRunner) -> int | None:
    """The file that this environment's processes share; None if there can be none."""
    try:
        environment = _identify_environment()
        target = runner.target
        parts = (environment, target.name, target.database.address_text, runner.digest)
        name = sha256("\0".join(parts).encode()).hexdigest()
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(os.path.join(gettempdir(), f"lambda-migrate-{name}"), flags, 0o600)  # noqa: PTH118 - as in `manifest_digest`
    except (OSError, IndexError):  # /tmp cannot be written, or /proc is hidden or another one
        return None


def _identify_environment() -> str:
    parent = os.getppid()
    with open("/proc/sys/kernel/random/boot_id") as file:  # noqa: PTH123
        boot = file.read().strip()
    with open(f"/proc/{parent}/stat") as file:  # noqa: PTH123
        # After the name in brackets, which may hold anything; proc(5) numbers it field 22.
        started = file.read().rpartition(")")[2].split()[19]
    deployment = (
        os.environ.get("AWS_LAMBDA_FUNCTION_NAME", ""),
        os.environ.get("AWS_LAMBDA_FUNCTION_VERSION", ""),
        os.environ.get("AWS_LAMBDA_LOG_STREAM_NAME", ""),
    )
    return "\0".join((boot, str(parent), started, *deployment))


def _lock(file: int, runner: MigrationRunner, deadline: Deadline | None) -> None:
    import fcntl

    clock = runner.target.clock
    if deadline is None:
        deadline = Deadline.after(DEFAULT_DEADLINE_SECONDS, clock)
    end = deadline.shortened_by(runner.target.policy.safety_margin_seconds)
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if end.is_over:
                raise NotReady(
                    "another process of this execution environment is still checking the schema"
                ) from None
            clock.sleep(_POLL_INTERVAL_SECONDS)
        except OSError:
            return  # files cannot be locked here
        else:
            return
