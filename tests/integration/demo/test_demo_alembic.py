"""The demo with FastAPI, SQLAlchemy and Alembic: a service from end to end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_one_environment_runs_each_revision_once_and_the_others_wait(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lambda_migrate", "demo", "--app", "alembic"]
    command += ["--environments", "4", "--report", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["passed"] is True
    assert summary["postgresql"]["lambda_migrate_connections_at_most"] == 1
