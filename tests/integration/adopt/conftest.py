"""Fixtures of the adoption tests: a project in its own folder, with its own database."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sandbox import Sandbox

from .frame import Project


@pytest.fixture
def project(
    sandbox: Sandbox,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Project:
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return Project(sandbox=sandbox, folder=folder, capsys=capsys)
