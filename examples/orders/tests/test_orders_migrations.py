"""The migrations, without and with a database."""

from __future__ import annotations

from pathlib import Path

import pytest

from lambda_migrate import MigrationRunner
from lambda_migrate.clock import Deadline
from lambda_migrate.engine.operations import Operations
from lambda_migrate.engine.target import Target
from lambda_migrate.lease.memory import InMemoryLeaseTable
from lambda_migrate.local import LocalPostgreSQL
from lambda_migrate.migrations import Manifest
from lambda_migrate.migrations.source import read_manifest
from lambda_migrate.settings import Settings
from lambda_migrate.testing import InMemoryDatabase
from lambda_migrate.wiring import make_database

MIGRATIONS = Path(__file__).parents[1] / "migrations"

SHAPE = """
SELECT table_name, column_name, data_type FROM information_schema.columns
WHERE table_schema = 'public' ORDER BY 1, 2
"""


@pytest.fixture
def manifest() -> Manifest:
    """All migrations of the example."""
    return read_manifest(str(MIGRATIONS))


def test_every_migration_can_be_taken_back(manifest: Manifest) -> None:
    assert [migration.name for migration in manifest if migration.down is None] == []


def test_they_are_applied_in_order_and_once(manifest: Manifest) -> None:
    """With the fakes of lambda_migrate.testing: no database, no waiting."""
    target = Target("orders", InMemoryLeaseTable(), InMemoryDatabase())
    for _ in range(2):
        MigrationRunner(manifest, target).ensure()
    rows = target.database.read_history(Deadline.after(1))
    assert [row.name for row in rows] == [migration.name for migration in manifest]


def test_each_down_script_undoes_its_up_script(manifest: Manifest, server: LocalPostgreSQL) -> None:
    settings = Settings.load({}, database_url=server.create_database("up_and_down"))
    target = Target("orders", InMemoryLeaseTable(), make_database(settings))
    maintenance = Operations(manifest, target)
    shapes = []
    for migration in manifest:
        maintenance.up(Deadline.after(30), to=migration.version)
        shapes.append(server.execute(SHAPE, database="up_and_down"))
    while shapes:
        assert server.execute(SHAPE, database="up_and_down") == shapes.pop()
        maintenance.down(Deadline.after(30), steps=1)
    assert server.execute(SHAPE, database="up_and_down") == []
