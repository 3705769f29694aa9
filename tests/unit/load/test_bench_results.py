"""An outcome follows from the figures and their limit alone; figures are written as measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from load.bench.calls import read_waiter_calls
from load.bench.processes import read_figures
from load.bench.results import (
    Limit,
    Section,
    compute_ratios,
    find_missed_limits,
    format_number,
    format_spread,
    percentile,
)
from load.bench.takeovers import TakeoverResult, make_section
from load.bench.tools import (
    TOOLS,
    Tool,
    make_small_migrations,
    make_storm_migrations,
    write_project,
)


@pytest.mark.parametrize(
    ("values", "outcome"),
    [([0.15], "pass"), ([0.1, 0.15, 9], "pass"), ([0.1501], "miss"), ([], "not measured")],
)
def test_the_median_decides(values: Sequence[float], outcome: str) -> None:
    limit = Limit("a ratio", limit=0.15, values=values)
    assert limit.outcome == outcome
    assert find_missed_limits([Section([limit])]) == ([] if outcome == "pass" else [limit])


def test_a_figure_shows_its_range_and_its_unit() -> None:
    limit = Limit("it", limit=3, values=[2.0, 2.5, 3.25], unit="MB")
    assert (limit.measured, limit.allowed) == ("2.5 (2 to 3.25) MB", "3 MB")
    assert Limit("it", 8, []).measured == "-"
    assert format_spread([7, 7]) == "7"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (0.01234, "0.0123"), (12.34, "12.3"), (99.96, "100"), (1234.4, "1,234")],
)
def test_a_number_has_three_significant_digits(value: float, shown: str) -> None:
    assert format_number(value) == shown


def test_a_ratio_is_taken_within_each_round() -> None:
    assert compute_ratios([2, 5, 2], [10, 25, 0]) == [0.2, 0.2]
    with pytest.raises(ValueError, match="zip"):
        compute_ratios([12], [20, 40])


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1), (1, 1), (50, 50), (99, 99), (99.5, 100), (100, 100)]
)
def test_a_percentile_is_one_of_the_values(percent: float, expected: float) -> None:
    assert percentile(list(range(100, 0, -1)), percent) == expected


@pytest.mark.parametrize("tool", TOOLS.values(), ids=TOOLS.keys())
def test_a_project_holds_every_statement(tool: Tool, tmp_path: Path) -> None:
    write_project(tmp_path, tool.files(make_storm_migrations(pending=True)))
    text = "".join(path.read_text() for path in tmp_path.rglob("*.*") if path.suffix != ".pyc")
    for migration in make_storm_migrations(pending=True):
        assert all(statement in text for statement in migration.statements)


def test_each_pending_migration_of_a_storm_records_its_effect() -> None:
    before, after = make_storm_migrations(pending=False), make_storm_migrations(pending=True)
    assert after[: len(before)] == before
    assert [migration.version for migration in after] == list(range(1, 16))
    for migration in after[len(before) :]:
        assert f"INSERT INTO effects VALUES ({migration.version})" in migration.statements
    assert len({migration.stem for migration in make_small_migrations(1000)}) == 1000


def test_figures_are_read_from_among_other_output() -> None:
    assert read_figures('{"level": "INFO"}\n\nBENCH [1, 2]\nmore\n') == [1, 2]
    with pytest.raises(ValueError, match="no figures"):
        read_figures("nothing")


def _write_report(reports: Path, folder: str, **changed: Any) -> None:
    calls = {"count": 999, "median": 7, "p99": 9, "worst": 15}
    report = {"passed": True, "dynamodb_calls_of_each_waiter": calls}
    (reports / folder).mkdir(parents=True)
    (reports / folder / "report.json").write_text(json.dumps(report | changed))


def test_without_a_large_storm_the_calls_are_not_measured(tmp_path: Path) -> None:
    _write_report(tmp_path, "together-100")
    _write_report(tmp_path, "ramp-1000")
    (tmp_path / "together-1000").mkdir()
    (tmp_path / "together-1000" / "report.json").write_text('{"passed": false}')
    [limit] = read_waiter_calls(tmp_path).limits
    assert limit.outcome == "not measured"
    assert "make storm" in limit.note


def test_of_several_storms_the_median_counts_and_each_is_named(tmp_path: Path) -> None:
    for name, median in (("one", 7), ("two", 9), ("three", 8)):
        calls = {"count": 999, "median": median, "p99": 9, "worst": 15}
        folder = f"{name}/together-1000"
        _write_report(tmp_path, folder, dynamodb_calls_of_each_waiter=calls, passed=median != 9)
    [limit] = read_waiter_calls(tmp_path).limits
    assert limit.measured == "8 (7 to 9)"
    assert all(f"storm {n}: 999 waited" in limit.note for n in (1, 2, 3))
    assert limit.note.count("failed") == 1


def _takeover(seconds: float, **changed: Any) -> TakeoverResult:
    values: dict[str, Any] = {
        "acquired": seconds,
        "started": seconds + 0.5,
        "served": seconds + 1.0,
        "failed": 0,
        "effects": 1,
    }
    return TakeoverResult(**values | changed)


def test_a_takeover_is_reported_in_leases() -> None:
    section = make_section([_takeover(seconds) for seconds in (5.0, 5.5, 6.0, 7.5, 10.0)])
    assert section.limits[0].measured == "1.2 (1 to 2) leases"
    assert find_missed_limits([section]) == []
    [times] = section.tables
    assert [row[1] for row in times.rows] == ["1", "1.1", "1.2"]


@pytest.mark.parametrize("change", [{"failed": 1}, {"effects": 2}, {"effects": 0}])
def test_a_waiter_that_failed_or_a_second_effect_misses_its_limit(change: dict[str, Any]) -> None:
    assert find_missed_limits([make_section([_takeover(5.5), _takeover(5.5, **change)])])
