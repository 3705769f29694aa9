"""Every figure, bar and verdict is in every form of the report."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from load.bench.findings import Area, Areas, Chart, Check, Section, Table
from load.bench.report import Report, markdown, page, write_docs, write_report

BARS = Chart("cost", "What <it> costs", "ms", [("lambda-migrate", 2, 1, 3), ("them", 9, 8, 9)], 5)
STRIPS = Areas(
    "storm", "A storm", "of 100", 100.0, [Area("them", "9 failed", [(0.1, 3), (0.2, 9)], True)]
)
SECTION = Section(
    key="cost",
    title="The cost",
    checks=[
        Check("ours / theirs", bar=0.5, value=0.25, range=(0.2, 0.3)),
        Check("failed", bar=0, value=4, note="of 100"),
        Check("calls", bar=8, value=None, note="no storm was run"),
    ],
    tables=[Table(("who", "ms"), [("them | others", "9")], caption="By turns.")],
    charts=[BARS, STRIPS],
    notes=["Two cores."],
)
REPORT = Report([SECTION], {"processor": "two <cores>"}, "make bench", 120.0, "busy")


def test_the_docs_show_each_figure_beside_its_bar_and_verdict() -> None:
    text = markdown(REPORT)
    assert "| ours / theirs | 0.25 (0.2 to 0.3) | 0.5 | pass |" in text
    assert "| failed | 4 | 0 | **miss** |" in text
    assert "| calls | - | 8 | **not measured** |" in text


def test_the_docs_say_where_how_and_how_sure() -> None:
    text = markdown(REPORT)
    for part in ("make bench", "processor: two <cores>", "**Provisional**: busy", "By turns."):
        assert part in text
    assert "of 100" in text
    assert "Two cores." in text


def test_a_bar_within_a_cell_does_not_end_it() -> None:
    assert "| them \\| others | 9 |" in markdown(REPORT)


def test_a_quiet_machine_leaves_no_doubt() -> None:
    sure = Report(REPORT.sections, REPORT.machine, REPORT.command, REPORT.seconds)
    assert "Provisional" not in markdown(sure)


def test_the_page_escapes_what_it_shows() -> None:
    text = page(REPORT)
    assert "two &lt;cores&gt;" in text
    assert "<cores>" not in text
    for verdict in ("PASS", "MISS", "NOT MEASURED"):
        assert f">{verdict}</span>" in text


def test_a_report_is_json_a_page_and_pictures(tmp_path: Path) -> None:
    write_report(REPORT, tmp_path)
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == ["bench.json", "benchmarks-cost.svg", "benchmarks-storm.svg", "index.html"]
    document = json.loads((tmp_path / "bench.json").read_text())
    assert document["missed"] == 2
    assert document["sections"][0]["checks"][0]["value"] == 0.25


def test_every_picture_of_the_docs_is_there(tmp_path: Path) -> None:
    for folder in ("images", "reference"):
        (tmp_path / folder).mkdir()
    write_docs(REPORT, tmp_path)
    text = (tmp_path / "reference" / "benchmarks.md").read_text()
    for name in ("benchmarks-cost.svg", "benchmarks-storm.svg"):
        assert f"](../images/{name})" in text
        assert (tmp_path / "images" / name).exists()


@pytest.mark.parametrize("name", ["benchmarks-cost.svg", "benchmarks-storm.svg"])
def test_a_picture_is_well_formed(name: str, tmp_path: Path) -> None:
    write_report(REPORT, tmp_path)
    ElementTree.fromstring((tmp_path / name).read_text())


def test_longer_bars_stand_for_more(tmp_path: Path) -> None:
    write_report(REPORT, tmp_path)
    drawing = ElementTree.fromstring((tmp_path / "benchmarks-cost.svg").read_text())
    widths = [float(one.attrib["width"]) for one in drawing.iter() if one.attrib.get("rx") == "2"]
    assert widths[1] / widths[0] == pytest.approx(9 / 2, rel=0.01)
