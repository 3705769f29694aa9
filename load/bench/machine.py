"""Where it was measured, and whether the machine was quiet."""

from __future__ import annotations

import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import psutil

from load.bench.peers import DBMATE_VERSION

__all__ = ["BUSY_SHARE", "busy_share", "describe_machine"]

BUSY_SHARE = 0.1
"""Above this share of the processors' time, something else was running."""

_LIBRARIES = (
    "boto3",
    "awslambdaric",
    "aws-lambda-powertools",
    "pg8000",
    "Alembic",
    "SQLAlchemy",
    "Django",
    "yoyo-migrations",
    "psycopg",
    "psycopg2-binary",
)


def describe_machine(postgresql: str) -> dict[str, str]:
    """The machine and what runs on it."""
    libraries = [f"{name} {version(name)}" for name in _LIBRARIES]
    return {
        "processor": f"{_processor()}, {psutil.cpu_count()} cores",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "PostgreSQL": postgresql,
        "libraries": ", ".join([*libraries, f"dbmate {DBMATE_VERSION}"]),
        "DynamoDB API": "dynalite, in one Node.js process",
        "lambda-migrate": version("lambda-migrate") + _commit(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


def busy_share(seconds: float = 2.0) -> float:
    """How busy the processors are before anything is measured, 0 to 1."""
    return psutil.cpu_percent(interval=seconds) / 100


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    """The commit that was measured, where this is a checkout and git is installed."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (FileNotFoundError, subprocess.CalledProcessError):
        return ""
    return f" ({done.stdout.strip()})"
