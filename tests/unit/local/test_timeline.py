"""The picture of a storm, as SVG text."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from lambda_migrate.local.demo.timeline import PHASES, Band, Row, Series, Span, render

SVG = "{http://www.w3.org/2000/svg}"


def storm(n: int) -> list[Row]:
    waiting = [Span("starting", 100, 101), Span("waiting", 101, 105), Span("serving", 105, 106)]
    migrating = [Span("starting", 100, 101), Span("migrating", 101, 105)]
    return [Row(f"env{i}", migrating if i == n // 2 else waiting) for i in range(n)]


def parse(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in parse(svg).iter(f"{SVG}text")]


@pytest.mark.parametrize("n", [1, 5, 24, 25, 100, 300])
def test_any_number_of_rows_is_one_small_well_formed_picture(n: int) -> None:
    svg = render(storm(n), title="A storm")
    assert parse(svg).tag == f"{SVG}svg"
    assert float(parse(svg).attrib["height"]) < 900
    assert len(svg) < 50_000


def test_few_rows_carry_their_labels_and_many_their_number() -> None:
    assert {"env0", "env23"} <= set(texts(render(storm(24))))
    many = texts(render(storm(100)))
    assert "100 environments" in many
    assert "env0" not in many


def test_only_phases_that_occur_are_drawn_and_explained() -> None:
    svg = render([Row("a", [Span("waiting", 0, 1)])])
    assert "waiting" in texts(svg)
    assert "serving" not in texts(svg)
    assert PHASES["serving"] not in svg


def test_the_row_that_migrates_is_thicker_than_those_that_wait() -> None:
    paths = {
        path.get("fill"): path.get("d", "") for path in parse(render(storm(100))).iter(f"{SVG}path")
    }

    def heights(colour: str) -> set[float]:
        return {float(piece.split("v")[1].split("h")[0]) for piece in paths[colour].split("M")[1:]}

    assert min(heights(PHASES["migrating"])) > 1.5 * max(heights(PHASES["waiting"]))


def test_every_row_and_span_is_drawn_once() -> None:
    paths = {
        path.get("fill"): path.get("d", "") for path in parse(render(storm(40))).iter(f"{SVG}path")
    }
    assert paths[PHASES["waiting"]].count("M") == 39
    assert paths[PHASES["migrating"]].count("M") == 1


def test_time_counts_from_the_first_start_in_round_steps() -> None:
    numbers = [text for text in texts(render(storm(3))) if text.replace(".", "").isdigit()]
    assert numbers[0] == "0"
    assert numbers == [f"{index}" for index in range(7)]


def test_names_of_migrations_never_overlap() -> None:
    bands = [Band(f"000{n}_migration", 101 + n / 100, 101 + n / 100) for n in range(1, 6)]
    svg = render(storm(5), bands=bands)
    lines = [
        element.attrib["y"]
        for element in parse(svg).iter(f"{SVG}text")
        if (element.text or "").endswith("_migration")
    ]
    assert len(set(lines)) == 5


def test_a_name_that_finds_no_place_is_left_out_and_its_band_is_drawn() -> None:
    bands = [Band(f"{n:04d}_one_of_very_many", 101, 101.01) for n in range(50)]
    svg = render(storm(5), bands=bands)
    assert sum(text.endswith("_many") for text in texts(svg)) == 6
    assert svg.count("fill-opacity") == 50


def test_a_series_tells_its_peak_and_draws_a_stair() -> None:
    points = [(100.0, 0.0), (101.0, 1.0), (101.5, 1.0), (105.0, 0.0)]
    svg = render(storm(3), series=[Series("connections", points), Series("nothing")])
    assert "connections: 1 at most" in texts(svg)
    assert "nothing: 0 at most" in texts(svg)
    stairs = [p.get("d", "") for p in parse(svg).iter(f"{SVG}path") if p.get("fill") == "none"]
    assert len(stairs) == 1
    assert stairs[0].count("V") == 2


def test_text_is_escaped_and_wrapped() -> None:
    svg = render(storm(2), title="a < b & c", subtitle="word " * 60)
    assert "a < b & c" in texts(svg)
    assert sum(text.startswith("word") for text in texts(svg)) >= 2


@pytest.mark.parametrize("rows", [[], [Row("empty", [])]])
def test_nothing_to_draw_is_an_error(rows: list[Row]) -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        render(rows)


@pytest.mark.parametrize(
    ("phase", "end", "complaint"),
    [("dreaming", 2, "none of starting"), ("waiting", 0, "ends before")],
)
def test_a_span_that_cannot_be_is_refused(phase: str, end: float, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Span(phase, 1, end)
