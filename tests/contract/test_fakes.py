"""What the fakes do beyond their contract: a controlled clock, planned failures, outages."""

from __future__ import annotations

import pytest

from lambda_migrate.clock import Deadline
from lambda_migrate.errors import DatabaseUnavailable, MigrationFailed
from lambda_migrate.testing import FakeClock, FixedRandom, InMemoryDatabase
from tests.contract.databases import FIRST, SECOND, grant, migration


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def database(clock: FakeClock) -> InMemoryDatabase:
    return InMemoryDatabase(clock=clock)


@pytest.fixture
def deadline(clock: FakeClock) -> Deadline:
    return Deadline.after(60, clock)


def test_time_stands_still_until_it_is_advanced(clock: FakeClock) -> None:
    assert (clock.monotonic(), clock.wall_ms()) == (clock.monotonic(), clock.wall_ms())
    before, wall_before = clock.monotonic(), clock.wall_ms()
    clock.sleep(1.5)
    clock.advance(2)
    assert (clock.monotonic(), clock.wall_ms()) == (before + 3.5, wall_before + 3_500)
    assert clock.slept == [1.5]


def test_a_jump_of_the_wall_clock_changes_no_deadline(clock: FakeClock) -> None:
    before, wall_before = clock.monotonic(), clock.wall_ms()
    clock.step_wall_clock(-3600)
    assert (clock.monotonic(), clock.wall_ms()) == (before, wall_before - 3_600_000)


def test_monotonic_time_never_goes_back(clock: FakeClock) -> None:
    before = clock.monotonic()
    clock.advance(-5)
    assert clock.monotonic() == before


def test_fixed_random_repeats_its_values() -> None:
    chance = FixedRandom(0.1, 0.9)
    assert [chance.random() for _ in range(3)] == [0.1, 0.9, 0.1]
    assert FixedRandom().random() == 0.5


def test_a_database_that_is_down_is_unavailable_to_all(
    database: InMemoryDatabase, deadline: Deadline
) -> None:
    with database.open_session(grant(1), deadline) as session:
        database.is_down = True
        with pytest.raises(DatabaseUnavailable):
            session.read_history()
        with pytest.raises(DatabaseUnavailable):
            database.open_session(grant(2), deadline)
        with pytest.raises(DatabaseUnavailable):
            database.read_history(deadline)
        database.is_down = False
        assert session.read_history() == []


def test_no_connection_is_made_after_the_deadline(
    database: InMemoryDatabase, clock: FakeClock
) -> None:
    with pytest.raises(DatabaseUnavailable):
        database.open_session(grant(1), Deadline.after(0, clock))
    assert (database.connections, database.token) == (0, 0)


def test_a_script_takes_as_long_as_its_hook_advances_the_clock(
    database: InMemoryDatabase, clock: FakeClock, deadline: Deadline
) -> None:
    database.on_script = lambda version: clock.advance(version * 1.5)
    with database.open_session(grant(1), deadline) as session:
        assert session.apply(SECOND, "digest", deadline) == 3_000
        assert session.read_history()[0].duration_ms == 3_000


def test_a_script_that_outlasts_the_deadline_commits_nothing(
    database: InMemoryDatabase, clock: FakeClock, deadline: Deadline
) -> None:
    database.on_script = lambda _version: clock.advance(61)
    with database.open_session(grant(1), deadline) as session:
        with pytest.raises(MigrationFailed, match="deadline"):
            session.apply(FIRST, "digest", deadline)
        assert session.read_history() == []
    assert database.effects == []


def test_a_planned_failure_stays_until_it_is_removed(
    database: InMemoryDatabase, deadline: Deadline
) -> None:
    failure = MigrationFailed("as planned", migration=FIRST.name)
    database.fail_on(1, failure)
    with database.open_session(grant(1), deadline) as session:
        for _ in range(2):
            with pytest.raises(MigrationFailed, match="as planned"):
                session.apply(FIRST, "digest", deadline)
        session.apply(SECOND, "digest", deadline)
        database.fail_on(1, None)
        session.apply(FIRST, "digest", deadline)
    assert database.effects == ["0002_b", "0001_a"]


def test_a_planned_failure_fails_the_down_script_too(
    database: InMemoryDatabase, deadline: Deadline
) -> None:
    with database.open_session(grant(1), deadline) as session:
        session.apply(FIRST, "digest", deadline)
        database.fail_on(1, MigrationFailed("as planned"))
        with pytest.raises(MigrationFailed):
            session.roll_back(session.read_history()[0], deadline)
        assert len(session.read_history()) == 1
    assert database.rolled_back == []


def test_a_resolved_row_keeps_its_kind(database: InMemoryDatabase, deadline: Deadline) -> None:
    with database.open_session(grant(1), deadline) as session:
        database.leave_in_doubt(FIRST, "digest", took_effect=True)
        database.leave_in_doubt(SECOND, "digest", took_effect=True, rolling_back=True)
        for row in session.read_history():
            session.resolve_in_doubt(row, deadline)
        assert [row.version for row in session.read_history()] == [1]
    assert (database.effects, database.rolled_back) == (["0001_a"], ["0002_b"])


def test_scripts_are_rejected_as_by_postgresql(
    database: InMemoryDatabase, deadline: Deadline
) -> None:
    unclosed = migration(1, "unclosed", up="SELECT 'a")
    with (
        database.open_session(grant(1), deadline) as session,
        pytest.raises(MigrationFailed, match="never closed"),
    ):
        session.apply(unclosed, "digest", deadline)
