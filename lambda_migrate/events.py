"""What happens, as frozen values handed to a one-method observer.

Durations are seconds. ``target`` names the database's item in the lease table, ``migration`` is a
migration's name (``0003_add_status``). No event carries a secret.
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
    """A cold start may serve. Exactly one `CheckFinished` or `CheckFailed` ends each check.

    Attributes:
        target: The database's item.
        digest: The manifest that is now served.
        outcome: ``UP_TO_DATE``, ``MIGRATED``, ``WAITED`` or ``UNCHECKED``.
        seconds: From the first instruction of the check to its end.
        waited_seconds: Of these, spent waiting for another instance.
        lease_calls: Calls made to the lease table.
        applied: Names of the migrations that this instance applied.
        fence: The token under which it migrated; 0 if it did not.
        owner: Who this instance was in the lease table.
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
    """A cold start may not serve; the error is about to be raised."""

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
    """The admin function has run a command, or refused to.

    Attributes:
        target: The database's item.
        command: ``up``, ``lease show``; "" where the event named none.
        request: The command's id, the same however often it was asked for.
        exit_code: As of the command line.
        error: The kind of the error; "" if it did what it was told.
        message: What went wrong.
        seconds: From the event to the answer.
        applied: Names of the migrations applied.
        is_repeated: Whether this only tells what an earlier invocation did.
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
    """Another instance holds the lease; one event for each pause before the next read."""

    target: str
    holder: str
    waited_seconds: float
    delay_seconds: float
    progress: str


@dataclass(frozen=True, slots=True)
class LeaseTakenOver:
    """The lease of a holder that did not renew it passed to this instance."""

    target: str
    previous_owner: str
    fence: int


@dataclass(frozen=True, slots=True)
class LeaseHeldTime:
    """This instance holds the lease: one event for each heartbeat, and one at the end.

    Those of the heartbeats come from a thread of their own.
    """

    target: str
    fence: int
    held_seconds: float
    is_final: bool


@dataclass(frozen=True, slots=True)
class RenewalFailed:
    """A holder's lease cannot be renewed, for a reason that will not pass by itself.

    Reported once for each reason, from the heartbeat's thread. Renewing is tried again until the
    lease is over: then the running migration is cancelled.

    Attributes:
        target: The database's item.
        fence: The holder's token.
        error: The kind of the error.
        cause: What went wrong and what to do.
        seconds_left: Until the migration is cancelled.
    """

    target: str
    fence: int
    error: str
    cause: str
    seconds_left: float


@dataclass(frozen=True, slots=True)
class MigrationStarted:
    """A migration is about to run; ``position`` of ``total`` pending ones, from 1."""

    target: str
    migration: str
    position: int
    total: int


@dataclass(frozen=True, slots=True)
class MigrationApplied:
    """A migration and its history row have been committed."""

    target: str
    migration: str
    position: int
    total: int
    seconds: float


@dataclass(frozen=True, slots=True)
class MigrationRolledBack:
    """A migration's down script has been committed and its history row removed."""

    target: str
    migration: str
    position: int
    total: int
    seconds: float


@dataclass(frozen=True, slots=True)
class MigrationDryRun:
    """A migration ran in a transaction that will be rolled back."""

    target: str
    migration: str
    position: int
    total: int
    seconds: float


@dataclass(frozen=True, slots=True)
class MigrationAttemptFailed:
    """A migration failed in this instance; nothing of it was committed."""

    target: str
    migration: str
    sqlstate: str
    cause: str
    seconds: float


@dataclass(frozen=True, slots=True)
class FlagsIgnored:
    """Feature flags could not be read, and a setting says to go on without them."""

    target: str
    reason: str


@dataclass(frozen=True, slots=True)
class TargetShared:
    """Another database, with other migrations, uses the same target: give each one its own.

    Attributes:
        target: The item in the lease table.
        address: Of the database that this instance checked.
        other_addresses: Of the other database.
        other_owner: Who checked that one last.
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
    """Whoever wants to know: a telemetry backend, a progress bar, a test."""

    def observe(self, event: Event) -> None:
        """Take note of ``event``. Should return at once; what it raises is logged and dropped."""


class _NullObserver:
    def observe(self, event: Event) -> None:
        """Forget it."""


null_observer: Observer = _NullObserver()


def guard_observer(observer: Observer) -> Observer:
    """``observer``, such that nothing it raises reaches a holder.

    The first failure is logged, without its text, which may hold anything. In the main thread
    KeyboardInterrupt and SystemExit still pass: they are meant for the process.
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
        except Exception as error:  # noqa: BLE001 - of a metrics backend, say: see `guard_observer`
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
