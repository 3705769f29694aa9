"""The command compares the policies, and the library's own is among the best."""

from __future__ import annotations

from pathlib import Path

import pytest

from load import simulate
from load.simulation.policies import POLICIES


def test_command_writes_every_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(simulate, "MAX_STARTS", 10)
    monkeypatch.setattr(simulate, "MAX_STARTS_LONG", 4)
    monkeypatch.setattr(simulate, "MIGRATION_SECONDS", (0.1, 3.0))
    monkeypatch.setattr(simulate, "POLICIES", {name: each[2:4] for name, each in POLICIES.items()})
    assert simulate.main(["--into", str(tmp_path), "--seed", "3"]) == 0
    policies, sizes = capsys.readouterr().out.split("sizes and lengths ...")
    rows = [
        [line for line in text.splitlines() if line.startswith("|")] for text in (policies, sizes)
    ]
    assert len(rows[0]) == 2 + 2 * (1 + 4 * 2)
    assert len(rows[1]) == 2 + 2 * 2 * 4
    assert all(name in policies for name in POLICIES)
    assert "fixed" in (tmp_path / "waiting.svg").read_text()
