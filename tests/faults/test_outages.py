"""Deadlines inside migrations, a restart of PostgreSQL, and outages of DynamoDB."""

from __future__ import annotations

import threading

import pytest

from tests.sandbox import COUNTERS, Sandbox, effect, ends, lines, running, until


def test_the_deadline_inside_a_migration_cancels_it_and_frees_the_lease(sandbox: Sandbox) -> None:
    code = sandbox.code({"1_counters": COUNTERS, "2_long": effect(2, "SELECT pg_sleep(300);")})
    with sandbox.function(code, timeout=12) as function:
        result = function.invoke()
        assert (result.status, result.error_type) == ("error", "MigrationFailed"), (
            "it ends by itself, before Lambda kills it"
        )
        assert "deadline" in result.error_message
        (end,) = ends(function)
    assert end["migration"] == "2_long"
    assert sandbox.effects() == {1: 1}
    assert sandbox.history() == [(1, "applied")]
    until(lambda: sandbox.holders() == [], what="nothing of ours runs on in PostgreSQL")
    item = sandbox.item()
    assert item.owner is None
    assert item.failure is not None
    assert item.failure.migration == "2_long"


def test_many_short_statements_do_not_outlive_the_deadline_together(sandbox: Sandbox) -> None:
    script = "\n".join(["SELECT pg_sleep(0.5);"] * 600)
    code = sandbox.code({"1_counters": COUNTERS, "2_many": effect(2, script)})
    with sandbox.function(code, timeout=12) as function:
        result = function.invoke()
    assert (result.status, result.error_type) == ("error", "MigrationFailed")
    assert sandbox.effects() == {1: 1}
    until(lambda: sandbox.holders() == [], what="nothing of ours runs on in PostgreSQL")


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_restart_of_postgresql_during_a_migration_is_survived(
    own_sandbox: Sandbox, mode: str
) -> None:
    sandbox = own_sandbox
    # Not `sleeps_once`: a crash may forget that a sequence was drawn from.
    code = sandbox.code(
        {"1_counters": COUNTERS, "2_sleeps": effect(2, "SELECT pg_sleep(2);"), "3_more": effect(3)}
    )
    with sandbox.function(code) as function:
        invocation = function.submit()
        until(running(sandbox, "pg_sleep"), what="migration 2 sleeps")
        sandbox.postgresql.restart("immediate" if mode == "immediate" else "fast")
        result = invocation.result()
        assert result.ok, result.error_message
    assert sandbox.effects() == {1: 1, 2: 1, 3: 1}
    assert sandbox.holders() == []


def test_a_dynamodb_outage_of_5_seconds_only_delays_the_start(
    own_sandbox: Sandbox,
) -> None:
    sandbox = own_sandbox
    code = sandbox.code({"1_counters": COUNTERS, "2_sleeps": effect(2, "SELECT pg_sleep(7);")})
    with sandbox.function(code, lease_seconds="20") as function:
        function.start_environments(4)
        invocations = [function.submit() for _ in range(4)]
        until(running(sandbox, "pg_sleep"), what="migration 2 sleeps")
        sandbox.dynamodb.pause()
        threading.Event().wait(5)
        sandbox.dynamodb.resume()
        results = [invocation.result() for invocation in invocations]
        assert [result.status for result in results] == ["ok"] * 4
    assert sandbox.effects() == {1: 1, 2: 1}


def test_a_permanent_dynamodb_outage_fails_closed_before_the_deadline(
    own_sandbox: Sandbox,
) -> None:
    sandbox = own_sandbox
    code = sandbox.code({"1_counters": COUNTERS})
    sandbox.dynamodb.stop()
    with sandbox.function(code, timeout=12) as function:
        result = function.invoke()
        assert (result.status, result.error_type) == ("error", "LeaseStoreUnavailable")
        (end,) = ends(function)
    assert end["retryable"] is True
    assert sandbox.holders() == []


def test_a_permanent_dynamodb_outage_is_ignored_by_setting_if_postgresql_is_current(
    own_sandbox: Sandbox,
) -> None:
    sandbox = own_sandbox
    code = sandbox.code({"1_counters": COUNTERS})
    newer = sandbox.code({"1_counters": COUNTERS, "2_more": effect(2)})
    with sandbox.function(code) as function:
        assert function.invoke().ok
    sandbox.dynamodb.stop()
    with sandbox.function(code, on_lease_store_unavailable="check") as function:
        assert function.invoke().ok
    with sandbox.function(newer, on_lease_store_unavailable="check") as function:
        result = function.invoke()
    assert (result.status, result.error_type) == ("error", "LeaseStoreUnavailable")
    assert sandbox.effects() == {1: 1}


def test_a_dynamodb_outage_stops_a_holder_when_its_lease_ends(
    own_sandbox: Sandbox,
) -> None:
    sandbox = own_sandbox
    code = sandbox.code({"1_counters": COUNTERS, "2_long": effect(2, "SELECT pg_sleep(300);")})
    with sandbox.function(code, timeout=60) as function:
        invocation = function.submit()
        until(running(sandbox, "pg_sleep"), what="migration 2 sleeps")
        sandbox.dynamodb.stop()
        result = invocation.result()
        assert (result.status, result.error_type) == ("error", "LeaseLost")
        (view,) = function.environments()
        assert len(lines(function, view.environment_id)) == 1
    assert sandbox.effects() == {1: 1}
    until(lambda: sandbox.holders() == [], what="nothing of ours runs on in PostgreSQL")
