"""The chart of many cold starts, as SVG text."""

from __future__ import annotations

import re
from collections import Counter
from xml.etree import ElementTree

import pytest

from lambda_migrate.local.demo.timeline import PHASES, Interval, Row, Series, Span, render

SVG = "{http://www.w3.org/2000/svg}"


def make_rows(n: int) -> list[Row]:
    waiting = [Span("starting", 100, 101), Span("waiting", 101, 105), Span("serving", 105, 106)]
    migrating = [Span("starting", 100, 101), Span("migrating", 101, 105)]
    return [Row(f"env{i}", migrating if i == n // 2 else waiting) for i in range(n)]


def parse(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in parse(svg).iter(f"{SVG}text")]


def strokes(svg: str) -> list[tuple[str, float, int]]:
    """Colour, width and number of lines of each path that has a colour of `PHASES`."""
    found = []
    for path in parse(svg).iter(f"{SVG}path"):
        style = dict(part.split(": ") for part in path.get("style", "").split("; ") if part)
        colour, width = style.get("stroke", ""), float(style.get("stroke-width", "1"))
        if colour in PHASES.values() and path.get("clip-path"):
            found.append((colour, width, path.get("d", "").count("M")))
    return found


@pytest.mark.parametrize("n", [1, 5, 24, 25, 100, 300])
def test_any_number_of_rows_is_a_small_well_formed_svg(n: int) -> None:
    svg = render(make_rows(n), title="A storm")
    assert parse(svg).tag == f"{SVG}svg"
    assert float(parse(svg).attrib["height"].removesuffix("pt")) < 900
    assert len(svg) < 100_000


def test_few_rows_have_labels_and_many_their_number() -> None:
    assert {"env0", "env23"} <= set(texts(render(make_rows(24))))
    many = texts(render(make_rows(100)))
    assert "100 environments" in many
    assert "env0" not in many


def test_only_phases_that_occur_are_drawn_and_explained() -> None:
    svg = render([Row("a", [Span("waiting", 0, 1)])])
    assert "waiting" in texts(svg)
    assert "serving" not in texts(svg)
    assert PHASES["serving"] not in svg


def test_the_row_that_migrates_is_thicker_than_those_that_wait() -> None:
    widths = {colour: width for colour, width, _ in strokes(render(make_rows(100)))}
    assert widths[PHASES["migrating"]] > 1.5 * widths[PHASES["waiting"]]


def test_every_span_is_drawn_once() -> None:
    lines = Counter[str]()
    for colour, _, count in strokes(render(make_rows(40))):
        lines[colour] += count
    assert lines == {
        PHASES["starting"]: 40,
        PHASES["waiting"]: 39,
        PHASES["serving"]: 39,
        PHASES["migrating"]: 1,
    }


def test_time_starts_with_the_first_span_in_round_steps() -> None:
    numbers = [text for text in texts(render(make_rows(3))) if text.replace(".", "").isdigit()]
    assert numbers == [f"{index}" for index in range(7)]


def test_labels_of_migrations_do_not_overlap() -> None:
    intervals = [Interval(f"000{n}_migration", 101 + n / 100, 101 + n / 100) for n in range(1, 6)]
    svg = render(make_rows(5), intervals=intervals)
    lines = [
        element.attrib["y"]
        for element in parse(svg).iter(f"{SVG}text")
        if (element.text or "").endswith("_migration")
    ]
    assert len(set(lines)) == 5


def test_a_label_without_room_is_left_out_but_its_band_is_drawn() -> None:
    intervals = [Interval(f"{n:04d}_one_of_very_many", 101, 101.01) for n in range(50)]
    svg = render(make_rows(5), intervals=intervals)
    assert sum(text.endswith("_many") for text in texts(svg)) == 6
    assert len(re.findall(r"opacity: 0\.(?:08|18)", svg)) == 50


def test_a_series_names_its_peak() -> None:
    points = [(100.0, 0.0), (101.0, 1.0), (101.5, 1.0), (105.0, 0.0)]
    svg = render(make_rows(3), series=[Series("connections", points), Series("nothing")])
    assert "connections: 1 at most" in texts(svg)
    assert "nothing: 0 at most" in texts(svg)


def test_text_is_escaped_and_wrapped() -> None:
    svg = render(make_rows(2), title="a < b & c", subtitle="word " * 60)
    assert "a < b & c" in texts(svg)
    assert sum(text.startswith("word") for text in texts(svg)) >= 2


def test_equal_rows_are_drawn_alike() -> None:
    assert render(make_rows(5)) == render(make_rows(5))


@pytest.mark.parametrize("rows", [[], [Row("empty", [])]])
def test_rows_without_spans_are_an_error(rows: list[Row]) -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        render(rows)


@pytest.mark.parametrize(
    ("phase", "end", "message"),
    [("dreaming", 2, "none of starting"), ("waiting", 0, "ends before")],
)
def test_an_impossible_span_is_an_error(phase: str, end: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Span(phase, 1, end)


def test_rows_of_several_groups_are_labelled_by_group() -> None:
    rows = [Row(f"e{n}", [Span("waiting", 0, 1)], f"version {n // 20}") for n in range(40)]
    labels = texts(render(rows))
    assert {"version 0", "version 1"} <= set(labels)
    assert labels.count("20 environments") == 2


def test_a_gap_takes_little_room_and_names_what_it_hides() -> None:
    rows = [Row("a", [Span("starting", 0, 40), Span("waiting", 40, 49)])]
    labels = texts(render(rows, gaps=[Interval("30 s of starting", 5, 35)]))
    assert "30 s of starting" in labels
    assert [text for text in labels if text.isdigit()] == [
        *("0", "2", "4"),
        *(str(n) for n in range(36, 49, 2)),
    ]
