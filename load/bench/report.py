"""The report: bench.json, and docs/reference/benchmarks.md."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import psutil

from load.bench.results import Section, Table, markdown_table
from load.bench.tools import DBMATE_VERSION

_BUSY_SHARE = 0.1
"""Above this share of the processors' time, something else was running."""

_LIBRARIES = (
    *("boto3", "awslambdaric", "aws-lambda-powertools", "pg8000", "Alembic", "SQLAlchemy"),
    *("Django", "yoyo-migrations", "psycopg", "psycopg2-binary"),
)


@dataclass(frozen=True, slots=True)
class Report:
    """One run."""

    sections: Mapping[str, Section]  # what was measured, by row
    machine: Mapping[str, str]  # where
    provisional: str = ""  # why the figures may be off, or ""


def describe_other_work() -> str:
    """Why figures that are measured now may be off, or ""."""
    busy = psutil.cpu_percent(interval=2) / 100
    is_busy = busy > _BUSY_SHARE
    return f"the machine was {busy:.0%} busy with other work when it began" if is_busy else ""


def describe_machine(postgresql: str) -> dict[str, str]:
    """The machine and what runs on it."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = cpuinfo.partition("model name")[2].partition("\n")[0].lstrip("\t: ")
    command = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(
        command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    libraries = [f"{name} {version(name)}" for name in _LIBRARIES]
    return {
        "processor": f"{model or platform.machine()}, {psutil.cpu_count()} cores",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "PostgreSQL": postgresql,
        "libraries": ", ".join([*libraries, f"dbmate {DBMATE_VERSION}"]),
        "DynamoDB API": "dynalite, in one Node.js process",
        "lambda-migrate": f"{version('lambda-migrate')} ({commit.stdout.strip()})",
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


def write_report(report: Report, directory: Path, docs: Path | None) -> None:
    """``bench.json``, and in ``docs`` the page, from the template beside this module."""
    directory.mkdir(parents=True, exist_ok=True)
    document = asdict(report)
    tables = {}
    for name, section in report.sections.items():
        outcomes = [limit.outcome for limit in section.limits]
        document["sections"][name]["outcomes"] = outcomes
        notes = [f"- {limit.what}: {limit.note}\n" for limit in section.limits if limit.note]
        text = "".join(map(markdown_table, section.tables)) + "".join(notes)
        tables[name.replace("-", "_")] = text.strip()
    (directory / "bench.json").write_text(json.dumps(document, indent=1) + "\n")
    if docs is None:
        return
    limits = [limit for section in report.sections.values() for limit in section.limits]
    header = ("", "measured", "at most", "")
    rows = [(each.what, each.measured, each.allowed, each.outcome) for each in limits]
    template = Path(__file__).with_name("benchmarks.md").read_text()
    provisional = f"> **Provisional**: {report.provisional}.\n\n" if report.provisional else ""
    page = template.format(
        provisional=provisional,
        limits=markdown_table(Table(header, rows)).strip(),
        machine="\n".join(f"- {name}: {text}" for name, text in report.machine.items()),
        **tables,
    )
    (docs / "reference" / "benchmarks.md").write_text(page)
