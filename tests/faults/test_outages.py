"""Deadlines inside migrations, PostgreSQL restarted, the DynamoDB API gone."""

from __future__ import annotations

import threading

import pytest

from tests.stage import COUNTERS, Stage, effect, ends, lines, running, until


def test_the_deadline_inside_a_migration_cancels_it_and_frees_the_lease(stage: Stage) -> None:
    code = stage.code({"1_counters": COUNTERS, "2_long": effect(2, "SELECT pg_sleep(300);")})
    with stage.function(code, timeout=12) as function:
        result = function.invoke()
        assert (result.status, result.error_type) == ("error", "MigrationFailed"), (
            "it ends by itself, before Lambda kills it"
        )
        assert "deadline" in result.error_message
        (end,) = ends(function)
    assert end["migration"] == "2_long"
    assert stage.effects() == {1: 1}
    assert stage.history() == [(1, "applied")]
    until(lambda: stage.holders() == [], what="nothing of ours runs on in PostgreSQL")
    item = stage.item()
    assert item.owner is None
    assert item.failure is not None
    assert item.failure.migration == "2_long"


def test_many_short_statements_do_not_outlive_the_deadline_together(stage: Stage) -> None:
    script = "\n".join(["SELECT pg_sleep(0.5);"] * 600)
    code = stage.code({"1_counters": COUNTERS, "2_many": effect(2, script)})
    with stage.function(code, timeout=12) as function:
        result = function.invoke()
    assert (result.status, result.error_type) == ("error", "MigrationFailed")
    assert stage.effects() == {1: 1}
    until(lambda: stage.holders() == [], what="nothing of ours runs on in PostgreSQL")


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_postgresql_restarted_in_the_middle_is_survived(own_stage: Stage, mode: str) -> None:
    stage = own_stage
    # Not `sleeps_once`: a crash may forget that a sequence was drawn from.
    code = stage.code(
        {"1_counters": COUNTERS, "2_sleeps": effect(2, "SELECT pg_sleep(2);"), "3_more": effect(3)}
    )
    with stage.function(code) as function:
        invocation = function.submit()
        until(running(stage, "pg_sleep"), what="migration 2 sleeps")
        stage.postgresql.restart("immediate" if mode == "immediate" else "fast")
        result = invocation.result()
        assert result.ok, result.error_message
    assert stage.effects() == {1: 1, 2: 1, 3: 1}
    assert stage.holders() == []


def test_a_dynamodb_api_away_for_5_seconds_costs_time_and_nothing_else(own_stage: Stage) -> None:
    stage = own_stage
    code = stage.code({"1_counters": COUNTERS, "2_sleeps": effect(2, "SELECT pg_sleep(7);")})
    with stage.function(code, lease_seconds="20") as function:
        function.start_environments(4)
        invocations = [function.submit() for _ in range(4)]
        until(running(stage, "pg_sleep"), what="migration 2 sleeps")
        stage.dynamodb.pause()
        threading.Event().wait(5)
        stage.dynamodb.resume()
        results = [invocation.result() for invocation in invocations]
        assert [result.status for result in results] == ["ok"] * 4
    assert stage.effects() == {1: 1, 2: 1}


def test_a_dynamodb_api_away_for_good_fails_closed_before_the_deadline(own_stage: Stage) -> None:
    stage = own_stage
    code = stage.code({"1_counters": COUNTERS})
    stage.dynamodb.stop()
    with stage.function(code, timeout=12) as function:
        result = function.invoke()
        assert (result.status, result.error_type) == ("error", "LeaseStoreUnavailable")
        (end,) = ends(function)
    assert end["retryable"] is True
    assert stage.holders() == []


def test_a_dynamodb_api_away_for_good_is_served_by_setting_if_postgresql_is_current(
    own_stage: Stage,
) -> None:
    stage = own_stage
    code = stage.code({"1_counters": COUNTERS})
    newer = stage.code({"1_counters": COUNTERS, "2_more": effect(2)})
    with stage.function(code) as function:
        assert function.invoke().ok
    stage.dynamodb.stop()
    with stage.function(code, on_lease_store_unavailable="check") as function:
        assert function.invoke().ok
    with stage.function(newer, on_lease_store_unavailable="check") as function:
        result = function.invoke()
    assert (result.status, result.error_type) == ("error", "LeaseStoreUnavailable")
    assert stage.effects() == {1: 1}


def test_a_dynamodb_api_that_dies_under_a_holder_stops_it_when_its_lease_is_over(
    own_stage: Stage,
) -> None:
    stage = own_stage
    code = stage.code({"1_counters": COUNTERS, "2_long": effect(2, "SELECT pg_sleep(300);")})
    with stage.function(code, timeout=60) as function:
        invocation = function.submit()
        until(running(stage, "pg_sleep"), what="migration 2 sleeps")
        stage.dynamodb.stop()
        result = invocation.result()
        assert (result.status, result.error_type) == ("error", "LeaseLost")
        (view,) = function.environments()
        assert len(lines(function, view.environment_id)) == 1
    assert stage.effects() == {1: 1}
    until(lambda: stage.holders() == [], what="nothing of ours runs on in PostgreSQL")
