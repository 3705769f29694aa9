"""The contract of every database: in memory, and on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from lambda_migrate.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    LeaseHeld,
    LeaseLost,
    MigrationFailed,
    NotReady,
    RepairRequired,
)
from lambda_migrate.migrations import HistoryRow, Migration, RowState, Script
from lambda_migrate.migrations.version import Version, parse_version
from lambda_migrate.postgresql.ports import (
    DryRunSession,
    FencedSession,
    LeaseGrant,
    StaleFencingToken,
)
from tests.contract.databases import (
    FIRST,
    MANIFEST,
    SECOND,
    THIRD,
    DatabaseUnderTest,
    grant,
    migration,
    over,
    soon,
)

DIGEST = {m.version: MANIFEST.digest_at(m.version) for m in MANIFEST}


def open_session(db: DatabaseUnderTest, fence: int = 1, owner: str = "") -> FencedSession:
    return db.database.open_session(grant(fence, owner), soon())


def apply(session: FencedSession, *migrations: Migration) -> None:
    for one in migrations:
        session.apply(one, DIGEST[one.version], soon())


def versions(db: DatabaseUnderTest) -> list[Version]:
    return [row.version for row in db.database.read_history(soon())]


# --- history


def test_a_new_database_has_no_history(db: DatabaseUnderTest) -> None:
    assert db.database.read_history(soon()) == []


def test_a_first_holder_finds_no_history(db: DatabaseUnderTest) -> None:
    with open_session(db) as session:
        assert session.read_history() == []


def test_a_history_row_records_the_migration_its_owner_and_its_down_script(
    db: DatabaseUnderTest,
) -> None:
    with open_session(db, 7) as session:
        took_ms = session.apply(FIRST, DIGEST[1], soon())
        (row,) = session.read_history()
    assert row == HistoryRow(
        version=1,
        name="0001_a",
        checksum=FIRST.checksum,
        digest=DIGEST[1],
        state=RowState.APPLIED,
        down=FIRST.down,
        started_at=row.started_at,
        applied_at=row.applied_at,
        duration_ms=took_ms,
        fence=7,
        owner="owner-7",
        baseline=False,
        up=None,
    )
    assert row.applied_at is not None
    assert row.started_at <= row.applied_at
    assert row.applied_at[10] == "T"
    assert row.applied_at.endswith("Z")


def test_versions_of_any_length_and_form_are_stored_and_ordered(db: DatabaseUnderTest) -> None:
    ordered = [parse_version(v) for v in ("0", "1.2", "1.10", "9", "20240101000000000001")]
    with open_session(db) as session:
        for version in reversed(ordered):
            session.apply(replace(FIRST, version=version), "digest", soon())
        assert [row.version for row in session.read_history()] == ordered
        session.roll_back(session.read_history()[1], soon())
    assert versions(db) == [each for each in ordered if each != parse_version("1.2")]


def test_the_history_is_the_same_with_and_without_the_fence(db: DatabaseUnderTest) -> None:
    with open_session(db) as session:
        apply(session, FIRST, SECOND)
        assert session.read_history() == db.database.read_history(soon())


def test_the_history_is_in_the_order_of_versions(db: DatabaseUnderTest) -> None:
    with open_session(db) as session:
        apply(session, THIRD, FIRST, SECOND)
    assert versions(db) == [1, 2, 3]


def test_a_manifest_applied_in_order_is_current(db: DatabaseUnderTest) -> None:
    with open_session(db) as session:
        apply(session, *MANIFEST)
        assert MANIFEST.make_plan(session.read_history()).is_current
    assert db.effects() == ["0001_a", "0002_b", "0003_c"]


# --- effects and row: together, at most once


def test_a_migration_takes_effect_at_most_once(db: DatabaseUnderTest) -> None:
    with open_session(db) as session:
        apply(session, FIRST)
        with pytest.raises(MigrationFailed) as caught:
            apply(session, FIRST)
        assert caught.value.sqlstate == "23505"
        assert len(session.read_history()) == 1
    assert db.effects() == ["0001_a"]


def test_concurrent_attempts_take_effect_once(db: DatabaseUnderTest) -> None:
    def migrate(fence: int) -> str:
        try:
            with db.database.open_session(grant(fence), soon()) as session:
                if not session.read_history():
                    apply(session, FIRST)
        except (StaleFencingToken, NotReady, MigrationFailed) as error:
            return type(error).__name__
        return "done"

    with ThreadPoolExecutor(6) as pool:
        ends = list(pool.map(migrate, range(1, 7)))
    assert "done" in ends
    # A holder whose session is ended while it connects gets DatabaseUnavailable instead.
    assert set(ends) <= {"done", "StaleFencingToken", "LeaseLost", "DatabaseUnavailable"}
    assert db.effects() == ["0001_a"]
    assert versions(db) == [1]


def test_a_failed_migration_is_rolled_back_and_earlier_ones_stay(
    db: DatabaseUnderTest,
) -> None:
    with open_session(db) as session:
        apply(session, FIRST)
        with pytest.raises(MigrationFailed) as caught:
            apply(session, db.breaking(SECOND, "22012"))
        assert (caught.value.migration, caught.value.sqlstate) == ("0002_b", "22012")
        assert [row.version for row in session.read_history()] == [1]
    assert db.effects() == ["0001_a"]


def test_a_holder_can_continue_after_a_failure(db: DatabaseUnderTest) -> None:
    with open_session(db) as session:
        broken = db.breaking(FIRST, "P0001")
        with pytest.raises(MigrationFailed):
            apply(session, broken)
        db.fix(broken)
        apply(session, FIRST, SECOND)
    assert db.effects() == ["0001_a", "0002_b"]


def test_a_script_that_would_end_its_transaction_is_rejected(db: DatabaseUnderTest) -> None:
    script = f"{FIRST.up.sql}; COMMIT; SELECT 1"
    with open_session(db) as session:
        with pytest.raises(MigrationFailed, match="0001_a"):
            apply(session, replace(FIRST, up=Script(script)))
        assert session.read_history() == []
    assert db.effects() == []


def test_nothing_starts_after_the_deadline(db: DatabaseUnderTest) -> None:
    with open_session(db) as session:
        with pytest.raises(MigrationFailed, match="deadline"):
            session.apply(FIRST, DIGEST[1], over())
        assert session.read_history() == []
    assert db.effects() == []


# --- the fence


@pytest.mark.parametrize("offered", [1, 6, 7])
def test_a_fence_that_is_not_higher_is_stale_and_the_error_names_the_recorded_one(
    db: DatabaseUnderTest, offered: int
) -> None:
    open_session(db, 7).close()
    with pytest.raises(StaleFencingToken) as caught:
        open_session(db, offered, owner="late")
    assert caught.value.current_token == 7


def test_the_fence_outlives_the_holder_and_only_grows(db: DatabaseUnderTest) -> None:
    for fence in (1, 2, 10):
        open_session(db, fence).close()
        with pytest.raises(StaleFencingToken) as caught:
            open_session(db, fence, owner="late")
        assert caught.value.current_token == fence


def test_a_stale_fence_does_not_affect_the_holder(db: DatabaseUnderTest) -> None:
    with open_session(db, 7) as session:
        with pytest.raises(StaleFencingToken):
            open_session(db, 6)
        apply(session, FIRST)
    assert db.effects() == ["0001_a"]


def test_the_same_holder_can_connect_again(db: DatabaseUnderTest) -> None:
    open_session(db, 7).close()
    with open_session(db, 7) as again:
        apply(again, FIRST)
    assert versions(db) == [1]


ROW = HistoryRow(1, FIRST.name, FIRST.checksum, DIGEST[1], down=FIRST.down)
INDEX = migration(
    3,
    "index",
    "CREATE INDEX CONCURRENTLY orders_by_id ON orders (id)",
    "DROP INDEX CONCURRENTLY orders_by_id",
)
CALLS: dict[str, Callable[[FencedSession], object]] = {
    "history": lambda session: session.read_history(),
    "other histories": lambda session: session.read_tool_histories(),
    "apply": lambda session: session.apply(SECOND, DIGEST[2], soon()),
    "apply outside a transaction": lambda session: session.apply(INDEX, "digest", soon()),
    "roll back": lambda session: session.roll_back(ROW, soon()),
    "resolve in doubt": lambda session: session.resolve_in_doubt(
        replace(ROW, state=RowState.STARTED, up=INDEX.up), soon()
    ),
    "record": lambda session: session.record_applied([(SECOND, DIGEST[2])], baseline=True),
    "forget": lambda session: session.delete_rows([1]),
    "keep another history": lambda session: session.sync_tool_history(None),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@every_call
def test_a_superseded_holder_cannot_write(
    db: DatabaseUnderTest, call: Callable[[FencedSession], object]
) -> None:
    with open_session(db, 1) as older:
        apply(older, FIRST)
        with open_session(db, 2):
            before = db.database.read_history(soon())
            with pytest.raises(LeaseLost):
                call(older)
            assert db.database.read_history(soon()) == before
    assert db.effects() == ["0001_a"]


def test_a_holder_stays_superseded_after_its_successor_has_left(db: DatabaseUnderTest) -> None:
    with open_session(db, 1) as older:
        open_session(db, 2).close()
        with pytest.raises(LeaseLost):
            apply(older, FIRST)
        with pytest.raises(LeaseLost):
            older.read_history()
    assert db.effects() == []


def test_a_successor_applies_the_migration_that_the_superseded_holder_could_not_commit(
    db: DatabaseUnderTest,
) -> None:
    successors: list[FencedSession] = []
    with open_session(db, 1) as older:
        ended = db.in_the_middle(
            lambda slow: apply(older, slow),
            FIRST,
            lambda: successors.append(open_session(db, 2)),
        )
    assert isinstance(ended, LeaseLost)
    assert db.effects() == []
    with successors[0] as successor:
        assert successor.read_history() == []
        apply(successor, FIRST)
    assert db.effects() == ["0001_a"]
    assert [row.fence for row in db.database.read_history(soon())] == [2]


# --- abort and close


def test_abort_ends_the_running_script_without_a_commit(db: DatabaseUnderTest) -> None:
    with open_session(db) as session:
        ended = db.in_the_middle(lambda slow: apply(session, slow), FIRST, session.abort)
    assert isinstance(ended, LeaseLost)
    assert db.effects() == []
    assert versions(db) == []


@every_call
def test_nothing_runs_after_an_abort(
    db: DatabaseUnderTest, call: Callable[[FencedSession], object]
) -> None:
    with open_session(db) as session:
        apply(session, FIRST)
        session.abort()
        session.abort()
        with pytest.raises(LeaseLost):
            call(session)
    assert versions(db) == [1]


def test_close_may_be_called_twice(db: DatabaseUnderTest) -> None:
    session = open_session(db)
    session.close()
    session.close()


# --- terminate_holders


def test_without_terminating_holders_a_connected_older_holder_is_an_error(
    db: DatabaseUnderTest,
) -> None:
    with open_session(db, 1) as older:
        with pytest.raises(LeaseHeld):
            db.database.open_session(grant(2), soon(), terminate_holders=False)
        apply(older, FIRST)
    assert db.effects() == ["0001_a"]


def test_without_terminating_holders_the_takeover_succeeds_once_the_older_holder_has_left(
    db: DatabaseUnderTest,
) -> None:
    open_session(db, 1).close()
    with db.database.open_session(grant(2), soon(), terminate_holders=False) as session:
        apply(session, FIRST)
    assert db.effects() == ["0001_a"]


# --- environment


def record_environment(db: DatabaseUnderTest, right: LeaseGrant) -> None:
    with db.database.open_session(right, soon()) as session:
        session.record_environment()


def test_a_takeover_records_no_environment_and_neither_does_a_migration(
    db: DatabaseUnderTest,
) -> None:
    with db.database.open_session(grant(1, environment="staging"), soon()) as session:
        apply(session, FIRST)
    assert read_recorded_environment(db) == ""
    record_environment(db, grant(2, environment="production"))
    assert read_recorded_environment(db) == "production"


def test_a_holder_that_was_superseded_records_no_environment(db: DatabaseUnderTest) -> None:
    with db.database.open_session(grant(1, environment="staging"), soon()) as session:
        record_environment(db, grant(2))
        with pytest.raises(LeaseLost):
            session.record_environment()
    assert read_recorded_environment(db) == ""


@pytest.mark.parametrize(
    ("recorded", "mine", "replaces", "is_let_in"),
    [
        ("", "", False, True),
        ("", "staging", False, True),
        ("staging", "staging", False, True),
        ("staging", "production", False, False),
        ("staging", "", False, False),
        ("staging", "production", True, True),
    ],
)
def test_a_function_of_another_environment_is_rejected(
    db: DatabaseUnderTest, recorded: str, mine: str, replaces: bool, is_let_in: bool
) -> None:
    record_environment(db, grant(1, environment=recorded))
    mine_now = grant(2, environment=mine, replaces_environment=replaces)
    if is_let_in:
        db.database.open_session(mine_now, soon()).close()
        return
    with pytest.raises(ConfigurationError, match=f"environment '{recorded}'"):
        db.database.open_session(mine_now, soon())


def test_a_rejected_environment_changes_neither_the_recorded_one_nor_the_holder(
    db: DatabaseUnderTest,
) -> None:
    with db.database.open_session(grant(1, environment="staging"), soon()) as session:
        session.record_environment()
        with pytest.raises(ConfigurationError):
            db.database.open_session(grant(2, environment="production"), soon())
        apply(session, FIRST)
    db.database.open_session(grant(2, environment="staging"), soon()).close()


def test_a_new_recorded_environment_rejects_the_old_one(db: DatabaseUnderTest) -> None:
    record_environment(db, grant(1, environment="staging"))
    record_environment(db, grant(2, environment="production", replaces_environment=True))
    with pytest.raises(ConfigurationError, match="'production'"):
        db.database.open_session(grant(3, environment="staging"), soon())


# --- revert


def test_a_rollback_undoes_the_effects_and_removes_the_row(db: DatabaseUnderTest) -> None:
    with open_session(db) as session:
        apply(session, FIRST, SECOND)
        session.roll_back(session.read_history()[-1], soon())
        assert [row.version for row in session.read_history()] == [1]
    assert db.effects() == ["0001_a"]


def test_a_rollback_runs_the_recorded_down_script(db: DatabaseUnderTest) -> None:
    with open_session(db, 1) as session:
        apply(session, FIRST)
    with open_session(db, 2) as other_code:
        (row,) = other_code.read_history()
        assert row.down == FIRST.down
        other_code.roll_back(row, soon())
    assert db.effects() == []


def test_a_rolled_back_migration_can_be_applied_again(db: DatabaseUnderTest) -> None:
    with open_session(db) as session:
        apply(session, FIRST)
        session.roll_back(session.read_history()[0], soon())
        assert db.effects() == []
        assert MANIFEST.make_plan(session.read_history()).pending[0] == FIRST


def test_a_migration_without_a_down_script_cannot_be_rolled_back(db: DatabaseUnderTest) -> None:
    for_good = migration(1, "for_good", down=None)
    with open_session(db) as session:
        session.apply(for_good, "digest", soon())
        with pytest.raises(MigrationFailed, match="without a down script"):
            session.roll_back(session.read_history()[0], soon())
        assert len(session.read_history()) == 1
    assert db.effects() == ["0001_for_good"]


def test_a_down_script_that_would_end_its_transaction_is_rejected(db: DatabaseUnderTest) -> None:
    bad = migration(1, "bad", down="DELETE FROM effects; COMMIT")
    with open_session(db) as session:
        session.apply(bad, "digest", soon())
        with pytest.raises(MigrationFailed, match="0001_bad"):
            session.roll_back(session.read_history()[0], soon())
        assert len(session.read_history()) == 1
    assert db.effects() == ["0001_bad"]


# --- other tools' histories


def test_a_database_without_other_tools_has_no_other_history(db: DatabaseUnderTest) -> None:
    assert db.database.read_tool_histories(soon()) == []
    with open_session(db) as session:
        apply(session, FIRST)
        assert session.read_tool_histories() == []


def test_other_histories_are_not_read_after_the_deadline(db: DatabaseUnderTest) -> None:
    with pytest.raises(DatabaseUnavailable):
        db.database.read_tool_histories(over())


# --- record and forget


def test_a_baseline_records_migrations_without_running_them(db: DatabaseUnderTest) -> None:
    with open_session(db, 4) as session:
        session.record_applied([(FIRST, DIGEST[1]), (SECOND, DIGEST[2])], baseline=True)
        rows = session.read_history()
        assert MANIFEST.make_plan(rows).pending == (THIRD,)
    assert [(r.version, r.state, r.baseline, r.duration_ms, r.fence) for r in rows] == [
        (1, RowState.APPLIED, True, 0, 4),
        (2, RowState.APPLIED, True, 0, 4),
    ]
    assert db.effects() == []


def test_recording_an_applied_version_updates_its_digest_and_keeps_its_owner(
    db: DatabaseUnderTest,
) -> None:
    with open_session(db, 1) as session:
        apply(session, FIRST)
        (before,) = session.read_history()
    edited = replace(FIRST, name="0001_edited", checksum="e" * 64, down=Script("SELECT 2", line=9))
    with open_session(db, 2) as session:
        session.record_applied([(edited, "d" * 64)], baseline=True)
        (after,) = session.read_history()
    assert after == replace(
        before, name="0001_edited", checksum="e" * 64, digest="d" * 64, down=edited.down
    )


def test_recording_resolves_a_row_in_doubt(db: DatabaseUnderTest) -> None:
    with open_session(db) as session:
        db.leave_in_doubt(session, INDEX, took_effect=True)
        session.record_applied([(INDEX, "digest")], baseline=False)
        (row,) = session.read_history()
    assert (row.state, row.up) == (RowState.APPLIED, None)
    assert row.applied_at is not None


def test_forgetting_makes_a_migration_pending_without_undoing_it(db: DatabaseUnderTest) -> None:
    with open_session(db) as session:
        apply(session, FIRST, SECOND)
        session.delete_rows([2, 99])
        assert MANIFEST.make_plan(session.read_history()).pending == (SECOND, THIRD)
    assert db.effects() == ["0001_a", "0002_b"]


def test_recording_and_forgetting_no_version_does_nothing(db: DatabaseUnderTest) -> None:
    with open_session(db) as session:
        apply(session, FIRST)
        session.record_applied([], baseline=True)
        session.delete_rows([])
        assert [row.version for row in session.read_history()] == [1]


# --- resolve_in_doubt


@pytest.mark.parametrize(
    ("rolling_back", "took_effect", "is_applied"),
    [(False, True, True), (False, False, False), (True, True, False), (True, False, True)],
)
def test_a_row_in_doubt_is_resolved_by_the_state_of_the_database(
    db: DatabaseUnderTest, rolling_back: bool, took_effect: bool, is_applied: bool
) -> None:
    with open_session(db) as session:
        row = db.leave_in_doubt(session, INDEX, took_effect=took_effect, rolling_back=rolling_back)
        assert row.state is (RowState.ROLLING_BACK if rolling_back else RowState.STARTED)
        session.resolve_in_doubt(row, soon())
        rows = session.read_history()
    assert [r.state for r in rows] == [RowState.APPLIED] * is_applied


def test_a_row_that_cannot_be_resolved_stays_in_doubt_and_the_error_names_repair(
    db: DatabaseUnderTest,
) -> None:
    opaque = migration(3, "opaque", up="ALTER DATABASE nowhere RESET ALL")
    with open_session(db) as session:
        row = db.leave_in_doubt(session, opaque, took_effect=None)
        with pytest.raises(RepairRequired, match="lambda-migrate repair"):
            session.resolve_in_doubt(row, soon())
        assert [r.state for r in session.read_history()] == [RowState.STARTED]


def test_a_row_in_doubt_of_an_idempotent_script_is_pending_again(db: DatabaseUnderTest) -> None:
    up = Script("ALTER DATABASE nowhere RESET ALL", transactional=False, idempotent=True)
    with open_session(db) as session:
        one = replace(migration(3, "opaque", up=up.sql), up=up)
        row = db.leave_in_doubt(session, one, took_effect=None)
        session.resolve_in_doubt(row, soon())
        assert session.read_history() == []


@pytest.mark.parametrize("took_effect", [True, False])
def test_no_statement_starts_while_its_row_is_in_doubt(
    db: DatabaseUnderTest, took_effect: bool
) -> None:
    """It is resolved first: what took effect is not done again, what did not is done once."""
    with open_session(db) as session:
        db.leave_in_doubt(session, INDEX, took_effect=took_effect)
        if took_effect:
            with pytest.raises(MigrationFailed, match="in the history"):
                session.apply(INDEX, "digest", soon())
        else:
            session.apply(INDEX, "digest", soon())
        assert [r.state for r in session.read_history()] == [RowState.APPLIED]


@pytest.mark.parametrize("rolling_back", [True, False])
@pytest.mark.parametrize("took_effect", [True, False])
def test_no_rollback_starts_while_its_row_is_in_doubt(
    db: DatabaseUnderTest, took_effect: bool, rolling_back: bool
) -> None:
    with open_session(db) as session:
        row = db.leave_in_doubt(session, INDEX, took_effect=took_effect, rolling_back=rolling_back)
        session.roll_back(row, soon())
        assert session.read_history() == []


def test_no_rollback_starts_while_its_row_cannot_be_resolved(db: DatabaseUnderTest) -> None:
    opaque = migration(3, "opaque", up="ALTER DATABASE nowhere RESET ALL", down="SELECT 1 / 0")
    with open_session(db) as session:
        row = db.leave_in_doubt(session, opaque, took_effect=None)
        with pytest.raises(RepairRequired, match="lambda-migrate repair 3 --as"):
            session.roll_back(row, soon())
        assert [r.state for r in session.read_history()] == [RowState.STARTED]


def test_a_procedure_that_fails_leaves_its_row_in_doubt(db: DatabaseUnderTest) -> None:
    """It may have committed a part, and only its author knows what a second run does."""
    raising = "DO $$BEGIN COMMIT; RAISE 'as planned'; END$$"
    up = Script(raising, transactional=False)
    broken = db.breaking(replace(migration(3, "batches"), up=up), "P0001")
    with open_session(db) as session:
        with pytest.raises(RepairRequired, match="part of it may be committed"):
            session.apply(replace(broken, up=up), "digest", soon())
        assert [r.state for r in session.read_history()] == [RowState.STARTED]


def test_a_successor_resolves_the_rows_of_a_dead_holder(db: DatabaseUnderTest) -> None:
    with open_session(db, 1) as dead:
        db.leave_in_doubt(dead, INDEX, took_effect=False)
    with open_session(db, 2) as successor:
        (row,) = successor.read_history()
        successor.resolve_in_doubt(row, soon())
        successor.apply(INDEX, "digest", soon())
        assert [r.state for r in successor.read_history()] == [RowState.APPLIED]


# --- who it is


def test_the_address_text_is_stable_and_contains_no_secret(db: DatabaseUnderTest) -> None:
    assert db.database.address_text == db.database.address_text != ""
    assert "@" not in db.database.address_text


# --- a dry run


def read_recorded_environment(db: DatabaseUnderTest) -> str:
    fence = db.database.inspect(soon()).fence
    return fence.environment if fence is not None else ""


def begin_dry_run(db: DatabaseUnderTest, fence: int = 1, *, environment: str = "") -> DryRunSession:
    return db.database.begin_dry_run(grant(fence, environment=environment), soon())


def test_a_dry_run_leaves_neither_effects_nor_history(db: DatabaseUnderTest) -> None:
    with begin_dry_run(db) as dry_run:
        assert dry_run.read_history() == []
        for one in MANIFEST:
            assert dry_run.run_migration(one, soon()).seconds >= 0
        dry_run.roll_back()
        assert (db.effects(), versions(db)) == ([], [])
    assert (db.effects(), versions(db)) == ([], [])


def test_a_closed_dry_run_leaves_nothing_either(
    db: DatabaseUnderTest,
) -> None:
    with begin_dry_run(db) as dry_run:
        dry_run.run_migration(FIRST, soon())
    dry_run.close()
    assert (db.effects(), versions(db)) == ([], [])


def test_a_dry_run_reads_the_history(db: DatabaseUnderTest) -> None:
    with open_session(db) as session:
        apply(session, FIRST)
    with begin_dry_run(db, 2) as dry_run:
        assert dry_run.read_history() == db.database.read_history(soon())
        dry_run.run_migration(SECOND, soon())
    assert db.effects() == ["0001_a"]


def test_a_dry_run_neither_raises_the_fence_nor_stamps_the_database(db: DatabaseUnderTest) -> None:
    db.database.open_session(grant(1), soon()).close()
    with begin_dry_run(db, 9, environment="staging") as dry_run:
        dry_run.run_migration(FIRST, soon())
        dry_run.roll_back()
    assert read_recorded_environment(db) == ""
    record_environment(db, grant(2, environment="production"))
    assert read_recorded_environment(db) == "production"


def test_a_failure_in_a_dry_run_is_reported_as_by_apply_and_the_dry_run_can_continue(
    db: DatabaseUnderTest,
) -> None:
    broken = db.breaking(SECOND, "22012")
    with begin_dry_run(db) as dry_run:
        dry_run.run_migration(FIRST, soon())
        with pytest.raises(MigrationFailed) as in_dry_run:
            dry_run.run_migration(broken, soon())
        dry_run.run_migration(THIRD, soon())
        dry_run.roll_back()
    with open_session(db) as session, pytest.raises(MigrationFailed) as applied:
        apply(session, broken)
    assert str(in_dry_run.value) == str(applied.value)
    assert in_dry_run.value.sqlstate == applied.value.sqlstate == "22012"
    assert db.effects() == []


def test_a_dry_run_can_start_again(db: DatabaseUnderTest) -> None:
    with begin_dry_run(db) as dry_run:
        dry_run.run_migration(FIRST, soon())
        dry_run.begin(soon())
        dry_run.run_migration(FIRST, soon())
        dry_run.roll_back()
        dry_run.begin(soon())
        dry_run.run_migration(FIRST, soon())
    assert db.effects() == []


@pytest.mark.parametrize("script", ["COMMIT", "SELECT 1; ROLLBACK", "END; SELECT 1"])
def test_a_dry_run_rejects_a_script_that_would_end_its_transaction(
    db: DatabaseUnderTest, script: str
) -> None:
    with begin_dry_run(db) as dry_run:
        with pytest.raises(MigrationFailed, match="0001_a"):
            dry_run.run_migration(replace(FIRST, up=Script(f"{FIRST.up.sql}; {script}")), soon())
        dry_run.run_migration(SECOND, soon())
    assert db.effects() == []


def test_a_dry_run_skips_what_runs_outside_a_transaction(db: DatabaseUnderTest) -> None:
    with begin_dry_run(db) as dry_run, pytest.raises(MigrationFailed, match="transaction:false"):
        dry_run.run_migration(INDEX, soon())
    with open_session(db) as session:
        session.apply(INDEX, "digest", soon())


def test_a_dry_run_is_refused_while_a_holder_is_connected_and_does_not_end_it(
    db: DatabaseUnderTest,
) -> None:
    with open_session(db, 1) as session:
        with pytest.raises(LeaseHeld):
            begin_dry_run(db, 2)
        apply(session, FIRST)
    begin_dry_run(db, 3).close()
    assert db.effects() == ["0001_a"]


def test_a_connected_dry_run_refuses_other_dry_runs_and_migrations_without_terminating(
    db: DatabaseUnderTest,
) -> None:
    open_session(db, 1).close()
    with begin_dry_run(db, 2) as dry_run:
        with pytest.raises(LeaseHeld):
            begin_dry_run(db, 3)
        with pytest.raises(LeaseHeld):
            db.database.open_session(grant(3), soon(), terminate_holders=False)
        dry_run.run_migration(FIRST, soon())
    open_session(db, 3).close()


def test_a_successor_ends_a_dry_run(db: DatabaseUnderTest) -> None:
    open_session(db, 1).close()
    with begin_dry_run(db, 2) as dry_run:
        dry_run.run_migration(FIRST, soon())
        with open_session(db, 3) as session:
            with pytest.raises(LeaseLost):
                dry_run.run_migration(SECOND, soon())
            apply(session, THIRD)
    assert db.effects() == ["0003_c"]


@pytest.mark.parametrize("offered", [1, 7])
def test_a_dry_run_under_a_fence_that_is_not_higher_is_stale(
    db: DatabaseUnderTest, offered: int
) -> None:
    open_session(db, 7).close()
    with pytest.raises(StaleFencingToken) as caught:
        db.database.begin_dry_run(grant(offered, owner="late"), soon())
    assert caught.value.current_token == 7


def test_a_superseded_dry_run_does_not_start_again(db: DatabaseUnderTest) -> None:
    with begin_dry_run(db) as dry_run:
        dry_run.roll_back()
        open_session(db, 2).close()
        with pytest.raises(LeaseLost):
            dry_run.begin(soon())


def test_a_dry_run_in_the_database_of_another_environment_is_rejected(
    db: DatabaseUnderTest,
) -> None:
    record_environment(db, grant(1, environment="production"))
    with pytest.raises(ConfigurationError, match="'production'"):
        begin_dry_run(db, 2, environment="staging")


def test_an_aborted_dry_run_runs_nothing_more(db: DatabaseUnderTest) -> None:
    with begin_dry_run(db) as dry_run:
        ended = db.in_the_middle(
            lambda slow: dry_run.run_migration(slow, soon()), FIRST, dry_run.abort
        )
        assert isinstance(ended, LeaseLost)
        with pytest.raises(LeaseLost):
            dry_run.run_migration(SECOND, soon())
    assert db.effects() == []


def test_a_dry_run_starts_no_migration_after_the_deadline(db: DatabaseUnderTest) -> None:
    with begin_dry_run(db) as dry_run, pytest.raises(MigrationFailed, match="deadline"):
        dry_run.run_migration(FIRST, over())
    assert db.effects() == []
