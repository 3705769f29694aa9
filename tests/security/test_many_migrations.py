"""Ten times the migrations cost ten times the work; memory and messages stay bounded."""

from __future__ import annotations

import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lambda_migrate.cli.render import render_status
from lambda_migrate.commands.documents import build_status_document
from lambda_migrate.commands.status_entries import build_entries
from lambda_migrate.engine.operations import SchemaStatus
from lambda_migrate.errors import ConfigurationError
from lambda_migrate.lease.codec import encode_databases
from lambda_migrate.lease.readiness import CheckedDatabase, record_check
from lambda_migrate.lease.record import (
    MAX_READY_DIGESTS,
    SHORT_DIGEST_BYTES,
    DatabaseRecord,
    LeaseState,
)
from lambda_migrate.manifest_digest import read_digest
from lambda_migrate.migrations import HistoryRow, Manifest, read_manifest
from lambda_migrate.migrations.repeatable import find_satisfied_digests
from lambda_migrate.migrations.rollback import choose_rollback
from lambda_migrate.postgresql.ports import LeaseGrant
from lambda_migrate.postgresql.queries import Queries
from tests.unit.engine.fakes import item_size, prefixes

FEW, MANY = 1_000, 10_000
PLACE = {"target": "t", "database": "d", "environment": "", "schema": "s", "directory": "m"}


def _folder(root: Path, count: int) -> Path:
    folder = root / str(count)
    folder.mkdir()
    for version in range(1, count + 1):
        name = f"{version:05}_change_number_{version}"
        (folder / f"{name}.sql").write_text(
            f"-- migrate:up\nCREATE TABLE t{version} (x int);\n"
            f"-- migrate:down\nDROP TABLE t{version};\n"
        )
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    root = tmp_path_factory.mktemp("many")
    return {count: _folder(root, count) for count in (FEW, MANY)}


@pytest.fixture(scope="module")
def manifests(folders: dict[int, Path]) -> dict[int, Manifest]:
    return {count: read_manifest(folder) for count, folder in folders.items()}


def history(manifest: Manifest) -> list[HistoryRow]:
    """As if all were applied."""
    return [
        HistoryRow(m.version, m.name, m.checksum, manifest.digest_at(m.version), down=m.down)
        for m in manifest
    ]


def calls(act: Callable[[], object]) -> int:
    """How many functions are called, Python's own included."""
    count = 0

    def note(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        act()
    finally:
        sys.setprofile(before)
    return count


def peak(act: Callable[[], object]) -> int:
    """Bytes allocated at most at once."""
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _status(manifest: Manifest, rows: list[HistoryRow]) -> SchemaStatus:
    plan = manifest.make_plan(rows)
    return SchemaStatus(tuple(rows), plan, LeaseState(), is_marked_ready=False)


ACTS: dict[str, Callable[[Path, Manifest], Any]] = {
    "reading": lambda folder, _: read_manifest(folder),
    "the digest alone": lambda folder, _: read_digest(str(folder)),
    "ordering": lambda _, manifest: Manifest(reversed(manifest.migrations)),
    "a plan of nothing applied": lambda _, manifest: manifest.make_plan([]),
    "a plan of all applied": lambda _, manifest: manifest.make_plan(history(manifest)),
    "a plan of all edited": lambda _, manifest: manifest.make_plan(
        [HistoryRow(m.version, m.name, "other", "other") for m in manifest]
    ),
    "a plan out of order": lambda _, manifest: manifest.make_plan(history(manifest)[-1:]),
    "a part": lambda _, manifest: manifest.up_to(len(manifest) // 2),
    "what is proved": lambda _, manifest: find_satisfied_digests(history(manifest)),
    "a rollback": lambda _, manifest: choose_rollback(history(manifest), to=0),
    "a status": lambda _, manifest: build_status_document(
        _status(manifest, history(manifest)), manifest, PLACE, has_table=True
    ),
    "a baseline": lambda _, manifest: Queries("s").upsert_applied(
        [(m, manifest.digest_at(m.version)) for m in manifest],
        LeaseGrant("t", 1, "o"),
        baseline=True,
    ),
}


@pytest.mark.parametrize("name", ACTS)
def test_ten_times_the_migrations_cost_ten_times_the_work(
    name: str, folders: dict[int, Path], manifests: dict[int, Manifest]
) -> None:
    act = ACTS[name]
    few = calls(lambda: act(folders[FEW], manifests[FEW]))
    many = calls(lambda: act(folders[MANY], manifests[MANY]))
    assert many <= 12 * few


@pytest.mark.parametrize("name", ["reading", "the digest alone", "a plan of all applied"])
def test_ten_times_the_migrations_cost_ten_times_the_memory(
    name: str, folders: dict[int, Path], manifests: dict[int, Manifest]
) -> None:
    act = ACTS[name]
    few = peak(lambda: act(folders[FEW], manifests[FEW]))
    many = peak(lambda: act(folders[MANY], manifests[MANY]))
    assert many <= 20 * few  # lists keep room to grow; a square would be 100
    assert many < 30 * 2**20


def test_both_ways_of_reading_give_the_same_digests(
    folders: dict[int, Path], manifests: dict[int, Manifest]
) -> None:
    assert read_digest(str(folders[MANY])) == manifests[MANY].digest


def test_a_zip_of_10000_migrations_is_read_like_a_folder(
    folders: dict[int, Path], manifests: dict[int, Manifest], tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        for path in folders[MANY].iterdir():
            archive.write(path, path.name)
    assert read_manifest(tmp_path / "b.zip") == manifests[MANY]


def test_the_item_has_the_same_size_for_200_and_10000_migrations(
    manifests: dict[int, Manifest],
) -> None:
    databases: dict[str, DatabaseRecord] = {}
    digests_of_all = prefixes(manifests[MANY])
    for count in range(MANY - 100, MANY + 1):
        digests = digests_of_all[: count + 1]
        check = CheckedDatabase(
            "i" * 36, "db:5432/orders", digests, fence=count, owner="o", at_ms=count
        )
        databases = record_check(databases, check)
    (record,) = databases.values()
    assert len(record.ready_digests) == MAX_READY_DIGESTS * SHORT_DIGEST_BYTES
    assert record.is_ready(manifests[MANY].digest, "db:5432/orders")
    assert item_size(encode_databases(databases)) < 2_500


@pytest.mark.parametrize("applied", [0, 5_000, MANY])
def test_the_status_of_10000_migrations_fits_two_screens(
    manifests: dict[int, Manifest], applied: int
) -> None:
    manifest = manifests[MANY]
    status = _status(manifest, history(manifest)[:applied])
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    document = build_status_document(status, manifest, PLACE, has_table=True)
    shown = render_status(document, now_ms=0, width=100, show_all=False)
    with console.capture() as captured:
        for each in shown:
            console.print(each)
    assert len(captured.get().splitlines()) < 50
    assert len(build_entries(status)) == MANY


def test_an_unknown_version_among_10000_is_a_one_line_error(
    manifests: dict[int, Manifest],
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        choose_rollback(history(manifests[MANY]), to=123_456)
    reported = str(caught.value)
    assert "9950 older ones, 9951, " in reported
    assert len(reported) < 500
