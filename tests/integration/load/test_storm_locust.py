"""Storms with Locust, which runs in its own process because it patches whatever imports it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lambda_migrate.local.runtime.function import LocalFunction
from lambda_migrate.local.runtime.invoke_api import InvokeAPI
from load.storm.__main__ import main
from load.storm.evidence import read_statistics

ROOT = Path(__file__).parents[3]
PROBE = ROOT / "tests" / "integration" / "local" / "function"
LOCUST = [sys.executable, "-m", "locust", "-f", "load/locustfile.py", "--headless"]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, cwd=ROOT, timeout=240
    )


def test_storm_runs_and_is_reported(tmp_path: Path) -> None:
    out = tmp_path / "report"
    ran = run("load.storm", "together", "-n", "4", "--out", str(out))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "All passed." in ran.stdout
    folder = out / "together-4"
    written = {path.name for path in folder.iterdir()}
    assert {"report.json", "report.md", "locust.html", "locust_stats.csv"} <= written
    figures = json.loads((folder / "report.json").read_text())
    assert figures["locust"]["cold"] == [4, 0]
    assert figures["locust"]["init"] == [4, 0]


@pytest.mark.parametrize(
    "asked", [["whirlwind"], ["together", "-n", "0"], ["together", "-n", "many"]]
)
def test_wrong_usage_is_exit_code_2(asked: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(asked)
    assert ended.value.code == 2


# -- a stack that is deployed: here, a local one with Lambda's Invoke API --------------


@pytest.mark.parametrize("event", ["{}", '{"raise": "x"}'])
def test_function_is_invoked_by_name_and_cold_starts_are_counted(
    tmp_path: Path, event: str
) -> None:
    with (
        LocalFunction("probe.handler", code=PROBE, preload=[]) as function,
        InvokeAPI([function]) as api,
    ):
        asked = ["--function", function.name, "--event", event, "-n", "3", "--warm", "2"]
        csvs = ["--csv", str(tmp_path / "locust"), "--exit-code-on-error", "0"]
        ran = subprocess.run(
            [*LOCUST, *asked, *csvs],
            cwd=ROOT,
            env={**api.variables(), "PATH": "/usr/bin"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        started = len(function.environments())
    assert ran.returncode == 0, ran.stderr
    found = read_statistics(tmp_path / "locust")
    assert found["cold"][0] + found["warm"][0] == 9
    assert found["cold"][0] == found["init"][0] == started
    failures = found["cold"][1] + found["warm"][1]
    assert failures == (9 if "raise" in event else 0)
    if failures:
        assert "ValueError" in (tmp_path / "locust_failures.csv").read_text()
