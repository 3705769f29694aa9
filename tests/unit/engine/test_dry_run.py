"""What a rehearsal does to a target (nothing), and what each of its ends is worth."""

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
from lambda_migrate.lease.memory import InMemoryLeaseTable
from lambda_migrate.migrations import Manifest, Migration, Script
from lambda_migrate.migrations.irreversible import lasting_effects
from lambda_migrate.postgresql.dry_run_effects import (
    AdvancedSequence,
    MigrationEffects,
    RelationLock,
    TableChange,
)
from lambda_migrate.postgresql.ports import LeaseGrant
from lambda_migrate.testing import InMemoryDryRun, InMemoryFlags
from tests.unit.engine.scene import Scene, manifest, migration

V1, V3 = manifest(1), manifest(1, 2, 3)
ORDERS = "public.orders"


def rehearse(scene: Scene, goal: Manifest = V3, *, seconds: float = 60) -> DryRunResult:
    found = scene.maintenance(goal).dry_run(scene.deadline(seconds))
    assert found is not None
    return found


class Asked:
    """Says always the same, and remembers what it was asked."""

    def __init__(self, *, says: bool = True) -> None:
        self.forecasts: list[DryRunPlan] = []
        self._says = says

    def __call__(self, forecast: DryRunPlan) -> bool:
        self.forecasts.append(forecast)
        return self._says


def outcomes(found: DryRunResult) -> list[str]:
    return [step.outcome for step in found.steps]


def failure(sqlstate: str, cause: str = "as planned", *, of: int = 2) -> MigrationFailed:
    return MigrationFailed(cause, migration=f"{of:04d}_m", sqlstate=sqlstate)


def build(
    version: int, sql: str = "CREATE INDEX CONCURRENTLY by_total ON orders (total)"
) -> Migration:
    return migration(version, sql, transactional=False)


# --- nothing is left of it


def test_every_pending_migration_runs_in_order_and_nothing_is_left(scene: Scene) -> None:
    scene.migrated(V1)
    before = scene.table.state
    scene.database.on_script = lambda version: scene.clock.advance(version)
    found = rehearse(scene)
    assert [(step.name, step.outcome, step.seconds) for step in found.steps] == [
        ("0002_m", "rehearsed", 2),
        ("0003_m", "rehearsed", 3),
    ]
    assert (found.outcome, found.error, found.is_confirmed, found.seconds) == (
        "passed",
        None,
        True,
        5,
    )
    assert scene.database.effects == ["0001_m"]
    assert replace(scene.table.state, fence=before.fence) == before


def test_it_takes_the_lease_and_releases_it_unchanged(scene: Scene) -> None:
    seen = []
    scene.database.on_script = lambda _version: seen.append(scene.table.state.owner)
    rehearse(scene)
    assert None not in seen
    assert scene.table.state.owner is None
    assert (scene.table.state.databases, scene.table.state.failure) == ({}, None)
    assert {"complete", "fail", "withdraw"}.isdisjoint(scene.table.log)


def test_a_failure_is_not_recorded_and_functions_try_at_once(scene: Scene) -> None:
    scene.database.fail(2, failure("42P01"))
    found = rehearse(scene)
    assert outcomes(found) == ["rehearsed", "failed", "not reached"]
    assert (found.outcome, found.error) == ("failed", found.error)
    assert isinstance(found.error, MigrationFailed)
    assert (scene.table.state.failure, scene.table.state.owner) == (None, None)


def test_observers_receive_what_ran_and_no_failure(scene: Scene) -> None:
    scene.database.fail(2, failure("42P01"))
    rehearse(scene)
    assert scene.observer.events_of(MigrationStarted) == [
        MigrationStarted("orders", "0001_m", 1, 3),
        MigrationStarted("orders", "0002_m", 2, 3),
    ]
    assert scene.observer.events_of(MigrationDryRun) == [
        MigrationDryRun("orders", "0001_m", 1, 3, 0)
    ]


def test_with_nothing_pending_it_asks_nothing_and_takes_no_lease(scene: Scene) -> None:
    scene.migrated(V1)
    asked = Asked()
    found = scene.maintenance(V1).dry_run(scene.deadline(), confirm=asked)
    assert (found, asked.forecasts, scene.table.log) == (DryRunResult(), [], [])


def test_it_stops_after_the_given_version(scene: Scene) -> None:
    found = scene.maintenance(V3).dry_run(scene.deadline(), to=2)
    assert found is not None
    assert [step.version for step in found.steps] == [1, 2]


# --- asking


def test_it_runs_nothing_unless_confirmed(scene: Scene) -> None:
    assert scene.maintenance(V3).dry_run(scene.deadline(), confirm=lambda _forecast: False) is None
    assert scene.table.log == []


@pytest.mark.parametrize(
    ("stamped", "named", "is_production"),
    [
        ("", "", False),
        ("staging", "staging", False),
        ("production", "production", True),
        ("prod-eu", "prod-eu", True),
        ("", "Production", True),
        ("Live", "Live", True),
    ],
)
def test_production_is_recognized_by_its_stamp_or_by_its_name(
    scene: Scene, stamped: str, named: str, is_production: bool
) -> None:
    scene.environment, scene.database.environment = named, stamped
    asked = Asked(says=False)
    scene.maintenance(V3).dry_run(scene.deadline(), confirm=asked)
    assert [each.is_production for each in asked.forecasts] == [is_production]
    assert asked.forecasts[0].plan.pending == V3.migrations


def test_irreversible_effects_are_known_before_it_runs(scene: Scene) -> None:
    goal = Manifest([migration(1, "SELECT dblink('x', 'DELETE FROM t')"), migration(2)])
    asked = Asked()
    scene.maintenance(goal).dry_run(scene.deadline(), confirm=asked)
    told = ("0001_m: dblink: what it commits on its own connection stays",)
    assert asked.forecasts[0].irreversible_effects == told
    assert rehearse(scene, goal).irreversible_effects == told


# --- refused, as `up` refuses


def test_no_dry_run_starts_while_the_lease_is_held(scene: Scene) -> None:
    scene.held_by("other")
    with pytest.raises(LeaseHeld):
        rehearse(scene)


def test_a_holder_without_a_lease_is_not_ended_for_a_dry_run(scene: Scene) -> None:
    with scene.database.take_over(LeaseGrant("orders", 1, "frozen"), scene.deadline()) as frozen:
        InMemoryLeaseTable.acquire(scene.table, "frozen")
        scene.clock.advance(3600)
        with pytest.raises(LeaseHeld):
            rehearse(scene)
        assert frozen.read_history() == []
    assert scene.table.state.owner is None


def test_a_contradiction_or_a_script_at_fault_is_refused_before_anything_runs(scene: Scene) -> None:
    scene.migrated(V1)
    with pytest.raises(Diverged):
        rehearse(scene, Manifest([migration(1, "SELECT 'edited'"), migration(2)]))
    with pytest.raises(ManifestError, match="COMMIT"):
        rehearse(scene, Manifest([migration(1), migration(2, "COMMIT")]))
    assert scene.table.log == []


def test_a_history_that_changed_after_the_confirmation_ends_the_dry_run(scene: Scene) -> None:
    def meanwhile(_forecast: DryRunPlan) -> bool:
        scene.runner(V1).ensure(scene.deadline())
        return True

    with pytest.raises(LeaseHeld, match="changed the history"):
        scene.maintenance(V3).dry_run(scene.deadline(), confirm=meanwhile)
    assert scene.table.state.owner is None


def test_another_environments_database_is_refused(scene: Scene) -> None:
    scene.database.environment = "production"
    with pytest.raises(ConfigurationError, match="'production'"):
        rehearse(scene)
    assert scene.table.state.owner is None


def test_the_token_of_a_recreated_table_is_raised(scene: Scene) -> None:
    scene.database.token = 41
    assert rehearse(scene).outcome == "passed"
    assert scene.table.state.fence == 42


@pytest.mark.parametrize(
    ("flags", "is_stopped"),
    [(Flags(paused=True), True), (Flags(mode="off"), True), (Flags(hold_back_at=1), False)],
)
def test_a_flag_that_pauses_migrating_blocks_a_dry_run_and_one_that_holds_back_does_not(
    scene: Scene, flags: Flags, is_stopped: bool
) -> None:
    maintenance = scene.maintenance(V3)
    maintenance.target = replace(maintenance.target, flags=InMemoryFlags(flags))
    asked = Asked()
    if is_stopped:
        with pytest.raises(NotReady, match="the dry run was not started"):
            maintenance.dry_run(scene.deadline(), confirm=asked)
        assert (asked.forecasts, scene.table.log) == ([], [])
        return
    found = maintenance.dry_run(scene.deadline(), confirm=asked)
    assert found is not None
    assert len(found.steps) == 3


# --- what cannot be rehearsed, and what that means for the rest


def test_what_runs_outside_a_transaction_is_skipped_and_the_rest_runs(scene: Scene) -> None:
    found = rehearse(scene, Manifest([migration(1), build(2), migration(3)]))
    assert outcomes(found) == ["rehearsed", "not rehearsed", "rehearsed"]
    assert found.steps[1].reason.startswith("it runs outside a transaction")
    assert (found.outcome, found.error) == ("incomplete", None)


def test_what_is_in_doubt_comes_first_and_is_skipped(scene: Scene) -> None:
    goal = Manifest([migration(1), build(2), migration(3)])
    scene.migrated(V1)
    scene.database.leave_in_doubt(goal.migrations[1], goal.digest_at(2), took_effect=False)
    scene.database.fail(3, failure("42704", 'index "by_total" does not exist', of=3))
    found = rehearse(scene, goal)
    assert [(step.name, step.outcome) for step in found.steps] == [
        ("0002_m", "not rehearsed"),
        ("0003_m", "not rehearsed"),
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
    scene: Scene, outside: str, sqlstate: str, cause: str
) -> None:
    scene.database.fail(2, failure(sqlstate, cause))
    found = rehearse(scene, Manifest([build(1, outside), migration(2), migration(3)]))
    assert outcomes(found) == ["not rehearsed", "not rehearsed", "rehearsed"]
    assert found.steps[1].reason.startswith(
        "it needs what 0001_m creates, which the dry run skipped: "
    )
    assert found.outcome == "incomplete"


def test_any_other_failure_after_a_skipped_migration_counts(scene: Scene) -> None:
    scene.database.fail(2, failure("23505", "duplicate key"))
    found = rehearse(scene, Manifest([build(1), migration(2), migration(3)]))
    assert outcomes(found) == ["not rehearsed", "failed", "not reached"]
    assert found.outcome == "failed"


def test_a_failure_after_an_inconclusive_migration_is_inconclusive(scene: Scene) -> None:
    scene.database.fail(2, failure("42704", 'index "by_total" does not exist'))
    scene.database.fail(3, failure("42830", "no unique constraint", of=3))
    found = rehearse(scene, Manifest([build(1), migration(2), migration(3)]))
    assert outcomes(found) == ["not rehearsed"] * 3
    assert found.steps[2].reason == (
        "it may need what 0002_m does, which the dry run skipped: no unique constraint [42830]"
    )


@pytest.mark.parametrize("sqlstate", ["57014", "57P01", "53100", "55P03", ""])
def test_an_external_failure_counts_whatever_was_skipped(scene: Scene, sqlstate: str) -> None:
    scene.database.fail(2, failure(sqlstate))
    found = rehearse(scene, Manifest([build(1, "CALL backfill(1000)"), migration(2)]))
    assert outcomes(found) == ["not rehearsed", "failed"]


def test_a_failure_after_a_skipped_procedure_call_is_inconclusive(scene: Scene) -> None:
    scene.database.fail(2, failure("23514", "check constraint is violated by some row"))
    found = rehearse(scene, Manifest([build(1, "CALL backfill(1000)"), migration(2)]))
    assert (outcomes(found), found.outcome) == (["not rehearsed"] * 2, "incomplete")
    assert found.steps[1].reason.startswith("it may need what 0001_m does")


@pytest.mark.parametrize(
    ("own", "outcome"),
    [("SELECT 1", "incomplete"), ("ALTER TYPE mood ADD VALUE 'happy'; SELECT 1", "failed")],
)
def test_a_new_enum_value_used_too_early_fails_only_where_up_would_fail(
    scene: Scene, own: str, outcome: str
) -> None:
    scene.database.fail(2, failure("55P04", 'unsafe use of new value "happy" of enum type "mood"'))
    assert rehearse(scene, Manifest([migration(1), migration(2, own)])).outcome == outcome


# --- ends


def test_a_lock_timeout_starts_the_dry_run_again(scene: Scene) -> None:
    ran: list[int] = []

    def during(version: int) -> None:
        ran.append(version)
        if len(ran) == 5:
            scene.database.fail(2, None)

    scene.database.on_script = during
    scene.database.fail(2, failure("55P03", "lock timeout"))
    found = rehearse(scene)
    assert found.outcome == "passed"
    assert ran == [1, 2, 1, 2, 1, 2, 3]
    assert found.retried == ("0002_m: lock timeout [55P03]",) * 2
    assert all(0 < pause <= 5 for pause in scene.clock.slept)


@pytest.mark.parametrize("sqlstate", ["55P03", "40P01", "40001"])
def test_it_stops_after_five_attempts(scene: Scene, sqlstate: str) -> None:
    scene.database.fail(2, failure(sqlstate))
    found = rehearse(scene)
    assert (found.outcome, len(found.retried)) == ("failed", 4)


def test_a_takeover_between_two_attempts_is_reported(scene: Scene) -> None:
    def overtaken(_version: int) -> None:
        scene.clock.at(0.05, lambda: setattr(scene.database, "token", 99))

    scene.database.on_script = overtaken
    scene.database.fail(1, failure("55P03", of=1))
    found = rehearse(scene)
    assert isinstance(found.error, LeaseLost)
    assert not found.is_confirmed


def test_the_deadline_ends_it_as_it_ends_up_and_what_was_measured_stays(scene: Scene) -> None:
    scene.database.on_script = lambda _version: scene.clock.advance(40)
    found = rehearse(scene)
    assert outcomes(found) == ["rehearsed", "failed", "not reached"]
    assert [step.seconds for step in found.steps] == [40, 40, None]
    assert "deadline" in str(found.error)


def test_an_unavailable_database_is_reported_with_the_measurements(
    scene: Scene,
) -> None:
    def during(version: int) -> None:
        scene.database.is_down = version == 2

    scene.database.on_script = during
    found = rehearse(scene)
    assert outcomes(found) == ["rehearsed", "failed", "not reached"]
    assert isinstance(found.error, DatabaseUnavailable)
    assert not found.is_confirmed


def test_a_failed_rollback_takes_precedence_over_every_other_error(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def roll_back(_rehearsal: InMemoryDryRun) -> tuple[AdvancedSequence, ...]:
        raise RepairRequired("it is committed")

    monkeypatch.setattr(InMemoryDryRun, "roll_back", roll_back)
    scene.database.fail(2, failure("42P01"))
    found = rehearse(scene)
    assert isinstance(found.error, RepairRequired)
    assert not found.is_confirmed


def test_an_interrupt_releases_the_lease(scene: Scene) -> None:
    def interrupted(_version: int) -> None:
        raise KeyboardInterrupt

    scene.database.on_script = interrupted
    with pytest.raises(KeyboardInterrupt):
        rehearse(scene)
    assert scene.table.state.owner is None
    assert scene.database.effects == []


# --- what it says


def test_measurements_and_sequences_are_passed_on(scene: Scene) -> None:
    change = TableChange(ORDERS, inserted=2, updated=3)
    scene.database.dry_run_effects = {
        1: MigrationEffects(0, (RelationLock(ORDERS, "table", "SHARE"),), (change,)),
        2: MigrationEffects(0, (), (change, replace(change, table="public.t", rewritten=True))),
        3: MigrationEffects(0, (), (replace(change, table="public.new", is_new=True),)),
    }
    scene.database.moved_sequences = (AdvancedSequence("public.s", 1, 2),)
    found = rehearse(scene)
    assert found.steps[0].measured == scene.database.dry_run_effects[1]
    assert found.sequences == scene.database.moved_sequences
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
    (effect,) = lasting_effects(Script(f"SELECT 1; {sql.lower()}"))
    assert words in effect
    assert lasting_effects(Script(f"-- {sql}\nSELECT 1 /* {sql} */")) == ()


@pytest.mark.parametrize(
    "sql", ["INSERT INTO http VALUES (1)", "COPY t FROM '/tmp/x'", "NOTIFY x", "SELECT 1"]
)
def test_reversible_effects_are_not_reported(sql: str) -> None:
    assert lasting_effects(Script(sql)) == ()
