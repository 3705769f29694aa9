"""Alembic and Django behind a real PgBouncer that pools transactions."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from lambda_migrate.local.servers.pgbouncer import LocalPgBouncer
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL
from tests.contract.sources import SERVICES, SLOW, AlembicService, DjangoService
from tests.integration.sources.alembic_project import (
    ASYNC_ENV,
    DRIVERS,
    ENV,
    AlembicProject,
    revision,
)
from tests.integration.sources.django_projects import (
    INITIAL,
    STATUS,
    DjangoProject,
    migrate,
    migration,
)
from tests.sandbox import Sandbox, until


@pytest.fixture(scope="module")
def pooler(shared_postgresql: LocalPostgreSQL) -> Iterator[LocalPgBouncer]:
    settings = {"default_pool_size": "4"}
    with LocalPgBouncer(shared_postgresql, settings=settings) as running:
        yield running


@pytest.fixture(params=[name for name in SERVICES if name != "sql"])
def tool(
    request: pytest.FixtureRequest, sandbox: Sandbox, tmp_path: Path, pooler: LocalPgBouncer
) -> AlembicService:
    service = SERVICES[request.param](sandbox, tmp_path)
    assert isinstance(service, AlembicService)
    service.url = pooler.url(sandbox.name)
    return service


# --- through the parent


def test_steps_are_applied_and_rolled_back_through_a_pooler(tool: AlembicService) -> None:
    for number in (1, 2, 3):
        tool.add(number)
    assert tool.run(mode="require", wait_seconds="0").startswith("NotReady")
    assert tool.run() == "MIGRATED"
    assert tool.run(mode="require") == "UP_TO_DATE"
    assert "rolled back 2 migrations" in tool.command("down", "--steps", "2", "--yes")
    assert tool.effects() == [1]


def test_a_takeover_terminates_what_a_killed_holder_runs_behind_a_pooler(
    sandbox: Sandbox, tmp_path: Path, pooler: LocalPgBouncer
) -> None:
    tool = DjangoService(sandbox, tmp_path)
    tool.url = pooler.url(sandbox.name)
    started = tool.start_in_slow_step(1)
    started.signal(signal.SIGKILL)
    assert tool.run() == "MIGRATED"
    assert tool.effects() == [1]
    assert not tool.is_sleeping()


def test_a_takeover_terminates_both_connections_of_a_frozen_holder(
    sandbox: Sandbox, tmp_path: Path, pooler: LocalPgBouncer
) -> None:
    """They share the lock on the fence row, so its owner is a group of transactions."""
    service = AlembicService(sandbox, tmp_path)
    service.url = pooler.url(sandbox.name)
    insert = "INSERT INTO effect VALUES ({})"
    body = (
        f"op.execute({insert.format(1)!r})\n"
        "with op.get_bind().engine.begin() as other:\n"
        f"    other.execute(sa.text({insert.format(2)!r}))\n"
        f"    other.execute(sa.text({SLOW!r}))"
    )
    service.path(1).write_text(revision("r1", body))
    started = service.start()
    until(service.is_sleeping, what="the step does not sleep")
    started.signal(signal.SIGSTOP)
    assert service.run() == "MIGRATED"
    started.signal(signal.SIGCONT)
    # The second if the child notices its ended connections before the parent its lost lease.
    assert started.outcome().startswith(("LeaseLost", "DatabaseUnavailable"))
    assert service.effects() == [1, 2]


# --- the child

PARTS = """
op.execute("CREATE TABLE t (id int)")
op.get_bind().commit()
op.execute("INSERT INTO t VALUES (1)")
"""

BLOCK = """
op.execute("INSERT INTO t VALUES (2)")
with op.get_context().autocommit_block():
    op.execute("CREATE INDEX CONCURRENTLY i ON t (id)")
"""

NO_CACHE = "create_async_engine(os.environ['URL'], connect_args={'statement_cache_size': 0, " + (
    "'prepared_statement_name_func': lambda: str(uuid.uuid4())}, "
)


@pytest.mark.parametrize("driver", DRIVERS)
def test_alembic_commits_in_parts_behind_a_pooler_but_not_outside_a_transaction(
    project: AlembicProject, pooler: LocalPgBouncer, driver: str
) -> None:
    project.address = pooler.url(project.name).partition("?")[0]
    async_env = ASYNC_ENV.replace('create_async_engine(os.environ["URL"], ', NO_CACHE)
    env = f"import uuid\n{async_env}" if driver == "asyncpg" else ENV
    project.write({"migrations/env.py": env})
    project.add(revision("a1", PARTS), revision("a2", BLOCK, after="a1"))

    failed = project.run(driver=driver)

    assert (failed["event"], failed["id"]) == ("failed", "a2"), failed
    assert "let env.py connect to the database's own endpoint" in failed["message"]
    assert project.query("SELECT id FROM t") == [[1]]
    assert project.mirror() == [("a1", "applied", 1)]
    assert project.query("SELECT FROM pg_locks WHERE locktype = 'advisory'") == []


def test_a_stale_token_stops_alembic_behind_a_pooler(
    project: AlembicProject, pooler: LocalPgBouncer
) -> None:
    project.address = pooler.url(project.name)
    take_over = (
        "import os, psycopg\n"
        "with psycopg.connect(os.environ['URL'].replace('+psycopg', '')) as other:\n"
        "    other.execute(\"UPDATE lambda_migrate.fence SET token = 2, owner = 'owner2'\")\n"
    )
    project.add(
        revision("a1", PARTS.replace('op.execute("INSERT', take_over + 'op.execute("INSERT'))
    )
    assert project.run()["kind"] == "stale_fence"
    assert project.query("SELECT id FROM t") == []
    assert project.mirror() == [("a1", "started", 1)]
    project.add(revision("a1", PARTS))
    assert project.run(token=2) == {"event": "done", "applied": ["a1"]}
    assert project.query("SELECT id FROM t") == [[1]]


CONCURRENTLY = (
    "AddIndexConcurrently('order', models.Index(fields=['status'], name='by_status'))",
    "migrations.RunSQL('CREATE INDEX CONCURRENTLY by_status ON shop_order (status)')",
)


@pytest.mark.parametrize("operation", CONCURRENTLY)
def test_django_commits_nothing_of_what_needs_a_direct_connection(
    shared_postgresql: LocalPostgreSQL, tmp_path: Path, pooler: LocalPgBouncer, operation: str
) -> None:
    name = f"pooled_django_{len(operation)}"
    insert = "migrations.RunSQL(\"INSERT INTO shop_customer (name) VALUES ('a')\")"
    index = migration(
        f"{insert}, {operation}",
        after="0002_status",
        head="from django.contrib.postgres.operations import AddIndexConcurrently",
        atomic=False,
    )
    migrations = {"0001_initial": INITIAL, "0002_status": STATUS, "0003_index": index}
    project = DjangoProject(tmp_path, shared_postgresql, name, migrations)
    direct, project.url = project.url, pooler.url(name)

    failed = migrate(project)

    assert (failed["event"], failed["id"]) == ("failed", "shop.0003_index"), failed
    assert "let DATABASES connect to the database's own endpoint" in failed["message"]
    assert not failed["is_partly_committed"]
    assert project.query("SELECT count(*) FROM shop_customer") == [[0]]
    assert project.applied() == ["0001_initial", "0002_status"]
    assert project.query("SELECT FROM pg_locks WHERE locktype = 'advisory'") == []

    project.url = direct
    assert migrate(project, token=2)["event"] == "done"
    assert project.query("SELECT count(*) FROM shop_customer") == [[1]]
