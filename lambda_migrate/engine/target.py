"""What a runner works on, and how: one database, its item in the lease table, a policy."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lambda_migrate.clock import SYSTEM_CLOCK, system_random
from lambda_migrate.events import guard_observer, null_observer

if TYPE_CHECKING:
    from lambda_migrate.clock import Clock, Random
    from lambda_migrate.engine.flags import FlagSource
    from lambda_migrate.events import Observer
    from lambda_migrate.lease.store import LeaseStore
    from lambda_migrate.postgresql.ports import Database

__all__ = ["Policy", "Target", "is_owner_of", "new_owner"]


@dataclass(frozen=True, slots=True)
class Policy:
    """How a runner behaves; see the settings of the same names for what each means.

    Attributes:
        mode: ``migrate``, ``require`` or ``off``.
        lease_seconds: Length of the lease.
        wait_seconds: Longest wait for another holder.
        safety_margin_seconds: How long before an invocation's deadline everything has ended.
        failure_pause_seconds: Pause after the first failure; it doubles with each.
        allow_out_of_order: Apply below the highest applied version.
        allow_empty: A manifest without migrations is not an error.
        ignore_other_history: Migrate a database that another tool has migrated.
        check_database_if_store_is_gone: Ask PostgreSQL, read-only, when DynamoDB is away.
        stops_without_flags: Nothing is migrated while feature flags cannot be read.
    """

    mode: str = "migrate"
    lease_seconds: float = 20.0
    wait_seconds: float = 25.0
    safety_margin_seconds: float = 2.0
    failure_pause_seconds: float = 10.0
    allow_out_of_order: bool = False
    allow_empty: bool = False
    ignore_other_history: bool = False
    check_database_if_store_unavailable: bool = False
    require_flags: bool = True


@dataclass(frozen=True, slots=True)
class Target:
    """One database with its item in the lease table, and what is needed to work on it.

    Attributes:
        name: Partition key of the item.
        store: The lease table.
        database: PostgreSQL.
        environment: Compared with what the database is stamped with.
        policy: How to behave.
        clock: Time.
        random: Chance.
        observer: Gets every event; what it raises is caught, see `guard_observer`.
        flags: Feature flags, asked when there is something to migrate; None if there are none.
        has_lease_table: Whether other processes use the same ``store``. Without that, a live holder
            in another process is waited for but its backend is never ended, and the database itself
            is asked whether it satisfies the manifest.
    """

    name: str
    store: LeaseStore
    database: Database
    environment: str = ""
    policy: Policy = Policy()
    clock: Clock = SYSTEM_CLOCK
    random: Random = field(default_factory=system_random)
    observer: Observer = null_observer
    flags: FlagSource | None = None
    has_lease_table: bool = True

    def __post_init__(self) -> None:
        """Guard the observer: here, so that none of its callers has to."""
        object.__setattr__(self, "observer", guard_observer(self.observer))


def new_owner(request_id: str = "") -> str:
    """A name for one attempt: function, process, and a fresh random part.

    Snapshots clone memory and managed instances run several processes in one environment, so
    neither the function nor the process is enough.

    Args:
        request_id: Whose attempt it is, where that is to be told from its name; see `is_owner_of`.
    """
    function = os.environ.get("AWS_LAMBDA_FUNCTION_NAME") or "cli"
    fresh = f"{request_id}.{os.urandom(4).hex()}" if request_id else os.urandom(16).hex()
    return f"{function}/{os.getpid()}/{fresh}"


def is_owner_of(request_id: str, owner: str) -> bool:
    """Whether ``owner`` is the name of an attempt of this request."""
    return owner.rpartition("/")[2].rpartition(".")[0] == request_id
