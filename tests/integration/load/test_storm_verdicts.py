"""A good storm passes every verdict, and each fault fails its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from lambda_migrate.local.demo.checks import SchemaCheck
from lambda_migrate.local.demo.timeline import Interval
from lambda_migrate.local.runtime.environment import InvocationResult
from load.storm.evidence import Session, StormEvidence, read_sessions
from load.storm.scenarios import make_scenario
from load.storm.testbed import ObservedInvocation
from load.storm.verdicts import find_peaks, verdicts

SERVED = InvocationResult(
    "r", "env0001", True, "ok", {"served": True}, "", "", 0.1, 1.0, 10.0, 14.0
)
CHECK = SchemaCheck("v1 env0001", "WAITED", 14.0, 4.0, 3.9, 3, 0, ())
HOLDER = SchemaCheck("v1 env0002", "MIGRATED", 13.5, 3.5, 0.0, 4, 1, ("0001_effect",))


def observed(result: InvocationResult = SERVED, kind: str = "cold") -> ObservedInvocation:
    return ObservedInvocation(kind, 1, result)


GOOD = StormEvidence(
    scenario=make_scenario("together", 2),
    invocations=[observed(), observed(replace(SERVED, environment_id="env0002"))],
    checks={"v1 env0001": [CHECK], "v1 env0002": [HOLDER]},
    effects={"0001_effect": 1},
    record_counts={"0001_effect in lambda_migrate.history": 1},
    committed_at=13.4,
    sessions=[Session("lambda-migrate:storm:1", 10.5, 13.5)],
    requests_by_environment={"v1 env0001": 3, "v1 env0002": 4},
    request_rates={100: {"GetItem": 5, "UpdateItem": 2}},
    locust_counts={"cold": (2, 0)},
)


def failed(evidence: StormEvidence) -> list[str]:
    return [one.name for one in verdicts(evidence) if one.state == "failed"]


def test_a_good_storm_passes() -> None:
    assert failed(GOOD) == []
    assert {one.state for one in verdicts(GOOD)} == {"passed"}


CALLS = "lease_calls in the logs match the DynamoDB API's count"
CRASHED = replace(SERVED, status="crashed", error_type="Runtime.ExitError")
REFUSED = replace(SERVED, payload={"statusCode": 503})


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"invocations": [observed(), observed(CRASHED)]}, "no invocation failed"),
        ({"invocations": [observed(), observed(REFUSED)]}, "no invocation failed"),
        ({"invocations": [observed()]}, "every cold start took place"),
        (
            {"invocations": [observed(), observed(replace(SERVED, cold=False))]},
            "every cold start took place",
        ),
        ({"effects": {"0001_effect": 2}}, "each migration took effect once"),
        ({"effects": {"0001_effect": 0}}, "each migration took effect once"),
        ({"effects": {}}, "each migration took effect once"),
        (
            {"sessions": [*GOOD.sessions, Session("lambda-migrate:storm:2", 13.0, 13.1)]},
            "one PostgreSQL connection of the library at a time",
        ),
        ({"sessions": []}, "one PostgreSQL connection of the library at a time"),
        ({"record_counts": {"0001_effect in the mirror": 0}}, "each migration is recorded once"),
        ({"record_counts": {}}, "each migration is recorded once"),
        (
            {"sessions": [*GOOD.sessions, Session("lambda-migrate:storm:2", 14.0, 14.1)]},
            "only holders connect to PostgreSQL",
        ),
        ({"other_connections": 1}, "only holders connect to PostgreSQL"),
        ({"request_rates": {1: {"GetItem": 3000}}}, "below the limits of one DynamoDB partition"),
        (
            {"request_rates": {1: {"GetItem": 1, "UpdateItem": 1000}}},
            "below the limits of one DynamoDB partition",
        ),
        ({"request_rates": {}}, "below the limits of one DynamoDB partition"),
        ({"requests_by_environment": {"v1 env0001": 4}}, CALLS),
        ({"requests_by_environment": {}}, CALLS),
        ({"requests_by_environment": {"v1 env9": 1}}, CALLS),
        ({"locust_counts": {"cold": (2, 1)}}, "Locust counted the same"),
        ({"locust_counts": {}}, "Locust counted the same"),
        ({"errors": ["the rollback failed"]}, "nothing else went wrong"),
    ],
)
def test_each_breach_fails_its_verdict(change: Mapping[str, Any], what: str) -> None:
    assert what in failed(replace(GOOD, **change))


def test_current_schema_needs_one_call() -> None:
    law = "one DynamoDB call where the schema is current"
    for calls, state in ((1, "passed"), (2, "failed")):
        check = replace(CHECK, outcome="UP_TO_DATE", waited=0.0, lease_calls=calls)
        evidence = replace(GOOD, checks={"v1 env0001": [check]}, requests_by_environment={})
        assert {one.name: one.state for one in verdicts(evidence)}[law] == state
        # Who began while something was migrated may have tried for the lease, and that is well.
        beside = replace(evidence, intervals=[Interval("0001_effect", 9.0, 10.5)])
        assert law not in [one.name for one in verdicts(beside)]
        before = replace(evidence, intervals=[Interval("0001_effect", 5.0, 6.5)])
        assert {one.name: one.state for one in verdicts(before)}[law] == state
    assert law not in [one.name for one in verdicts(GOOD)]


FREE = replace(SERVED, payload={"imported": []})
TOOL = replace(
    GOOD,
    scenario=make_scenario("alembic", 2),
    invocations=[observed(FREE), observed(replace(FREE, environment_id="env0002"))],
    tool_processes=1,
)
KILLED = replace(
    TOOL,
    scenario=make_scenario("alembic-killed", 2),
    invocations=[observed(replace(CRASHED, payload=None)), TOOL.invocations[1]],
    checks={"v1 env0002": [HOLDER]},
    sessions=[
        Session("lambda-migrate:storm:1", 10.5, 12.6),
        Session("lambda-migrate:storm:2", 12.5, 13.5),
    ],
    tool_processes=2,
    killed_holder="v1 env0001",
    locust_counts={"cold": (2, 1)},
)
IMPORTED = replace(FREE, payload={"imported": ["sqlalchemy"]})
ONE_CHILD = "one child process loads alembic for each holder"
NONE_BUT_KILLED = "no invocation failed but that of the killed holder"


def test_storm_of_another_tool_and_one_with_a_killed_holder_pass() -> None:
    assert failed(TOOL) == failed(KILLED) == []


@pytest.mark.parametrize(
    ("evidence", "change", "what"),
    [
        (TOOL, {"tool_processes": 2}, ONE_CHILD),
        (TOOL, {"invocations": [observed(FREE), observed(IMPORTED)]}, ONE_CHILD),
        (
            TOOL,
            {"invocations": GOOD.invocations},
            ONE_CHILD,
        ),  # its handler does not say what it imported
        (KILLED, {"tool_processes": 1}, ONE_CHILD),
        (KILLED, {"invocations": TOOL.invocations}, NONE_BUT_KILLED),
        (KILLED, {"invocations": [observed(CRASHED), observed(CRASHED)]}, NONE_BUT_KILLED),
        (
            KILLED,
            {"sessions": [*KILLED.sessions, Session("lambda-migrate:storm:3", 12.5, 12.6)]},
            "only holders connect to PostgreSQL",
        ),
    ],
)
def test_each_breach_of_another_tool_fails_its_verdict(
    evidence: StormEvidence, change: Mapping[str, Any], what: str
) -> None:
    assert what in failed(replace(evidence, **change))


FAILURE = replace(SERVED, status="error", error_type="MigrationFailed", payload=None)
FAILED_CHECK = replace(CHECK, outcome="MigrationFailed", cause="0005_effect 42P01")
FAILING = replace(
    GOOD,
    scenario=make_scenario("failing", 2),
    invocations=[observed(FAILURE), observed(replace(FAILURE, environment_id="env0002"))],
    checks={
        "v1 env0001": [FAILED_CHECK, replace(FAILED_CHECK, fence=1, ended=10.0)],
        "v1 env0002": [replace(FAILED_CHECK, fence=2, ended=13.1)],
    },
    requests_by_environment={"v1 env0001": 6, "v1 env0002": 3},
    attempts=2,
    locust_counts={"cold": (2, 2)},
)


def test_failing_migration_with_one_try_per_pause_passes() -> None:
    assert failed(FAILING) == []


EARLY = {
    "v1 env0001": [
        replace(FAILED_CHECK, fence=1, ended=10.0),
        replace(FAILED_CHECK, fence=2, ended=12.0),
    ]
}


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"invocations": GOOD.invocations}, "every invocation failed because of the migration"),
        (
            {"invocations": [observed(FAILURE), observed(CRASHED)]},
            "every invocation failed because of the migration",
        ),
        (
            {"checks": {"v1 env0001": [FAILED_CHECK, replace(FAILED_CHECK, cause="0002 42P01")]}},
            "all failures have the same cause",
        ),
        (
            {"checks": {"v1 env0001": [replace(FAILED_CHECK, cause="")]}},
            "all failures have the same cause",
        ),
        ({"attempts": 3}, "at most one attempt in each pause"),
        ({"checks": EARLY}, "at most one attempt in each pause"),
        (
            {"attempts": 0, "checks": {"v1 env0001": [FAILED_CHECK]}},
            "at most one attempt in each pause",
        ),
    ],
)
def test_each_wrong_failure_fails_its_verdict(change: Mapping[str, Any], what: str) -> None:
    assert what in failed(replace(FAILING, **change))


def test_peak_is_any_ten_successive_tenths() -> None:
    rates = {tenth: {"GetItem": 1} for tenth in range(100)}
    rates |= {tenth: {"GetItem": 50} for tenth in range(15, 25)}
    rates[200] = {"UpdateItem": 7, "PutItem": 2, "DescribeTable": 99}
    assert find_peaks(rates) == (500, 9)
    assert find_peaks({}) == (0, 0)


def test_connections_overlap_only_while_both_are_open() -> None:
    for sessions, most in (([(0, 1), (1, 2), (5, 6)], 1), ([(0, 1), (0.5, 2), (0.9, 1)], 3)):
        evidence = replace(GOOD, sessions=[Session("a name", *each) for each in sessions])
        assert evidence.max_sessions == most
    assert replace(GOOD, sessions=[]).max_sessions == 0


OPENED = "LOG:  connection authorized: user=postgres database=storm application_name"
LOG = f"""\
2026-01-31 12:00:00.000 UTC [10] LOG:  connection received: host=[local]
2026-01-31 12:00:00.500 UTC [10] {OPENED}=lambda-migrate:storm:1
2026-01-31 12:00:00.600 UTC [11] {OPENED}=orders
2026-01-31 12:00:00.700 UTC [11] LOG:  disconnection: session time: 0:00:00.100 user=postgres
2026-01-31 12:00:02.000 UTC [10] LOG:  disconnection: session time: 0:00:01.500 user=postgres
2026-01-31 12:00:03.000 UTC [10] {OPENED}=lambda-migrate:storm:2
"""


def test_sessions_are_read_from_the_servers_log() -> None:
    noon = 1769860800.0
    first, second = read_sessions(LOG, clock_offset=noon)
    assert (first.name, first.opened, first.closed) == ("lambda-migrate:storm:1", 0.5, 2.0)
    assert (second.name, second.opened, second.closed) == ("lambda-migrate:storm:2", 3.0, 3.0)


def test_delay_counts_from_the_commit_for_waiters() -> None:
    assert GOOD.seconds_to_answer == [pytest.approx(0.6)]
    assert GOOD.seconds_to_handler == [pytest.approx(0.6)]
    assert replace(GOOD, committed_at=None).seconds_to_answer == []


@pytest.mark.parametrize(("counted", "expected"), [(299, []), (280, [CALLS]), (301, [CALLS])])
def test_few_lost_requests_pass(counted: int, expected: list[str]) -> None:
    checks = {**GOOD.checks, "v1 env0001": [replace(CHECK, lease_calls=300)]}
    counts = {"v1 env0001": counted, "v1 env0002": 4}
    assert failed(replace(GOOD, checks=checks, requests_by_environment=counts)) == expected
