"""A tool is detected by its files and its history table, which must agree."""

from __future__ import annotations

from pathlib import Path

import pytest

from lambda_migrate.adopt.detect import detect_tool, find_formats, find_formats_of
from lambda_migrate.adopt.tool_formats import TOOL_FORMATS
from lambda_migrate.errors import ConfigurationError
from lambda_migrate.migrations.baseline import ToolHistory, ToolHistoryEntry

BY_NAME = {each.tool: each for each in TOOL_FORMATS}
HERE = Path("db")


def history(tool: str, table: str = "public.t") -> ToolHistory:
    return ToolHistory(tool, table, (ToolHistoryEntry("1", version=1, key="1"),))


def write(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("SELECT 1;\n")


@pytest.mark.parametrize(
    ("files", "histories", "tool", "expected"),
    [
        (["golang-migrate", "sqlx"], ["golang-migrate"], "", "golang-migrate"),
        (["golang-migrate", "sqlx"], ["sqlx"], "", "sqlx"),
        (["golang-migrate", "sqlx"], [], "", "golang-migrate"),
        (["Flyway", "refinery"], [], "refinery", "refinery"),
        (["Flyway", "dbmate"], ["Flyway", "dbmate"], "FLYWAY", "Flyway"),
        (["sqlx"], [], "", "sqlx"),
    ],
)
def test_files_and_history_choose_together(
    files: list[str], histories: list[str], tool: str, expected: str
) -> None:
    found = [(BY_NAME[name], HERE) for name in files]
    detected = detect_tool(found, list(map(history, histories)), tool=tool)
    assert detected.tool_format.tool == expected
    assert (detected.history is not None) is (expected in histories)


@pytest.mark.parametrize(
    ("files", "histories", "tool", "message"),
    [
        ([], [], "", "no files of another tool were found here"),
        ([], ["Flyway"], "", "its files were not found here: name their folder"),
        (["dbmate"], ["Flyway"], "", "only files of dbmate in db were found"),
        (["Flyway", "refinery"], [], "", "use --from and --files"),
        (["Flyway", "dbmate"], ["Flyway", "dbmate"], "", "choose one with --from Flyway"),
        (["dbmate"], ["Alembic"], "", "run in place: set LAMBDA_MIGRATE_SOURCE=alembic"),
        (["dbmate"], [], "goose", "no files of goose were found"),
        (["dbmate"], [], "goosey", "`adopt` does not support a tool of this name"),
        (["dbmate"], [], "alembic", "^Alembic migrations run in place"),
    ],
)
def test_what_is_ambiguous_or_contradictory_is_one_sentence(
    files: list[str], histories: list[str], tool: str, message: str
) -> None:
    found = [(BY_NAME[name], HERE) for name in files]
    with pytest.raises(ConfigurationError, match=message) as refused:
        detect_tool(found, list(map(history, histories)), tool=tool)
    assert "\n" not in str(refused.value)


def test_two_histories_of_one_tool_are_distinguished_by_their_tables() -> None:
    both = [history("dbmate", "public.t"), history("dbmate", "billing.t")]
    with pytest.raises(ConfigurationError, match=r"--from public\.t"):
        detect_tool([(BY_NAME["dbmate"], HERE)], both)
    detected = detect_tool([(BY_NAME["dbmate"], HERE)], both, tool="billing.t")
    assert detected.history == both[1]


def test_a_folder_with_subfolders_is_found_as_one_folder(tmp_path: Path) -> None:
    write(tmp_path, "db/migration/2023/V1__a.sql", "db/migration/2024/V2__b.sql")
    write(tmp_path, "node_modules/other/V1__a.sql", "migrations/0001_own.sql")
    found = find_formats(tmp_path, except_folder=tmp_path / "migrations")
    assert {(tool_format.tool, folder) for tool_format, folder in found} == {
        (tool, tmp_path / "db/migration") for tool in ("Flyway", "refinery")
    }
    tools = {tool_format.tool for tool_format in find_formats_of(tmp_path / "db/migration")}
    assert tools == {"Flyway", "refinery"}
