"""`adopt` converts each tool's files, marks what is applied, and changes nothing else."""

from __future__ import annotations

import os
import re

import pytest

from lambda_migrate.adopt.tool_formats import TOOL_FORMATS
from lambda_migrate.local.servers.postgresql import find_binaries

from .cases import CASES, CODE, DBMATE, KNEX
from .frame import (
    ONE,
    THREE,
    THREE_DOWN,
    TWO,
    Project,
    ToolCase,
    check_adoption,
    check_fresh_database,
    make_database,
)

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.tool)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.tool)
def test_a_tools_project_is_adopted_undone_and_adopted_again(
    project: Project, case: ToolCase
) -> None:
    make_database(project, case)
    files, theirs = project.tree(), project.rows(case.table)
    keep = ["--keep-theirs"] if case.third else []
    check_adoption(project, case.tool, case.table, case.adopted, *keep)
    code, document = project.call("adopt", "--undo", "--yes")
    assert code == 0, document
    assert (project.tree(), project.history()) == (files, [])
    assert project.rows(case.table) == theirs
    assert not (project.folder / project.directory).exists()
    check_adoption(project, case.tool, case.table, case.adopted, *keep)
    (project.folder / project.directory / f"{_next_version(case)}_own.sql").write_text(
        "-- migrate:up\nSELECT 1;\n-- migrate:down\n"
    )
    code, document = project.call("up")
    names = [name.removesuffix(".sql") for name in case.adopted[2:]]
    assert (code, set(names) < set(document["applied"])) == (0, True), document
    assert "cannot undo the adoption" in project.refusal("adopt", "--undo", "--yes")
    check_fresh_database(project, case.table)
    if case.third:
        _check_kept_table(project, case, theirs)


def _check_kept_table(project: Project, case: ToolCase, theirs: list[str]) -> None:
    """The tool's table has followed the migrations, and follows their rollback."""
    assert len(project.rows(case.table)) > len(theirs) or case.has_single_row
    assert project.call("down", "--only", _next_version(case), "--yes")[0] == 0
    assert project.sandbox.query(f"SELECT count(*) FROM {case.table} WHERE {case.third}") == [[1]]
    if any(THREE_DOWN in text for text in case.files.values()):
        assert project.call("down", "--steps", "1", "--yes")[0] == 0
        assert [row for row in project.rows(case.table) if '"R__' not in row] == theirs


def _next_version(case: ToolCase) -> str:
    return str(int(re.sub(r"\D.*", "", case.adopted[2].lstrip("V"))) + 1)


def test_without_the_option_the_tools_table_is_no_longer_written(project: Project) -> None:
    make_database(project, DBMATE)
    theirs = project.rows(DBMATE.table)
    assert project.call("adopt", "--yes", "--keep-theirs")[0] == 0
    assert project.call("adopt", "--yes")[0] == 0
    assert project.call("up")[0] == 0
    assert project.rows(DBMATE.table) == theirs


def test_baseline_is_refused_and_a_rollback_names_what_the_tools_table_still_lists(
    project: Project,
) -> None:
    """Both would otherwise lead to migrations that are marked wrongly, or that run twice."""
    make_database(project, DBMATE)
    assert project.call("adopt", "--yes")[0] == 0
    assert "run `lambda-migrate adopt`" in project.refusal("baseline", "--yes")
    theirs = project.rows(DBMATE.table)
    code, document = project.call("down", "--steps", "1", "--yes")
    assert (code, project.rows(DBMATE.table)) == (0, theirs)
    [name] = document["rolled_back"]
    assert any(f"dbmate's history table still lists {name}" in w for w in document["warnings"])


@pytest.mark.parametrize("case", [case for case in CASES if case.dirty], ids=lambda case: case.tool)
def test_a_failed_version_is_refused(project: Project, case: ToolCase) -> None:
    make_database(project, case)
    project.sandbox.query(case.dirty)
    files = project.tree()
    assert "failed in the database" in project.refusal("adopt", "--yes")
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


def test_a_table_in_a_schema_of_any_name_is_kept(project: Project) -> None:
    make_database(project, DBMATE)
    project.sandbox.query('CREATE SCHEMA "o\'$$d"')
    project.sandbox.query('ALTER TABLE schema_migrations SET SCHEMA "o\'$$d"')
    assert project.call("adopt", "--yes", "--keep-theirs")[0] == 0
    assert project.call("up")[0] == 0
    assert project.rows('"o\'$$d".schema_migrations')[2:] == ['{"version": "0003"}']


def test_the_locked_history_of_knex_is_refused(project: Project) -> None:
    make_database(project, KNEX)
    project.sandbox.query("UPDATE knex_migrations_lock SET is_locked = 1")
    assert "run `knex migrate:unlock`" in project.refusal("adopt", "--yes")
    assert project.history() == []


@pytest.mark.parametrize("tool", CODE)
def test_a_tool_whose_migrations_are_code_is_adopted_by_a_dump(
    project: Project, monkeypatch: pytest.MonkeyPatch, tool: str
) -> None:
    path, text, history = CODE[tool]
    monkeypatch.setenv("PATH", str(find_binaries()), prepend=os.pathsep)
    project.write({path: text})
    for statement in (ONE, TWO, *history.split(";\n")):
        project.sandbox.query(statement)
    code, document = project.call("adopt", "--yes")
    assert (code, document["written"]) == (0, ["0001_baseline.sql"]), document
    assert document["marked_as_applied"] == ["0001_baseline"]
    (project.folder / project.directory / "0002_index.sql").write_text(
        f"-- migrate:up transaction:false\n{THREE}"
    )
    assert project.call("up")[0] == 0
    check_fresh_database(project, history.split()[2])
    assert project.call("adopt", "--yes")[1]["written"] == []


def test_every_tool_has_a_case() -> None:
    assert {case.tool for case in CASES} | CODE.keys() == {
        tool_format.tool for tool_format in TOOL_FORMATS
    }
