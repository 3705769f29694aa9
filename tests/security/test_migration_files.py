"""In a folder that an attacker has filled, only migrations are read, and nothing hangs."""

from __future__ import annotations

import os
import socket
import struct
import sys
import zipfile
from pathlib import Path

import pytest

from lambda_migrate.errors import ManifestError
from lambda_migrate.manifest_digest import read_digest
from lambda_migrate.migrations import read_manifest

from .hostile import CONTROL_CHARACTERS, find_control_characters

GOOD = "-- migrate:up\nselect 1;\n"
MEGABYTE = 2**20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "migrations"
    made.mkdir()
    return made


def refused(source: Path | str) -> str:
    """The error of a folder that is refused, which the fast path refuses as well."""
    with pytest.raises(ManifestError) as caught:
        read_manifest(source)
    reported = str(caught.value)
    assert find_control_characters(reported) == ""
    return reported


HOSTILE_NAMES = [
    *(f"0001_{text}.sql".replace("/", "") for text in CONTROL_CHARACTERS.values()),
    "\u0661\u0662_arabic_digits.sql",
    "\uff10\uff10\uff10\uff11_wide_digits.sql",
    "-1_negative.sql",
    "+1_signed.sql",
    "1e3_exponent.sql",
    "0001_a;b.sql",
    "0001_$(id).sql",
    "0001_`id`.sql",
    "0001_A.SQL",
    "0001_a.sql ",
    "0001_a.sql\n",
    "0001_a.sql\u200b",
    "0001_a.sql\u202e",
]


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=ascii)
def test_a_malicious_name_is_rejected_and_escaped_in_the_error(folder: Path, name: str) -> None:
    (folder / name).write_text(GOOD)
    assert "1 fault in the migrations of" in refused(folder).splitlines()[0]
    assert read_digest(str(folder)) is None


def test_a_name_that_is_not_utf8_is_rejected(folder: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/0001_\xff\xfe.sql")).write_text(GOOD)
    assert "\\udcff\\udcfe" in refused(folder)


@pytest.mark.parametrize(
    "pair",
    [
        *(("1_a", "0001_b"), ("0001_a", "0001_A"), ("7_a", "000000000000000007_a")),
        *(("1.0_a", "1_b"), ("V1_2__a", "01.02_b"), ("3", "3-a")),
    ],
    ids="-".join,
)
def test_one_version_in_two_spellings_is_rejected(folder: Path, pair: tuple[str, str]) -> None:
    for name in pair:
        (folder / f"{name}.sql").write_text(GOOD)
    assert "is taken by" in refused(folder)
    assert read_digest(str(folder)) is None


def test_the_longest_possible_file_name_is_read(folder: Path) -> None:
    name = f"{10**18 - 1}_".ljust(251, "x")
    (folder / f"{name}.sql").write_text(GOOD)
    assert [m.name for m in read_manifest(folder)] == [name]


def test_a_socket_is_rejected(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)  # a socket's path has room for 107 bytes
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("0001_a.sql")
        assert "not a regular file" in refused(folder)


def test_a_link_to_a_pipe_is_rejected_without_waiting(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "0001_a.sql").symlink_to("pipe")
    assert "not a regular file" in refused(folder)


@pytest.mark.parametrize("place", ["/dev/zero", "/etc", "/etc/passwd", "../outside.sql"])
def test_a_link_out_of_the_folder_is_rejected(folder: Path, place: str) -> None:
    (folder.parent / "outside.sql").write_text(GOOD)
    (folder / "0001_a.sql").symlink_to(place)
    assert "a symbolic link that leaves the folder" in refused(folder)
    assert read_digest(str(folder)) is None


def test_a_loop_of_links_is_rejected(folder: Path) -> None:
    (folder / "0001_a.sql").symlink_to("0002_b.sql")
    (folder / "0002_b.sql").symlink_to("0001_a.sql")
    assert refused(folder).count("a broken symbolic link") == 2


def test_a_file_of_200_mb_is_rejected_unread(folder: Path) -> None:
    (folder / "0001_a.sql").touch()
    os.truncate(folder / "0001_a.sql", 200 * MEGABYTE)
    assert "200 MB exceed the limit of 64 MB for a migration" in refused(folder)


@pytest.mark.parametrize("place", ["/dev/zero", "/dev/null", "/proc/self/mem", "\0", "a\nb", " "])
def test_a_path_that_is_not_a_folder_is_rejected(place: str) -> None:
    assert "the migrations folder" in refused(place)


# --- zips


def zip_folder(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize(
    "name", ["../0002_b.sql", "/0002_b.sql", "a/../../0002_b.sql", "c:\\0002_b.sql"]
)
def test_a_zip_member_with_a_path_outside_is_not_a_migration(tmp_path: Path, name: str) -> None:
    bundle = zip_folder(tmp_path / "b.zip", {"m/0001_a.sql": GOOD.encode(), f"m/{name}": b"no"})
    if "/" in name:  # it lies in another folder, as far as a zip has any
        assert [m.version for m in read_manifest(bundle / "m")] == [1]
    else:
        assert "not a migration's name" in refused(bundle / "m")
    assert list(tmp_path.rglob("*.sql")) == []


def test_a_relative_path_does_not_leave_the_folder_of_a_zip(tmp_path: Path) -> None:
    bundle = zip_folder(tmp_path / "b.zip", {"m/0001_a.sql": GOOD.encode()})
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "0001_b.sql").write_text(GOOD)
    assert "does not exist" in refused(f"{bundle}/../nothing")
    assert "does not exist inside the zip" in refused(f"{bundle}/m/../../../secret")


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    bundle = zip_folder(tmp_path / "b.zip", {"0001_a.sql": bytes(65 * MEGABYTE)})
    assert bundle.stat().st_size < MEGABYTE
    assert "65 MB exceed the limit of 64 MB" in refused(bundle)


def test_a_zip_bomb_with_a_false_size_is_not_unpacked(tmp_path: Path) -> None:
    bundle = zip_folder(tmp_path / "b.zip", {"0001_a.sql": bytes(65 * MEGABYTE)})
    lie = bundle.read_bytes().replace(struct.pack("<I", 65 * MEGABYTE), struct.pack("<I", 10))
    bundle.write_bytes(lie)
    assert "cannot be unpacked" in refused(bundle)


def test_a_duplicate_zip_member_is_rejected(tmp_path: Path) -> None:
    bundle = tmp_path / "b.zip"
    with zipfile.ZipFile(bundle, "w") as archive:
        archive.writestr("0001_a.sql", GOOD)
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("0001_a.sql", GOOD + "drop table orders;")
    assert "version 1 is taken by 0001_a.sql" in refused(bundle)


# --- packages


@pytest.mark.parametrize(
    "source",
    [
        "package:os;import_me_not",
        "package:import_me_not; drop",
        "package:..import_me_not",
        "package:import_me_not\n",
        "package:../import_me_not",
        "package:",
        "package:email/../../import_me_not",
        "package:email/..",
    ],
)
def test_an_invalid_package_name_is_rejected_before_the_import(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "import_me_not.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert "package" in refused(source)
    assert "import_me_not" not in sys.modules


# --- contents


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (GOOD.encode("utf-16"), "UTF-16"),
        (GOOD.encode() + b"\0", "NUL byte"),
        (b"-- migrate:up\nselect '\xed\xa0\x80';", "not UTF-8"),
        (b"-- migrate:up\nselect '\xc0\xaf';", "not UTF-8"),
        (b"-- migrate:up\nselect '\xf5\x80\x80\x80';", "not UTF-8"),
        (GOOD.replace("\n", "\r").encode(), "carriage return"),
        (b"\n\xef\xbb\xbf-- migrate:up\nselect 1;", "migrate:up"),
        ("\u200b-- migrate:up\nselect 1;".encode(), "migrate:up"),
        (b"-- migrate:up \x1b[31m\nselect 1;", "unknown option `\\x1b[31m`"),
        ("-- migrate:\u202eup\nselect 1;".encode(), "looks like a marker"),
        (b"", "migrate:up"),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_malicious_content_is_rejected_and_escaped_in_the_error(
    folder: Path, content: bytes, why: str
) -> None:
    (folder / "0001_a.sql").write_bytes(content)
    assert why in refused(folder)


def test_ten_thousand_faults_make_one_short_error(folder: Path) -> None:
    bundle = zip_folder(folder / "b.zip", {f"{n}.sql": b"" for n in range(10_000)})
    with pytest.raises(ManifestError) as caught:
        read_manifest(bundle)
    assert len(caught.value.faults) >= 10_000
    reported = str(caught.value)
    assert len(reported.encode()) < 100_000
    assert reported.endswith(" more")
