"""A go or a no-go follows from the measurements, with its reasons."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from lambda_migrate.commands.dry_run import build_dry_run_document
from lambda_migrate.engine.dry_run import FAILED, RAN, SKIPPED, DryRunResult, DryRunStep
from lambda_migrate.errors import MigrationFailed
from lambda_migrate.postgresql.dry_run_effects import MigrationEffects, RelationLock, TableChange
from load.staging.verdicts import (
    Limits,
    StepResult,
    decide_release,
    verdict_of_orders,
    verdicts_of_dry_run,
    verdicts_of_storm,
    write_report,
)
from load.storm.evidence import StormEvidence
from load.storm.verdicts import Verdict
from tests.integration.load.test_storm_verdicts import CRASHED, GOOD, observed

LIMITS = Limits()
PASSED = Verdict("it works", "passed", "10 of 10")
BROKEN = Verdict("it works", "failed", "9 of 10")
UNSEEN = Verdict("it works", "not measured", "not checked")


def step(*verdicts: Verdict, **facts: Any) -> StepResult:
    return StepResult("try it", 1.0, verdicts, facts)


@pytest.mark.parametrize(
    ("verdicts", "label", "reasons", "not_measured"),
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
    verdicts: list[Verdict], label: str, reasons: int, not_measured: int
) -> None:
    decision = decide_release([step(*verdicts)])
    assert decision.label == label
    assert (len(decision.reasons), len(decision.not_measured)) == (reasons, not_measured)


def test_reason_names_step_verdict_and_finding() -> None:
    assert decide_release([step(BROKEN)]).reasons == ("try it: it works: 9 of 10",)


# -- storms ---------------------------------------------------------------------------------------

WITH_CLIENT = replace(GOOD, invocations=[*GOOD.invocations, observed(kind="write")])


def failed(evidence: StormEvidence, limits: Limits = LIMITS) -> list[str]:
    return [one.name for one in verdicts_of_storm(evidence, limits) if one.state == "failed"]


def test_good_storm_passes() -> None:
    assert failed(WITH_CLIENT) == []


@pytest.mark.parametrize(
    ("change", "limits", "what"),
    [
        ({"invocations": [observed(CRASHED)]}, {}, "requests that failed"),
        ({"invocations": []}, {}, "requests that failed"),
        ({}, {"max_wait_seconds": 3.0}, "longest wait of a cold start"),
        ({"checks": {}}, {}, "longest wait of a cold start"),
        ({"checks": {}}, {}, "each cold start logged its line"),
        ({}, {"max_request_seconds": 0.5}, "slowest request of a client"),
    ],
)
def test_exceeded_limit_fails(
    change: Mapping[str, Any], limits: Mapping[str, Any], what: str
) -> None:
    assert what in failed(replace(WITH_CLIENT, **change), replace(LIMITS, **limits))


def test_failures_within_the_limit_pass() -> None:
    one_failed = replace(
        WITH_CLIENT, invocations=[*WITH_CLIENT.invocations, observed(CRASHED, "read")]
    )
    assert failed(one_failed) == ["requests that failed"]
    assert failed(one_failed, replace(LIMITS, max_failed_requests=1)) == []


def test_confirmed_orders_must_be_there() -> None:
    assert verdict_of_orders(2, 2).state == "passed"
    assert verdict_of_orders(2, 1).state == "failed"
    assert verdict_of_orders(0, 0).state == "failed", "clients place orders all the time"


# -- the dry run ----------------------------------------------------------------------------------

EXCLUSIVE = RelationLock("public.orders", "table", "ACCESS EXCLUSIVE")
SHARED = RelationLock("public.orders", "table", "ROW EXCLUSIVE")
CHANGE = TableChange("public.orders", updated=1_000, bytes_before=8192, bytes_after=16384)


def ran(name: str, seconds: float, *locks: RelationLock) -> DryRunStep:
    measured = MigrationEffects(seconds, locks, (CHANGE,))
    return DryRunStep(1, name, RAN, seconds=seconds, effects=measured)


def judged(*steps: DryRunStep, error: MigrationFailed | None = None) -> dict[str, Verdict]:
    found = verdicts_of_dry_run(build_dry_run_document(DryRunResult(steps, error)), LIMITS)
    return {one.name: one for one in found}


LONGEST = "longest lock that blocks writes"


def test_blocking_lock_lasts_until_the_commit() -> None:
    slow = [ran("0001_add", 0.2, EXCLUSIVE), ran("0002_fill", 30.0, SHARED)]
    assert judged(*slow)[LONGEST].state == "passed"
    assert "0001_add, ACCESS EXCLUSIVE on public.orders" in judged(*slow)[LONGEST].measured
    slow.append(ran("0003_alter", 1.1, SHARED, EXCLUSIVE))
    assert judged(*slow)[LONGEST].state == "failed"


def test_lock_of_a_new_table_blocks_nothing() -> None:
    assert (
        judged(ran("1", 9.0, replace(EXCLUSIVE, is_new=True)))[LONGEST].measured
        == "none (limit 1 s)"
    )


def test_migration_without_a_dry_run_is_not_measured() -> None:
    outside = DryRunStep(2, "0002_index", SKIPPED, "it runs outside a transaction")
    found = judged(ran("0001_add", 0.1), outside)
    assert found["0002_index runs on this data"].state == "not measured"
    assert found["each pending migration runs on this data"].measured == "1 of 2"


def test_failing_migration_is_named() -> None:
    broken = DryRunStep(2, "0002_fill", FAILED, seconds=0.1)
    error = MigrationFailed("out of range", migration="0002_fill")
    [found] = judged(broken, error=error).values()
    assert found.state == "failed"
    assert "0002_fill" in found.measured
    assert "out of range" in found.measured


# -- the report -----------------------------------------------------------------------------------


def test_report_begins_with_the_decision_and_its_reasons(tmp_path: Path) -> None:
    dry_run = build_dry_run_document(DryRunResult((ran("0005_totals", 1.5, EXCLUSIVE),)))
    steps = [step(BROKEN, UNSEEN, dry_run=dry_run)]
    storms = {"deployment": WITH_CLIENT}
    decision = write_report(steps, storms, LIMITS, tmp_path, command="x --y")
    assert decision == decide_release(steps)
    text = (tmp_path / "report.md").read_text()
    assert text.startswith("# NO-GO: examples/orders, version 1 to 2\n\n- try it: it works: 9 of")
    assert "x --y" in text
    assert "![Each request, as high as it took long](traffic.svg)" in text
    assert (tmp_path / "traffic.svg").is_file()
    document = json.loads((tmp_path / "report.json").read_text())
    assert document["decision"] == "no-go"
    assert document["reasons"] == ["try it: it works: 9 of 10"]
    assert document["not_measured"] == ["try it: it works: not checked"]
    assert document["limits"] == asdict(LIMITS)
    assert document["steps"][0]["facts"]["dry_run"]["migrations"][0]["locks"][0]["blocks"]


def test_validation_that_stopped_early_has_a_report(tmp_path: Path) -> None:
    write_report([step(BROKEN)], {}, LIMITS, tmp_path, command="")
    assert "NO-GO" in (tmp_path / "report.md").read_text()
