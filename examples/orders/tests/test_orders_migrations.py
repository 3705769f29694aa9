"""The migrations, without and with a database."""

from __future__ import annotations

from pathlib import Path

import pytest

from lambda_migrate import Manifest, MigrationRunner, Target, read_manifest
from lambda_migrate.cli import main
from lambda_migrate.local import LocalPostgreSQL
from lambda_migrate.testing import InMemoryDatabase, InMemoryLeaseStore

MIGRATIONS = Path(__file__).parents[1] / "migrations"

COLUMNS = """
SELECT table_name, column_name, data_type FROM information_schema.columns
WHERE table_schema = 'public' ORDER BY 1, 2
"""


@pytest.fixture
def manifest() -> Manifest:
    """All migrations of the example."""
    return read_manifest(str(MIGRATIONS))


def test_every_migration_has_a_down_script(manifest: Manifest) -> None:
    assert [migration.name for migration in manifest if migration.down is None] == []


def test_the_migrations_are_applied_once_and_in_order(manifest: Manifest) -> None:
    """With the fakes: no database, no waiting."""
    target = Target("orders", InMemoryLeaseStore(), database := InMemoryDatabase())
    for _ in range(2):
        MigrationRunner(manifest, target).ensure()
    assert database.effects == [migration.name for migration in manifest]


def test_each_down_script_undoes_its_up_script(
    manifest: Manifest, server: LocalPostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the command line on PostgreSQL: up one by one, then down one by one."""
    monkeypatch.setenv("LAMBDA_MIGRATE_DATABASE_URL", server.create_database("up_and_down"))
    monkeypatch.setenv("LAMBDA_MIGRATE_DIRECTORY", str(MIGRATIONS))
    schemas = [server.execute(COLUMNS, database="up_and_down")]
    for migration in manifest:
        assert main(["up", "--to", str(migration.version)]) == 0
        schemas.append(server.execute(COLUMNS, database="up_and_down"))
    while schemas:
        assert server.execute(COLUMNS, database="up_and_down") == schemas.pop()
        if schemas:
            assert main(["down", "--steps", "1", "--yes"]) == 0
