"""Go, or no-go, and why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from lambda_migrate.commands.dry_run import build_dry_run_document
from lambda_migrate.engine.dry_run import FAILED, RAN, SKIPPED, DryRunResult, DryRunStep
from lambda_migrate.errors import MigrationFailed
from lambda_migrate.postgresql.dry_run_effects import MigrationEffects, RelationLock, TableChange
from load.emulators.cloudwatch import CloudWatch
from load.staging.dry_run import longest_of, of_dry_run
from load.staging.faults import FAULTS, Fault, Reached
from load.staging.records import Records, Size, TableRecord
from load.staging.rehearsal import Rehearsal, Wanted
from load.staging.report import figures, write
from load.staging.shop import Shop
from load.staging.verdicts import (
    Decision,
    Limits,
    Step,
    decide,
    of_alarms,
    of_faults,
    of_lines,
    of_orders,
    of_phase,
    of_records,
    of_shape,
)
from load.storm.evidence import Evidence
from load.storm.verdicts import Verdict
from tests.integration.load.test_storm_verdicts import CRASHED, GOOD, observed

LIMITS = Limits()
PASSED = Verdict("it works", "passed", "10 of 10")
BROKEN = Verdict("it works", "failed", "9 of 10")
UNSEEN = Verdict("it works", "not measured", "nobody looked")


def step(*verdicts: Verdict, **facts: Any) -> Step:
    return Step("try it", 1.0, verdicts, facts)


@pytest.mark.parametrize(
    ("verdicts", "word", "reasons", "unmeasured"),
    [
        ([PASSED], "go", 0, 0),
        ([PASSED, UNSEEN], "go", 0, 1),
        ([PASSED, BROKEN], "no-go", 1, 0),
        ([BROKEN, BROKEN, UNSEEN], "no-go", 2, 1),
        ([UNSEEN], "no-go", 1, 1),
        ([], "no-go", 1, 0),
    ],
)
def test_one_failure_is_a_no_go_and_nothing_seen_is_no_go_either(
    verdicts: list[Verdict], word: str, reasons: int, unmeasured: int
) -> None:
    decision = decide([step(*verdicts)])
    assert decision.word == word
    assert (len(decision.reasons), len(decision.unmeasured)) == (reasons, unmeasured)


def test_a_reason_names_the_step_the_law_and_what_was_found() -> None:
    assert decide([step(BROKEN)]).reasons == ("try it: it works: 9 of 10",)


# -- storms ---------------------------------------------------------------------------------------

WITH_CLIENT = replace(GOOD, observed=[*GOOD.observed, observed(kind="write")])


def failed(evidence: Evidence, limits: Limits = LIMITS) -> list[str]:
    return [one.what for one in of_phase(evidence, limits) if one.state == "failed"]


def test_a_storm_that_went_well_is_borne() -> None:
    assert failed(WITH_CLIENT) == []


@pytest.mark.parametrize(
    ("change", "limits", "what"),
    [
        ({"observed": [observed(CRASHED)]}, {}, "requests that failed"),
        ({"observed": []}, {}, "requests that failed"),
        ({}, {"wait": 3.0}, "longest wait of a cold start"),
        ({"checks": {}}, {}, "longest wait of a cold start"),
        ({}, {"request": 0.5}, "slowest request of a client"),
    ],
)
def test_what_is_beyond_a_limit_is_found(
    change: Mapping[str, Any], limits: Mapping[str, Any], what: str
) -> None:
    assert what in failed(replace(WITH_CLIENT, **change), replace(LIMITS, **limits))


def test_a_failure_that_a_team_bears_is_none() -> None:
    one_failed = replace(WITH_CLIENT, observed=[*WITH_CLIENT.observed, observed(CRASHED, "read")])
    assert failed(one_failed) == ["requests that failed"]
    assert failed(one_failed, replace(LIMITS, failed=1)) == []


def test_effects_that_nobody_can_count_are_not_said_to_be_counted() -> None:
    found = {one.what: one for one in of_phase(GOOD, LIMITS, counts=False)}
    assert "each migration took effect once" not in found
    assert found["each migration is in the history"].found == "1 of 1"


def test_a_cold_start_without_a_line_is_noticed() -> None:
    assert of_lines(GOOD).state == "passed"
    assert of_lines(replace(GOOD, checks={})).state == "failed"


# -- data -----------------------------------------------------------------------------------------

WHOLE = TableRecord("orders", 100, came=3, checksum="abc")


def wrong(*tables: TableRecord, may_change: frozenset[str] = frozenset()) -> list[str]:
    found = of_records(Records(tables, frozenset()), may_change)
    return [one.found for one in found if one.state == "failed"]


def test_rows_that_came_are_no_loss() -> None:
    assert wrong(WHOLE) == []


def test_what_was_lost_or_changed_is_told_with_examples() -> None:
    assert wrong(replace(WHOLE, lost=2, examples=("7", "9"))) == [
        "lost: 2 of 100 in orders (such as 7, 9)"
    ]
    changed = replace(WHOLE, changed={"item": 1_000}, gone=("note",))
    assert wrong(changed) == ["orders.item in 1,000 rows; orders.note is no more"]
    assert wrong(changed, may_change=frozenset({"orders.item", "orders.note"})) == []


def test_a_schema_that_is_another_one_is_told_in_short() -> None:
    before = frozenset({"column a", "column b"})
    assert of_shape(before, before).state == "passed"
    found = of_shape(before, frozenset({"column a", *(f"index {n}" for n in range(4))}))
    assert found.state == "failed"
    assert found.found == "- column b; + index 0; + index 1; and 2 more"


def test_an_order_that_a_client_was_told_of_must_be_there() -> None:
    assert of_orders([1, 2], 2).state == "passed"
    assert of_orders([1, 2], 1).state == "failed"
    assert of_orders([], 0).state == "not measured"


# -- the dry run ----------------------------------------------------------------------------------

EXCLUSIVE = RelationLock("public.orders", "table", "ACCESS EXCLUSIVE")
SHARED = RelationLock("public.orders", "table", "ROW EXCLUSIVE")
CHANGE = TableChange("public.orders", updated=1_000, bytes_before=8192, bytes_after=16384)


def ran(name: str, seconds: float, *locks: RelationLock) -> DryRunStep:
    measured = MigrationEffects(seconds, locks, (CHANGE,))
    return DryRunStep(1, name, RAN, seconds=seconds, measured=measured)


def judged(*steps: DryRunStep, error: MigrationFailed | None = None) -> dict[str, Verdict]:
    found = of_dry_run(build_dry_run_document(DryRunResult(steps, error)), LIMITS)
    return {one.what: one for one in found}


LONGEST = "longest lock that keeps others from writing"


def test_a_lock_that_keeps_others_from_writing_counts_until_the_commit() -> None:
    slow = [ran("0001_add", 0.2, EXCLUSIVE), ran("0002_fill", 30.0, SHARED)]
    assert judged(*slow)[LONGEST].state == "passed"
    assert "0001_add, ACCESS EXCLUSIVE on public.orders" in judged(*slow)[LONGEST].found
    slow.append(ran("0003_alter", 1.1, SHARED, EXCLUSIVE))
    assert judged(*slow)[LONGEST].state == "failed"


def test_a_table_that_the_release_makes_keeps_nobody_waiting() -> None:
    made = DryRunResult((ran("1", 9.0, replace(EXCLUSIVE, is_new=True)),))
    assert longest_of(build_dry_run_document(made)) is None
    assert judged(ran("1", 9.0))[LONGEST].found == "none (limit 1 s)"


def test_what_could_not_be_rehearsed_is_not_measured() -> None:
    outside = DryRunStep(2, "0002_index", SKIPPED, "it runs outside a transaction")
    found = judged(ran("0001_add", 0.1), outside)
    assert found["0002_index runs on this data"].state == "not measured"
    assert found["each pending migration runs on this data"].found == "1 of 2"


def test_a_migration_that_fails_is_named() -> None:
    broken = DryRunStep(2, "0002_fill", FAILED, seconds=0.1)
    error = MigrationFailed("out of range", migration="0002_fill")
    [found] = judged(broken, error=error).values()
    assert found.state == "failed"
    assert "0002_fill" in found.found
    assert "out of range" in found.found


# -- alarms ---------------------------------------------------------------------------------------


def _never(_: object) -> CloudWatch:
    raise AssertionError("nobody breaks anything here")


FAULT = Fault("it breaks", frozenset({"BrokenAlarm"}), _never)
ALARMS = {"BrokenAlarm": frozenset({"Broken"})}


def alarmed(one: Reached, alarms: Mapping[str, frozenset[str]] = ALARMS) -> dict[str, str]:
    found = of_faults([one], alarms, one.metrics)
    return {v.what: v.state for v in found if v.state != "passed"}


HEARD = Reached(FAULT, frozenset({"BrokenAlarm"}), frozenset({"Broken"}))


def test_an_alarm_is_reached_by_its_fault_and_by_no_other() -> None:
    assert alarmed(HEARD) == {}
    assert alarmed(replace(HEARD, alarms=frozenset())) == {"BrokenAlarm is reached": "failed"}
    both = frozenset({"BrokenAlarm", "OtherAlarm"})
    assert alarmed(replace(HEARD, alarms=both)) == {"it breaks: no other alarm": "failed"}
    assert alarmed(replace(HEARD, trouble="it did not break")) == {
        "BrokenAlarm is reached": "failed"
    }


def test_a_metric_that_nobody_told_is_missed() -> None:
    silent = replace(HEARD, metrics=frozenset())
    assert alarmed(silent) == {"every metric that an alarm reads was told": "failed"}


def test_an_alarm_that_the_template_lacks_is_missed_and_one_of_its_own_is_not_measured() -> None:
    own = {"OwnAlarm": frozenset[str]()}
    assert alarmed(HEARD, own) == {
        "BrokenAlarm is reached": "failed",
        "OwnAlarm is reached": "not measured",
    }


def test_a_release_that_pages_somebody_is_a_no_go() -> None:
    assert of_alarms(frozenset(), 7).state == "passed"
    assert of_alarms(frozenset({"LeaseWaitTimeAlarm"}), 7).state == "failed"


def test_every_alarm_of_the_project_has_its_fault() -> None:
    assert {name for fault in FAULTS for name in fault.alarms} == {
        "ColdStartCheckTimeAlarm",
        "LeaseHeldTimeAlarm",
        "LeaseTakeoverAlarm",
        "LeaseWaitTimeAlarm",
        "MigrationFailedAlarm",
        "NotReadyAlarm",
        "TableThrottledAlarm",
    }


# -- the report -----------------------------------------------------------------------------------

DRY = DryRunResult((ran("0005_<totals>", 1.5, EXCLUSIVE),))


def rehearsal(*verdicts: Verdict) -> Rehearsal:
    """Everything that a report may have to show."""
    records = Records((replace(WHOLE, lost=0),), frozenset({"column a"}))
    after = Records((replace(WHOLE, lost=1, changed={"item": 2}),), frozenset({"column a"}))
    return Rehearsal(
        name="orders 1 to 2",
        pending=("0005_<totals>",),
        wanted=Wanted(shop=Shop(10, 1, date(2026, 2, 2))),
        steps=(
            step(*verdicts, dry_run=build_dry_run_document(DRY)),
            Step("storm", 2.0, (PASSED,), phase="deployment"),
        ),
        sizes=(Size("orders", 100, 5_000_000),),
        phases={"deployment": WITH_CLIENT},
        records={"before": records, "after": after},
    )


def test_the_report_for_a_pipeline_holds_everything_that_was_decided_on(tmp_path: Path) -> None:
    write(rehearsal(BROKEN, UNSEEN), tmp_path, seconds=3.0, command="python -m load.staging")
    said = json.loads((tmp_path / "report.json").read_text())
    assert said["decision"] == "no-go"
    assert said["reasons"] == ["try it: it works: 9 of 10"]
    assert said["not_measured"] == ["try it: it works: nobody looked"]
    assert said["limits"] == {"lock": 1.0, "request": 5.0, "failed": 0, "wait": 29.0}
    [migration] = said["steps"][0]["dry_run"]["migrations"]
    assert migration["locks"][0]["blocks"] == ["reads", "writes"]
    assert said["data"]["after"][0]["lost"] == 1
    assert said["storms"]["deployment"]["invocations"]["write"]["count"] == 1


def test_the_page_says_the_word_first_and_the_reasons_below_it(tmp_path: Path) -> None:
    page = write(rehearsal(BROKEN), tmp_path, seconds=3.0, command="x --y").read_text()
    assert '<div class="word">NO-GO</div>' in page
    assert page.index("<li>try it: it works: 9 of 10</li>") < page.index("Step by step")
    assert "1 lost, item differs in 2" in page
    assert "ACCESS EXCLUSIVE on public.orders" in page
    assert "0005_&lt;totals&gt;" in page
    assert "x --y" in page


def test_a_rehearsal_that_ended_early_has_its_report(tmp_path: Path) -> None:
    early = Rehearsal("orders", (), Wanted(), (step(BROKEN),))
    assert "NO-GO" in write(early, tmp_path, seconds=1.0, command="").read_text()
    assert figures(early, seconds=1.0, command="")["storms"] == {}


def test_a_decision_is_a_word() -> None:
    assert Decision(go=True, reasons=(), unmeasured=()).word == "go"
    assert Decision(go=False, reasons=("x",), unmeasured=()).word == "no-go"
