"""The demo reports each fault, and reads the events of its environments correctly."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from lambda_migrate.local.demo.checks import (
    ColdStartStorm,
    Distribution,
    SchemaCheck,
    build_spans,
    read_check,
)
from lambda_migrate.local.demo.report import (
    draw_timeline,
    list_summary_rows,
    make_table,
    summarize,
)
from lambda_migrate.local.demo.results import DemoResult, Rollback, find_faults
from lambda_migrate.local.demo.sampler import Sample
from lambda_migrate.local.demo.timeline import Interval, Row, Span
from lambda_migrate.local.runtime.environment import (
    EnvironmentEvent,
    EnvironmentPhase,
    InvocationResult,
    InvocationStatus,
)


def result(
    status: InvocationStatus = "ok", *, code: int = 201, message: str = ""
) -> InvocationResult:
    return InvocationResult(
        request_id="id",
        environment_id="env0001",
        cold=True,
        status=status,
        payload={"statusCode": code} if status == "ok" else None,
        error_type="",
        error_message=message,
        init_seconds=0.5,
        duration_seconds=1.0,
        started=10.0,
        ended=11.0,
    )


def check(name: str, *, ended: float, waited: float = 0.0, fence: int = 0) -> SchemaCheck:
    outcome = "MIGRATED" if fence else "WAITED" if waited else "UP_TO_DATE"
    return SchemaCheck(
        name, outcome, ended, waited + 0.1, waited, 3, fence, ("0001_a",) if fence else ()
    )


STORM = ColdStartStorm(
    1,
    [result(), result()],
    {
        "env0001": check("env0001", ended=10.5, fence=1),
        "env0002": check("env0002", ended=10.9, waited=0.6),
    },
    warm_results=[result(code=200)],
    intervals=[Interval("0001_a", 10.2, 10.4)],
)
ROLLBACK = Rollback(("0002_b",), 1.5, [Interval("0002_b down", 12.0, 12.1)], {"0002_b": 1}, STORM)
GOOD = DemoResult(
    environments=2,
    seconds=5.0,
    storms=[STORM, replace(STORM, version=2)],
    effect_counts=[{"0001_a": 1}, {"0001_a": 1, "0002_b": 1}],
    traffic=[result(code=200)],
    rollback=ROLLBACK,
    samples=[Sample(10.0, 0, 0), Sample(10.02, 1, 1), Sample(10.06, 0, 2)],
    errors=(),
    dynamodb_requests={"GetItem": 4, "UpdateItem": 2},
    warm_microseconds={"bare": 0.03, "passed_through": 0.15, "decorated": 0.16},
    postgresql_version="18.4",
)


def test_a_successful_demo_has_no_faults() -> None:
    assert find_faults(GOOD) == []
    assert summarize(GOOD)["passed"] is True


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"effect_counts": [{"0001_a": 2}]}, "0001_a took effect 2 times instead of once."),
        ({"effect_counts": [{"0001_a": 0}]}, "0001_a took effect 0 times instead of once."),
        (
            {"samples": [Sample(10.0, 2, 0)]},
            "lambda-migrate had 2 PostgreSQL connections at the same time",
        ),
        ({"samples": []}, "The connections were never counted"),
        ({"errors": ["The rollback failed: no"]}, "The rollback failed: no"),
        (
            {
                "storms": [
                    replace(STORM, results=[result(), result("crashed", message="gone\nlog")])
                ]
            },
            "1 of 2 cold starts of version 1 failed; the first: gone",
        ),
        (
            {"storms": [replace(STORM, warm_results=[result(code=500)])]},
            "1 of 1 warm invocations of version 1 failed",
        ),
        (
            {"traffic": [result(), result("timeout", message="late")]},
            "1 of 2 invocations of version 1 while the schema changed failed; the first: late",
        ),
        (
            {"rollback": replace(ROLLBACK, rollback_counts={"0002_b": 2})},
            "0002_b was rolled back 2 times instead of once.",
        ),
    ],
)
def test_each_broken_promise_is_a_fault(change: dict[str, Any], sentence: str) -> None:
    broken = replace(GOOD, **change)
    [fault] = find_faults(broken)
    assert fault.startswith(sentence)
    assert summarize(broken)["passed"] is False


def test_a_client_error_is_not_a_failure() -> None:
    assert find_faults(replace(GOOD, traffic=[result(code=404)])) == []


def test_the_wait_after_the_release_counts_from_the_last_migrator() -> None:
    after = STORM.seconds_after_release()
    assert after is not None
    assert after.worst == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("values", "spread"),
    [
        ([], None),
        ([3.0], Distribution(1, 3.0, 3.0, 3.0)),
        ([float(n) for n in range(200, 0, -1)], Distribution(200, 100.5, 198.0, 200.0)),
    ],
)
def test_percentiles_use_the_nearest_rank(values: list[float], spread: Distribution | None) -> None:
    assert Distribution.of(values) == spread


LINE = json.dumps(
    {
        "level": "INFO",
        "timestamp": "1970-01-01 00:01:40,250+0000",
        "lambda_migrate": {
            "outcome": "WAITED",
            "duration_ms": 1500,
            "waited_ms": 1200,
            "lease_calls": 5,
            "fence": 0,
            "applied": [],
        },
    },
    separators=(",", ":"),
)


def test_the_log_line_of_the_library_is_found_among_others() -> None:
    found = read_check("env0007", f'noise\n{{"message": "x"}}\n{LINE}\nmore\n', clock_offset=90.0)
    assert found == SchemaCheck("env0007", "WAITED", 10.25, 1.5, 1.2, 5, 0, ())
    assert read_check("env0007", "noise\n", clock_offset=90.0) is None


def happenings(*phases: EnvironmentPhase) -> list[EnvironmentEvent]:
    return [EnvironmentEvent("env0001", phase, float(at)) for at, phase in enumerate(phases)]


@pytest.mark.parametrize(
    ("seen", "checked", "spans"),
    [
        (
            happenings("started", "ready", "invoked"),
            check("env0001", ended=5.0, waited=2.0),
            [Span("starting", 0, 3), Span("waiting", 3, 5), Span("serving", 5, 9)],
        ),
        (
            happenings("started", "ready", "invoked"),
            check("env0001", ended=5.0, fence=1),
            [Span("starting", 0, 4), Span("migrating", 4, 5), Span("serving", 5, 9)],
        ),
        (
            happenings("started", "ready", "invoked"),
            check("env0001", ended=2.5),
            [Span("starting", 0, 2.5), Span("serving", 2.5, 9)],
        ),
        (
            happenings("started", "ready", "invoked"),
            replace(check("env0001", ended=5.0, waited=2.0), outcome="MigrationFailed"),
            [Span("starting", 0, 3), Span("waiting", 3, 5), Span("failed", 5, 9)],
        ),
        (
            happenings("started", "ready", "invoked", "returned", "ended"),
            None,
            [Span("starting", 0, 3), Span("failed", 3, 4)],
        ),
        (happenings("started"), None, [Span("starting", 0, 9)]),
        ([], None, []),
    ],
    ids=["waited", "migrated", "up to date", "refused", "crashed", "still starting", "never began"],
)
def test_the_phases_of_an_environment(
    seen: list[EnvironmentEvent], checked: SchemaCheck | None, spans: list[Span]
) -> None:
    assert build_spans(seen, checked, connected_at=4.0, until=9.0) == spans


def test_the_time_in_which_this_machine_starts_a_version_is_left_out() -> None:
    rows = [
        Row("v1 env1", [Span("starting", 9, 10.2), Span("serving", 10.2, 60)], "version 1"),
        Row("v2 env1", [Span("starting", 20, 45), Span("waiting", 45, 50)], "version 2"),
    ]
    svg = draw_timeline(GOOD, rows)
    assert svg.count("s in which this machine starts 1 environments") == 1
    assert "24 s in which" in svg


def test_the_overhead_of_a_warm_invocation_is_reported_as_an_upper_bound() -> None:
    rows = dict(list_summary_rows(GOOD))
    assert rows["a warm invocation takes"] == "less than 1 µs more with the decorator"


def test_the_results_fit_eighty_columns() -> None:
    console = Console(file=io.StringIO(), width=80)
    many = replace(STORM, results=[result()] * 1000)
    console.print(make_table(replace(GOOD, storms=[many, replace(many, version=2)])))
    assert isinstance(console.file, io.StringIO)
    assert "…" not in console.file.getvalue()
    assert all(
        len(f"{'version 1 during the changes':<30}{line}") <= 80
        for _, text in list_summary_rows(GOOD)
        for line in text.splitlines()
    )


def test_the_timeline_names_the_migrations_and_starts_shortly_before_the_first_check() -> None:
    rows = [Row("v1 env0001", [Span("starting", -90, 10.2), Span("migrating", 10.2, 10.5)])]
    svg = draw_timeline(GOOD, rows)
    assert "0001_a" in svg
    assert "0002_b down" in svg
    assert ">20<" not in svg  # an axis of a hundred seconds would have it
