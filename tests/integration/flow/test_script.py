"""A script without DynamoDB and without Lambda, in fresh processes, on a real PostgreSQL."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.sandbox import COUNTERS, Sandbox, effect

SCRIPT = """
from lambda_migrate import MigrationRunner

runner = MigrationRunner.from_settings(database_url={url!r}, directory={directory!r})
print(runner.ensure().value)
"""


def start(script: str) -> subprocess.Popen[str]:
    """A process of its own, which has no setting but those in the script."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "LAMBDA_MIGRATE_"))}
    return subprocess.Popen(
        [sys.executable, "-c", script],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def script(sandbox: Sandbox, code: Path) -> str:
    return SCRIPT.format(url=sandbox.url, directory=str(code / "migrations"))


def test_a_script_of_three_lines_migrates_and_its_next_run_applies_nothing(
    sandbox: Sandbox,
) -> None:
    code = sandbox.code({"1_counters": COUNTERS, "2_more": effect(2)})
    for outcome in ("MIGRATED", "UP_TO_DATE"):
        process = start(script(sandbox, code))
        assert process.communicate(timeout=60) == (f"{outcome}\n", "")
    assert sandbox.effects() == {1: 1, 2: 1}


def test_scripts_that_start_together_migrate_once(sandbox: Sandbox) -> None:
    code = sandbox.code({"1_counters": COUNTERS, "2_slow": effect(2, "SELECT pg_sleep(2);")})
    processes = [start(script(sandbox, code)) for _ in range(5)]
    ended = [process.communicate(timeout=120) for process in processes]
    assert [errors for _, errors in ended] == [""] * 5
    outcomes = sorted(output.strip() for output, _ in ended)
    assert outcomes.count("MIGRATED") == 1
    assert set(outcomes) <= {"MIGRATED", "WAITED", "UP_TO_DATE"}
    assert sandbox.effects() == {1: 1, 2: 1}
    assert sandbox.holders() == []
