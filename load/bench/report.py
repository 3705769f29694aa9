"""docs/reference/benchmarks.md, and where its figures were measured."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from load.bench.results import Section, Table, markdown_table
from load.bench.tools import DBMATE_VERSION

_MAX_BUSY_SHARE = 0.1  # of the processors' time; above it, something else was running

_LIBRARIES = (
    *("boto3", "awslambdaric", "aws-lambda-powertools", "pg8000", "Alembic", "SQLAlchemy"),
    *("Django", "yoyo-migrations", "psycopg", "psycopg2-binary"),
)


def describe_other_work() -> str:
    """Why figures that are measured now may be off, or ""."""
    busy = psutil.cpu_percent(interval=2) / 100
    is_busy = busy > _MAX_BUSY_SHARE
    return f"the machine was {busy:.0%} busy with other work when it began" if is_busy else ""


def describe_machine() -> dict[str, str]:
    """The processor, the memory, the system and Python."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = cpuinfo.partition("model name")[2].partition("\n")[0].lstrip("\t: ")
    return {
        "processor": f"{model or platform.machine()}, {psutil.cpu_count()} cores",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
    }


def describe_setup(postgresql: str) -> dict[str, str]:
    """The machine, and the versions of what is measured on it."""
    command = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(
        command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    libraries = [f"{name} {version(name)}" for name in _LIBRARIES]
    return {
        **describe_machine(),
        "PostgreSQL": postgresql,
        "libraries": ", ".join([*libraries, f"dbmate {DBMATE_VERSION}"]),
        "DynamoDB API": "dynalite, in one Node.js process",
        "lambda-migrate": f"{version('lambda-migrate')} ({commit.stdout.strip()})",
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


def fill_page(
    template: Path, page: Path, *, setup: Mapping[str, str], other_work: str, **texts: Any
) -> None:
    """Write a page of docs/ from a template that names ``texts`` and where they were measured."""
    provisional = f"> **Provisional**: {other_work}.\n\n" if other_work else ""
    machine = "\n".join(f"- {name}: {text}" for name, text in setup.items())
    page.write_text(template.read_text().format(provisional=provisional, machine=machine, **texts))


def write_page(
    sections: Mapping[str, Section], docs: Path, *, setup: Mapping[str, str], other_work: str
) -> None:
    """Write docs/reference/benchmarks.md, from the template beside this module."""
    texts = {}
    for name, section in sections.items():
        notes = [f"- {limit.metric}: {limit.note}\n" for limit in section.limits if limit.note]
        text = "".join(map(markdown_table, section.tables)) + "".join(notes)
        texts[name.replace("-", "_")] = text.strip()
    limits = [limit for section in sections.values() for limit in section.limits]
    rows = [(each.metric, each.measured, each.allowed, each.outcome) for each in limits]
    texts["limits"] = markdown_table(Table(("", "measured", "at most", ""), rows)).strip()
    page = docs / "reference" / "benchmarks.md"
    template = Path(__file__).with_name("benchmarks.md")
    fill_page(template, page, setup=setup, other_work=other_work, **texts)
