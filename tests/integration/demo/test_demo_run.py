"""The demo as a whole, with real processes."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import psutil
import pytest
from rich.console import Console

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.local.demo import example as demo_example
from lambda_migrate.local.demo.example import Example, find_example
from lambda_migrate.local.demo.run import run_demo

ENVIRONMENTS = 8


def command(environments: int, report: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "lambda_migrate", "demo"),
        *("--environments", str(environments), "--report", str(report)),
    ]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "report"


@pytest.fixture(scope="module")
def ran(report: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(ENVIRONMENTS, report), capture_output=True, text=True)


@pytest.fixture
def summary(ran: subprocess.CompletedProcess[str], report: Path) -> dict[str, Any]:
    assert ran.returncode == 0, ran.stdout + ran.stderr
    summary: dict[str, Any] = json.loads((report / "summary.json").read_text())
    return summary


def test_the_demo_passes(ran: subprocess.CompletedProcess[str], summary: dict[str, Any]) -> None:
    assert summary["passed"] is True
    assert summary["faults"] == []
    assert "All checks passed" in ran.stdout
    assert "Traceback" not in ran.stdout + ran.stderr


@pytest.mark.parametrize(("version", "migrations"), [(1, 4), (2, 3)])
def test_one_environment_of_each_version_migrates_and_the_others_wait(
    summary: dict[str, Any], version: int, migrations: int
) -> None:
    one = summary["versions"][version - 1]
    assert one["version"] == version
    assert sum(len(each["applied"]) for each in one["migrated_by"]) == migrations
    assert one["waiters"] + len(one["migrated_by"]) == ENVIRONMENTS
    assert one["waited"]["count"] == one["waiters"]
    assert one["cold_starts"]["count"] == one["warm"]["count"] == ENVIRONMENTS
    assert one["cold_starts"]["failed"] == one["warm"]["failed"] == 0


def test_the_waiters_wait_for_most_of_the_slow_migration(
    summary: dict[str, Any],
) -> None:
    waited = summary["versions"][1]["waited"]
    assert waited["worst"] >= waited["p99"] >= waited["median"] > 1.5


def test_every_migration_took_effect_once_and_version_2_was_rolled_back(
    summary: dict[str, Any],
) -> None:
    assert len(summary["effects"]) == 7
    assert set(summary["effects"].values()) == {1}
    assert summary["rollback"]["rolled_back"] == sorted(summary["effects"])[:3:-1]
    assert set(summary["rollback"]["taken_back"].values()) == {1}
    assert summary["rollback"]["cold_start_after"] == ["UP_TO_DATE"]


def test_version_1_serves_while_the_schema_changes(summary: dict[str, Any]) -> None:
    assert summary["traffic"]["count"] > 0
    assert summary["traffic"]["failed"] == 0


def test_connections_and_requests_are_counted(summary: dict[str, Any]) -> None:
    postgresql, dynamodb = summary["postgresql"], summary["dynamodb"]
    assert postgresql["lambda_migrate_connections_at_most"] == 1
    assert ENVIRONMENTS <= postgresql["application_connections_at_most"] <= 2 * ENVIRONMENTS + 1
    assert dynamodb["calls"] == sum(dynamodb["by_operation"].values())
    assert dynamodb["calls"] >= 2 * ENVIRONMENTS + 1
    assert set(dynamodb["by_operation"]) == {"GetItem", "UpdateItem"}


def test_a_warm_invocation_costs_microseconds(summary: dict[str, Any]) -> None:
    warm = summary["warm_invocation_microseconds"]
    assert set(warm) == {"bare", "passed_through", "decorated"}
    assert all(value > 0 for value in warm.values())


def test_the_timeline_shows_every_environment_and_migration(
    summary: dict[str, Any], report: Path
) -> None:
    picture = ElementTree.parse(report / "timeline.svg")
    texts = " ".join(element.text or "" for element in picture.iter())
    assert f"{2 * ENVIRONMENTS + 1} environments" in texts or "v2 env0008" in texts
    for name in summary["effects"]:
        assert name in texts
    assert "connections of lambda-migrate: 1 at most" in texts


# -- what it must not call a success --------------------------------------------------------------


@pytest.fixture
def example(tmp_path: Path) -> Example:
    directory = tmp_path / "orders"
    ignored = shutil.ignore_patterns("tests", "__pycache__")
    shutil.copytree(find_example().directory, directory, ignore=ignored)
    return Example(directory)


def demo(example: Example, report: Path) -> tuple[int, str]:
    output = io.StringIO()
    console = Console(file=output, width=200)
    code = run_demo(environments=2, report=report, console=console, example=example)
    return code, output.getvalue()


def edit(example: Example, name: str, before: str, after: str) -> None:
    path = example.directory / name
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def test_a_migration_that_fails_fails_the_demo(example: Example, tmp_path: Path) -> None:
    edit(example, "migrations/0003_welcome_credit.sql", "credit_cents + 500", "kredit + 500")
    code, output = demo(example, tmp_path / "report")
    assert code == 1
    assert "2 of 2 cold starts of version 1 failed" in output
    assert "0003_welcome_credit took effect 0 times" in output
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert summary["passed"] is False
    assert [one["version"] for one in summary["versions"]] == [1]


def test_a_migration_that_takes_effect_twice_fails_the_demo(
    example: Example, tmp_path: Path
) -> None:
    script = "UPDATE customers SET points = points + 1;"
    edit(example, "migrations/0006_backfill_totals.sql", script, f"{script}\n{script}")
    edit(example, "migrations/0006_backfill_totals.sql", "pg_sleep(3)", "pg_sleep(0)")
    code, output = demo(example, tmp_path / "report")
    assert code == 1
    assert "0006_backfill_totals took effect 2 times instead of once." in output


def test_a_second_connection_of_the_library_fails_the_demo(
    example: Example, tmp_path: Path
) -> None:
    edit(example, "app.py", 'APPLICATION_NAME = "orders"', 'APPLICATION_NAME = "lambda-migrate:x"')
    edit(example, "migrations/0006_backfill_totals.sql", "pg_sleep(3)", "pg_sleep(0)")
    code, output = demo(example, tmp_path / "report")
    assert code == 1
    assert "PostgreSQL connections at the same time instead of at most one" in output


def test_a_failed_rollback_fails_the_demo(example: Example, tmp_path: Path) -> None:
    edit(
        example, "migrations/0005_totals_and_points.sql", "DROP COLUMN points", "DROP COLUMN pints"
    )
    edit(example, "migrations/0006_backfill_totals.sql", "pg_sleep(3)", "pg_sleep(0)")
    code, output = demo(example, tmp_path / "report")
    assert code == 1
    assert "The rollback failed: " in output


# -- what it refuses at once ----------------------------------------------------------------------


def test_zero_environments_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="--environments 0: must be at least 1"):
        run_demo(environments=0, report=tmp_path)


def test_a_report_folder_without_write_access_is_an_error_before_the_start(tmp_path: Path) -> None:
    (tmp_path / "report").write_text("a file")
    with pytest.raises(ConfigurationError, match="is not writable"):
        run_demo(environments=1, report=tmp_path / "report")


def test_an_installed_package_without_the_example_names_the_repository(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "site-packages" / "lambda_migrate" / "local" / "deployment.py"
    monkeypatch.setattr(demo_example, "__file__", str(elsewhere))
    with pytest.raises(ConfigurationError, match="clone the repository and run `make demo`"):
        find_example()


# -- Ctrl-C ---------------------------------------------------------------------------------------


@pytest.fixture
def marker() -> Iterator[Path]:
    """Temporary files' directory of a demo: every process of it has the name in its variables."""
    directory = Path(tempfile.mkdtemp(prefix="lmd", dir="/tmp"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


def marked(marker: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            is_ours = process.environ().get("TMPDIR") == str(marker)
            if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
            continue
    return found


def until(condition: Any, *, seconds: float = 60.0) -> bool:
    give_up = time.monotonic() + seconds
    while not condition() and time.monotonic() < give_up:
        time.sleep(0.05)
    return bool(condition())


@pytest.mark.parametrize("moment", ["starting 4 environments", "invoking every environment again"])
def test_ctrl_c_leaves_no_process_behind(marker: Path, tmp_path: Path, moment: str) -> None:
    log = tmp_path / "log"
    with log.open("wb") as output:
        demo = subprocess.Popen(
            command(4, tmp_path / "report"),
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(marker), "PYTHONUNBUFFERED": "1"},
        )
    try:
        assert until(lambda: moment in log.read_text() and len(marked(marker)) > 5)
        demo.send_signal(signal.SIGINT)
        assert demo.wait(60) == 130
    finally:
        demo.kill()
        demo.wait()
    assert until(lambda: not marked(marker), seconds=20), marked(marker)
    assert list(marker.iterdir()) == []
    assert "Interrupted; every process was stopped." in log.read_text()
    assert "Traceback" not in log.read_text()
