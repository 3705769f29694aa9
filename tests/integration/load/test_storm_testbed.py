"""The storms' server, and small storms whose faults must be found."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from lambda_migrate.local.runtime.environment import InvocationResult
from lambda_migrate.local.servers.dynamodb import LocalDynamoDB
from load.storm.scenarios import CountingPackage, make_scenario
from load.storm.testbed import StormFunction, classify_failure, open_testbed
from load.storm.verdicts import verdicts, write_report
from tests.integration.load.small_storm import run_storm, verdicts_by_name

SLOW_SECONDS = 0.5

# It opens a connection as lambda-migrate would, where one that waits should have none.
TWO_CONNECTIONS = """
import os
from urllib.parse import parse_qs, urlsplit

import pg8000.native

from lambda_migrate import migrate_on_cold_start

parts = urlsplit(os.environ["DATABASE_URL"])
folder = parse_qs(parts.query)["host"][0]
connection = pg8000.native.Connection(
    "postgres", database=parts.path[1:], unix_sock=f"{folder}/.s.PGSQL.5432",
    application_name="lambda-migrate:storm:0",
)


@migrate_on_cold_start
def handler(event, context):
    connection.run("INSERT INTO effects VALUES ('0004_effect')")
    return {"served": True}
"""

RAISES = """
from lambda_migrate import migrate_on_cold_start


@migrate_on_cold_start
def handler(event, context):
    if event["kind"] == "warm":
        raise ValueError("no such order")
    return {"served": True}
"""


def test_double_effects_and_two_connections_are_found(tmp_path: Path) -> None:
    scenario = make_scenario("together", 3)
    package = CountingPackage(handler=TWO_CONNECTIONS, slow_seconds=SLOW_SECONDS)
    found = verdicts_by_name(run_storm(scenario, package, tmp_path))
    assert found["each migration took effect once"].state == "failed"
    assert "9 of 10; 0004_effect" in found["each migration took effect once"].measured
    assert found["one PostgreSQL connection of the library at a time"].state == "failed"
    assert found["no invocation failed"].state == "passed"


def test_good_storm_has_figures_and_a_page(tmp_path: Path) -> None:
    scenario = make_scenario("together", 3)
    evidence = run_storm(scenario, CountingPackage(slow_seconds=SLOW_SECONDS), tmp_path)
    found = verdicts(evidence)
    assert {one.name for one in found if one.state != "passed"} == set()
    folder = tmp_path / "out" / scenario.name
    folder.mkdir(parents=True)
    write_report(evidence, found, folder)
    figures = json.loads((folder / "report.json").read_text())
    assert figures["passed"] is True
    assert figures["outcomes"] == {"MIGRATED": 1, "WAITED": 2}
    assert figures["commit_to_answer"]["count"] == 2
    assert 0 < figures["commit_to_answer"]["median"] < figures["cold_invocations"]["worst"]
    assert figures["invocations"]["cold"] == {"served": 3}
    assert figures["connections"]["in_all"] == 1
    assert "- passed: no invocation failed" in (folder / "report.md").read_text()


@pytest.mark.parametrize("name", ["alembic", "django-killed"])
def test_migrations_of_another_tool_are_applied_once_by_one_child(
    tmp_path: Path, name: str
) -> None:
    scenario = make_scenario(name, 20)
    if scenario.kills:
        shortest = {"LAMBDA_MIGRATE_LEASE_SECONDS": "5"}
        scenario = replace(scenario, settings={**(scenario.settings or {}), **shortest})
    package = CountingPackage(name.partition("-")[0], slow_seconds=SLOW_SECONDS)
    evidence = run_storm(scenario, package, tmp_path)
    assert [one for one in verdicts(evidence) if one.state != "passed"] == []
    assert bool(evidence.killed_holder) is scenario.kills


def test_failing_handler_is_found(tmp_path: Path) -> None:
    scenario = make_scenario("waves", 3)
    package = CountingPackage(handler=RAISES, slow_seconds=SLOW_SECONDS)
    found = verdicts_by_name(run_storm(scenario, package, tmp_path))
    assert found["no invocation failed"].state == "failed"
    assert "3 ValueError" in found["no invocation failed"].measured
    assert found["each migration took effect once"].state == "passed"
    assert found["each migration took effect once"].measured.startswith("12 of 12")
    assert found["one DynamoDB call where the schema is current"].state == "passed", "of wave 2"


def test_storm_function_counts_failures_and_makes_no_more_cold_starts_than_planned(
    tmp_path: Path,
) -> None:
    async def invoke() -> list[InvocationResult]:
        results = [
            await asyncio.wrap_future(storm_function.submit({"kind": kind, "user": 7}))
            for kind in ("cold", "warm")
        ]
        with pytest.raises(ConnectionError, match="all cold starts were made"):
            await asyncio.wrap_future(storm_function.submit({"kind": "cold", "user": 8}))
        return results

    package = CountingPackage(is_failing=True)
    with open_testbed(make_scenario("ramp", 1), package, tmp_path, api=LocalDynamoDB()) as testbed:
        storm_function = StormFunction(testbed)
        results = asyncio.run(invoke())
    assert [classify_failure(one) for one in results] == ["MigrationFailed", "MigrationFailed"]
    assert [one.cold for one in results] == [True, False]
    assert [one.kind for one in storm_function.invocations] == ["cold", "warm"]
