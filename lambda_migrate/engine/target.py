"""`Target`: one database, its item in the lease table, and how a runner behaves."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lambda_migrate.clock import SYSTEM_CLOCK
from lambda_migrate.observers import catch_observer_errors, null_observer
from lambda_migrate.randomness import system_random

if TYPE_CHECKING:
    from typing import Any

    from lambda_migrate.clock import Clock
    from lambda_migrate.engine.flags import FlagSource
    from lambda_migrate.lease.store import LeaseStore
    from lambda_migrate.observers import Observer
    from lambda_migrate.postgresql.ports import Database
    from lambda_migrate.randomness import Random

__all__ = ["Policy", "Target"]


class Policy(NamedTuple):
    """How a runner behaves; each attribute is described at the setting of its name.

    Attributes:
        mode: ``migrate``, ``require`` or ``off``.
        lease_seconds: Length of the lease.
        wait_seconds: Longest wait for another holder.
        safety_margin_seconds: Time kept free before an invocation's deadline.
        failure_pause_seconds: Pause after the first failure; it doubles with each further one.
        allow_out_of_order: Apply pending migrations below the highest applied version.
        allow_empty: Accept a manifest without migrations.
        ignore_other_history: Migrate a database that another tool has migrated.
        check_database_if_store_unavailable: Inspect PostgreSQL, read-only, while DynamoDB is
            unavailable.
        require_flags: Do not migrate while the feature flags cannot be read.
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


class Target:
    """One database with its item in the lease table, and everything a runner needs for it.

    Attributes:
        name: Partition key of the item.
        store: The lease table, for example `InMemoryLeaseStore`.
        database: PostgreSQL, or for tests `InMemoryDatabase`.
        environment: Must match the environment that is recorded in the database.
        policy: How the runner behaves.
        clock: The time; tests pass `FakeClock`.
        random: The source of jitter; tests pass `FixedRandom`.
        observer: Receives every event; its exceptions are logged and ignored.
        flags: Feature flags, read when a migration is pending; None if there are none.
        has_lease_table: Whether other processes use the same ``store``. If not, the runner inspects
            the database itself, and waits for a live holder in another process instead of ending
            its backend.
    """

    __slots__ = (
        "clock",
        "database",
        "environment",
        "flags",
        "has_lease_table",
        "name",
        "observer",
        "policy",
        "random",
        "store",
    )

    def __init__(
        self,
        name: str,
        store: LeaseStore,
        database: Database,
        *,
        environment: str = "",
        policy: Policy | None = None,
        clock: Clock = SYSTEM_CLOCK,
        random: Random | None = None,
        observer: Observer = null_observer,
        flags: FlagSource | None = None,
        has_lease_table: bool = True,
    ) -> None:
        self.name = name
        self.store = store
        self.database = database
        self.environment = environment
        self.policy = Policy() if policy is None else policy
        self.clock = clock
        self.random = random or system_random()
        self.observer = catch_observer_errors(observer)  # here, so that no caller has to
        self.flags = flags
        self.has_lease_table = has_lease_table

    def replace(self, **changes: Any) -> Target:
        """A copy in which some attributes have other values.

        Args:
            **changes: New values, by the name of the attribute.

        Raises:
            TypeError: There is no attribute of that name.
        """
        values = {name: getattr(self, name) for name in self.__slots__}
        return Target(**(values | changes))
