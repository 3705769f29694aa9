"""The command compares the policies, and the library's own is among the best."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from load import simulate
from load.simulation.policies import POLICIES


def test_command_writes_every_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(simulate, "MAX_SIMULATED", 10)
    monkeypatch.setattr(simulate, "MAX_SIMULATED_LONG", 4)
    monkeypatch.setattr(simulate, "MIGRATION_SECONDS", (0.1, 3.0))
    monkeypatch.setattr(simulate, "POLICIES", {name: each[2:4] for name, each in POLICIES.items()})
    assert simulate.main(["--into", str(tmp_path), "--seed", "3"]) == 0
    document = json.loads((tmp_path / "simulation.json").read_text())
    assert document["seed"] == 3
    assert len(document["policies"]) == 2 * (1 + 4 * 2)
    assert len(document["sizes and lengths"]) == 2 * 2 * 4
    output = capsys.readouterr().out
    assert all(name in output for name in POLICIES)
    assert "fixed" in (tmp_path / "waiting.svg").read_text()
