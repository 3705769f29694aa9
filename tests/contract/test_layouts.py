"""Every operation refuses an item or a schema of another layout and leaves it unchanged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from lambda_migrate.engine.operations import Operations
from lambda_migrate.engine.target import Policy, Target
from lambda_migrate.errors import ConfigurationError, MigrationFailed
from lambda_migrate.migrations import Manifest
from lambda_migrate.postgresql.ports import Database
from lambda_migrate.runner import MigrationRunner
from lambda_migrate.testing import FakeClock, InMemoryLeaseStore
from tests.contract.databases import FIRST, SECOND, PostgreSQLUnderTest, grant, soon
from tests.contract.leases import DynamoDBTables

FILES = Manifest([FIRST, SECOND])

Act = Callable[[Target], object]


def operator(target: Target) -> Operations:
    return Operations(FILES, target)


def cold_start(target: Target, mode: str = "migrate") -> object:
    target = target.replace(policy=Policy(mode=mode, wait_seconds=0.2))
    return MigrationRunner(FILES, target).ensure(soon())


ON_THE_DATABASE: dict[str, Act] = {
    "cold start": cold_start,
    "status": lambda target: operator(target).status(soon()),
    "plan": lambda target: operator(target).plan(soon()),
    "up": lambda target: operator(target).up(soon()),
    "down": lambda target: operator(target).down(soon(), steps=1),
    "verify": lambda target: operator(target).verify(soon()),
    "verify --resync": lambda target: operator(target).verify(soon(), resync=True),
    "baseline": lambda target: operator(target).baseline(2, soon()),
    "repair": lambda target: operator(target).repair(
        1, soon(), declared_state="pending", force=True
    ),
    "repair --environment": lambda target: operator(target).record_environment(soon()),
}
ON_THE_ITEM: dict[str, Act] = {
    **{name: act for name, act in ON_THE_DATABASE.items() if name != "plan"},
    "cold start (require)": lambda target: cold_start(target, "require"),
    "lease release": lambda target: operator(target).release_lease(),
}
OTHER_LAYOUTS = pytest.mark.parametrize("layout", [1, 3])

ITEMS: dict[int, dict[str, Any]] = {
    1: {
        "format": {"N": "1"},
        "fence": {"N": "7"},
        "database": {"S": "db:5432/orders"},
        "ready": {"M": {FILES.digest: {"M": {"at": {"N": "1"}, "version": {"N": "2"}}}}},
    },
    3: {"format": {"N": "3"}, "fence": {"N": "7"}, "owner": {"S": "new/1/ab"}},
}

LAYOUT_1 = """
    DROP TABLE lambda_migrate.fence; DROP TABLE lambda_migrate.history;
    CREATE TABLE lambda_migrate.fence (
        singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
        layout integer NOT NULL DEFAULT 1, token bigint NOT NULL DEFAULT 0,
        owner text NOT NULL DEFAULT '', target text NOT NULL DEFAULT '',
        environment text NOT NULL DEFAULT '', backend_pid integer, backend_start timestamptz,
        taken_at timestamptz);
    CREATE TABLE lambda_migrate.history (
        version bigint PRIMARY KEY, name text NOT NULL, checksum text NOT NULL,
        digest text NOT NULL, state text NOT NULL, started_at timestamptz NOT NULL,
        applied_at timestamptz, duration_ms bigint NOT NULL DEFAULT 0, fence bigint NOT NULL,
        owner text NOT NULL, request_id text NOT NULL DEFAULT '', library_version text NOT NULL,
        baseline boolean NOT NULL DEFAULT false, up text, down text, down_line integer,
        down_transactional boolean);
    INSERT INTO lambda_migrate.fence (token) VALUES (1);
    INSERT INTO lambda_migrate.history (version, name, checksum, digest, state, started_at,
        applied_at, fence, owner, library_version, down)
    VALUES (1, '0001_a', 'c', 'd', 'applied', now(), now(), 1, 'o', '0', 'SELECT 1')"""
"""The tables as they were before identities, with one migration applied."""

LAYOUT_3 = "UPDATE lambda_migrate.fence SET layout = 3"


def tables_of(db: PostgreSQLUnderTest) -> list[list[object]]:
    return db.run(
        "SELECT to_jsonb(f)::text FROM lambda_migrate.fence f"
        " UNION ALL SELECT to_jsonb(h)::text FROM lambda_migrate.history h"
    )


@OTHER_LAYOUTS
@pytest.mark.parametrize("act", ON_THE_ITEM.values(), ids=ON_THE_ITEM)
def test_an_item_of_another_layout_is_rejected_and_unchanged(
    fresh_database: PostgreSQLUnderTest, tables: DynamoDBTables, layout: int, act: Act
) -> None:
    with fresh_database.database.open_session(grant(1), soon()) as session:
        session.apply(FIRST, "digest", soon())
    name = f"layout-{uuid4().hex}"
    tables.put(name, **ITEMS[layout])
    item, rows = tables.item(name), tables_of(fresh_database)
    target = Target(name, tables.store(name, FakeClock()), fresh_database.database)
    with pytest.raises(ConfigurationError, match=f"{name}' has layout {layout}.*nothing was"):
        act(target)
    assert tables.item(name) == item
    assert tables_of(fresh_database) == rows
    assert fresh_database.effects() == ["0001_a"]


@OTHER_LAYOUTS
@pytest.mark.parametrize("act", ON_THE_DATABASE.values(), ids=ON_THE_DATABASE)
def test_a_schema_of_another_layout_is_rejected_and_unchanged(
    fresh_database: PostgreSQLUnderTest, layout: int, act: Act
) -> None:
    with fresh_database.database.open_session(grant(1), soon()) as session:
        session.apply(FIRST, "digest", soon())
    fresh_database.run(LAYOUT_1 if layout == 1 else LAYOUT_3)
    rows = tables_of(fresh_database)
    store = InMemoryLeaseStore()
    with pytest.raises(ConfigurationError, match=f"have layout {layout}.*nothing was changed"):
        act(Target("orders", store, fresh_database.database))
    assert tables_of(fresh_database) == rows
    assert fresh_database.effects() == ["0001_a"]
    assert (store.state.owner, store.state.databases) == (None, {})


ON_DAMAGED_TABLES: dict[str, Callable[[Database], object]] = {
    "a takeover": lambda database: database.open_session(grant(9), soon()),
    "a dry run": lambda database: database.begin_dry_run(grant(9), soon()),
    "a look": lambda database: database.inspect(soon()),
}
DAMAGES = {
    "history is missing": "DROP TABLE lambda_migrate.history",
    "history is missing, fence is empty": "DROP TABLE lambda_migrate.history;"
    " DELETE FROM lambda_migrate.fence",
    "fence is empty": "DELETE FROM lambda_migrate.fence",
    "fence is missing": "DROP TABLE lambda_migrate.fence",
    "fence is another table": "DROP TABLE lambda_migrate.fence;"
    " CREATE TABLE lambda_migrate.fence (id integer)",
}
TABLES_OF_3 = """
    ALTER TABLE lambda_migrate.fence ALTER COLUMN layout SET DEFAULT 3;
    ALTER TABLE lambda_migrate.history ADD COLUMN added_by_layout_3 integer;"""


def definitions_of(db: PostgreSQLUnderTest) -> list[list[object]]:
    tables = db.run(
        "SELECT attrelid::regclass::text, attname::text FROM pg_attribute JOIN pg_class c"
        " ON c.oid = attrelid WHERE relnamespace = 'lambda_migrate'::regnamespace ORDER BY 1, 2"
    )
    for table in ("fence", "history"):
        if [f"lambda_migrate.{table}", "ctid"] in tables:
            tables += db.run(f"SELECT to_jsonb(t)::text FROM lambda_migrate.{table} t")
    return tables


@OTHER_LAYOUTS
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("act", ON_DAMAGED_TABLES.values(), ids=ON_DAMAGED_TABLES)
def test_nothing_is_created_in_a_schema_of_another_layout_with_a_table_missing_or_empty(
    fresh_database: PostgreSQLUnderTest,
    layout: int,
    damage: str,
    act: Callable[[Database], object],
) -> None:
    with fresh_database.database.open_session(grant(1), soon()) as session:
        session.apply(FIRST, "digest", soon())
    fresh_database.run(LAYOUT_1 if layout == 1 else LAYOUT_3 + ";" + TABLES_OF_3)
    fresh_database.run(damage)
    before = definitions_of(fresh_database)
    with pytest.raises(ConfigurationError, match=r"have (an unknown )?layout.*nothing was changed"):
        act(fresh_database.database)
    assert definitions_of(fresh_database) == before


def test_a_require_function_reports_a_schema_of_another_layout(
    fresh_database: PostgreSQLUnderTest,
) -> None:
    """A function that may migrate records it as a failure, so that no function waits in vain."""
    with fresh_database.database.open_session(grant(1), soon()):
        pass
    fresh_database.run(LAYOUT_3)
    target = Target("orders", InMemoryLeaseStore(), fresh_database.database)
    with pytest.raises(ConfigurationError):
        cold_start(target)
    with pytest.raises(MigrationFailed, match="have layout 3"):
        cold_start(target, "require")
