"""How each tool's scripts and names are converted, and the checksums that tools store."""

from __future__ import annotations

from pathlib import Path

import pytest

from lambda_migrate.adopt.checksums import (
    compute_flyway_checksum,
    compute_refinery_checksums,
    compute_siphash13,
)
from lambda_migrate.adopt.convert import ConvertedFile, convert_migrations
from lambda_migrate.adopt.files import SourceMigration, SourceScript
from lambda_migrate.adopt.tool_formats import TOOL_FORMATS
from lambda_migrate.errors import ConfigurationError
from tests.integration.adopt.cases import CASES
from tests.integration.adopt.frame import ToolCase


def convert(up: str, *, transactional: bool = True, name: str = "1_it") -> ConvertedFile:
    script = SourceScript(up, transactional)
    source = SourceMigration(key="1", name=name, path="1_it.sql", up=script)
    return convert_migrations([source], "schema_migrations")[0]


def convert_names(*names: str) -> list[str]:
    found = [SourceMigration(name, name, name, SourceScript("")) for name in names]
    return [each.filename for each in convert_migrations(found, "schema_migrations")]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.tool)
def test_each_tools_files_are_read_in_its_order(tmp_path: Path, case: ToolCase) -> None:
    for name, text in case.files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    [tool_format] = [each for each in TOOL_FORMATS if each.tool == case.tool]
    folder = next(
        each
        for each in (tmp_path, *sorted(tmp_path.rglob("*")))
        if each.is_dir() and tool_format.matches(each.rglob("*.*"), each)
    )
    assert tool_format.read is not None
    found = tool_format.read(folder)
    assert found.unusable == {}
    converted = convert_migrations(found.migrations, case.table)
    assert tuple(each.filename for each in converted) == case.adopted
    assert not converted[2].parse().up.transactional, "a concurrent index"
    assert [fault for each in converted for fault in each.faults] == []


@pytest.mark.parametrize(
    "script",
    [
        "SELECT 1;\r\nSELECT 2",
        "BEGIN;\nSELECT 1;\nCOMMIT;\n",
        "-- BEGIN\nSELECT ';COMMIT;', $$COMMIT;$$;\n",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; END;\n",
        "",
        "-- nothing to do\n",
    ],
)
def test_a_script_stays_as_it_is(script: str) -> None:
    converted = convert(script)
    assert converted.content == b"-- migrate:up\n" + script.encode()
    assert (converted.changes, converted.faults) == ((), ())


@pytest.mark.parametrize(
    ("script", "converted"),
    [
        ("CREATE INDEX CONCURRENTLY i ON t (a);", None),
        ("COMMIT;--> statement-breakpoint\nCREATE INDEX CONCURRENTLY i ON t (a);", None),
        (
            "BEGIN;\nSELECT 1;\nCOMMIT;\nVACUUM t;",
            "/* BEGIN; */\nSELECT 1;\n/* COMMIT; */\nVACUUM t;",
        ),
        (
            "ALTER TYPE mood ADD VALUE 'ok'; COMMIT; BEGIN; INSERT INTO t VALUES ('ok'); COMMIT;",
            "ALTER TYPE mood ADD VALUE 'ok'; /* COMMIT; */ /* BEGIN; */"
            " INSERT INTO t VALUES ('ok'); /* COMMIT; */",
        ),
    ],
)
def test_what_cannot_run_in_a_transaction_is_marked(script: str, converted: str | None) -> None:
    found = convert(script)
    assert found.content.decode() == f"-- migrate:up transaction:false\n{converted or script}"
    assert found.changes[0].startswith("marked transaction:false, because")
    assert found.faults == ()


def test_a_transaction_inside_a_script_becomes_comments() -> None:
    found = convert("SELECT 1;\nBEGIN;\nSELECT 2;\nCOMMIT;\nSELECT 3;\n")
    assert found.content == (
        b"-- migrate:up\nSELECT 1;\n/* BEGIN; */\nSELECT 2;\n/* COMMIT; */\nSELECT 3;\n"
    )
    assert "runs in one transaction" in found.changes[0]


def test_a_comment_that_looks_like_a_marker_is_escaped() -> None:
    found = convert("-- +migrate Up\nSELECT 1;\n-- migrate:down\n")
    assert found.content == b"-- migrate:up\n-- was: +migrate Up\nSELECT 1;\n-- was: migrate:down\n"


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        ("GRANT SELECT ON schema_migrations TO app;", "which a new database does not have"),
        ("\\set x 1\n", "a command of psql"),
        ("COPY t FROM STDIN;\n", "no client"),
    ],
)
def test_what_cannot_run_on_a_new_database_is_reported(script: str, fault: str) -> None:
    assert fault in convert(script).faults[0]


def test_what_the_tool_replaces_in_a_script_is_reported() -> None:
    [flyway] = [each for each in TOOL_FORMATS if each.tool == "Flyway"]
    source = SourceMigration(
        "1", "1_it", "1_it.sql", SourceScript("SELECT 1;\nGRANT a TO ${role};")
    )
    [found] = convert_migrations([source], "flyway_schema_history", flyway.placeholder)
    assert [fault.partition(";")[0] for fault in found.faults] == [
        "1_it.sql:3: the tool replaces ${role}"
    ]


@pytest.mark.parametrize(
    ("names", "filenames"),
    [
        (["1_a", "2_b"], ["1_a.sql", "2_b.sql"]),
        (["1_a", "01_b", "001_c"], ["1_a.sql", "1.1_01_b.sql", "1.2_001_c.sql"]),
        (["10_a", "9_b", "11_c"], ["10_a.sql", "10.1_9_b.sql", "11_c.sql"]),
        (["first", "second"], ["0.1_first.sql", "0.2_second.sql"]),
        (["1.5_a", "1.5_b"], ["1.5_a.sql", "1.6_1.5_b.sql"]),
        (["0000_a", "99999999999999999999_b"], ["0000_a.sql", "99999999999999999999_b.sql"]),
        (["1_what?", "2_a b-c"], ["1_what_.sql", "2_a b-c.sql"]),
        (["1_a\u200bb", "2_\tc"], ["1_a_b.sql", "2__c.sql"]),
        (["1_a", "R__view"], ["1_a.sql", "R__view.sql"]),
    ],
)
def test_versions_follow_the_tools_order(names: list[str], filenames: list[str]) -> None:
    assert convert_names(*names) == filenames


def test_two_files_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="written twice"):
        convert_names("R__a", "R__A")


def test_checksums_are_those_of_the_tools() -> None:
    text = b"CREATE TABLE t (id int);\n"
    assert compute_flyway_checksum(text) == compute_flyway_checksum(
        b"\xef\xbb\xbfCREATE TABLE t (id int);\r\n"
    )
    assert compute_flyway_checksum(b"123456789") == str(0xCBF43926 - 2**32)
    # Made with Rust's own hasher.
    assert compute_refinery_checksums("initial", 1, "x") == (
        "15836666626080401838",
        "152332843897082298",
    )
    assert compute_siphash13(b"") == 15130871412783076140
