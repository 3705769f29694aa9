"""The report: bench.json, and docs/reference/benchmarks.md with its pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from load.bench.charts import write_svg
from load.bench.results import Section, Table, Verdict, missed

__all__ = ["Report", "format_markdown", "markdown_table", "write_docs", "write_report"]


@dataclass(frozen=True, slots=True)
class Report:
    """One run.

    Attributes:
        sections: What was measured.
        machine: Where.
        command: What repeats it.
        seconds: How long it took.
        provisional: Why the figures may be off, or "".
    """

    sections: Sequence[Section]
    machine: Mapping[str, str]
    command: str
    seconds: float
    provisional: str = ""

    def as_json(self) -> dict[str, Any]:
        """Everything, for a program."""
        return {
            "machine": dict(self.machine),
            "command": self.command,
            "seconds": self.seconds,
            "provisional": self.provisional,
            "missed": len(missed(self.sections)),
            "sections": [section.as_json() for section in self.sections],
        }


def write_report(report: Report, directory: Path) -> None:
    """``bench.json``, ``benchmarks.md`` and the pictures."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "bench.json").write_text(json.dumps(report.as_json(), indent=1) + "\n")
    _write(report, directory / "benchmarks.md", pictures=directory, prefix="")


def write_docs(report: Report, docs: Path) -> None:
    """``reference/benchmarks.md`` and its pictures."""
    page = docs / "reference" / "benchmarks.md"
    _write(report, page, pictures=docs / "images", prefix="../images/")


def _write(report: Report, page: Path, *, pictures: Path, prefix: str) -> None:
    for section in report.sections:
        for name, figure in section.charts.items():
            write_svg(figure, pictures / _file(name))
    page.write_text(format_markdown(report, prefix=prefix))


def _file(name: str) -> str:
    return f"benchmarks-{name}.svg"


def format_markdown(report: Report, *, prefix: str = "") -> str:
    """The page; ``prefix`` leads from it to the pictures."""
    checks = [check for section in report.sections for check in section.checks]
    rows = [(each.what, each.measured, each.allowed, _word(each.verdict)) for each in checks]
    provisional = f"> **Provisional**: {report.provisional}.\n\n" if report.provisional else ""
    parts = [
        _INTRODUCTION.format(command=report.command) + provisional,
        markdown_table(Table(("", "measured", "at most", ""), rows)),
        *(_section(section, prefix) for section in report.sections),
        "## Where\n\n" + "".join(f"- {name}: {text}\n" for name, text in report.machine.items()),
        f"- the whole run took {report.seconds / 60:.0f} min\n",
    ]
    return "".join(parts)


_INTRODUCTION = """# Benchmarks

Written by the command below. What a ratio compares is measured in turns, several times; the table
shows the median, with the least and the most in brackets. Each ratio is taken within one round, so
that load which affects a whole round affects both of its sides. That memory does not grow and that
nothing stays open are tests of real runtimes, `tests/integration/flow/test_leaks.py`.
Where the time of one cold start goes is on [a page of its own](profile.md).

```sh
{command}
python -m load.bench --only takeovers,scripts  # some rows of it; --help names all
```

"""


def _section(section: Section, prefix: str) -> str:
    notes = [f"{check.what}: {check.note}" for check in section.checks if check.note]
    notes += section.notes
    return (
        f"## {section.title}\n\n"
        + "".join(f"![{section.title}]({prefix}{_file(name)})\n\n" for name in section.charts)
        + "".join(markdown_table(table) for table in section.tables)
        + "".join(f"- {note}\n" for note in notes)
        + ("\n" if notes else "")
    )


def markdown_table(table: Table) -> str:
    """A table whose columns align in the source, too."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in (table.header, *table.rows)]
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    lines = [
        "| " + " | ".join(f"{cell:{n}}" for cell, n in zip(row, widths, strict=True)) + " |\n"
        for row in rows
    ]
    return "".join(lines) + "\n" + (f"{table.caption}\n\n" if table.caption else "")


def _word(verdict: Verdict) -> str:
    return "pass" if verdict is Verdict.PASS else f"**{verdict.value.lower()}**"
