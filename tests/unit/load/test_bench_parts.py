"""All peers get the same migrations; reports and errors are read correctly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from load.bench.calls import measure, parse_report
from load.bench.migrations import simple, small, storm
from load.bench.output import read_figures
from load.bench.peers import PEERS, Peer
from load.bench.results import Verdict
from load.bench.storms import most_common_error
from load.bench.takeovers import Kill, Requests, section_of


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.key)
def test_a_project_holds_every_statement(peer: Peer, tmp_path: Path) -> None:
    changes = storm(pending=True)
    home = peer.make(tmp_path / "project", changes)
    text = "".join(path.read_text() for path in home.rglob("*.*") if path.suffix != ".pyc")
    for change in changes:
        assert all(statement in text for statement in change.statements)


def test_the_storm_continues_the_applied_migrations() -> None:
    before, after = storm(pending=False), storm(pending=True)
    assert after[: len(before)] == before
    assert [change.version for change in after] == list(range(1, 16))


def test_each_pending_migration_records_its_effect() -> None:
    for change in storm(pending=True)[5:]:
        assert f"INSERT INTO effects VALUES ({change.version})" in change.statements


def test_migrations_come_in_the_number_asked_for() -> None:
    assert len(simple(50)) == 50
    assert len({change.stem for change in small(1000)}) == 1000


def test_errors_that_differ_in_numbers_only_count_as_one() -> None:
    outputs = [
        "Traceback\n  File\nLockTimeout: Process 12 has locked\n",
        "Traceback\n  File\nLockTimeout: Process 13 has locked\n",
        "pkg.Error: something else\n(Background at: 7)\n",
    ]
    assert most_common_error(outputs) == "LockTimeout: Process 12 has locked"
    assert most_common_error([]) == ""


def test_an_error_is_found_above_its_hints() -> None:
    output = "x.OperationalError: too many clients\n\n(Background on this error)\n"
    assert most_common_error([output]) == "x.OperationalError: too many clients"


def test_figures_are_read_from_among_other_output() -> None:
    assert read_figures('{"level": "INFO"}\n\nBENCH [1, 2]\nmore\n') == [1, 2]
    with pytest.raises(ValueError, match="no figures"):
        read_figures("nothing")


def _report(environments: int = 1000, **changed: Any) -> dict[str, Any]:
    wave = {"environments": environments}
    calls = {"count": environments - 1, "median": 7, "p99": 9, "worst": 15}
    report = {
        "passed": True,
        "scenario": {"shape": "together", "waves": [wave]},
        "dynamodb_calls_of_each_waiter": calls,
    }
    return report | changed


def test_a_storm_that_is_too_small_or_another_one_does_not_count() -> None:
    others: list[Any] = [
        _report(100),
        _report(scenario={"shape": "ramp", "waves": [{"environments": 1000}]}),
        _report(dynamodb_calls_of_each_waiter=None),
        {"n": 1000},
        [],
    ]
    assert [parse_report(other) for other in others] == [None] * len(others)


def test_without_a_storm_the_calls_are_not_measured(tmp_path: Path) -> None:
    (check,) = measure(tmp_path).checks
    assert check.verdict is Verdict.NOT_MEASURED
    assert "make storm" in check.note


def _write_report(reports: Path, name: str, **changed: Any) -> None:
    (reports / name).mkdir(parents=True)
    (reports / name / "report.json").write_text(json.dumps(_report(**changed)))


@pytest.mark.parametrize(("passed", "expected"), [(True, "15 at most"), (False, "failed")])
def test_the_calls_are_those_of_the_storm(passed: bool, expected: str, tmp_path: Path) -> None:
    reports = tmp_path / "storm-report"
    _write_report(reports, "together-1000-forked", passed=passed)
    _write_report(reports, "small", environments=30)
    (check,) = measure(reports).checks
    assert (check.value, check.range) == (7, None)
    assert expected in check.note
    assert "storm-report/together-1000-forked" in check.note
    assert "small" not in check.note


def test_of_several_storms_the_median_counts_and_each_is_named(tmp_path: Path) -> None:
    reports = tmp_path / "storm-report"
    for name, median in (("one", 7), ("two", 9), ("three", 8)):
        calls = {"count": 999, "median": median, "p99": 9, "worst": 15}
        _write_report(reports, name, dynamodb_calls_of_each_waiter=calls)
    (check,) = measure(reports).checks
    assert (check.value, check.range) == (8, (7, 9))
    assert all(f"{name}/report.json" in check.note for name in ("one", "two", "three"))


def _kill(seconds: float, **changed: Any) -> Kill:
    reads = Requests(consistent=1, eventual=6, writes=0)
    values: dict[str, Any] = {
        "acquired": seconds,
        "started": seconds + 0.5,
        "served": [seconds + 0.6, seconds + 1.0],
        "failed": 0,
        "effects": 1,
        "waited": [12.0],
        "waiters": [reads],
        "fast": Requests(consistent=1, eventual=0, writes=0),
    }
    return Kill(**values | changed)


def test_a_read_that_is_not_consistent_is_half_a_unit() -> None:
    requests = Requests(consistent=3, eventual=5, writes=2)
    assert (requests.calls, requests.read_units) == (10, 5.5)


def test_a_takeover_is_reported_in_leases_and_beyond_one() -> None:
    section = section_of([_kill(seconds) for seconds in (5.0, 5.5, 6.0, 7.5, 10.0)])
    start = section.checks[0]
    assert (start.value, start.limit, start.range) == (1.2, 1.2, (1.0, 2.0))
    assert [check.verdict for check in section.checks] == [Verdict.PASS] * 3
    times, usage = section.tables
    shown = {row[0]: (row[1], row[3], row[7]) for row in times.rows}
    assert shown["the lease is acquired"] == ("1", "1.2", "2")
    assert shown["the migration runs"] == ("1.1", "1.3", "2.1")
    assert usage.rows[0] == ("a waiter", "7 (7)", "1 (1)", "6 (6)", "0 (0)", "4 (4)")
    assert usage.rows[1][-1] == "1 (1)"


@pytest.mark.parametrize("change", [{"failed": 1}, {"effects": 2}, {"effects": 0}])
def test_a_waiter_that_failed_or_a_second_effect_misses_its_bar(change: dict[str, Any]) -> None:
    section = section_of([_kill(5.5), _kill(5.5, **change)])
    assert Verdict.MISS in [check.verdict for check in section.checks]
