"""The storms' server, and small storms that must be judged bad because they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from load.storm.host import Host, serve
from load.storm.locust_client import HostFailed, send_to_host
from load.storm.packages import CountingPackage
from load.storm.report import write_report
from load.storm.testbed import open_testbed
from load.storm.verdicts import verdicts
from tests.integration.load.small_storm import forked_scenario, run_storm, verdicts_by_name

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
    scenario = forked_scenario("together", 3)
    found = verdicts_by_name(
        run_storm(scenario, CountingPackage(repeated_version=4, handler=TWO_CONNECTIONS), tmp_path)
    )
    assert found["each migration took effect once"].state == "failed"
    assert "0004_effect 2 times" in found["each migration took effect once"].found
    assert found["one PostgreSQL connection of the library at a time"].state == "failed"
    assert found["no invocation failed"].state == "passed"


def test_good_storm_has_figures_and_a_page(tmp_path: Path) -> None:
    scenario = forked_scenario("together", 3)
    evidence = run_storm(scenario, CountingPackage(), tmp_path)
    found = verdicts(evidence)
    assert {one.what for one in found if one.state != "passed"} == set()
    folder = tmp_path / "out" / scenario.name
    folder.mkdir(parents=True)
    write_report(evidence, found, folder)
    figures = json.loads((folder / "report.json").read_text())
    assert figures["passed"] is True
    assert figures["outcomes"] == {"MIGRATED": 1, "WAITED": 2}
    assert figures["commit_to_answer"]["count"] == 2
    assert 0 < figures["commit_to_answer"]["median"] < figures["cold_invocations"]["worst"]
    assert figures["invocations"]["cold"] == {"count": 3, "failures": {}}
    assert figures["connections"]["in_all"] == 1
    assert "- passed: no invocation failed" in (folder / "report.md").read_text()


def test_failing_handler_is_found(tmp_path: Path) -> None:
    scenario = forked_scenario("waves", 3)
    found = verdicts_by_name(run_storm(scenario, CountingPackage(handler=RAISES), tmp_path))
    assert found["no invocation failed"].state == "failed"
    assert "3 ValueError" in found["no invocation failed"].found
    assert found["each migration took effect once"].state == "passed"
    assert found["each migration took effect once"].found.startswith("12 of 12")


@pytest.fixture
def host_url(tmp_path: Path) -> Iterator[str]:
    scenario = forked_scenario("ramp", 1)
    with (
        open_testbed(scenario, CountingPackage(fails=True), tmp_path) as testbed,
        serve(Host(testbed)) as url,
    ):
        yield url


def test_host_reports_failures_and_refuses_unknown_requests(host_url: str) -> None:
    cold = send_to_host(host_url, "/cold")
    assert (cold["failure"], cold["environment"]) == ("MigrationFailed", "v1 env0001")
    assert cold["init_seconds"] > 0 < cold["duration_seconds"]
    warm = send_to_host(host_url, "/invoke", kind="warm", version=1)
    assert warm["failure"] == "MigrationFailed"
    with pytest.raises(HostFailed, match="all cold starts were made"):
        send_to_host(host_url, "/cold")
    with pytest.raises(HostFailed, match="there is no /coffee"):
        send_to_host(host_url, "/coffee")


@pytest.mark.parametrize("url", ["", "127.0.0.1:80", "http://127.0.0.1:9"])
def test_invalid_or_missing_host_is_reported(url: str) -> None:
    with pytest.raises(HostFailed, match=r"write http://host:port|/cold: "):
        send_to_host(url, "/cold")
