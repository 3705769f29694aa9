"""A dry run changes nothing of its target, and reports each outcome."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lambda_migrate.engine.dry_run import DryRunResult
from lambda_migrate.engine.flags import Flags
from lambda_migrate.engine.operations import DryRunPlan
from lambda_migrate.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    Diverged,
    LeaseHeld,
    LeaseLost,
    ManifestError,
    MigrationFailed,
    NotReady,
    RepairRequired,
)
from lambda_migrate.events import MigrationDryRun, MigrationStarted
from lambda_migrate.lease.memory import InMemoryLeaseStore
from lambda_migrate.migrations import Manifest, Migration, Script
from lambda_migrate.migrations.irreversible import list_irreversible_effects
from lambda_migrate.postgresql.dry_run_effects import (
    AdvancedSequence,
    MigrationEffects,
    RelationLock,
    TableChange,
)
from lambda_migrate.postgresql.ports import LeaseGrant
from lambda_migrate.testing import InMemoryDryRun, InMemoryFlags
from tests.unit.engine.fakes import Fakes, manifest, migration

V1, V3 = manifest(1), manifest(1, 2, 3)
ORDERS = "public.orders"


def dry_run(fakes: Fakes, goal: Manifest = V3, *, seconds: float = 60) -> DryRunResult:
    found = fakes.operations(goal).dry_run(fakes.deadline(seconds))
    assert found is not None
    return found


class RecordedQuestions:
    """Says always the same, and remembers what it was asked."""

    def __init__(self, *, answer: bool = True) -> None:
        self.plans: list[DryRunPlan] = []
        self._answer = answer

    def __call__(self, dry_run_plan: DryRunPlan) -> bool:
        self.plans.append(dry_run_plan)
        return self._answer


def outcomes(found: DryRunResult) -> list[str]:
    return [step.outcome for step in found.steps]


def failure(sqlstate: str, cause: str = "as planned", *, of: int = 2) -> MigrationFailed:
    return MigrationFailed(cause, migration=f"{of:04d}_m", sqlstate=sqlstate)


def build(
    version: int, sql: str = "CREATE INDEX CONCURRENTLY by_total ON orders (total)"
) -> Migration:
    return migration(version, sql, transactional=False)


# --- nothing is left of it


def test_every_pending_migration_runs_in_order_and_nothing_is_left(fakes: Fakes) -> None:
    fakes.migrated(V1)
    before = fakes.table.state
    fakes.database.on_script = lambda version: fakes.clock.advance(version)
    found = dry_run(fakes)
    assert [(step.name, step.outcome, step.seconds) for step in found.steps] == [
        ("0002_m", "ran", 2),
        ("0003_m", "ran", 3),
    ]
    assert (found.outcome, found.error, found.is_rollback_confirmed, found.seconds) == (
        "passed",
        None,
        True,
        5,
    )
    assert fakes.database.effects == ["0001_m"]
    assert fakes.table.state._replace(fence=before.fence) == before


def test_it_acquires_the_lease_and_releases_it_unchanged(fakes: Fakes) -> None:
    seen = []
    fakes.database.on_script = lambda _version: seen.append(fakes.table.state.owner)
    dry_run(fakes)
    assert None not in seen
    assert fakes.table.state.owner is None
    assert (fakes.table.state.databases, fakes.table.state.failure) == ({}, None)
    assert {"store_completion", "store_failure", "withdraw_readiness"}.isdisjoint(fakes.table.log)


def test_a_failure_is_not_recorded_and_functions_try_at_once(fakes: Fakes) -> None:
    fakes.database.fail_on(2, failure("42P01"))
    found = dry_run(fakes)
    assert outcomes(found) == ["ran", "failed", "not_reached"]
    assert (found.outcome, found.error) == ("failed", found.error)
    assert isinstance(found.error, MigrationFailed)
    assert (fakes.table.state.failure, fakes.table.state.owner) == (None, None)


def test_observers_receive_what_ran_and_no_failure(fakes: Fakes) -> None:
    fakes.database.fail_on(2, failure("42P01"))
    dry_run(fakes)
    assert fakes.observer.events_of(MigrationStarted) == [
        MigrationStarted("orders", "0001_m", 1, 3),
        MigrationStarted("orders", "0002_m", 2, 3),
    ]
    assert fakes.observer.events_of(MigrationDryRun) == [
        MigrationDryRun("orders", "0001_m", 1, 3, 0)
    ]


def test_with_nothing_pending_it_asks_nothing_and_acquires_no_lease(fakes: Fakes) -> None:
    fakes.migrated(V1)
    questions = RecordedQuestions()
    found = fakes.operations(V1).dry_run(fakes.deadline(), confirm=questions)
    assert (found, questions.plans, fakes.table.log) == (DryRunResult(), [], [])


def test_it_stops_after_the_given_version(fakes: Fakes) -> None:
    found = fakes.operations(V3).dry_run(fakes.deadline(), to=2)
    assert found is not None
    assert [step.version for step in found.steps] == [1, 2]


# --- asking


def test_it_runs_nothing_unless_confirmed(fakes: Fakes) -> None:
    assert fakes.operations(V3).dry_run(fakes.deadline(), confirm=lambda _forecast: False) is None
    assert fakes.table.log == []


@pytest.mark.parametrize(
    ("recorded", "named", "is_production"),
    [
        ("", "", False),
        ("staging", "staging", False),
        ("production", "production", True),
        ("prod-eu", "prod-eu", True),
        ("", "Production", True),
        ("Live", "Live", True),
    ],
)
def test_production_is_recognized_by_its_recorded_environment_or_by_its_name(
    fakes: Fakes, recorded: str, named: str, is_production: bool
) -> None:
    fakes.environment, fakes.database.environment = named, recorded
    questions = RecordedQuestions(answer=False)
    fakes.operations(V3).dry_run(fakes.deadline(), confirm=questions)
    assert [each.is_production for each in questions.plans] == [is_production]
    assert questions.plans[0].plan.pending == V3.migrations


def test_irreversible_effects_are_known_before_it_runs(fakes: Fakes) -> None:
    goal = Manifest([migration(1, "SELECT dblink('x', 'DELETE FROM t')"), migration(2)])
    questions = RecordedQuestions()
    fakes.operations(goal).dry_run(fakes.deadline(), confirm=questions)
    effects = ("0001_m: dblink: what it commits on its own connection stays",)
    assert questions.plans[0].irreversible_effects == effects
    assert dry_run(fakes, goal).irreversible_effects == effects


# --- refused, as `up` refuses


def test_no_dry_run_starts_while_the_lease_is_held(fakes: Fakes) -> None:
    fakes.held_by("other")
    with pytest.raises(LeaseHeld):
        dry_run(fakes)


def test_a_holder_without_a_lease_is_not_terminated_for_a_dry_run(fakes: Fakes) -> None:
    with fakes.database.open_session(LeaseGrant("orders", 1, "frozen"), fakes.deadline()) as frozen:
        InMemoryLeaseStore.acquire(fakes.table, "frozen")
        fakes.clock.advance(3600)
        with pytest.raises(LeaseHeld):
            dry_run(fakes)
        assert frozen.read_history() == []
    assert fakes.table.state.owner is None


def test_a_contradiction_or_a_script_at_fault_is_refused_before_anything_runs(
    fakes: Fakes,
) -> None:
    fakes.migrated(V1)
    with pytest.raises(Diverged):
        dry_run(fakes, Manifest([migration(1, "SELECT 'edited'"), migration(2)]))
    with pytest.raises(ManifestError, match="COMMIT"):
        dry_run(fakes, Manifest([migration(1), migration(2, "COMMIT")]))
    assert fakes.table.log == []


def test_a_history_that_changed_after_the_confirmation_ends_the_dry_run(fakes: Fakes) -> None:
    def meanwhile(_forecast: DryRunPlan) -> bool:
        fakes.runner(V1).ensure(fakes.deadline())
        return True

    with pytest.raises(LeaseHeld, match="changed the history"):
        fakes.operations(V3).dry_run(fakes.deadline(), confirm=meanwhile)
    assert fakes.table.state.owner is None


def test_another_environments_database_is_refused(fakes: Fakes) -> None:
    fakes.database.environment = "production"
    with pytest.raises(ConfigurationError, match="'production'"):
        dry_run(fakes)
    assert fakes.table.state.owner is None


def test_the_token_of_a_recreated_table_is_raised(fakes: Fakes) -> None:
    fakes.database.token = 41
    assert dry_run(fakes).outcome == "passed"
    assert fakes.table.state.fence == 42


@pytest.mark.parametrize(
    ("flags", "is_stopped"),
    [(Flags(paused=True), True), (Flags(mode="off"), True), (Flags(hold_back_at=1), False)],
)
def test_a_flag_that_pauses_migrating_blocks_a_dry_run_and_one_that_holds_back_does_not(
    fakes: Fakes, flags: Flags, is_stopped: bool
) -> None:
    operations = fakes.operations(V3)
    operations.target = operations.target.replace(flags=InMemoryFlags(flags))
    questions = RecordedQuestions()
    if is_stopped:
        with pytest.raises(NotReady, match="the dry run was not started"):
            operations.dry_run(fakes.deadline(), confirm=questions)
        assert (questions.plans, fakes.table.log) == ([], [])
        return
    found = operations.dry_run(fakes.deadline(), confirm=questions)
    assert found is not None
    assert len(found.steps) == 3


# --- what cannot run, and what that means for the rest


def test_what_runs_outside_a_transaction_is_skipped_and_the_rest_runs(fakes: Fakes) -> None:
    found = dry_run(fakes, Manifest([migration(1), build(2), migration(3)]))
    assert outcomes(found) == ["ran", "skipped", "ran"]
    assert found.steps[1].reason.startswith("not run, because what runs outside")
    assert (found.outcome, found.error) == ("incomplete", None)


def test_what_is_in_doubt_comes_first_and_is_skipped(fakes: Fakes) -> None:
    goal = Manifest([migration(1), build(2), migration(3)])
    fakes.migrated(V1)
    fakes.database.leave_in_doubt(goal.migrations[1], goal.digest_at(2), took_effect=False)
    fakes.database.fail_on(3, failure("42704", 'index "by_total" does not exist', of=3))
    found = dry_run(fakes, goal)
    assert [(step.name, step.outcome) for step in found.steps] == [
        ("0002_m", "skipped"),
        ("0003_m", "skipped"),
    ]
    assert "in doubt" in found.steps[0].reason
    assert found.steps[1].reason.startswith("it needs what 0002_m creates")


@pytest.mark.parametrize(
    ("outside", "sqlstate", "cause"),
    [
        (
            "CREATE INDEX CONCURRENTLY by_total ON orders (total)",
            "42704",
            'index "by_total" does not',
        ),
        ("CREATE INDEX CONCURRENTLY by_total ON orders (total)", "42P10", "there is no unique or"),
        (
            "ALTER TYPE mood ADD VALUE 'happy'",
            "22P02",
            'invalid input value for enum mood: "happy"',
        ),
    ],
)
def test_a_failure_caused_by_a_skipped_migration_does_not_count(
    fakes: Fakes, outside: str, sqlstate: str, cause: str
) -> None:
    fakes.database.fail_on(2, failure(sqlstate, cause))
    found = dry_run(fakes, Manifest([build(1, outside), migration(2), migration(3)]))
    assert outcomes(found) == ["skipped", "skipped", "ran"]
    assert found.steps[1].reason.startswith(
        "it needs what 0001_m creates, which the dry run skipped: "
    )
    assert found.outcome == "incomplete"


def test_any_other_failure_after_a_skipped_migration_counts(fakes: Fakes) -> None:
    fakes.database.fail_on(2, failure("23505", "duplicate key"))
    found = dry_run(fakes, Manifest([build(1), migration(2), migration(3)]))
    assert outcomes(found) == ["skipped", "failed", "not_reached"]
    assert found.outcome == "failed"


def test_a_failure_after_an_inconclusive_migration_is_inconclusive(fakes: Fakes) -> None:
    fakes.database.fail_on(2, failure("42704", 'index "by_total" does not exist'))
    fakes.database.fail_on(3, failure("42830", "no unique constraint", of=3))
    found = dry_run(fakes, Manifest([build(1), migration(2), migration(3)]))
    assert outcomes(found) == ["skipped"] * 3
    assert found.steps[2].reason == (
        "it may need what 0002_m does, which the dry run skipped: no unique constraint [42830]"
    )


@pytest.mark.parametrize("sqlstate", ["57014", "57P01", "53100", "55P03", ""])
def test_an_external_failure_counts_whatever_was_skipped(fakes: Fakes, sqlstate: str) -> None:
    fakes.database.fail_on(2, failure(sqlstate))
    found = dry_run(fakes, Manifest([build(1, "CALL backfill(1000)"), migration(2)]))
    assert outcomes(found) == ["skipped", "failed"]


def test_a_failure_after_a_skipped_procedure_call_is_inconclusive(fakes: Fakes) -> None:
    fakes.database.fail_on(2, failure("23514", "check constraint is violated by some row"))
    found = dry_run(fakes, Manifest([build(1, "CALL backfill(1000)"), migration(2)]))
    assert (outcomes(found), found.outcome) == (["skipped"] * 2, "incomplete")
    assert found.steps[1].reason.startswith("it may need what 0001_m does")


@pytest.mark.parametrize(
    ("own", "outcome"),
    [("SELECT 1", "incomplete"), ("ALTER TYPE mood ADD VALUE 'happy'; SELECT 1", "failed")],
)
def test_a_new_enum_value_used_too_early_fails_only_where_up_would_fail(
    fakes: Fakes, own: str, outcome: str
) -> None:
    fakes.database.fail_on(
        2, failure("55P04", 'unsafe use of new value "happy" of enum type "mood"')
    )
    assert dry_run(fakes, Manifest([migration(1), migration(2, own)])).outcome == outcome


# --- ends


def test_a_lock_timeout_starts_the_dry_run_again(fakes: Fakes) -> None:
    ran: list[int] = []

    def during(version: int) -> None:
        ran.append(version)
        if len(ran) == 5:
            fakes.database.fail_on(2, None)

    fakes.database.on_script = during
    fakes.database.fail_on(2, failure("55P03", "lock timeout"))
    found = dry_run(fakes)
    assert found.outcome == "passed"
    assert ran == [1, 2, 1, 2, 1, 2, 3]
    assert found.retry_causes == ("0002_m: lock timeout [55P03]",) * 2
    assert all(0 < pause <= 5 for pause in fakes.clock.slept)


@pytest.mark.parametrize("sqlstate", ["55P03", "40P01", "40001"])
def test_it_stops_after_five_attempts(fakes: Fakes, sqlstate: str) -> None:
    fakes.database.fail_on(2, failure(sqlstate))
    found = dry_run(fakes)
    assert (found.outcome, len(found.retry_causes)) == ("failed", 4)


def test_a_takeover_between_two_attempts_is_reported(fakes: Fakes) -> None:
    def raise_token(_version: int) -> None:
        fakes.clock.at(0.05, lambda: setattr(fakes.database, "token", 99))

    fakes.database.on_script = raise_token
    fakes.database.fail_on(1, failure("55P03", of=1))
    found = dry_run(fakes)
    assert isinstance(found.error, LeaseLost)
    assert not found.is_rollback_confirmed


def test_the_deadline_ends_it_as_it_ends_up_and_what_was_measured_stays(fakes: Fakes) -> None:
    fakes.database.on_script = lambda _version: fakes.clock.advance(40)
    found = dry_run(fakes)
    assert outcomes(found) == ["ran", "failed", "not_reached"]
    assert [step.seconds for step in found.steps] == [40, 40, None]
    assert "deadline" in str(found.error)


def test_an_unavailable_database_is_reported_with_the_measurements(
    fakes: Fakes,
) -> None:
    def during(version: int) -> None:
        fakes.database.is_down = version == 2

    fakes.database.on_script = during
    found = dry_run(fakes)
    assert outcomes(found) == ["ran", "failed", "not_reached"]
    assert isinstance(found.error, DatabaseUnavailable)
    assert not found.is_rollback_confirmed


def test_a_failed_rollback_takes_precedence_over_every_other_error(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def roll_back(_dry_run: InMemoryDryRun) -> tuple[AdvancedSequence, ...]:
        raise RepairRequired("it is committed")

    monkeypatch.setattr(InMemoryDryRun, "roll_back", roll_back)
    fakes.database.fail_on(2, failure("42P01"))
    found = dry_run(fakes)
    assert isinstance(found.error, RepairRequired)
    assert not found.is_rollback_confirmed


def test_an_interrupt_releases_the_lease(fakes: Fakes) -> None:
    def interrupted(_version: int) -> None:
        raise KeyboardInterrupt

    fakes.database.on_script = interrupted
    with pytest.raises(KeyboardInterrupt):
        dry_run(fakes)
    assert fakes.table.state.owner is None
    assert fakes.database.effects == []


# --- what it reports


def test_measurements_and_sequences_are_passed_on(fakes: Fakes) -> None:
    change = TableChange(ORDERS, inserted=2, updated=3)
    fakes.database.dry_run_effects = {
        1: MigrationEffects(0, (RelationLock(ORDERS, "table", "SHARE"),), (change,)),
        2: MigrationEffects(0, (), (change, replace(change, table="public.t", rewritten=True))),
        3: MigrationEffects(0, (), (replace(change, table="public.new", is_new=True),)),
    }
    fakes.database.moved_sequences = (AdvancedSequence("public.s", 1, 2),)
    found = dry_run(fakes)
    assert found.steps[0].effects == fakes.database.dry_run_effects[1]
    assert found.sequences == fakes.database.moved_sequences
    assert found.dead_rows == {ORDERS: 10}


@pytest.mark.parametrize(
    ("mode", "blocks"),
    [
        ("ACCESS SHARE", ()),
        ("ROW SHARE", ()),
        ("ROW EXCLUSIVE", ()),
        ("SHARE UPDATE EXCLUSIVE", ()),
        ("SHARE", ("writes",)),
        ("SHARE ROW EXCLUSIVE", ("writes",)),
        ("EXCLUSIVE", ("writes",)),
        ("ACCESS EXCLUSIVE", ("reads", "writes")),
    ],
)
def test_a_lock_mode_blocks_what_the_manual_lists_and_nothing_on_a_new_table(
    mode: str, blocks: tuple[str, ...]
) -> None:
    assert RelationLock(ORDERS, "table", mode).blocks == blocks
    assert RelationLock(ORDERS, "table", mode, is_new=True).blocks == ()


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("SELECT dblink_exec('x', 'y')", "dblink"),
        ("COPY t TO PROGRAM 'cat'", "PROGRAM"),
        ("COPY t TO '/tmp/x'", "file"),
        ("SELECT lo_export(1, '/tmp/x')", "file"),
        ("SELECT setval('s', 5)", "sequence"),
        ("SELECT pg_terminate_backend(1)", "sessions"),
        ("SELECT pg_stat_reset()", "statistics"),
        ("SELECT pg_create_logical_replication_slot('a', 'b')", "server as a whole"),
        ("SELECT aws_lambda.invoke('f')", "network"),
        ("SELECT http_get('u')", "network"),
    ],
)
def test_scripts_with_irreversible_effects_are_recognized(sql: str, words: str) -> None:
    (effect,) = list_irreversible_effects(Script(f"SELECT 1; {sql.lower()}"))
    assert words in effect
    assert list_irreversible_effects(Script(f"-- {sql}\nSELECT 1 /* {sql} */")) == ()


@pytest.mark.parametrize(
    "sql", ["INSERT INTO http VALUES (1)", "COPY t FROM '/tmp/x'", "NOTIFY x", "SELECT 1"]
)
def test_reversible_effects_are_not_reported(sql: str) -> None:
    assert list_irreversible_effects(Script(sql)) == ()
