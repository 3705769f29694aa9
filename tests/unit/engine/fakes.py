"""A target made of fakes, whose calls a test can count and make fail."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lambda_migrate.clock import Deadline
from lambda_migrate.engine.operations import Operations
from lambda_migrate.engine.target import Policy, Target
from lambda_migrate.errors import LeaseStoreUnavailable
from lambda_migrate.lease.progress import Failure, Progress
from lambda_migrate.lease.readiness import CheckedDatabase, record_check
from lambda_migrate.lease.record import DatabaseRecord, LeaseState
from lambda_migrate.lease.store import Lease
from lambda_migrate.manifest_digest import EMPTY_DIGEST, compute_checksum
from lambda_migrate.migrations import Manifest, Migration, Script
from lambda_migrate.runner import MigrationRunner
from lambda_migrate.testing import (
    FakeClock,
    FixedRandom,
    InMemoryDatabase,
    InMemoryFlags,
    InMemoryLeaseStore,
    RecordingObserver,
)

T = TypeVar("T")

LEASE_SECONDS = 20.0


def migration(
    version: int,
    sql: str = "SELECT 1",
    *,
    down: str | None = "SELECT 2",
    transactional: bool = True,
) -> Migration:
    """A migration; its name is ``000<version>_m``."""
    return Migration(
        version=version,
        name=f"{version:04d}_m",
        up=Script(sql, transactional=transactional),
        down=None if down is None else Script(down, transactional=transactional),
        checksum=compute_checksum(f"{version} {sql} {down}"),
        path=f"migrations/{version:04d}_m.sql",
    )


def manifest(*versions: int) -> Manifest:
    """Migrations of these versions."""
    return Manifest(migration(version) for version in versions)


class ScheduledClock(FakeClock):
    """A clock that calls functions at a given time, as other processes would act."""

    def __init__(self) -> None:
        super().__init__()
        self._plans: list[tuple[float, Callable[[], object]]] = []

    def at(self, seconds: float, act: Callable[[], object]) -> None:
        """Call ``act`` in ``seconds``."""
        self._plans.append((self.monotonic() + seconds, act))
        self._plans.sort(key=lambda plan: plan[0])

    def advance(self, seconds: float) -> None:
        end = self.monotonic() + max(0.0, seconds)
        while self._plans and self._plans[0][0] <= end:
            when, act = self._plans.pop(0)
            super().advance(when - self.monotonic())
            act()
        super().advance(end - self.monotonic())


class FakeTable(InMemoryLeaseStore):
    """A lease table that records its calls, and can fail before or after each."""

    def __init__(self, *, clock: FakeClock) -> None:
        super().__init__(lease_seconds=LEASE_SECONDS, clock=clock)
        self.log: list[str] = []
        self.is_down = False
        self.before: dict[str, Callable[[], object]] = {}
        """Called once, just before the next call of that name."""
        self.after: dict[str, Callable[[], object]] = {}
        """Called once, when the next call of that name has taken effect but not returned."""

    def read(self, *, consistent: bool = False) -> LeaseState:
        return self._through("read", lambda: super(FakeTable, self).read(consistent=consistent))

    def acquire(
        self, owner: str, *, expected: LeaseState | None = None, is_expired: bool = False
    ) -> Lease | LeaseState:
        return self._through(
            "acquire",
            lambda: super(FakeTable, self).acquire(owner, expected=expected, is_expired=is_expired),
        )

    def renew(self, lease: Lease, progress: Progress | None = None) -> Lease:
        return self._through("renew", lambda: super(FakeTable, self).renew(lease, progress))

    def advance_fence(self, lease: Lease, fence: int) -> Lease:
        return self._through(
            "advance_fence", lambda: super(FakeTable, self).advance_fence(lease, fence)
        )

    def withdraw_readiness(self, lease: Lease, databases: Mapping[str, DatabaseRecord]) -> Lease:
        return self._through(
            "withdraw_readiness",
            lambda: super(FakeTable, self).withdraw_readiness(lease, databases),
        )

    def store_completion(
        self,
        lease: Lease,
        databases: Mapping[str, DatabaseRecord],
        failures: Sequence[Failure] = (),
    ) -> None:
        self._through(
            "store_completion",
            lambda: super(FakeTable, self).store_completion(lease, databases, failures),
        )

    def store_inspection(self, lease: Lease, databases: Mapping[str, DatabaseRecord]) -> None:
        self._through(
            "store_inspection",
            lambda: super(FakeTable, self).store_inspection(lease, databases),
        )

    def store_failure(self, lease: Lease, failure: Failure) -> None:
        self._through("store_failure", lambda: super(FakeTable, self).store_failure(lease, failure))

    def release(self, lease: Lease) -> None:
        self._through("release", lambda: super(FakeTable, self).release(lease))

    def _through(self, name: str, act: Callable[[], T]) -> T:
        self.log.append(name)
        if self.is_down:
            self.request_count += 1
            raise LeaseStoreUnavailable("DynamoDB did not respond")
        self.before.pop(name, lambda: None)()
        answer = act()
        self.after.pop(name, lambda: None)()
        return answer


class Address:
    """A database at another address."""

    def __init__(self, database: InMemoryDatabase, address_text: str) -> None:
        self.address_text = address_text
        self._database = database

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)


def copy_database(database: InMemoryDatabase, address: str) -> InMemoryDatabase:
    """A copy of every byte, the identity included; what happens to one does not reach the other."""
    other = InMemoryDatabase(address_text=address, clock=database._clock)
    restore(other, database)
    return other


def restore(database: InMemoryDatabase, backup: InMemoryDatabase) -> None:
    """Restore the state of ``backup`` in place."""
    database.token, database._owner = backup.token, backup._owner
    database.environment, database.identity = backup.environment, backup.identity
    database.effects, database.rolled_back = list(backup.effects), list(backup.rolled_back)
    database._rows = dict(backup._rows)
    database._took_effect = dict(backup._took_effect)


def item_size(value: Any) -> int:
    """How many bytes DynamoDB counts for an attribute value: names and values, as documented."""
    kind, content = next(iter(value.items()))
    if kind == "M":
        return 3 + sum(len(key.encode()) + item_size(each) + 1 for key, each in content.items())
    if kind == "N":
        return len(content) // 2 + 2
    return 1 if kind == "BOOL" else len(content.encode() if kind == "S" else content)


def prefixes(manifest: Manifest) -> list[str]:
    """The digests of everything that a database with these migrations satisfies."""
    return [EMPTY_DIGEST, *(manifest.digest_at(each.version) for each in manifest)]


def raises(error: BaseException) -> Callable[[], None]:
    """Return a function that raises ``error``."""

    def act() -> None:
        raise error

    return act


@dataclass
class Fakes:
    """One target and the fakes that it consists of."""

    clock: ScheduledClock = field(default_factory=ScheduledClock)
    observer: RecordingObserver = field(default_factory=RecordingObserver)
    environment: str = ""
    flags: InMemoryFlags | None = None
    has_lease_table: bool = True

    def __post_init__(self) -> None:
        self.table = FakeTable(clock=self.clock)
        self.database = InMemoryDatabase(clock=self.clock)

    def target(self, **policy: Any) -> Target:
        return Target(
            name="orders",
            store=self.table,
            database=self.database,
            environment=self.environment,
            policy=Policy(**policy),
            clock=self.clock,
            random=FixedRandom(0.5),
            observer=self.observer,
            flags=self.flags,
            has_lease_table=self.has_lease_table,
        )

    def runner(self, manifest: Manifest, **policy: Any) -> MigrationRunner:
        return MigrationRunner(manifest, self.target(**policy))

    def operations(self, manifest: Manifest, **policy: Any) -> Operations:
        return Operations(manifest, self.target(**policy))

    def deadline(self, seconds: float = 60.0) -> Deadline:
        return Deadline.after(seconds, self.clock)

    def migrated(self, manifest: Manifest) -> Manifest:
        """Migrate to ``manifest``, and clear the recorded calls and events."""
        self.runner(manifest).ensure(self.deadline())
        self.table.log.clear()
        self.observer.events.clear()
        return manifest

    def held_by(
        self, owner: str, *, seconds: float = LEASE_SECONDS, length: float = LEASE_SECONDS
    ) -> Lease:
        """Let another process hold the lease for ``seconds``; its lease length is ``length``."""
        lease = InMemoryLeaseStore.acquire(self.table, owner)
        assert isinstance(lease, Lease)
        until = self.clock.wall_ms() + round(seconds * 1000)
        self.change(lease_until_ms=until, lease_ms=round(length * 1000))
        return lease

    def finish(self, lease: Lease, manifest: Manifest) -> None:
        """Let another process complete ``manifest``."""
        self.database.token, self.database._owner = lease.fence, lease.owner
        databases = record_check(self.table.state.databases, self.check(manifest, lease))
        InMemoryLeaseStore.store_completion(self.table, lease, databases)

    def check(self, manifest: Manifest, lease: Lease) -> CheckedDatabase:
        """The check of a database that has exactly the migrations of ``manifest``."""
        return CheckedDatabase(
            identity=self.database.identity,
            address=self.database.address_text,
            digests=prefixes(manifest),
            fence=lease.fence,
            owner=lease.owner,
            at_ms=self.clock.wall_ms(),
        )

    def ready(self, *manifests: Manifest) -> list[Manifest]:
        """Those of ``manifests`` that the item marks ready at this address."""
        address = self.database.address_text
        return [each for each in manifests if self.table.state.is_ready(each.digest, address)]

    def through(self, address: str) -> Fakes:
        """The same target and the same database, at another address."""
        other = copy.copy(self)
        other.database = Address(self.database, address)  # type: ignore[assignment]  # stands for it
        return other

    def copy_database(self, address: str) -> Fakes:
        """The same target, with a complete copy of the database at ``address``."""
        other = copy.copy(self)
        other.database = copy_database(self.database, address)
        return other

    def lose(self, version: int) -> None:
        """Delete a history row, as by a restore or a manual change."""
        del self.database._rows[version]

    def change(self, **changes: Any) -> None:
        """Change the item without any condition."""
        self.table.state = self.table.state._replace(**changes)
