"""Events: frozen values that an `Observer` receives.

Durations are in seconds. ``target`` is the key of the database's item in the lease table,
``migration`` a migration's name (``0003_add_status``). No event contains a secret.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import current_thread, main_thread
from typing import Protocol

__all__ = [
    "CheckFailed",
    "CheckFinished",
    "CommandEnded",
    "Event",
    "FlagsIgnored",
    "LeaseHeldTime",
    "LeaseTakenOver",
    "MigrationApplied",
    "MigrationAttemptFailed",
    "MigrationDryRun",
    "MigrationRolledBack",
    "MigrationStarted",
    "Observer",
    "RenewalFailed",
    "TargetShared",
    "WaitingForLease",
    "guard_observer",
    "null_observer",
]


@dataclass(frozen=True, slots=True)
class CheckFinished:
    """The schema is ready. Each check ends with one `CheckFinished` or one `CheckFailed`.

    Attributes:
        target: The database's item.
        digest: The manifest that is served.
        outcome: ``UP_TO_DATE``, ``MIGRATED``, ``WAITED`` or ``UNCHECKED``.
        seconds: Duration of the check.
        waited_seconds: The part of it that was spent waiting for another instance.
        lease_calls: Requests to the lease table.
        applied: Names of the migrations that this instance applied.
        fence: The fencing token under which it migrated; 0 if it did not.
        owner: This instance's owner id in the lease table.
    """

    target: str
    digest: str
    outcome: str
    seconds: float
    waited_seconds: float
    lease_calls: int
    applied: tuple[str, ...]
    fence: int
    owner: str


@dataclass(frozen=True, slots=True)
class CheckFailed:
    """The schema is not ready; the error is raised next."""

    target: str
    digest: str
    error: str
    message: str
    retryable: bool
    migration: str
    sqlstate: str
    attempts: int
    retry_at_ms: int | None
    seconds: float
    waited_seconds: float
    lease_calls: int
    applied: tuple[str, ...]
    fence: int
    owner: str


@dataclass(frozen=True, slots=True)
class CommandEnded:
    """The admin function has run a command, or refused it.

    Attributes:
        target: The database's item.
        command: ``up``, ``lease show``; "" if the event named none.
        request: The request's id, the same for every retry.
        exit_code: The exit code of the command line.
        error: The class of the error; "" on success.
        message: The error's message.
        seconds: From the event to the response.
        applied: Names of the migrations applied.
        is_repeated: Whether the response only repeats what an earlier invocation did.
    """

    target: str
    command: str
    request: str
    exit_code: int
    error: str
    message: str
    seconds: float
    applied: tuple[str, ...]
    is_repeated: bool


@dataclass(frozen=True, slots=True)
class WaitingForLease:
    """Another instance holds the lease; one event for each delay before the next read."""

    target: str
    holder: str
    waited_seconds: float
    delay_seconds: float
    progress: str


@dataclass(frozen=True, slots=True)
class LeaseTakenOver:
    """This instance acquired the expired lease of another one."""

    target: str
    previous_owner: str
    fence: int


@dataclass(frozen=True, slots=True)
class LeaseHeldTime:
    """How long this instance has held the lease: one event for each heartbeat, and a final one.

    The events of the heartbeats come from another thread.
    """

    target: str
    fence: int
    held_seconds: float
    is_final: bool


@dataclass(frozen=True, slots=True)
class RenewalFailed:
    """A lease could not be renewed, and a retry is not likely to help.

    Reported once for each cause, from the heartbeat's thread. Renewal is retried until the lease
    expires; then the running migration is cancelled.

    Attributes:
        target: The database's item.
        fence: The holder's fencing token.
        error: The class of the error.
        cause: What failed and what to do.
        seconds_left: Until the migration is cancelled.
    """

    target: str
    fence: int
    error: str
    cause: str
    seconds_left: float


@dataclass(frozen=True, slots=True)
class MigrationStarted:
    """A migration starts: the ``position``-th of ``total`` pending ones, counted from 1."""

    target: str
    migration: str
    position: int
    total: int


@dataclass(frozen=True, slots=True)
class MigrationApplied:
    """A migration and its history row were committed."""

    target: str
    migration: str
    position: int
    total: int
    seconds: float


@dataclass(frozen=True, slots=True)
class MigrationRolledBack:
    """A migration's down script was committed and its history row deleted."""

    target: str
    migration: str
    position: int
    total: int
    seconds: float


@dataclass(frozen=True, slots=True)
class MigrationDryRun:
    """A migration ran in a transaction that is rolled back afterwards."""

    target: str
    migration: str
    position: int
    total: int
    seconds: float


@dataclass(frozen=True, slots=True)
class MigrationAttemptFailed:
    """A migration failed in this instance and was rolled back."""

    target: str
    migration: str
    sqlstate: str
    cause: str
    seconds: float


@dataclass(frozen=True, slots=True)
class FlagsIgnored:
    """The feature flags could not be read and are ignored, as a setting allows."""

    target: str
    reason: str


@dataclass(frozen=True, slots=True)
class TargetShared:
    """Another database with other migrations uses the same target: give each its own.

    Attributes:
        target: The item in the lease table.
        address: The address of the database that this instance checked.
        other_addresses: Those of the other database.
        other_owner: The owner id of the instance that checked that one last.
    """

    target: str
    address: str
    other_addresses: str
    other_owner: str


Event = (
    CheckFinished
    | CheckFailed
    | CommandEnded
    | WaitingForLease
    | LeaseTakenOver
    | LeaseHeldTime
    | RenewalFailed
    | MigrationStarted
    | MigrationApplied
    | MigrationRolledBack
    | MigrationDryRun
    | MigrationAttemptFailed
    | FlagsIgnored
    | TargetShared
)


class Observer(Protocol):
    """Receives events: a telemetry backend, a progress bar, a test."""

    def observe(self, event: Event) -> None:
        """Handle ``event``. Should return at once; exceptions are logged and ignored."""


class _NullObserver:
    def observe(self, event: Event) -> None:
        """Ignore it."""


null_observer: Observer = _NullObserver()


def guard_observer(observer: Observer) -> Observer:
    """Wrap ``observer`` so that its exceptions are logged and ignored.

    Only the first exception is logged, without its message, which may contain secrets. In the main
    thread KeyboardInterrupt and SystemExit are raised: they concern the process.
    """
    return (
        observer
        if isinstance(observer, (_GuardedObserver, _NullObserver))
        else _GuardedObserver(observer)
    )


class _GuardedObserver:
    def __init__(self, inner: Observer) -> None:
        self.inner = inner
        self._has_failed = False

    def observe(self, event: Event) -> None:
        try:
            self.inner.observe(event)
        except Exception as error:  # noqa: BLE001 - any exception: see `guard_observer`
            self._report(error)
        except BaseException as error:
            if current_thread() is main_thread():
                raise
            self._report(error)

    def _report(self, error: BaseException) -> None:
        if self._has_failed:
            return
        self._has_failed = True
        import logging

        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        place = (
            f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
            if trace is not None
            else ""
        )
        logging.getLogger("lambda_migrate").warning(
            "the observer %s raised %s%s; this and its further errors are ignored",
            type(self.inner).__name__,
            type(error).__name__,
            place,
        )
