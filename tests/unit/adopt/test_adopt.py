"""`adopt` on the in-memory database: what it writes, and what it refuses."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lambda_migrate.adopt.dump import dump_schema
from lambda_migrate.cli import main
from lambda_migrate.database_address import parse_url
from lambda_migrate.errors import ConfigurationError
from lambda_migrate.lease.memory import InMemoryLeaseStore
from lambda_migrate.migrations.baseline import ToolHistory, ToolHistoryEntry
from lambda_migrate.testing import InMemoryDatabase

Call = Callable[..., tuple[int, dict[str, Any]]]

HISTORY = ToolHistory(
    "golang-migrate",
    "public.schema_migrations",
    (ToolHistoryEntry("1", version=1, covers_earlier_versions=True, key="1"),),
    schema_and_name=("public", "schema_migrations"),
)


@pytest.fixture
def database() -> InMemoryDatabase:
    database = InMemoryDatabase()
    database.other_histories = [HISTORY]
    return database


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    database: InMemoryDatabase,
) -> Call:
    store = InMemoryLeaseStore()
    monkeypatch.setattr("lambda_migrate.wiring.make_database", lambda _settings: database)
    monkeypatch.setattr("lambda_migrate.wiring.make_store", lambda _settings, **_parts: store)
    monkeypatch.setenv("LAMBDA_MIGRATE_DATABASE_URL", "postgresql://app@localhost/orders")
    monkeypatch.chdir(tmp_path)
    for name in ("1_a.up", "1_a.down", "2_b.up"):
        (tmp_path / "db").mkdir(exist_ok=True)
        (tmp_path / "db" / f"{name}.sql").write_text("SELECT 1;\n")

    def call(*arguments: str) -> tuple[int, dict[str, Any]]:
        code = main([*arguments, "--format", "json"])
        return code, json.loads(capsys.readouterr().out)

    return call


def refusal(call: Call, *arguments: str) -> str:
    code, document = call("adopt", "--yes", *arguments)
    assert code == 2, document
    return str(document["error"]["message"])


def test_an_adoption_is_undone(call: Call, database: InMemoryDatabase, tmp_path: Path) -> None:
    code, document = call("adopt", "--yes", "--keep-theirs")
    assert (code, document["written"]) == (0, ["1_a.sql", "2_b.sql"])
    assert (document["marked_as_applied"], document["keeps_theirs"]) == (["1_a"], True)
    assert database.synced_history is not None
    assert [row[:2] for row in database.synced_history.rows] == [("1", "1"), ("2", "2")]
    assert call("adopt", "--yes")[1]["written"] == []
    assert database.synced_history is None
    assert call("adopt", "--undo", "--dry-run")[1]["unmarked"] == ["1_a"]
    code, document = call("adopt", "--undo", "--yes")
    assert (code, document["removed"]) == (0, ["1_a.sql", "2_b.sql"])
    assert not (tmp_path / "migrations").exists()
    assert "no adoption to undo" in refusal(call, "--undo")


def test_without_the_tools_files_the_adoption_record_is_enough(
    call: Call, database: InMemoryDatabase, tmp_path: Path
) -> None:
    assert call("adopt", "--dry-run")[1]["marked_as_applied"] == ["1_a"]
    assert call("adopt", "--yes")[0] == 0
    (tmp_path / "db").rename(tmp_path / "gone")
    second = InMemoryDatabase()
    database.__dict__.update(second.__dict__, other_histories=[HISTORY])
    assert call("adopt", "--yes")[1]["marked_as_applied"] == ["1_a"]


def test_a_file_that_adopt_did_not_write_is_never_touched(call: Call, tmp_path: Path) -> None:
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations" / "2_b.sql").write_text("-- migrate:up\n")
    message = refusal(call)
    assert "adopt did not write it" in message
    assert "--directory" in message
    assert [each.name for each in (tmp_path / "migrations").iterdir()] == ["2_b.sql"]


def test_a_link_out_of_the_folder_is_refused_as_a_start_would(call: Call, tmp_path: Path) -> None:
    assert call("adopt", "--yes")[0] == 0
    (tmp_path / "migrations" / "3_c.sql").symlink_to(tmp_path / "db" / "2_b.up.sql")
    assert "a symbolic link that leaves the folder" in refusal(call)


def test_an_edited_file_stays_and_is_not_removed(call: Call, tmp_path: Path) -> None:
    assert call("adopt", "--yes")[0] == 0
    (tmp_path / "migrations" / "2_b.sql").write_text("-- migrate:up\nSELECT 2;\n")
    assert call("adopt", "--yes")[0] == 0
    assert "edited since" in refusal(call, "--undo")
    assert (tmp_path / "migrations" / "2_b.sql").read_text() == "-- migrate:up\nSELECT 2;\n"


def test_files_of_dbmate_in_the_migrations_directory_stay_there(
    call: Call,
    database: InMemoryDatabase,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "db").rename(tmp_path / "gone")
    (tmp_path / "migrations").mkdir()
    for version in (1, 2):
        (tmp_path / "migrations" / f"{version}_a.sql").write_text("-- migrate:up\nSELECT 1;\n")
    entries = (ToolHistoryEntry("1", version=1, key="1"),)
    database.other_histories = [ToolHistory("dbmate", "public.schema_migrations", entries)]
    code, document = call("adopt", "--yes", "--from", "dbmate")
    assert (code, document["written"]) == (0, [])
    assert document["marked_as_applied"] == ["1_a"]
    assert main(["adopt", "--undo"]) == 2  # there is no terminal to confirm on
    assert "what `adopt` wrote (adoption.json)" in " ".join(capsys.readouterr().err.split())
    assert call("adopt", "--undo", "--yes")[1]["removed"] == []
    assert sorted(each.name for each in (tmp_path / "migrations").iterdir()) == [
        "1_a.sql",
        "2_a.sql",
    ]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"state": "failed"}, "resolve it with `migrate force VERSION`"),
        ({"version": 9, "key": "9", "covers_earlier_versions": False}, "none of its 1 applied"),
    ],
)
def test_a_history_that_does_not_fit_the_files_is_refused(
    call: Call, database: InMemoryDatabase, tmp_path: Path, entry: dict[str, Any], message: str
) -> None:
    database.other_histories = [
        replace(HISTORY, entries=(replace(HISTORY.entries[0], **entry),)),
    ]
    assert message in refusal(call)
    assert not (tmp_path / "migrations").exists()


def test_a_table_that_cannot_be_read_or_is_locked_is_refused(
    call: Call, database: InMemoryDatabase
) -> None:
    database.other_histories = [replace(HISTORY, entries=(), unreadable_reason="is locked")]
    assert "public.schema_migrations of golang-migrate is locked" in refusal(call)


def test_files_that_cannot_be_converted_are_all_named(call: Call, tmp_path: Path) -> None:
    (tmp_path / "db" / "3_c.go").write_text("package db\n")
    (tmp_path / "db" / "4_d.sql").write_text("-- +goose ENVSUB ON\n-- +goose Up\nSELECT 1;\n")
    message = refusal(call, "--files", "db", "--from", "goose")
    assert "3_c.go: it is Go code" in message
    assert "4_d.sql: it uses environment variables" in message


@pytest.mark.parametrize("text", ["{", "[]", '{"entries": [{"idx": 0}]}'])
def test_a_damaged_journal_of_drizzle_is_refused(call: Call, tmp_path: Path, text: str) -> None:
    (tmp_path / "db" / "meta").mkdir()
    (tmp_path / "db" / "meta" / "_journal.json").write_text(text)
    message = refusal(call, "--files", "db", "--from", "drizzle")
    assert "not a journal of drizzle" in message


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("#!/bin/sh\nexec sleep 60\n", "did not finish in .* --timeout"),
        ("\0", "cannot be run: Exec format error"),
        ("#!/bin/sh\necho no >&2; exit 1\n", "pg_dump failed: no"),
    ],
)
def test_a_pg_dump_that_does_not_work_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str, message: str
) -> None:
    (tmp_path / "pg_dump").write_text(program)
    (tmp_path / "pg_dump").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    address = parse_url("postgresql://app@localhost/orders")
    timeout = 0.02 if "sleep" in program else 10.0
    with pytest.raises(ConfigurationError, match=message):
        dump_schema(address, HISTORY, schema="lambda_migrate", timeout=timeout)


def test_wrong_options_are_refused(call: Call, database: InMemoryDatabase, tmp_path: Path) -> None:
    assert "there is no such folder" in refusal(call, "--files", "nowhere")
    (tmp_path / "empty").mkdir()
    assert "not the files of a tool" in refusal(call, "--files", "empty")
    assert "name a directory" in refusal(call, "--directory", "package:app")
    database.other_histories = []
    assert "no history table" in refusal(call, "--keep-theirs")
    assert call("adopt", "--yes")[1]["marked_as_applied"] == []
    record = tmp_path / "migrations" / "adoption.json"
    record.write_text(record.read_text().replace("golang-migrate", "newer"))
    assert "does not know the tool newer" in refusal(call)
    record.write_text("{")
    assert "adoption.json cannot be used" in refusal(call)
