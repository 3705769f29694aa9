"""`adopt` takes over each tool's project: its files, what is applied, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lambda_migrate.adopt.layouts import LAYOUTS
from tests.sandbox import Sandbox

from .cases import CASES, CODE
from .frame import (
    ONE,
    THREE_DOWN,
    Project,
    ToolCase,
    check_adoption,
    check_fresh_database,
    make_database,
)

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.tool)


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


@each_case
def test_a_tools_project_is_adopted_and_its_next_migration_applied(
    project: Project, case: ToolCase
) -> None:
    make_database(project, case)
    check_adoption(project, case.tool, case.table, case.adopted)
    check_fresh_database(project, case.table)


@each_case
def test_an_adoption_is_undone_without_a_trace(project: Project, case: ToolCase) -> None:
    make_database(project, case)
    files, theirs = project.tree(), project.rows(case.table)
    keep = ["--keep-theirs"] if case.third else []
    code, document = project.call("adopt", "--yes", *keep)
    assert code == 0, document
    code, document = project.call("adopt", "--undo", "--yes")
    assert code == 0, document
    assert (project.tree(), project.history()) == (files, [])
    assert project.rows(case.table) == theirs
    assert not (project.folder / project.directory).exists()
    assert project.call("adopt", "--yes")[0] == 0
    assert project.call("up")[0] == 0
    assert "cannot be undone" in project.refusal("adopt", "--undo", "--yes")


@pytest.mark.parametrize("case", [case for case in CASES if case.third], ids=lambda case: case.tool)
def test_the_tools_table_is_kept_through_migrations_and_rollbacks(
    project: Project, case: ToolCase
) -> None:
    make_database(project, case)
    theirs = project.rows(case.table)
    assert project.call("adopt", "--yes", "--keep-theirs")[0] == 0
    assert project.rows(case.table) == theirs
    own = str(int(re.sub(r"\D.*", "", case.adopted[2].lstrip("V"))) + 1)
    (project.folder / project.directory / f"{own}_own.sql").write_text(
        "-- migrate:up\nSELECT 1;\n-- migrate:down\n"
    )
    assert project.call("up")[0] == 0
    assert project.rows(case.table) != theirs
    project.call("down", "--only", own, "--yes")
    assert project.sandbox.query(f"SELECT count(*) FROM {case.table} WHERE {case.third}") == [[1]]
    if not any(THREE_DOWN in text for text in case.files.values()):
        return
    assert project.call("down", "--steps", "1", "--yes")[0] == 0
    assert _versioned_rows(project, case) == theirs
    code, document = project.call("adopt", "--yes")
    assert code == 0, document
    assert project.call("up")[0] == 0
    assert _versioned_rows(project, case) == theirs, "without the option it is left alone"


def _versioned_rows(project: Project, case: ToolCase) -> list[str]:
    return [row for row in project.rows(case.table) if '"R__' not in row]


@pytest.mark.parametrize("case", [case for case in CASES if case.dirty], ids=lambda case: case.tool)
def test_a_failed_version_is_refused(project: Project, case: ToolCase) -> None:
    make_database(project, case)
    project.sandbox.query(case.dirty)
    files = project.tree()
    assert "failed there" in project.refusal("adopt", "--yes")
    assert (project.tree(), project.history()) == (files, [])


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.has_checksums], ids=lambda case: case.tool
)
def test_a_file_that_was_edited_after_it_was_applied_is_refused(
    project: Project, case: ToolCase
) -> None:
    make_database(project, case)
    path = project.folder / next(name for name, text in case.files.items() if ONE in text)
    path.write_text(path.read_text() + "SELECT 1;\n")
    assert "is not what" in project.refusal("adopt", "--yes")
    assert project.history() == []


def test_every_tool_has_a_case() -> None:
    assert {case.tool for case in CASES} | CODE.keys() == {layout.tool for layout in LAYOUTS}
