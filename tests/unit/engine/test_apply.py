"""The apply loop: failures and their pauses, rows in doubt, and contradicting histories."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lambda_migrate.engine.failure import make_failure
from lambda_migrate.errors import (
    ConfigurationError,
    Diverged,
    LeaseStoreUnavailable,
    ManifestError,
    MigrateError,
    MigrationFailed,
    NotReady,
    RepairRequired,
)
from lambda_migrate.events import (
    CheckFailed,
    MigrationApplied,
    MigrationAttemptFailed,
    MigrationStarted,
)
from lambda_migrate.lease.record import LeaseState
from lambda_migrate.manifest_digest import EMPTY_DIGEST
from lambda_migrate.migrations import HistoryRow, Manifest, Migration, RowState, Script
from lambda_migrate.migrations.repeatable import find_satisfied_digests
from lambda_migrate.migrations.version import RepeatableVersion
from lambda_migrate.outcome import Outcome
from tests.unit.engine.fakes import Fakes, manifest, migration, raises

V1, V2, V3 = manifest(1), manifest(1, 2), manifest(1, 2, 3)
BOOM = MigrationFailed("division by zero", migration="0002_m", sqlstate="22012")


def boom() -> MigrationFailed:
    return MigrationFailed(BOOM.cause, migration=BOOM.migration, sqlstate=BOOM.sqlstate)


# --- failures


def test_of_fifty_starters_one_tries_and_fifty_fail_with_the_same_cause(fakes: Fakes) -> None:
    tries: list[int] = []
    fakes.database.on_script = tries.append
    fakes.database.fail_on(2, boom())
    errors: list[MigrationFailed] = []
    for _ in range(50):
        with pytest.raises(MigrationFailed) as caught:
            fakes.runner(V3).ensure(fakes.deadline())
        errors.append(caught.value)
    assert tries == [1, 2]
    assert fakes.database.connections == 1
    assert {(error.cause, error.sqlstate, error.migration) for error in errors} == {
        ("division by zero", "22012", "0002_m")
    }
    assert {error.attempts for error in errors} == {1}
    assert {error.retry_at_ms for error in errors} == {fakes.clock.wall_ms() + 10_000}
    assert len(fakes.observer.events_of(MigrationAttemptFailed)) == 1
    assert len(fakes.observer.events_of(CheckFailed)) == 50


def test_after_the_pause_one_starter_tries_again_and_the_pause_has_doubled(
    fakes: Fakes,
) -> None:
    tries: list[int] = []
    fakes.database.on_script = tries.append
    fakes.database.fail_on(2, boom())
    attempts: list[int] = []
    for _ in range(3):
        for _ in range(50):
            with pytest.raises(MigrationFailed) as caught:
                fakes.runner(V3).ensure(fakes.deadline())
        attempts.append(caught.value.attempts)
        assert caught.value.retry_at_ms is not None
        fakes.clock.advance((caught.value.retry_at_ms - fakes.clock.wall_ms()) / 1000)
    assert attempts == [1, 2, 3]
    assert tries == [1, 2, 2, 2]
    failure = fakes.table.state.failure
    assert failure is not None
    assert failure.retry_at_ms - failure.at_ms == 40_000


def test_after_the_pause_a_fixed_database_is_migrated_from_where_it_stopped(
    fakes: Fakes,
) -> None:
    fakes.database.fail_on(2, boom())
    with pytest.raises(MigrationFailed):
        fakes.runner(V3).ensure(fakes.deadline())
    fakes.database.fail_on(2, None)
    fakes.clock.advance(10)
    assert fakes.runner(V3).ensure(fakes.deadline()) is Outcome.MIGRATED
    assert fakes.database.effects == ["0001_m", "0002_m", "0003_m"]
    assert fakes.table.state.failure is None


def test_a_new_manifest_does_not_wait_for_the_pause(fakes: Fakes) -> None:
    fakes.database.fail_on(2, boom())
    with pytest.raises(MigrationFailed):
        fakes.runner(V2).ensure(fakes.deadline())
    fixed = Manifest([migration(1), migration(2, "SELECT 'fixed'")])
    fakes.database.fail_on(2, None)
    assert fakes.runner(fixed).ensure(fakes.deadline()) is Outcome.MIGRATED


def test_a_new_manifest_that_fails_counts_from_one(fakes: Fakes) -> None:
    fakes.database.fail_on(2, boom())
    for _ in range(2):
        with pytest.raises(MigrationFailed):
            fakes.runner(V2).ensure(fakes.deadline())
        fakes.clock.advance(10)
    with pytest.raises(MigrationFailed) as caught:
        fakes.runner(V3).ensure(fakes.deadline())
    assert caught.value.attempts == 1


@pytest.mark.parametrize(
    ("attempts", "pause_seconds", "expected_ms"),
    [
        (0, 10, 10_000),
        (1, 10, 20_000),
        (5, 10, 320_000),
        (6, 10, 600_000),
        (10_000, 10, 600_000),
        (0, 5_000, 600_000),
        (3, 0, 0),
    ],
)
def test_the_pause_doubles_up_to_ten_minutes(
    attempts: int, pause_seconds: float, expected_ms: int
) -> None:
    def after(state: LeaseState) -> int:
        failure = make_failure(
            state,
            boom(),
            manifest=V2,
            address="a",
            pause_seconds=pause_seconds,
            now_ms=7,
        )
        assert failure.attempts == attempts + 1
        return failure.retry_at_ms - failure.at_ms

    before = make_failure(LeaseState(), boom(), manifest=V2, address="a", pause_seconds=1, now_ms=0)
    known = LeaseState(failure=before._replace(attempts=attempts) if attempts else None)
    assert after(known) == expected_ms


def test_a_cause_is_one_short_line() -> None:
    error = ConfigurationError(["a" * 400, "b"])
    failure = make_failure(LeaseState(), error, manifest=V2, address="a", pause_seconds=1, now_ms=0)
    assert "\n" not in failure.cause
    assert len(failure.cause) == 300
    assert (failure.migration, failure.sqlstate) == ("", "")


def test_a_failure_names_its_migration_and_version(fakes: Fakes) -> None:
    fakes.database.fail_on(2, boom())
    with pytest.raises(MigrationFailed):
        fakes.runner(V3).ensure(fakes.deadline())
    failure = fakes.table.state.failure
    assert failure is not None
    assert (failure.digest, failure.version, failure.migration) == (V3.digest, "2", "0002_m")
    assert fakes.table.state.owner is None


@pytest.mark.parametrize("gone", [LeaseStoreUnavailable("gone"), ConfigurationError("no table")])
def test_a_failure_that_cannot_be_recorded_is_still_the_one_that_is_raised(
    fakes: Fakes, gone: MigrateError
) -> None:
    fakes.database.fail_on(1, boom())
    fakes.table.before["store_failure"] = raises(gone)
    with pytest.raises(MigrationFailed, match="division by zero"):
        fakes.runner(V1).ensure(fakes.deadline())


def test_an_unexpected_error_releases_the_lease(fakes: Fakes) -> None:
    fakes.database.on_script = lambda _version: raises(ZeroDivisionError("a bug"))()
    with pytest.raises(ZeroDivisionError):
        fakes.runner(V1).ensure(fakes.deadline())
    assert fakes.table.log == ["read", "acquire", "renew", "release"]
    assert fakes.table.state.owner is None


def test_a_script_that_commits_is_refused_before_anything_is_applied(fakes: Fakes) -> None:
    bad = Manifest([migration(1), migration(2, "UPDATE a SET b = 1;\nCOMMIT")])
    with pytest.raises(ManifestError, match=r"migrations/0002_m\.sql:2: COMMIT"):
        fakes.runner(bad).ensure(fakes.deadline())
    assert fakes.database.effects == []
    assert fakes.observer.events_of(MigrationStarted) == []
    failure = fakes.table.state.failure
    assert failure is not None
    assert "0002_m.sql:2: COMMIT" in failure.cause
    with pytest.raises(MigrationFailed, match="COMMIT"):
        fakes.runner(bad).ensure(fakes.deadline())


def test_an_applied_script_is_not_checked_again(fakes: Fakes) -> None:
    fakes.migrated(V1)
    bad_before = Manifest([migration(1), migration(2)])
    assert fakes.runner(bad_before).ensure(fakes.deadline()) is Outcome.MIGRATED


def test_a_deadline_reached_during_a_migration_is_a_failure_that_names_it(fakes: Fakes) -> None:
    fakes.database.on_script = lambda _version: fakes.clock.advance(30)
    with pytest.raises(MigrationFailed, match="deadline"):
        fakes.runner(V2).ensure(fakes.deadline(20))
    assert fakes.database.effects == []
    assert fakes.table.state.owner is None
    failure = fakes.table.state.failure
    assert failure is not None
    assert "deadline" in failure.cause
    assert failure.migration == "0001_m"
    (broke,) = fakes.observer.events_of(MigrationAttemptFailed)
    assert (broke.migration, broke.seconds) == ("0001_m", 30.0)


def test_a_deadline_between_two_migrations_is_not_a_failure_of_the_second(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with time_out_after_a_migration(fakes, monkeypatch), pytest.raises(NotReady) as raised:
        fakes.runner(V2).ensure(fakes.deadline(20))
    assert "not enough time left to start 0002_m" in str(raised.value)
    assert fakes.database.effects == ["0001_m"]
    assert (fakes.table.state.owner, fakes.table.state.failure) == (None, None)
    assert fakes.runner(V2).ensure(fakes.deadline()) is Outcome.MIGRATED, "at once, without a pause"


def test_a_deadline_after_the_last_migration_is_not_a_failure(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "R__views"
    view = Migration(RepeatableVersion(name), name, Script("SELECT 1"), None, "0")
    code = Manifest([view])  # its manifest is recorded after it
    with time_out_after_a_migration(fakes, monkeypatch), pytest.raises(NotReady, match="deadline"):
        fakes.runner(code).ensure(fakes.deadline(20))
    assert [row.name for row in fakes.database.read_history(fakes.deadline())] == [name]
    assert (fakes.table.state.owner, fakes.table.state.failure) == (None, None)
    assert fakes.runner(code).ensure(fakes.deadline()) is Outcome.MIGRATED, "without a pause"


@contextmanager
def time_out_after_a_migration(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let 18.5 seconds pass after each commit."""

    def advance(event: object) -> None:
        fakes.observer.events.append(event)  # type: ignore[arg-type]  # it is one of ours
        if isinstance(event, MigrationApplied):
            fakes.clock.advance(18.5)

    with monkeypatch.context() as patched:
        patched.setattr(fakes.observer, "observe", advance)
        yield


# --- contradictions


def test_code_older_than_the_schema_is_served_at_once(fakes: Fakes) -> None:
    fakes.migrated(V3)
    assert fakes.ready(V1, V2, V3) == [V1, V2, V3]
    assert fakes.runner(V1).ensure(fakes.deadline()) is Outcome.UP_TO_DATE
    assert fakes.table.log == ["read"]


EDITED = Manifest([migration(1), migration(2, "SELECT 'edited'"), migration(3)])
MISSING = manifest(1, 3)
OUT_OF_ORDER = manifest(1, 2, 3)


@pytest.mark.parametrize(
    ("there", "here", "advice"),
    [
        (V2, EDITED, "0002_m: the file .* changed after it was applied"),
        (V2, MISSING, "0002_m: it was applied but its file is missing"),
        (manifest(1, 3), OUT_OF_ORDER, "0002_m: it is pending below version 3"),
    ],
    ids=["edited", "missing", "out-of-order"],
)
def test_a_contradiction_is_refused_recorded_and_changes_nothing(
    fakes: Fakes, there: Manifest, here: Manifest, advice: str
) -> None:
    fakes.migrated(there)
    effects = list(fakes.database.effects)
    with pytest.raises(Diverged, match=advice):
        fakes.runner(here).ensure(fakes.deadline())
    assert fakes.database.effects == effects
    assert fakes.table.state.owner is None
    assert not fakes.ready(here)
    with pytest.raises(MigrationFailed, match="the history contradicts this code"):
        fakes.runner(here).ensure(fakes.deadline())
    assert fakes.table.log[-1:] == ["read"]


def test_every_contradiction_is_reported_at_once(fakes: Fakes) -> None:
    fakes.migrated(V3)
    here = Manifest([migration(1, "x"), migration(3, "y")])
    with pytest.raises(Diverged) as caught:
        fakes.runner(here).ensure(fakes.deadline())
    assert [name in str(caught.value) for name in ("0001_m", "0002_m", "0003_m")] == [True] * 3


def test_out_of_order_is_applied_where_it_is_allowed(fakes: Fakes) -> None:
    fakes.migrated(manifest(1, 3))
    runner = fakes.runner(OUT_OF_ORDER, allow_out_of_order=True)
    assert runner.ensure(fakes.deadline()) is Outcome.MIGRATED
    assert fakes.database.effects == ["0001_m", "0003_m", "0002_m"]


# --- rows in doubt


@pytest.mark.parametrize("took_effect", [True, False])
def test_a_row_in_doubt_is_resolved_before_anything_is_applied(
    fakes: Fakes, took_effect: bool
) -> None:
    fakes.migrated(V1)
    fakes.database.leave_in_doubt(migration(2), V2.digest, took_effect=took_effect)
    assert fakes.runner(V3).ensure(fakes.deadline()) is Outcome.MIGRATED
    assert fakes.database.effects == ["0001_m", "0002_m", "0003_m"]
    assert fakes.ready(V3)


def test_a_row_that_cannot_be_resolved_stops_everything_and_is_recorded(fakes: Fakes) -> None:
    fakes.migrated(V1)
    fakes.database.leave_in_doubt(migration(2), V2.digest, took_effect=None)
    with pytest.raises(RepairRequired, match="repair"):
        fakes.runner(V3).ensure(fakes.deadline())
    assert fakes.database.effects == ["0001_m"]
    failure = fakes.table.state.failure
    assert failure is not None
    assert failure.migration == "0002_m"


def test_a_resolved_row_whose_file_was_edited_meanwhile_is_refused(fakes: Fakes) -> None:
    fakes.migrated(V1)
    fakes.database.leave_in_doubt(migration(2), V2.digest, took_effect=True)
    with pytest.raises(Diverged, match=r"0002_m: the file .* changed"):
        fakes.runner(EDITED).ensure(fakes.deadline())
    assert fakes.database.effects == ["0001_m", "0002_m"]
    assert not fakes.ready(EDITED)


def test_a_resolved_row_that_is_pending_again_is_not_applied_out_of_order(fakes: Fakes) -> None:
    fakes.migrated(manifest(1, 3))
    fakes.database.leave_in_doubt(migration(2), V2.digest, took_effect=False)
    with pytest.raises(Diverged, match="0002_m: it is pending below version 3"):
        fakes.runner(V3).ensure(fakes.deadline())
    assert fakes.database.effects == ["0001_m", "0003_m"]


def test_a_row_in_doubt_that_only_newer_code_needs_is_left_to_newer_code(fakes: Fakes) -> None:
    fakes.migrated(V1)
    fakes.change(databases={})
    fakes.database.leave_in_doubt(migration(2), V2.digest, took_effect=None)
    assert fakes.runner(V1).ensure(fakes.deadline()) is Outcome.MIGRATED


# --- satisfied manifests


def row(version: int, *, state: RowState = RowState.APPLIED, digest: str = "") -> HistoryRow:
    known = migration(version)
    return HistoryRow(version, known.name, known.checksum, digest, state=state)


@pytest.mark.parametrize(
    ("history", "proven"),
    [
        ([], [manifest()]),
        ([row(1), row(2)], [manifest(), V1, V2]),
        ([row(2), row(1)], [manifest(), V1, V2]),
        ([row(1), row(3, digest=V3.digest)], [manifest(), V1, manifest(1, 3)]),
        ([row(1), row(2, state=RowState.STARTED), row(3)], [manifest(), V1]),
        ([row(1, state=RowState.ROLLING_BACK)], [manifest()]),
    ],
    ids=["empty", "all", "unordered", "one rolled back", "one in doubt", "rolling back"],
)
def test_a_history_satisfies_its_prefixes_and_no_other_manifest(
    history: list[HistoryRow], proven: list[Manifest]
) -> None:
    assert list(find_satisfied_digests(history)) == [each.digest for each in proven]
    assert all(each.make_plan(history).is_current for each in proven)
    assert EMPTY_DIGEST in find_satisfied_digests(history)
