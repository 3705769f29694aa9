"""Without a lease table the database is read, and PostgreSQL's fence excludes others."""

from __future__ import annotations

import pytest

from lambda_migrate.errors import ConfigurationError, DatabaseUnavailable, MigrationFailed, NotReady
from lambda_migrate.events import WaitingForLease
from lambda_migrate.outcome import Outcome
from lambda_migrate.postgresql.ports import LeaseGrant
from lambda_migrate.testing import InMemorySession
from tests.unit.engine.fakes import Fakes, manifest

V1, V2 = manifest(1), manifest(1, 2)


@pytest.fixture
def fakes() -> Fakes:
    return Fakes(has_lease_table=False)


def another_process(fakes: Fakes) -> Fakes:
    """A process on the same database, with an in-memory lease of its own."""
    other = Fakes(clock=fakes.clock, has_lease_table=False)
    other.database = fakes.database
    return other


def hold_fence(fakes: Fakes) -> InMemorySession:
    """Another process migrates: its connection holds the fence."""
    grant = LeaseGrant("orders", 7, "other")
    return fakes.database.open_session(grant, fakes.deadline(), terminate_holders=False)


def test_pending_migrations_are_applied(fakes: Fakes) -> None:
    assert fakes.runner(V2).ensure() is Outcome.MIGRATED
    assert fakes.database.effects == ["0001_m", "0002_m"]


@pytest.mark.parametrize("mode", ["migrate", "require"])
def test_a_current_database_is_only_read(fakes: Fakes, mode: str) -> None:
    fakes.migrated(V2)
    token = fakes.database.token
    assert another_process(fakes).runner(V2, mode=mode).ensure() is Outcome.UP_TO_DATE
    assert another_process(fakes).runner(V1, mode=mode).ensure() is Outcome.UP_TO_DATE, "ahead"
    assert fakes.database.token == token


def test_what_was_ready_before_is_read_again_after_it_was_forgotten(fakes: Fakes) -> None:
    runner = fakes.runner(V2)
    runner.ensure()
    fakes.lose(2)
    assert runner.ensure() is Outcome.UP_TO_DATE
    runner.forget_result()
    assert runner.ensure() is Outcome.MIGRATED
    assert fakes.database.effects == ["0001_m", "0002_m", "0002_m"]


def test_a_live_holder_is_waited_for_and_not_terminated(fakes: Fakes) -> None:
    held = hold_fence(fakes)

    def finish() -> None:
        for migration in V2:
            held.apply(migration, V2.digest_at(migration.version), fakes.deadline())
        held.close()

    fakes.clock.at(10, finish)
    assert fakes.runner(V2).ensure() is Outcome.WAITED
    assert fakes.database.effects == ["0001_m", "0002_m"]
    assert {event.holder for event in fakes.observer.events_of(WaitingForLease)} == {
        "another process"
    }


def test_what_a_holder_left_pending_is_applied_after_its_end(fakes: Fakes) -> None:
    held = hold_fence(fakes)
    fakes.clock.at(10, held.close)
    assert fakes.runner(V2).ensure() is Outcome.MIGRATED


def test_waiting_for_a_holder_ends(fakes: Fakes) -> None:
    hold_fence(fakes)
    with pytest.raises(NotReady, match="another process holds the lease"):
        fakes.runner(V2, wait_seconds=5).ensure()
    assert fakes.clock.monotonic() == pytest.approx(1_005, abs=0.1)
    assert fakes.table.state.owner is None
    assert fakes.database.effects == []


def test_mode_require_waits_for_another_process(fakes: Fakes) -> None:
    fakes.clock.at(10, lambda: another_process(fakes).runner(V2).ensure())
    assert fakes.runner(V2, mode="require").ensure() is Outcome.WAITED


def test_mode_require_never_migrates(fakes: Fakes) -> None:
    with pytest.raises(NotReady):
        fakes.runner(V2, mode="require", wait_seconds=5).ensure()
    assert fakes.database.effects == []
    assert fakes.database.token == 0


def test_another_environments_database_is_refused_although_it_is_current(fakes: Fakes) -> None:
    fakes.migrated(V2)
    fakes.database.environment = "production"
    other = another_process(fakes)
    other.environment = "staging"
    with pytest.raises(ConfigurationError, match="belongs to environment 'production'"):
        other.runner(V2).ensure()


def test_a_failure_pauses_the_next_attempt_of_this_process(fakes: Fakes) -> None:
    fakes.database.fail_on(1, MigrationFailed("no", migration="0001_m"))
    for _ in range(2):
        with pytest.raises(MigrationFailed, match="no"):
            fakes.runner(V1).ensure()
    assert fakes.table.state.failures[0].attempts == 1


def test_a_database_that_is_down_is_not_ready(fakes: Fakes) -> None:
    fakes.database.is_down = True
    with pytest.raises(DatabaseUnavailable):
        fakes.runner(V1).ensure()
