"""The fast path's digest is the manifest's digest, or there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambda_migrate.errors import ManifestError
from lambda_migrate.manifest_digest import EMPTY_DIGEST, read_digest
from lambda_migrate.migrations import read_manifest

UP = "-- migrate:up\nSELECT 1;\n"


def write(folder: Path, **files: str | bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        data = content if isinstance(content, bytes) else content.encode()
        (folder / f"{name}.sql").write_bytes(data)
    return folder


def test_it_is_the_manifests_digest(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        **{
            "0002_b": UP,
            "1_a": "\ufeff" + UP,
            "10_c-d.e+f": UP.replace("\n", "\r\n"),
            "0000-zero": UP,
            "1.10_dots": UP,
            "1.9_with space": UP,
            "V1_8__flyway": UP,
            "R__view b": "SELECT 2;",
            "R__view": UP,
            "20240101000000000001": "-- migrate:up\n",
        },
    )
    (folder / "README.md").write_text("not a migration")
    (folder / ".hidden.sql").write_text("nor this")
    (folder / "sub").mkdir()
    write(folder / "sub", **{"0099_x": UP})
    assert read_digest(str(folder)) == read_manifest(folder).digest


def test_a_relative_folder_is_resolved_against_its_base(tmp_path: Path) -> None:
    folder = write(tmp_path / "migrations", **{"0001_a": UP})
    digest = read_digest("migrations", relative_to=str(tmp_path))
    assert digest == read_manifest(folder).digest
    assert digest == read_manifest("migrations", relative_to=tmp_path).digest


def test_an_absolute_folder_stays_where_it_is(tmp_path: Path) -> None:
    folder = write(tmp_path / "migrations", **{"0001_a": UP})
    assert read_digest(str(folder), relative_to="/elsewhere") == read_manifest(folder).digest


def test_a_folder_without_migrations_has_a_digest(tmp_path: Path) -> None:
    manifest = read_manifest(tmp_path, allow_empty=True)
    assert read_digest(str(tmp_path)) == manifest.digest == EMPTY_DIGEST


@pytest.mark.parametrize(
    "files",
    [
        {"0001_a": UP, "1_b": UP},
        {"1_a": UP, "1.0_b": UP},
        {"add_orders": UP},
        {"0001a": UP},
        {"9" * 120 + ".1_b": "", "9" * 120 + ".1-b": ""},
        {"0001_größe": UP},
        {"0001_a": b"\xff"},
        {"\u0661_arabic_digit": UP},
    ],
    ids=["twice", "dots", "no-version", "no-separator", "long", "letters", "bytes", "digits"],
)
def test_anything_unusual_needs_the_full_reader(
    tmp_path: Path, files: dict[str, str | bytes]
) -> None:
    assert read_digest(str(write(tmp_path, **files))) is None


def test_a_link_needs_the_full_reader(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", **{"0001_a": UP})
    (folder / "0002_b.sql").symlink_to(folder / "0001_a.sql")
    assert read_digest(str(folder)) is None


@pytest.mark.parametrize("source", ["nowhere", "", "  ", "a\0b", "package:examples", "x.zip/m"])
def test_a_source_that_is_not_a_directory_needs_the_full_reader(
    tmp_path: Path, source: str
) -> None:
    assert read_digest(source, relative_to=str(tmp_path)) is None


def test_a_folder_named_like_a_migration_needs_the_full_reader(tmp_path: Path) -> None:
    (tmp_path / "0001_a.sql").mkdir()
    assert read_digest(str(tmp_path)) is None


NAMES = st.from_regex(r"[0-9]{0,3}_?[a-z.é ]{0,3}(\.sql|\.SQL|\.txt)?", fullmatch=True).filter(
    lambda name: name not in ("", ".", "..")
)
CONTENTS = st.one_of(
    st.just(UP.encode()),
    st.sampled_from([UP, UP.replace("\n", "\r\n"), "\ufeff" + UP, "SELECT 1"]).map(str.encode),
    st.binary(max_size=8),
)


@given(files=st.dictionaries(NAMES, CONTENTS, max_size=4))
def test_what_both_ways_read_has_one_digest(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]
) -> None:
    folder = tmp_path_factory.mktemp("migrations")
    for name, content in files.items():
        (folder / name).write_bytes(content)
    digest = read_digest(str(folder))
    try:
        manifest = read_manifest(folder)
    except ManifestError:
        return  # no process can have completed it, whatever its digest
    assert digest in (None, manifest.digest)
    plain = all(name.isascii() and " " not in name for name in files)
    assert digest is not None or not plain


def test_a_file_that_is_too_large_is_not_even_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path, **{"0001_a": UP})
    monkeypatch.setattr("lambda_migrate.manifest_digest.MAX_BYTES", len(UP) - 1)
    assert read_digest(str(folder)) is None
