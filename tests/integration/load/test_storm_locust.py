"""Locust itself, always in processes of its own: it patches whatever imports it."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lambda_migrate.local.runtime.function import LocalFunction
from lambda_migrate.local.runtime.plain_http import LocalHTTPRequest, LocalHTTPResponse
from load.storm.__main__ import main
from load.storm.evidence import read_statistics
from load.storm.host import Host, serve

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


# -- a stack that is deployed: here, the local Lambda behind Lambda's own Invoke API --------------


@contextmanager
def deployed(function: LocalFunction) -> Iterator[str]:
    """Lambda's Invoke API as far as boto3 needs it,"""

    async def respond(request: LocalHTTPRequest) -> LocalHTTPResponse:
        body = json.loads(request.body) if request.body else {}
        result = await asyncio.wrap_future(function.submit(body))
        report = "REPORT RequestId: x Duration: 1.00 ms"
        if result.cold:
            report += f" Init Duration: {result.init_seconds * 1000:.2f} ms"
        headers = {"X-Amz-Log-Result": base64.b64encode(report.encode()).decode()}
        if result.ok:
            return LocalHTTPResponse(200, json.dumps(result.payload).encode(), headers)
        headers["X-Amz-Function-Error"] = "Unhandled"
        said = {"errorType": result.error_type, "errorMessage": result.error_message}
        return LocalHTTPResponse(200, json.dumps(said).encode(), headers)

    with serve(cast(Host, SimpleNamespace(respond=respond))) as url:
        yield url


@pytest.mark.parametrize("event", ["{}", '{"raise": "x"}'])
def test_function_is_invoked_by_name_and_cold_starts_are_counted(
    tmp_path: Path, event: str
) -> None:
    with (
        LocalFunction("probe.handler", code=PROBE, preload=[]) as function,
        deployed(function) as url,
    ):
        environ: dict[str, Any] = {
            "AWS_ENDPOINT_URL_LAMBDA": url,
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "PATH": "/usr/bin",
        }
        asked = ["--function", "orders", "--event", event, "-n", "3", "--warm", "2"]
        csvs = ["--csv", str(tmp_path / "locust"), "--exit-code-on-error", "0"]
        ran = subprocess.run(
            [*LOCUST, *asked, *csvs],
            cwd=ROOT,
            env=environ,
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
