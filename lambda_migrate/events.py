"""Events: frozen values that an `Observer` receives.

Durations are in seconds. ``target`` is the key of the database's item in the lease table,
``migration`` a migration's name (``0003_add_status``). No event contains a secret. Those of a start
that does not migrate are defined in `check_events`, which every start imports.
"""

from __future__ import annotations

from dataclasses import dataclass

from lambda_migrate.check_events import CheckSucceeded, Event, WaitingForLease
from lambda_migrate.observers import Observer, catch_observer_errors, null_observer

__all__ = [
    "CheckFailed",
    "CheckSucceeded",
    "CommandFinished",
    "Event",
    "FlagsIgnored",
    "LeaseHeldTime",
    "LeaseTakenOver",
    "MigrationApplied",
    "MigrationAttemptFailed",
    "MigrationDryRun",
    "MigrationNotice",
    "MigrationRolledBack",
    "MigrationStarted",
    "Observer",
    "RenewalFailed",
    "TargetShared",
    "WaitingForLease",
    "catch_observer_errors",
    "null_observer",
]


@dataclass(frozen=True, slots=True)
class CheckFailed(Event):
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
class CommandFinished(Event):
    """The admin function has run a command, or refused it.

    Attributes:
        target: The database's item.
        command: ``up``, ``lease show``; "" if the event named none.
        request_id: The request's id, the same for every retry.
        exit_code: The exit code of the command line.
        error: The class of the error; "" on success.
        message: The error's message.
        seconds: From the event to the response.
        applied: Names of the migrations applied.
        is_repeated: Whether the response only repeats what an earlier invocation did.
    """

    target: str
    command: str
    request_id: str
    exit_code: int
    error: str
    message: str
    seconds: float
    applied: tuple[str, ...]
    is_repeated: bool


@dataclass(frozen=True, slots=True)
class LeaseTakenOver(Event):
    """This instance acquired the expired lease of another one."""

    target: str
    previous_owner: str
    fence: int


@dataclass(frozen=True, slots=True)
class LeaseHeldTime(Event):
    """How long this instance has held the lease: one event for each heartbeat, and a final one.

    The events of the heartbeats come from another thread.
    """

    target: str
    fence: int
    held_seconds: float
    is_final: bool


@dataclass(frozen=True, slots=True)
class RenewalFailed(Event):
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
class MigrationStarted(Event):
    """A migration starts: the ``position``-th of ``total`` pending ones, counted from 1."""

    target: str
    migration: str
    position: int
    total: int


@dataclass(frozen=True, slots=True)
class MigrationApplied(Event):
    """A migration and its history row were committed."""

    target: str
    migration: str
    position: int
    total: int
    seconds: float


@dataclass(frozen=True, slots=True)
class MigrationRolledBack(Event):
    """A migration's down script was committed and its history row deleted."""

    target: str
    migration: str
    position: int
    total: int
    seconds: float


@dataclass(frozen=True, slots=True)
class MigrationDryRun(Event):
    """A migration ran in a transaction that is rolled back afterwards."""

    target: str
    migration: str
    position: int
    total: int
    seconds: float


@dataclass(frozen=True, slots=True)
class MigrationAttemptFailed(Event):
    """A migration failed in this instance; a transactional one was rolled back."""

    target: str
    migration: str
    sqlstate: str
    cause: str
    seconds: float


@dataclass(frozen=True, slots=True)
class MigrationNotice(Event):
    """PostgreSQL sent a warning or a notice while a migration ran, for example by ``RAISE``.

    Reported after the migration's own event, at most some 20 for each script.

    Attributes:
        target: The database's item.
        migration: The migration's name.
        severity: ``WARNING``, ``NOTICE``, ``INFO``.
        message: One line of at most 500 characters, with the detail and the hint.
    """

    target: str
    migration: str
    severity: str
    message: str


@dataclass(frozen=True, slots=True)
class FlagsIgnored(Event):
    """The feature flags could not be read and are ignored, as a setting allows."""

    target: str
    reason: str


@dataclass(frozen=True, slots=True)
class TargetShared(Event):
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
