"""The report: bench.json, and docs/reference/benchmarks.md with its pictures."""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import psutil
from matplotlib.figure import Figure

from load import charts
from load.bench.results import Section, Table, format_number
from load.bench.tools import DBMATE_VERSION

__all__ = ["Report", "describe_machine", "markdown_table", "write_docs", "write_json"]

_OWN_COLOUR, _OTHERS_COLOUR = "#d9480f", "#8aa4c8"
_LIBRARIES = (
    *("boto3", "awslambdaric", "aws-lambda-powertools", "pg8000", "Alembic", "SQLAlchemy"),
    *("Django", "yoyo-migrations", "psycopg", "psycopg2-binary"),
)


@dataclass(frozen=True, slots=True)
class Report:
    """One run.

    Attributes:
        sections: What was measured, by row.
        machine: Where.
        provisional: Why the figures may be off, or "".
    """

    sections: Mapping[str, Section]
    machine: Mapping[str, str]
    provisional: str = ""


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


def write_json(report: Report, directory: Path) -> Path:
    """``bench.json``; returns its path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "bench.json"
    document = asdict(report)
    for name, section in report.sections.items():
        outcomes = [limit.outcome for limit in section.limits]
        document["sections"][name]["outcomes"] = outcomes
    path.write_text(json.dumps(document, indent=1) + "\n")
    return path


def write_docs(report: Report, docs: Path) -> Path:
    """``reference/benchmarks.md``, from the template beside this module; returns its path."""
    tables = {}
    for name, section in report.sections.items():
        notes = [f"- {limit.what}: {limit.note}\n" for limit in section.limits if limit.note]
        text = "".join(map(markdown_table, section.tables)) + "".join(notes)
        tables[name.replace("-", "_")] = text.strip()
        if section.bars:
            _draw_bars(section.bars, docs / "images" / f"benchmarks-{name}.svg")
    limits = [limit for section in report.sections.values() for limit in section.limits]
    header = ("", "measured", "at most", "")
    rows = [(each.what, each.measured, each.allowed, each.outcome) for each in limits]
    page = docs / "reference" / "benchmarks.md"
    page.write_text(
        Path(__file__)
        .with_name("benchmarks.md")
        .read_text()
        .format(
            provisional=f"> **Provisional**: {report.provisional}.\n\n"
            if report.provisional
            else "",
            limits=markdown_table(Table(header, rows)).strip(),
            machine="\n".join(f"- {name}: {text}" for name, text in report.machine.items()),
            **tables,
        )
    )
    return page


def markdown_table(table: Table) -> str:
    """A table whose columns align in the source, too."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in (table.header, *table.rows)]
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    lines = [
        "| " + " | ".join(f"{cell:{n}}" for cell, n in zip(row, widths, strict=True)) + " |\n"
        for row in rows
    ]
    return "".join(lines) + "\n"


def _draw_bars(bars: Mapping[str, Sequence[float]], path: Path) -> None:
    """Horizontal bars: the median, and a line from the least to the most."""
    with charts.style():
        figure = Figure(figsize=(9, 1 + 0.32 * len(bars)), layout="constrained")
        axes = figure.subplots()
        for label, values in bars.items():
            median = statistics.median(values)
            colour = _OWN_COLOUR if label.startswith("lambda-migrate") else _OTHERS_COLOUR
            errors = [[median - min(values)], [max(values) - median]]
            axes.barh(label, median, xerr=errors, color=colour, height=0.6)
            axes.annotate(f"  {format_number(median)}", (max(values), label), va="center")
        axes.invert_yaxis()
        charts.save(figure, path)
