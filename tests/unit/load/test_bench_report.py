"""Every figure, limit and outcome is in the report."""

from __future__ import annotations

from pathlib import Path

from load.bench.__main__ import BENCHMARKS
from load.bench.report import write_page
from load.bench.results import Limit, Section, Table

SECTION = Section(
    [
        Limit("ours / theirs", limit=0.5, values=[0.2, 0.25, 0.3]),
        Limit("failed", limit=0, values=[4], note="of 100"),
        Limit("calls", limit=8, values=[], note="no storm was run"),
    ],
    [Table(("who", "ms"), [("them | others", "9")])],
)
SECTIONS = dict.fromkeys(BENCHMARKS, SECTION)
SETUP = {"processor": "two cores"}


def test_the_page_shows_each_figure_beside_its_limit_and_outcome(tmp_path: Path) -> None:
    (tmp_path / "reference").mkdir()
    write_page(SECTIONS, tmp_path, setup=SETUP, other_work="busy")
    text = (tmp_path / "reference" / "benchmarks.md").read_text()
    rows = [
        [cell.strip() for cell in line.strip("| ").split(" | ")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    assert ["ours / theirs", "0.25 (0.2 to 0.3)", "0.5", "pass"] in rows
    assert ["failed", "4", "0", "miss"] in rows
    assert ["calls", "-", "8", "not measured"] in rows
    for part in ("them \\| others", "- failed: of 100", "processor: two", "**Provisional**: busy"):
        assert part in text
