"""Fixtures: the command line on the in-memory fakes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lambda_migrate.cli import main
from lambda_migrate.lease.memory import InMemoryLeaseStore
from lambda_migrate.testing import InMemoryDatabase


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    directory = tmp_path / "migrations"
    directory.mkdir()
    for version, name in enumerate(("orders", "status", "index"), 1):
        (directory / f"{version:04d}_{name}.sql").write_text(
            f"-- migrate:up\ncreate table {name} (id int);\n-- migrate:down\ndrop table {name};\n"
        )
    return directory


@pytest.fixture
def database() -> InMemoryDatabase:
    return InMemoryDatabase()


@pytest.fixture
def store() -> InMemoryLeaseStore:
    return InMemoryLeaseStore()


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    folder: Path,
    database: InMemoryDatabase,
    store: InMemoryLeaseStore,
) -> Callable[..., tuple[int, str, str]]:
    """Run a command; returns its exit code, what it printed, and its errors."""
    monkeypatch.setattr("lambda_migrate.wiring.make_database", lambda _settings: database)
    monkeypatch.setattr("lambda_migrate.wiring.make_store", lambda _settings, **_parts: store)
    monkeypatch.setenv("LAMBDA_MIGRATE_DIRECTORY", str(folder))
    monkeypatch.setenv("LAMBDA_MIGRATE_DATABASE_URL", "postgresql://app:hunter2@localhost/orders")
    monkeypatch.setenv("LAMBDA_MIGRATE_TABLE", "leases")
    monkeypatch.delenv("DATABASE_URL", raising=False)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        captured = capsys.readouterr()
        assert "hunter2" not in captured.out + captured.err
        return code, captured.out, captured.err

    return call
