"""Random schedules of faults violate no invariant, and every violation would be found."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pg8000.native
import pytest

from lambda_migrate.local.runtime.loop_thread import LoopThread
from lambda_migrate.local.servers.dynamodb import LocalDynamoDB
from load.chaos.__main__ import write_report
from load.chaos.evidence import (
    ChaosEvidence,
    ColdStartResult,
    Observation,
    ProcessRecord,
    RepairedMigration,
)
from load.chaos.invariants import INVARIANTS, find_violated_invariants
from load.chaos.schedule import (
    FAULT_KINDS,
    TOOLS,
    ExecutionEnvironment,
    MigrationSpec,
    Schedule,
    from_json,
    make_schedule,
    to_json,
)
from load.chaos.service_state import LEASE_TABLE, SECRETS, ServiceState
from load.chaos.worker import Worker, open_worker, run_schedules

SEEDS = range(180, 200)
"""Twenty in a row that have every kind of fault between them."""

TOOL_SEEDS = range(180, 183)

SAVED = sorted((Path(__file__).parent / "schedules").glob("*.json"))
"""Small schedules of instants that random ones hit seldom."""

# --- the rounds


@pytest.fixture(scope="session")
def results() -> dict[str, ChaosEvidence]:
    """The twenty, and those that are kept; a few side by side, because they mostly wait."""
    named = {f"seed {seed}": make_schedule(seed) for seed in SEEDS}
    named |= {f"{tool} {seed}": make_schedule(seed, tool) for tool in TOOLS for seed in TOOL_SEEDS}
    named |= {f"saved {file.stem}": from_json(file.read_text()) for file in SAVED}
    results = run_schedules(named.values(), workers=6)
    finished = {result.schedule: result for result in results}
    return {name: finished[schedule] for name, schedule in named.items()}


@pytest.mark.parametrize("seed", SEEDS)
def test_random_schedule_violates_no_invariant(
    results: dict[str, ChaosEvidence], seed: int
) -> None:
    result = results[f"seed {seed}"]
    assert result.violations == [], to_json(result.schedule)


@pytest.mark.parametrize("seed", TOOL_SEEDS)
@pytest.mark.parametrize("tool", TOOLS)
def test_random_schedule_of_a_tool_violates_no_invariant(
    results: dict[str, ChaosEvidence], tool: str, seed: int
) -> None:
    result = results[f"{tool} {seed}"]
    assert result.violations == [], to_json(result.schedule)


@pytest.mark.parametrize("name", [file.stem for file in SAVED])
def test_saved_schedule_violates_no_invariant(results: dict[str, ChaosEvidence], name: str) -> None:
    result = results[f"saved {name}"]
    assert result.violations == [], to_json(result.schedule)


def test_seeds_cover_every_kind_of_fault(results: dict[str, ChaosEvidence]) -> None:
    schedules = [make_schedule(seed) for seed in SEEDS]
    planned = {fault.kind for schedule in schedules for fault in schedule.faults}
    if any(each.clock_offset for schedule in schedules for each in schedule.environments):
        planned.add("clock")
    assert planned == set(FAULT_KINDS)
    assert any(schedule.rollback for schedule in schedules)
    assert any(schedule.broken_version for schedule in schedules)
    took_effect = {kind for result in results.values() for kind in result.fault_counts}
    assert len(took_effect) > len(FAULT_KINDS) / 2, "planned faults also take effect"


def test_report_counts_rounds_and_shows_failed_ones(
    results: dict[str, ChaosEvidence], tmp_path: Path
) -> None:
    first = next(iter(results.values()))
    failed = replace(first, violations=["deadlines kept: environment 0 had to be killed"])
    write_report([*results.values(), failed], tmp_path, seconds=60.0)
    text = (tmp_path / "report.md").read_text()
    assert f"1 of {len(results) + 1} rounds violated an invariant" in text
    assert re.search(r"\| deadlines kept +\| 1 +\|", text)
    assert text.count("## Seed") == 1
    assert len(json.loads((tmp_path / "results.json").read_text())) == len(results) + 1
    kept = (tmp_path / "failures" / f"{first.schedule.seed}.json").read_text()
    assert from_json(kept) == first.schedule


# --- schedules


@pytest.mark.parametrize("seed", [0, 7, 123_456_789])
def test_same_seed_makes_same_schedule(seed: int) -> None:
    assert make_schedule(seed) == make_schedule(seed)
    assert from_json(to_json(make_schedule(seed))) == make_schedule(seed)
    assert make_schedule(seed) != make_schedule(seed + 1)
    schedule = make_schedule(seed, "django")
    assert from_json(to_json(schedule)) == schedule != make_schedule(seed, "alembic")


# --- the invariants can fail: something is done wrong by hand in a round where nothing went wrong

QUIET = Schedule(
    seed=0,
    lease_seconds=3.0,
    entry_point="runner",
    migrations=(MigrationSpec("base"), MigrationSpec("balance"), MigrationSpec("index")),
    old_version=1,
    broken_version=0,
    has_traffic=False,
    environments=(ExecutionEnvironment(at=0.0, code_version="new", timeout=30.0),),
    faults=(),
)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    folder = tmp_path_factory.mktemp("chaos")
    with LoopThread("chaos") as loop, LocalDynamoDB() as engine:
        engine.create_table(LEASE_TABLE)
        with open_worker(folder, loop, engine) as worker:
            yield worker


@pytest.fixture(scope="module")
def quiet(worker: Worker) -> ChaosEvidence:
    """A round in which nothing went wrong."""
    return worker.run(QUIET)


def test_round_without_faults_violates_no_invariant(quiet: ChaosEvidence) -> None:
    assert find_violated_invariants(quiet) == []
    assert quiet.observations, "an environment served and queried the database"
    assert [start.outcome for start in quiet.cold_starts] == ["served", "served"]


def hold_the_lease(state: ServiceState, _log: Path) -> None:
    state.client.update_item(
        **state.lease_key,
        UpdateExpression="SET #owner = :owner, lease_until = :until",
        ExpressionAttributeNames={"#owner": "owner"},
        ExpressionAttributeValues={
            ":owner": {"S": "another-owner"},
            ":until": {"N": str(round(time.time() * 1000) + 60_000)},
        },
    )


def write_secret(_state: ServiceState, log: Path) -> None:
    with log.open("a") as file:
        file.write(f"connecting with {SECRETS['password']}\n")


def sql(statement: str) -> Callable[[ServiceState, Path], None]:
    def run(state: ServiceState, _log: Path) -> None:
        state.query(statement)

    return run


WRONG = {
    "an effect twice": (sql("INSERT INTO effects VALUES (1)"), "effects exactly once"),
    "a balance too high": (sql("UPDATE accounts SET balance = 2"), "effects exactly once"),
    "a history row lost": (
        sql("DELETE FROM lambda_migrate.history WHERE version = '3'"),
        "all applied in the end",
    ),
    "a run twice": (
        sql("INSERT INTO runs (version, direction) VALUES (2, 'up')"),
        "applied once between rollbacks",
    ),
    "an index made invalid": (
        sql("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'orders_3'::regclass"),
        "no INVALID index",
    ),
    "a lease left held": (hold_the_lease, "no lease past its time"),
    "a secret in a log": (write_secret, "no secret anywhere"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_state_is_found(worker: Worker, wrong: str) -> None:
    change, invariant = WRONG[wrong]
    broken = find_violated_invariants(worker.run(QUIET, before_final_state=change))
    assert any(sentence.startswith(f"{invariant}: ") for sentence in broken), broken


@pytest.mark.parametrize("tool", TOOLS)
def test_wrong_state_of_a_tool_is_found(worker: Worker, tool: str) -> None:
    """Three things are wrong at once."""
    left = []

    def change(state: ServiceState, log: Path) -> None:
        state.query("DELETE FROM lambda_migrate.revision WHERE position = 2")
        state.query("CREATE TABLE forgotten (id int)")
        left.append(subprocess.Popen(["sleep", "600"], cwd=log.parent))

    try:
        evidence = worker.run(replace(QUIET, source=tool), before_final_state=change)
    finally:
        left[0].kill()
        left[0].wait()
    assert {sentence.partition(":")[0] for sentence in find_violated_invariants(evidence)} == {
        "same result as the tool alone",
        "mirror of the version table",
        "no process left",
    }


def test_repair_without_rows_at_stake_is_found(quiet: ChaosEvidence) -> None:
    raised = {"event": "raised", "error": "RepairRequired", "message": "", "at": 1.0, "wall": 1.0}
    process = ProcessRecord("environment 0", "new", ended=1.0, exit_code=0, events=[raised])
    evidence = replace(quiet, processes=[process])
    assert only(evidence) == "every exit is explained"
    needless_repair = replace(evidence, repairs=[RepairedMigration(2, False)])
    assert only(needless_repair) == "repair only after changed rows"
    assert find_violated_invariants(replace(evidence, repairs=[RepairedMigration(2, True)])) == []


def test_open_connection_is_found(worker: Worker) -> None:
    left = []

    def leave(state: ServiceState, _log: Path) -> None:
        left.append(
            pg8000.native.Connection(
                "postgres",
                database=state.name,
                unix_sock=str(worker.server.socket),
                application_name="lambda-migrate:orders:7",
            )
        )

    assert [
        b.partition(":")[0]
        for b in find_violated_invariants(worker.run(QUIET, before_final_state=leave))
    ] == ["no connection left"]
    with pytest.raises(pg8000.native.InterfaceError):
        left[0].run("SELECT 1")  # the round's database is gone, with every connection to it


# --- the invariants on what environments reported


def only(evidence: ChaosEvidence) -> str:
    """The one invariant that is violated."""
    (invariant,) = {sentence.partition(":")[0] for sentence in find_violated_invariants(evidence)}
    return invariant


def test_serving_without_a_migration_is_found(quiet: ChaosEvidence) -> None:
    (check,) = [check for check in quiet.observations if check.process == "environment 0"]
    for lacking in (replace(check, versions=(1,)), replace(check, indexes=())):
        assert only(replace(quiet, observations=[lacking])) == "served on its schema"


def test_serving_unobserved_is_found(quiet: ChaosEvidence) -> None:
    (check,) = [check for check in quiet.observations if check.process == "environment 0"]
    assert (
        only(replace(quiet, observations=[replace(check, versions=None)])) == "served on its schema"
    )


def test_serving_after_a_rollback_is_found_and_before_it_is_not(quiet: ChaosEvidence) -> None:
    check = Observation("environment 0", "new", 110.0, (1,), ("orders_3",))

    def served(*, rolled_back_at: float) -> ChaosEvidence:
        runs = [(2, "up", 90.0), (2, "down", rolled_back_at), (2, "up", 150.0)]
        return replace(quiet, observations=[check], state=replace(quiet.state, runs=runs))

    assert find_violated_invariants(served(rolled_back_at=110.05)) == []
    assert only(served(rolled_back_at=105.0)) == "served on its schema"


def test_serving_with_code_that_must_fail_is_found(quiet: ChaosEvidence) -> None:
    broken = replace(quiet, schedule=replace(QUIET, broken_version=2))
    assert "served on its schema" in {b.partition(":")[0] for b in find_violated_invariants(broken)}


@pytest.mark.parametrize(
    "start",
    [
        ColdStartResult("probe", "NotReady", 1.0, 8.0, "the schema is not ready"),
        ColdStartResult("probe", "killed", 1.0, 8.0),
        ColdStartResult("probe", "served", 8.5, 8.0),
    ],
)
def test_failed_or_slow_cold_start_is_found(quiet: ChaosEvidence, start: ColdStartResult) -> None:
    assert only(replace(quiet, cold_starts=[start])) == "cold start afterwards"


def test_serving_with_failing_code_afterwards_is_found(quiet: ChaosEvidence) -> None:
    must_fail = replace(QUIET, broken_version=2)
    start = ColdStartResult("new", "served", 1.0, 8.0)
    evidence = replace(quiet, schedule=must_fail, cold_starts=[start], observations=[])
    assert only(evidence) == "cold start afterwards"


@pytest.mark.parametrize(
    "error", ["RepairRequired", "ConfigurationError", "Diverged", "MigrationFailed"]
)
def test_unexplained_error_is_found(quiet: ChaosEvidence, error: str) -> None:
    raised = {"event": "raised", "error": error, "message": "duplicate key", "at": 1.0, "wall": 1.0}
    process = ProcessRecord("environment 0", "new", ended=1.0, exit_code=0, events=[raised])
    assert only(replace(quiet, processes=[process])) == "every exit is explained"


def test_crash_is_found(quiet: ChaosEvidence) -> None:
    process = ProcessRecord("environment 0", "new", ended=1.0, exit_code=1)
    assert only(replace(quiet, processes=[process])) == "every exit is explained"


def test_outliving_the_deadline_is_found_unless_frozen(quiet: ChaosEvidence) -> None:
    process = ProcessRecord("environment 0", "new", ended=9.0, exit_code=-9, killed="deadline")
    assert only(replace(quiet, processes=[process])) == "deadlines kept"
    process.frozen.append((1.0, 8.0))
    assert find_violated_invariants(replace(quiet, processes=[process])) == []


def test_connection_that_outlives_the_lease_is_found(quiet: ChaosEvidence) -> None:
    state = replace(quiet.state, leftover_connections=["lambda-migrate:x:1 active SELECT pg_sleep"])
    assert only(replace(quiet, state=state)) == "no connection one lease later"


def test_every_invariant_can_fail() -> None:
    text = Path(__file__).read_text()
    assert all(f'"{invariant}"' in text for invariant in INVARIANTS)
