"""The fakes that we ship can replace the real parts: for mypy, which checks this file, and here.

Each assignment below is the test; a fake that lost a method or changed a signature fails mypy.
"""

from __future__ import annotations

from lambda_migrate.clock import Clock, Deadline
from lambda_migrate.engine.flags import FlagSource
from lambda_migrate.engine.target import Target
from lambda_migrate.events import (
    CheckSucceeded,
    LeaseTakenOver,
    MigrationApplied,
    MigrationStarted,
    Observer,
)
from lambda_migrate.lease.store import LeaseStore
from lambda_migrate.migrations import Manifest, Migration, Script
from lambda_migrate.outcome import Outcome
from lambda_migrate.postgresql.ports import Database, FencedSession, LeaseGrant
from lambda_migrate.randomness import Random
from lambda_migrate.runner import MigrationRunner
from lambda_migrate.testing import (
    FakeClock,
    FixedRandom,
    InMemoryDatabase,
    InMemoryFlags,
    InMemoryLeaseStore,
    RecordingObserver,
)


def test_every_fake_implements_the_port_it_replaces() -> None:
    fake_clock = FakeClock()
    fake_database = InMemoryDatabase(clock=fake_clock)
    clock: Clock = fake_clock
    random: Random = FixedRandom(0.25)
    observer: Observer = RecordingObserver()
    store: LeaseStore = InMemoryLeaseStore(clock=clock)
    database: Database = fake_database
    held: FencedSession = fake_database.open_session(
        LeaseGrant("t", 1, "me"), Deadline.after(1, clock)
    )
    flags: FlagSource = InMemoryFlags()
    target = Target(
        "t", store, database, clock=clock, random=random, observer=observer, flags=flags
    )
    assert (target.store, target.database, target.flags) == (store, database, flags)
    assert held.read_history() == []


def test_a_users_test_needs_only_the_fakes() -> None:
    clock, observer = FakeClock(), RecordingObserver()
    database = InMemoryDatabase(clock=clock)
    store = InMemoryLeaseStore(clock=clock)
    target = Target("orders", store, database, clock=clock, observer=observer)
    manifest = Manifest([Migration(1, "0001_a", Script("SELECT 1"), None, "checksum")])

    assert MigrationRunner(manifest, target).ensure() is Outcome.MIGRATED
    assert MigrationRunner(manifest, target).ensure() is Outcome.UP_TO_DATE
    assert database.effects == ["0001_a"]
    assert database.connections == 1
    applied: list[MigrationApplied] = observer.events_of(MigrationApplied)
    assert [event.migration for event in applied] == ["0001_a"]
    assert len(observer.events_of(MigrationStarted)) == 1
    assert len(observer.events_of(CheckSucceeded)) == 2
    assert observer.events_of(LeaseTakenOver) == []
