"""The report: JSON, a page and pictures for people, and docs/reference/benchmarks.md."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from load.bench import charts
from load.bench.findings import Areas, Chart, Check, Section, Table, Verdict, missed

__all__ = ["Report", "markdown", "page", "write_docs", "write_report"]

_MARKS = {Verdict.PASS: "#2b8a6e", Verdict.MISS: "#b42318", Verdict.NOT_MEASURED: "#6b7480"}


@dataclass(frozen=True, slots=True)
class Report:
    """One run.

    Attributes:
        sections: What was measured.
        machine: Where.
        command: What repeats it.
        seconds: How long it took.
        provisional: Why the figures are not to be trusted, or "".
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
    """``bench.json``, ``index.html`` and the pictures."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "bench.json").write_text(json.dumps(report.as_json(), indent=1) + "\n")
    (directory / "index.html").write_text(page(report))
    _write_pictures(report, directory)


def write_docs(report: Report, docs: Path) -> None:
    """``reference/benchmarks.md`` and its pictures."""
    _write_pictures(report, docs / "images")
    (docs / "reference" / "benchmarks.md").write_text(markdown(report))


def _write_pictures(report: Report, directory: Path) -> None:
    for name, svg in _pictures(report.sections):
        (directory / name).write_text(svg)


def _pictures(sections: Sequence[Section]) -> Iterator[tuple[str, str]]:
    for section in sections:
        for chart in section.charts:
            yield _file(chart), _drawn(chart)


def _file(chart: Chart | Areas) -> str:
    return f"benchmarks-{chart.name}.svg"


def _drawn(chart: Chart | Areas) -> str:
    return charts.bars(chart) if isinstance(chart, Chart) else charts.areas(chart)


# -- Markdown -------------------------------------------------------------------------------------


def markdown(report: Report) -> str:
    """The page for docs/."""
    lines = [
        "# Benchmarks",
        "",
        "Written by the command below; every figure is measured, side by side with what it is held",
        "against: by turns, medians of several runs, the least and the most in brackets. A ratio",
        "is taken in each round, so that drift between rounds is in both of its sides.",
        "",
        "```sh",
        report.command,
        "python -m load.bench --only takeovers,scripts  # some rows of it; --help names all",
        "```",
        "",
    ]
    if report.provisional:
        lines += [f"> **Provisional**: {report.provisional}.", ""]
    lines += _markdown_table(
        Table(
            ("", "measured", "must be at most", ""),
            [
                (check.what, check.measured, check.allowed, _verdict(check))
                for section in report.sections
                for check in section.checks
            ],
        )
    )
    for section in report.sections:
        lines += _markdown_section(section)
    lines += ["## Where", ""]
    lines += [f"- {name}: {text}" for name, text in report.machine.items()]
    lines += [f"- the whole run took {report.seconds / 60:.0f} min", ""]
    return "\n".join(lines)


def _markdown_section(section: Section) -> list[str]:
    lines = [f"## {section.title}", ""]
    for chart in section.charts:
        lines += [f"![{chart.title}](../images/{_file(chart)})", ""]
    for table in section.tables:
        lines += _markdown_table(table)
    notes = [*(f"{check.what}: {check.note}" for check in section.checks if check.note)]
    notes += section.notes
    return lines + [f"- {note}" for note in notes] + ([""] if notes else [])


def _markdown_table(table: Table) -> list[str]:
    lines = [_row(table.header), _row(["---"] * len(table.header))]
    lines += [_row(row) for row in table.rows]
    return [*lines, "", *([table.caption, ""] if table.caption else [])]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _verdict(check: Check) -> str:
    if check.verdict is Verdict.PASS:
        return "pass"
    return f"**{check.verdict.value.lower()}**"


# -- the page -------------------------------------------------------------------------------------

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #23282f; background: #f4f5f6; margin: 0; }
main { max-width: 900px; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; background: #fff; margin: 1rem 0; }
td, th { padding: .4rem .7rem; border-bottom: 1px solid #e8eaed; text-align: left; }
th { font-weight: 600; color: #6b7480; font-size: 13px; }
.mark { color: #fff; border-radius: 4px; padding: .1rem .5rem; font-size: 12px; }
.mark, td:nth-child(3) { white-space: nowrap; }
svg { max-width: 100%; height: auto; }
li, p.small { color: #6b7480; font-size: 13px; }
pre { background: #fff; padding: .7rem; }
"""


def page(report: Report) -> str:
    """One page that needs nothing but itself."""
    failed = len(missed(report.sections))
    checks = sum(len(section.checks) for section in report.sections)
    body = [
        "<h1>Benchmarks</h1>",
        f"<p>{checks - failed} of {checks} bars are kept. {escape(report.provisional)}</p>",
        _html_table(
            ("", "measured", "at most", ""),
            [
                (escape(one.what), escape(one.measured), escape(one.allowed), _mark(one.verdict))
                for section in report.sections
                for one in section.checks
            ],
        ),
        *(_html_section(section) for section in report.sections),
        "<h2>Where</h2>",
        _html_table(("", ""), [(escape(k), escape(v)) for k, v in report.machine.items()]),
        f"<pre>{escape(report.command)}</pre>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>Benchmarks</title>'
        f"<style>{_STYLE}</style>\n<main>\n" + "\n".join(body) + "\n</main></html>\n"
    )


def _html_section(section: Section) -> str:
    parts = [f"<h2>{escape(section.title)}</h2>"]
    parts += [_drawn(chart) for chart in section.charts]
    for table in section.tables:
        rows = [[escape(cell) for cell in row] for row in table.rows]
        parts.append(_html_table([escape(cell) for cell in table.header], rows))
        if table.caption:
            parts.append(f'<p class="small">{escape(table.caption)}</p>')
    notes = [f"{one.what}: {one.note}" for one in section.checks if one.note] + [*section.notes]
    parts.append("<ul>" + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>")
    return "\n".join(parts)


def _html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{cell}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f"<table><tr>{head}</tr>\n{body}</table>"


def _mark(verdict: Verdict) -> str:
    return f'<span class="mark" style="background:{_MARKS[verdict]}">{verdict.value}</span>'
