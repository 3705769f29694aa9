"""The storms' server, and small storms that must be judged bad because they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lambda_migrate.errors import ConfigurationError
from load.storm.control import Control, ControlFailed
from load.storm.host import Host, serve
from load.storm.packages import CountingPackage
from load.storm.report import write, write_index
from load.storm.scenarios import make
from load.storm.testbed import open_testbed
from load.storm.verdicts import verdicts
from tests.integration.load.small_storm import judged, play

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
    scenario = make("together", 3, engine="moto", processes="forked")
    found = judged(play(scenario, CountingPackage(double=4, handler=TWO_CONNECTIONS), tmp_path))
    assert found["each migration took effect once"].state == "failed"
    assert "0004_effect 2 times" in found["each migration took effect once"].found
    assert found["one PostgreSQL connection of the library at a time"].state == "failed"
    assert found["at most one in every sample"].state == "failed"
    assert found["no invocation failed"].state == "passed"


def test_good_storm_has_figures_and_a_page(tmp_path: Path) -> None:
    scenario = make("together", 3, engine="moto", processes="forked")
    evidence = play(scenario, CountingPackage(), tmp_path)
    found = verdicts(evidence)
    assert {one.what for one in found if one.state != "passed"} == set()
    folder = tmp_path / "out" / scenario.name
    write(evidence, found, folder)
    index = write_index(tmp_path / "out").read_text()
    figures = json.loads((folder / "report.json").read_text())
    assert figures["passed"] is True
    assert figures["outcomes"] == {"MIGRATED": 1, "WAITED": 2}
    assert figures["commit_to_answer"]["count"] == 2
    assert (
        0 < figures["commit_to_answer"]["median"] < figures["invocations"]["cold"]["took"]["worst"]
    )
    assert figures["connections"]["in_all"] == 1
    assert 3.0 < figures["connections"]["connection_seconds"] < 60.0
    assert figures["memory_megabytes"]["environments"] == 3
    page = (folder / "report.html").read_text()
    assert page.count("<svg") == 5
    assert "0006_slow" in page
    assert "together-3-forked/report.html" in index


def test_failing_handler_is_found(tmp_path: Path) -> None:
    scenario = make("waves", 3, engine="moto", processes="forked")
    found = judged(play(scenario, CountingPackage(handler=RAISES), tmp_path))
    assert found["no invocation failed"].state == "failed"
    assert "3 ValueError" in found["no invocation failed"].found
    assert found["each migration took effect once"].state == "passed"
    assert found["each migration took effect once"].found.startswith("12 of 12")


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    scenario = make("ramp", 1, engine="moto", processes="forked")
    with (
        open_testbed(scenario, CountingPackage(fails=True), tmp_path) as testbed,
        serve(Host(testbed)) as url,
    ):
        yield Control(url)


def test_host_reports_failures_and_refuses_unknown_requests(
    control: Control,
) -> None:
    cold = control.post("/cold")
    assert (cold["failure"], cold["environment"]) == ("MigrationFailed", "v1 env0001")
    assert cold["init_seconds"] > 0 < cold["duration_seconds"]
    warm = control.post("/invoke", kind="warm", version=1)
    assert warm["failure"] == "MigrationFailed"
    assert control.post("/progress") == {"answered": 2}
    with pytest.raises(ControlFailed, match="all cold starts were made"):
        control.post("/cold")
    with pytest.raises(ControlFailed, match="there is no /coffee"):
        control.post("/coffee")
    assert control.post("/progress") == {"answered": 2}


@pytest.mark.parametrize("url", ["", "127.0.0.1:80", "http://127.0.0.1"])
def test_invalid_control_url_is_refused(url: str) -> None:
    with pytest.raises(ControlFailed, match="write http://host:port"):
        Control(url)


def test_missing_host_is_reported() -> None:
    with pytest.raises(ControlFailed, match="/cold"):
        Control("http://127.0.0.1:9").post("/cold")


def test_storm_without_enough_memory_does_not_start(tmp_path: Path) -> None:
    scenario = make("together", 10_000_000, engine="moto", processes="separate")
    with (
        pytest.raises(ConfigurationError, match="choose a smaller -n"),
        open_testbed(scenario, CountingPackage(), tmp_path),
    ):
        pass
