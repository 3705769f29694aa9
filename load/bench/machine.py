"""Where it was measured, and whether that was quiet."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from load.bench.engines import DBMATE_VERSION

__all__ = ["BUSY", "busy_share", "describe"]

BUSY = 0.1
"""From this share of the processors on, something else was at work."""

_LIBRARIES = ("boto3", "pg8000", "Alembic", "SQLAlchemy", "Django", "yoyo-migrations", "psycopg")


def describe(postgresql: str) -> dict[str, str]:
    """The machine and what runs on it."""
    libraries = [f"{name} {version(name)}" for name in (*_LIBRARIES, "psycopg2-binary")]
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "PostgreSQL": postgresql,
        "libraries": ", ".join([*libraries, f"dbmate {DBMATE_VERSION}"]),
        "DynamoDB API": "dynalite, in one Node.js process",
        "lambda-migrate": version("lambda-migrate") + _commit(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


def busy_share(seconds: float = 2.0) -> float:
    """How busy the processors are while nothing is measured yet, 0 to 1."""
    busy, total = _ticks()
    time.sleep(seconds)
    busy_then, total_then = _ticks()
    return (busy_then - busy) / max(1, total_then - total)


def _ticks() -> tuple[int, int]:
    """Busy and all: the first line of /proc/stat, whose columns 4 and 5 are idle and iowait."""
    numbers = [int(text) for text in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return sum(numbers) - numbers[3] - numbers[4], sum(numbers)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    """The commit that was measured, where this is a checkout and git is there."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return ""
    return f" ({done.stdout.strip()})" if done.returncode == 0 else ""
