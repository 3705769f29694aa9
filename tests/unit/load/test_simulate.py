"""The command: a storm's report is read, replayed and drawn."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from load import simulate as command
from load.simulation import study
from load.simulation.figures import delay_of, waiters
from load.simulation.measured import compare, load_storm
from load.simulation.model import simulate
from load.simulation.policies import LIBRARY
from load.simulation.scenario import Scenario


def storm_report(folder: Path) -> Path:
    """A report like one of `load.storm`, of a storm that was simulated, too."""
    run = simulate(Scenario(environments=60, stale_mean=0.0), LIBRARY, seed=5)
    assert run.committed is not None
    document: dict[str, Any] = {
        "n": 60,
        "migration_seconds": run.committed - run.acquired[0],
        "arrivals_seconds": [start.arrived - run.starts[0].arrived for start in run.starts],
        "waits": {
            "delay_after_commit_seconds": [delay_of(run, start) for start in waiters(run)],
            "lease_calls": [start.calls for start in waiters(run)],
        },
        "anything": "else",
    }
    path = folder / "storm" / "report.json"
    path.parent.mkdir()
    path.write_text(json.dumps(document))
    return path


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same comparisons, of fewer and shorter ones."""
    monkeypatch.setattr(study, "SIMULATED", 10)
    monkeypatch.setattr(study, "SIMULATED_LONG", 4)
    monkeypatch.setattr(study, "LENGTHS", (0.1, 1.0, 3.0, 5.0))
    few = tuple(replace(family, values=family.values[2:4]) for family in study.POLICY_FAMILIES)
    monkeypatch.setattr(study, "POLICY_FAMILIES", few)


def test_storm_within_the_assumptions_is_predicted(tmp_path: Path) -> None:
    comparison = compare(load_storm(storm_report(tmp_path)), seed=1)
    rows = {what: (predicted, measured) for what, predicted, measured in comparison.rows()}
    predicted, measured = rows["delay median"]
    assert predicted == pytest.approx(measured, abs=0.08)
    predicted, measured = rows["calls median"]
    assert abs(predicted - measured) <= 1


NO_WAITERS = (
    '{"n": 1, "migration_seconds": 1, "arrivals_seconds": [0], "waits": {"lease_calls": []}}'
)


@pytest.mark.parametrize("document", ["{}", '{"n": 3, "waits": null}', NO_WAITERS, "not JSON"])
def test_reports_without_waits_are_skipped(
    document: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.json"
    path.write_text(document)
    assert command.main(["--against", str(path), "--into", str(tmp_path / "out")]) == 2
    assert str(path) in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("small")
def test_command_prints_tables_and_writes_figures_and_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storm, out = storm_report(tmp_path), tmp_path / "out"
    assert command.main(["--seed", "3", "--against", str(storm), "--into", str(out)]) == 0
    told = capsys.readouterr().out
    assert "The library's default" in told
    assert "predicted" in told
    assert {path.name for path in out.iterdir()} == {
        "simulation.json",
        "waiting.svg",
        "waiting-calibration.svg",
    }
    document = json.loads((out / "simulation.json").read_text())
    assert document["seed"] == 3
    assert {point["policy"] for point in document["frontier"]} >= {"library", "fixed"}
    assert document["against"][0]["n"] == 60
