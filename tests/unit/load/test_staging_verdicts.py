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
from load.staging.data import ShopData
from load.staging.dry_run import longest_lock, verdicts_of_dry_run
from load.staging.faults import FAULTS, Fault, FaultResult
from load.staging.records import Records, Size, TableRecord
from load.staging.report import figures, write
from load.staging.steps import StepResult
from load.staging.validation import Options, Validation
from load.staging.verdicts import (
    Decision,
    Limits,
    decide,
    verdict_of_alarms,
    verdict_of_log_lines,
    verdict_of_orders,
    verdict_of_schema,
    verdicts_of_faults,
    verdicts_of_records,
    verdicts_of_storm,
)
from load.storm.evidence import Evidence
from load.storm.verdicts import Verdict
from tests.integration.load.test_storm_verdicts import CRASHED, GOOD, observed

LIMITS = Limits()
PASSED = Verdict("it works", "passed", "10 of 10")
BROKEN = Verdict("it works", "failed", "9 of 10")
UNSEEN = Verdict("it works", "not measured", "not checked")


def step(*verdicts: Verdict, **facts: Any) -> StepResult:
    return StepResult("try it", 1.0, verdicts, facts)


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
def test_a_failure_is_no_go_and_so_is_nothing_measured(
    verdicts: list[Verdict], word: str, reasons: int, unmeasured: int
) -> None:
    decision = decide([step(*verdicts)])
    assert decision.word == word
    assert (len(decision.reasons), len(decision.unmeasured)) == (reasons, unmeasured)


def test_reason_names_step_verdict_and_finding() -> None:
    assert decide([step(BROKEN)]).reasons == ("try it: it works: 9 of 10",)


# -- storms ---------------------------------------------------------------------------------------

WITH_CLIENT = replace(GOOD, observed=[*GOOD.observed, observed(kind="write")])


def failed(evidence: Evidence, limits: Limits = LIMITS) -> list[str]:
    return [one.what for one in verdicts_of_storm(evidence, limits) if one.state == "failed"]


def test_good_storm_passes() -> None:
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
def test_exceeded_limit_fails(
    change: Mapping[str, Any], limits: Mapping[str, Any], what: str
) -> None:
    assert what in failed(replace(WITH_CLIENT, **change), replace(LIMITS, **limits))


def test_failures_within_the_limit_pass() -> None:
    one_failed = replace(WITH_CLIENT, observed=[*WITH_CLIENT.observed, observed(CRASHED, "read")])
    assert failed(one_failed) == ["requests that failed"]
    assert failed(one_failed, replace(LIMITS, failed=1)) == []


def test_uncounted_effects_are_read_from_the_history() -> None:
    found = {one.what: one for one in verdicts_of_storm(GOOD, LIMITS, counts=False)}
    assert "each migration took effect once" not in found
    assert found["each migration is in the history"].found == "1 of 1"


def test_cold_start_without_a_log_line_fails() -> None:
    assert verdict_of_log_lines(GOOD).state == "passed"
    assert verdict_of_log_lines(replace(GOOD, checks={})).state == "failed"


# -- data -----------------------------------------------------------------------------------------

WHOLE = TableRecord("orders", 100, added=3, checksum="abc")


def wrong(*tables: TableRecord, may_change: frozenset[str] = frozenset()) -> list[str]:
    found = verdicts_of_records(Records(tables, frozenset()), may_change)
    return [one.found for one in found if one.state == "failed"]


def test_added_rows_pass() -> None:
    assert wrong(WHOLE) == []


def test_lost_and_changed_rows_fail_with_examples() -> None:
    assert wrong(replace(WHOLE, lost=2, examples=("7", "9"))) == [
        "lost: 2 of 100 in orders (such as 7, 9)"
    ]
    changed = replace(WHOLE, changed={"item": 1_000}, dropped=("note",))
    assert wrong(changed) == ["orders.item in 1,000 rows; orders.note was dropped"]
    assert wrong(changed, may_change=frozenset({"orders.item", "orders.note"})) == []


def test_changed_schema_fails_in_short() -> None:
    before = frozenset({"column a", "column b"})
    assert verdict_of_schema(before, before).state == "passed"
    found = verdict_of_schema(before, frozenset({"column a", *(f"index {n}" for n in range(4))}))
    assert found.state == "failed"
    assert found.found == "- column b; + index 0; + index 1; and 2 more"


def test_confirmed_orders_must_be_there() -> None:
    assert verdict_of_orders([1, 2], 2).state == "passed"
    assert verdict_of_orders([1, 2], 1).state == "failed"
    assert verdict_of_orders([], 0).state == "not measured"


# -- the dry run ----------------------------------------------------------------------------------

EXCLUSIVE = RelationLock("public.orders", "table", "ACCESS EXCLUSIVE")
SHARED = RelationLock("public.orders", "table", "ROW EXCLUSIVE")
CHANGE = TableChange("public.orders", updated=1_000, bytes_before=8192, bytes_after=16384)


def ran(name: str, seconds: float, *locks: RelationLock) -> DryRunStep:
    measured = MigrationEffects(seconds, locks, (CHANGE,))
    return DryRunStep(1, name, RAN, seconds=seconds, effects=measured)


def judged(*steps: DryRunStep, error: MigrationFailed | None = None) -> dict[str, Verdict]:
    found = verdicts_of_dry_run(build_dry_run_document(DryRunResult(steps, error)), LIMITS)
    return {one.what: one for one in found}


LONGEST = "longest lock that blocks writes"


def test_blocking_lock_lasts_until_the_commit() -> None:
    slow = [ran("0001_add", 0.2, EXCLUSIVE), ran("0002_fill", 30.0, SHARED)]
    assert judged(*slow)[LONGEST].state == "passed"
    assert "0001_add, ACCESS EXCLUSIVE on public.orders" in judged(*slow)[LONGEST].found
    slow.append(ran("0003_alter", 1.1, SHARED, EXCLUSIVE))
    assert judged(*slow)[LONGEST].state == "failed"


def test_lock_of_a_new_table_blocks_nothing() -> None:
    made = DryRunResult((ran("1", 9.0, replace(EXCLUSIVE, is_new=True)),))
    assert longest_lock(build_dry_run_document(made)) is None
    assert judged(ran("1", 9.0))[LONGEST].found == "none (limit 1 s)"


def test_migration_without_a_dry_run_is_not_measured() -> None:
    outside = DryRunStep(2, "0002_index", SKIPPED, "it runs outside a transaction")
    found = judged(ran("0001_add", 0.1), outside)
    assert found["0002_index runs on this data"].state == "not measured"
    assert found["each pending migration runs on this data"].found == "1 of 2"


def test_failing_migration_is_named() -> None:
    broken = DryRunStep(2, "0002_fill", FAILED, seconds=0.1)
    error = MigrationFailed("out of range", migration="0002_fill")
    [found] = judged(broken, error=error).values()
    assert found.state == "failed"
    assert "0002_fill" in found.found
    assert "out of range" in found.found


# -- alarms ---------------------------------------------------------------------------------------


def _never(_: object) -> CloudWatch:
    raise AssertionError("must not be called")


FAULT = Fault("it breaks", frozenset({"BrokenAlarm"}), _never)
ALARMS = {"BrokenAlarm": frozenset({"Broken"})}


def alarmed(one: FaultResult, alarms: Mapping[str, frozenset[str]] = ALARMS) -> dict[str, str]:
    found = verdicts_of_faults([one], alarms, one.metrics)
    return {v.what: v.state for v in found if v.state != "passed"}


HEARD = FaultResult(FAULT, frozenset({"BrokenAlarm"}), frozenset({"Broken"}))


def test_alarm_must_be_reached_by_its_fault_alone() -> None:
    assert alarmed(HEARD) == {}
    assert alarmed(replace(HEARD, alarms=frozenset())) == {"BrokenAlarm is reached": "failed"}
    both = frozenset({"BrokenAlarm", "OtherAlarm"})
    assert alarmed(replace(HEARD, alarms=both)) == {"it breaks: no other alarm": "failed"}
    assert alarmed(replace(HEARD, trouble="it did not break")) == {
        "BrokenAlarm is reached": "failed"
    }


def test_missing_metric_fails() -> None:
    silent = replace(HEARD, metrics=frozenset())
    assert alarmed(silent) == {"every metric of an alarm was emitted": "failed"}


def test_missing_alarm_fails_and_an_unknown_one_is_not_measured() -> None:
    own = {"OwnAlarm": frozenset[str]()}
    assert alarmed(HEARD, own) == {
        "BrokenAlarm is reached": "failed",
        "OwnAlarm is reached": "not measured",
    }


def test_release_that_reaches_an_alarm_fails() -> None:
    assert verdict_of_alarms(frozenset(), 7).state == "passed"
    assert verdict_of_alarms(frozenset({"LeaseWaitTimeAlarm"}), 7).state == "failed"


def test_every_alarm_has_a_fault() -> None:
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


def rehearsal(*verdicts: Verdict) -> Validation:
    """Everything that a report may have to show."""
    records = Records((replace(WHOLE, lost=0),), frozenset({"column a"}))
    after = Records((replace(WHOLE, lost=1, changed={"item": 2}),), frozenset({"column a"}))
    return Validation(
        name="orders 1 to 2",
        pending=("0005_<totals>",),
        options=Options(shop=ShopData(10, 1, date(2026, 2, 2))),
        steps=(
            step(*verdicts, dry_run=build_dry_run_document(DRY)),
            StepResult("storm", 2.0, (PASSED,), storm="deployment"),
        ),
        sizes=(Size("orders", 100, 5_000_000),),
        storms={"deployment": WITH_CLIENT},
        records={"before": records, "after": after},
    )


def test_report_for_a_pipeline_is_complete(tmp_path: Path) -> None:
    write(rehearsal(BROKEN, UNSEEN), tmp_path, seconds=3.0, command="python -m load.staging")
    said = json.loads((tmp_path / "report.json").read_text())
    assert said["decision"] == "no-go"
    assert said["reasons"] == ["try it: it works: 9 of 10"]
    assert said["not_measured"] == ["try it: it works: not checked"]
    assert said["limits"] == {"lock": 1.0, "request": 5.0, "failed": 0, "wait": 29.0}
    [migration] = said["steps"][0]["dry_run"]["migrations"]
    assert migration["locks"][0]["blocks"] == ["reads", "writes"]
    assert said["data"]["after"][0]["lost"] == 1
    assert said["storms"]["deployment"]["invocations"]["write"]["count"] == 1


def test_page_begins_with_the_decision_and_its_reasons(tmp_path: Path) -> None:
    page = write(rehearsal(BROKEN), tmp_path, seconds=3.0, command="x --y").read_text()
    assert '<span class="word">NO-GO</span>' in page
    assert page.index("<li>try it: it works: 9 of 10</li>") < page.index("Step by step")
    assert "1 lost, item differs in 2" in page
    assert "ACCESS EXCLUSIVE on public.orders" in page
    assert "0005_&lt;totals&gt;" in page
    assert "x --y" in page


def test_halted_validation_has_a_report(tmp_path: Path) -> None:
    early = Validation("orders", Options(), steps=(step(BROKEN),))
    assert "NO-GO" in write(early, tmp_path, seconds=1.0, command="").read_text()
    assert figures(early, seconds=1.0, command="")["storms"] == {}


def test_decision_is_a_word() -> None:
    assert Decision(go=True, reasons=(), unmeasured=()).word == "go"
    assert Decision(go=False, reasons=("x",), unmeasured=()).word == "no-go"
