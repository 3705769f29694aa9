"""`new`: names, versions, and files that are valid as they are."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path

import pytest

from lambda_migrate.cli.migration_template import choose_next_version, write_migration
from lambda_migrate.errors import ConfigurationError
from lambda_migrate.migrations import read_manifest
from lambda_migrate.migrations.sql.lint import check_migration

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("names", "version"),
    [
        ([], "0001"),
        (["README.md"], "0001"),
        (["1_a.sql"], "2"),
        (["0001_a.sql", "0002_b.sql"], "0003"),
        (["9_a.sql"], "10"),
        (["0009_a.sql"], "0010"),
        (["9999_a.sql"], "10000"),
        (["001_a.sql", "2_b.sql"], "003"),
        (["20250101000000_a.sql"], "20260304050607"),
        (["20270101000000_a.sql"], "20270101000001"),
        (["20260304050607_a.sql"], "20260304050608"),
        (["0001_a.sql", "20250101000000_b.sql"], "20260304050607"),
        (["1700000000_a.sql"], "20260304050607"),
        (["1.1_a.sql", "V1_12__b.sql", "0-c.sql"], "2"),
        (["20240101000000000001_a.sql"], "20240101000000000002"),
    ],
)
def test_the_next_version_continues_the_numbering_of_the_directory(
    names: list[str], version: str
) -> None:
    assert choose_next_version(names, now=NOW) == version


@pytest.mark.parametrize("transactional", [True, False])
def test_a_new_file_is_valid_as_it_is(tmp_path: Path, transactional: bool) -> None:
    path = write_migration(tmp_path / "new", "add_it", now=NOW, transactional=transactional)
    (migration,) = read_manifest(path.parent)
    assert migration.name == "0001_add_it"
    assert migration.up.transactional is transactional
    assert migration.down is None
    assert check_migration(migration) == []


@pytest.mark.parametrize("name", ["add_status", "v1.2", "a-b+c", "große_tür"])
def test_a_valid_name_is_read_back(tmp_path: Path, name: str) -> None:
    path = write_migration(tmp_path, name, now=NOW)
    assert read_manifest(tmp_path).migrations[0].name == path.stem


@pytest.mark.parametrize(
    "name",
    [
        "",
        "two words",
        "../up",
        "a/b",
        ".hidden",
        "semi;colon",
        "x.sql",
        "n" * 101,
        "a\nb",
        "\u202e",
    ],
)
def test_an_invalid_name_is_refused_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError):
        write_migration(tmp_path / "new", name, now=NOW)
    assert not (tmp_path / "new").exists()


def test_twenty_concurrent_calls_get_twenty_versions(tmp_path: Path) -> None:
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda n: write_migration(tmp_path, f"n{n}", now=NOW), range(20)))
    assert len(read_manifest(tmp_path)) == 20


def test_a_file_in_place_of_the_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "migrations").write_text("")
    with pytest.raises(ConfigurationError, match="--directory"):
        write_migration(tmp_path / "migrations", "a", now=NOW)
