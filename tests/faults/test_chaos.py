"""Twenty schedules of random faults, and proof that the laws they are held against can fail."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pg8000.native
import pytest

from lambda_migrate.local.servers.dynamodb import LocalDynamoDB
from load.chaos.evidence import Check, Evidence, Life, Start
from load.chaos.lane import Lane
from load.chaos.laws import LAWS, broken_laws
from load.chaos.looking import SECRETS, TABLE, Looker
from load.chaos.relay import Loop
from load.chaos.report import write_report
from load.chaos.rounds import Result, Rounds, judge
from load.chaos.schedule import (
    KINDS,
    Environment,
    Fault,
    Schedule,
    Step,
    from_json,
    generate,
    to_json,
)
from load.chaos.shrink import shrink

SEEDS = range(180, 200)
"""Twenty in a row that have every kind of fault between them."""

KEPT = sorted((Path(__file__).parent / "schedules").glob("*.json"))
"""Small schedules of instants that random ones hit seldom."""

# --- the rounds


@pytest.fixture(scope="session")
def results() -> dict[str, Result]:
    """The twenty, and those that are kept; a few side by side, because they mostly wait."""
    named = {f"seed {seed}": generate(seed) for seed in SEEDS}
    named |= {f"kept {file.stem}": from_json(file.read_text()) for file in KEPT}
    with Rounds(6) as rounds:
        played = {result.schedule: result for result in rounds.play(named.values())}
    return {name: played[schedule] for name, schedule in named.items()}


@pytest.mark.parametrize("seed", SEEDS)
def test_no_law_is_broken_whatever_goes_wrong(results: dict[str, Result], seed: int) -> None:
    result = results[f"seed {seed}"]
    assert result.broken == [], "\n".join(result.schedule.lines())


@pytest.mark.parametrize("name", [file.stem for file in KEPT])
def test_a_kept_schedule_breaks_no_law(results: dict[str, Result], name: str) -> None:
    result = results[f"kept {name}"]
    assert result.broken == [], "\n".join(result.schedule.lines())


def test_the_twenty_have_every_kind_of_fault(results: dict[str, Result]) -> None:
    schedules = [generate(seed) for seed in SEEDS]
    planned = {fault.kind for schedule in schedules for fault in schedule.faults}
    if any(each.clock for schedule in schedules for each in schedule.environments):
        planned.add("clock")
    assert planned == KINDS.keys()
    assert any(schedule.rollback for schedule in schedules)
    assert any(schedule.broken for schedule in schedules)
    struck = {kind for result in results.values() for kind in result.evidence.strikes}
    assert len(struck) > len(KINDS) / 2, "faults that are planned also strike"


def test_the_report_shows_every_round(results: dict[str, Result], tmp_path: Path) -> None:
    write_report(list(results.values()), tmp_path, seconds=60.0)
    page = (tmp_path / "report.html").read_text()
    assert page.count("<figure") == len(results)
    assert all(f"seed {result.schedule.seed} " in page for result in results.values())


# --- schedules


@pytest.mark.parametrize("seed", [0, 7, 123_456_789])
def test_the_same_seed_makes_the_same_schedule(seed: int) -> None:
    assert generate(seed) == generate(seed)
    assert from_json(to_json(generate(seed))) == generate(seed)
    assert generate(seed) != generate(seed + 1)


def test_a_failing_schedule_shrinks_to_what_its_failure_needs() -> None:
    needed = Fault("commit-unanswered", at=1.0)
    doomed = Fault("kill", at=2.0, target="2")
    schedule = replace(generate(5), faults=(Fault("kill", at=0.5, target="0"), needed, doomed))

    def still_fails(candidate: Schedule) -> bool:
        aimed = [fault for fault in candidate.faults if fault.kind == "kill"]
        return needed in candidate.faults and any(
            candidate.environments[int(fault.target)] == schedule.environments[2] for fault in aimed
        )

    small, _ = shrink(schedule, still_fails, tries=100)
    assert small.faults == (needed, replace(doomed, target="0"))
    assert small.environments == (schedule.environments[2],)
    assert (small.traffic, small.rollback) == (False, None)


# --- the laws can fail: something is done wrong by hand in a round where nothing went wrong

QUIET = Schedule(
    seed=0,
    lease_seconds=3.0,
    entrance="runner",
    steps=(Step("base"), Step("balance"), Step("index")),
    old=1,
    broken=0,
    traffic=False,
    environments=(Environment(at=0.0, code="new", timeout=30.0),),
    faults=(),
)


@pytest.fixture(scope="module")
def lane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lane]:
    folder = tmp_path_factory.mktemp("chaos")
    with Loop() as loop, LocalDynamoDB() as engine:
        engine.create_table(TABLE)
        with Lane(folder, loop, engine) as lane:
            yield lane


@pytest.fixture(scope="module")
def quiet(lane: Lane) -> Evidence:
    """A round in which nothing went wrong."""
    return lane.play(QUIET)


def test_a_quiet_round_breaks_no_law(quiet: Evidence) -> None:
    assert judge(quiet).broken == []
    assert quiet.checks, "somebody was served and looked"
    assert [start.ended for start in quiet.starts] == ["served", "served"]


def hold_the_lease(looker: Looker, _log: Path) -> None:
    looker._client.update_item(
        **looker._key,
        UpdateExpression="SET #owner = :owner, lease_until = :until",
        ExpressionAttributeNames={"#owner": "owner"},
        ExpressionAttributeValues={
            ":owner": {"S": "somebody"},
            ":until": {"N": str(round(time.time() * 1000) + 60_000)},
        },
    )


def write_secret(_looker: Looker, log: Path) -> None:
    with log.open("a") as file:
        file.write(f"connecting with {SECRETS['password']}\n")


def sql(statement: str) -> Callable[[Looker, Path], None]:
    def run(looker: Looker, _log: Path) -> None:
        looker.query(statement)

    return run


WRONG = {
    "an effect twice": (sql("INSERT INTO effects VALUES (1)"), "effects exactly once"),
    "a balance too high": (sql("UPDATE accounts SET balance = 2"), "effects exactly once"),
    "a history row lost": (
        sql("DELETE FROM lambda_migrate.history WHERE version = '3'"),
        "all is applied in the end",
    ),
    "a deed twice": (
        sql("INSERT INTO deeds (version, way) VALUES (2, 'up')"),
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
def test_what_is_done_wrong_by_hand_is_found(lane: Lane, wrong: str) -> None:
    meddle, law = WRONG[wrong]
    broken = judge(lane.play(QUIET, meddle=meddle)).broken
    assert any(sentence.startswith(f"{law}: ") for sentence in broken), broken


def test_a_connection_left_open_is_found(lane: Lane) -> None:
    left = []

    def leave(looker: Looker, _log: Path) -> None:
        left.append(
            pg8000.native.Connection(
                "postgres",
                database=looker._name,
                unix_sock=str(lane.server.socket),
                application_name="lambda-migrate:orders:7",
            )
        )

    assert [b.partition(":")[0] for b in judge(lane.play(QUIET, meddle=leave)).broken] == [
        "no backend of ours"
    ]
    with pytest.raises(pg8000.native.InterfaceError):
        left[0].run("SELECT 1")  # the round's database is gone, with every connection to it


# --- the laws that judge what environments told


def only(evidence: Evidence) -> str:
    """The one law that is broken."""
    (law,) = {sentence.partition(":")[0] for sentence in broken_laws(evidence)}
    return law


def test_being_served_without_a_migration_is_found(quiet: Evidence) -> None:
    (check,) = [check for check in quiet.checks if check.who == "environment 0"]
    for lacking in (replace(check, versions=(1,)), replace(check, indexes=())):
        assert only(replace(quiet, checks=[lacking])) == "served on its schema"


def test_not_having_been_able_to_look_is_no_excuse(quiet: Evidence) -> None:
    (check,) = [check for check in quiet.checks if check.who == "environment 0"]
    assert only(replace(quiet, checks=[replace(check, versions=None)])) == "served on its schema"


def test_being_served_after_a_rollback_is_found_and_before_it_is_not(quiet: Evidence) -> None:
    check = Check("environment 0", "new", 100.0, 110.0, 110.1, (1,), ("orders_3",))

    def served(*, rolled_back_at: float) -> Evidence:
        deeds = [(2, "up", 90.0), (2, "down", rolled_back_at), (2, "up", 150.0)]
        return replace(quiet, checks=[check], facts=replace(quiet.facts, deeds=deeds))

    assert broken_laws(served(rolled_back_at=110.05)) == []
    assert only(served(rolled_back_at=105.0)) == "served on its schema"


def test_being_served_with_code_that_must_fail_is_found(quiet: Evidence) -> None:
    broken = replace(quiet, schedule=replace(QUIET, broken=2))
    assert "served on its schema" in {b.partition(":")[0] for b in broken_laws(broken)}


@pytest.mark.parametrize(
    "start",
    [
        Start("probe", "NotReady", 1.0, 8.0, "the schema is not ready"),
        Start("probe", "killed", 1.0, 8.0),
        Start("probe", "served", 8.5, 8.0),
    ],
)
def test_a_cold_start_that_fails_or_takes_too_long_is_found(quiet: Evidence, start: Start) -> None:
    assert only(replace(quiet, starts=[start])) == "a fresh cold start"


def test_failing_code_that_is_served_afterwards_is_found(quiet: Evidence) -> None:
    must_fail = replace(QUIET, broken=2)
    start = Start("new", "served", 1.0, 8.0)
    evidence = replace(quiet, schedule=must_fail, starts=[start], checks=[])
    assert only(evidence) == "a fresh cold start"


@pytest.mark.parametrize(
    "error", ["RepairRequired", "ConfigurationError", "Diverged", "MigrationFailed"]
)
def test_an_error_that_fits_nothing_that_went_wrong_is_found(quiet: Evidence, error: str) -> None:
    raised = {"event": "raised", "error": error, "message": "duplicate key", "at": 1.0, "wall": 1.0}
    life = Life("environment 0", "new", ended=1.0, exit_code=0, events=[raised])
    assert only(replace(quiet, lives=[life])) == "named ends"


def test_a_crash_is_found(quiet: Evidence) -> None:
    life = Life("environment 0", "new", ended=1.0, exit_code=1)
    assert only(replace(quiet, lives=[life])) == "named ends"


def test_outliving_the_deadline_is_found_unless_it_stood_still(quiet: Evidence) -> None:
    life = Life("environment 0", "new", ended=9.0, exit_code=-9, killed="deadline")
    assert only(replace(quiet, lives=[life])) == "deadlines kept"
    life.frozen.append((1.0, 8.0))
    assert broken_laws(replace(quiet, lives=[life])) == []


def test_a_backend_that_outlives_the_lease_is_found(quiet: Evidence) -> None:
    facts = replace(quiet.facts, lingering=["lambda-migrate:x:1 active SELECT pg_sleep"])
    assert only(replace(quiet, facts=facts)) == "no backend one lease later"


def test_every_law_is_seen_to_fail_above() -> None:
    text = Path(__file__).read_text()
    assert all(f'"{law}"' in text for law in LAWS)
