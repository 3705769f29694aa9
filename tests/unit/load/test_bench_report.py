"""Every figure, bar and verdict is in the report."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure

from load.bench.charts import Strip, draw_bars, draw_strips, write_svg
from load.bench.figures import Spread
from load.bench.report import Report, format_markdown, write_docs, write_report
from load.bench.results import Check, Section, Table

BARS = draw_bars(
    "What it <costs>",
    "ms",
    [("lambda-migrate", Spread(2, 1, 3)), ("them", Spread(9, 8, 9))],
    limit=5,
)
STRIPS = draw_strips("A storm", [Strip("them", "9 failed", [(0.1, 3), (0.2, 9)])], most=100)
SECTION = Section(
    key="cost",
    title="The cost",
    checks=[
        Check("ours / theirs", limit=0.5, value=0.25, range=(0.2, 0.3)),
        Check("failed", limit=0, value=4, note="of 100"),
        Check("calls", limit=8, value=None, note="no storm was run"),
    ],
    tables=[Table(("who", "ms"), [("them | others", "9")], caption="In turns.")],
    charts={"cost": BARS, "storm": STRIPS},
    notes=["Two cores."],
)
REPORT = Report([SECTION], {"processor": "two cores"}, "make bench", 120.0, "busy")
PICTURES = ["benchmarks-cost.svg", "benchmarks-storm.svg"]


def test_the_page_shows_each_figure_beside_its_bar_and_verdict() -> None:
    rows = [
        [cell.strip() for cell in line.strip("| ").split(" | ")]
        for line in format_markdown(REPORT).splitlines()
        if line.startswith("|")
    ]
    assert ["ours / theirs", "0.25 (0.2 to 0.3)", "0.5", "pass"] in rows
    assert ["failed", "4", "0", "**miss**"] in rows
    assert ["calls", "-", "8", "**not measured**"] in rows


def test_the_page_names_the_command_the_machine_and_its_doubts() -> None:
    text = format_markdown(REPORT)
    for part in ("make bench", "processor: two cores", "**Provisional**: busy", "In turns."):
        assert part in text
    assert "of 100" in text
    assert "Two cores." in text


def test_columns_align_in_the_source() -> None:
    lines = [line for line in format_markdown(REPORT).splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines[:5]}) == 1


def test_a_vertical_line_within_a_cell_is_escaped() -> None:
    assert "| them \\| others | 9" in format_markdown(REPORT)


def test_figures_of_a_quiet_machine_are_not_provisional() -> None:
    quiet = Report(REPORT.sections, REPORT.machine, REPORT.command, REPORT.seconds)
    assert "Provisional" not in format_markdown(quiet)


def test_a_report_is_json_a_page_and_pictures(tmp_path: Path) -> None:
    write_report(REPORT, tmp_path)
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == ["bench.json", *PICTURES, "benchmarks.md"]
    document = json.loads((tmp_path / "bench.json").read_text())
    assert document["missed"] == 2
    assert document["sections"][0]["checks"][0]["value"] == 0.25


def test_every_picture_of_the_docs_is_written(tmp_path: Path) -> None:
    for folder in ("images", "reference"):
        (tmp_path / folder).mkdir()
    write_docs(REPORT, tmp_path)
    text = (tmp_path / "reference" / "benchmarks.md").read_text()
    for name in PICTURES:
        assert f"](../images/{name})" in text
        assert (tmp_path / "images" / name).exists()


@pytest.mark.parametrize("figure", [BARS, STRIPS], ids=["bars", "strips"])
def test_a_picture_is_well_formed_and_the_same_for_the_same_figures(
    figure: Figure, tmp_path: Path
) -> None:
    for name in ("one.svg", "two.svg"):
        write_svg(figure, tmp_path / name)
    ElementTree.fromstring((tmp_path / "one.svg").read_text())
    assert (tmp_path / "one.svg").read_text() == (tmp_path / "two.svg").read_text()
