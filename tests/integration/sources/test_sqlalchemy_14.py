"""SQLAlchemy 1.4, whose connections autocommit, with the oldest supported Alembic."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from tests.integration.sources.alembic_project import ASYNC_ENV, ENV, AlembicProject, revision
from tests.sandbox import ROOT

PACKAGES = ROOT / ".tools" / "sqlalchemy-1.4"

NO_TRANSACTION = ENV.replace(
    "    with context.begin_transaction():\n        context", "    context"
)
OWN_TRANSACTION = ENV.replace("engine.connect()", "engine.begin()")
FUTURE = ENV.replace("poolclass", "future=True, poolclass")
SET_LOCAL = ENV.replace(
    "        context.run",
    '        connection.execute("SET LOCAL search_path = app, public")\n        context.run',
)

INSERT = "op.get_bind().execute(sa.text(\"INSERT INTO t VALUES ('{}')\"))"
THREE = (
    revision(
        "a1",
        'op.execute("CREATE TABLE t (step text, txid xid8 DEFAULT pg_current_xact_id())")\n'
        + INSERT.format("a1"),
    ),
    revision(
        "a2", INSERT.format("a2"), "op.execute(\"DELETE FROM t WHERE step = 'a2'\")", after="a1"
    ),
    revision(
        "a3",
        "from sqlalchemy.orm import Session\n"
        "session = Session(bind=op.get_bind())\n"
        f"session.{INSERT.format('a3').removeprefix('op.get_bind().')}\n"
        "session.commit()",
        "op.execute(\"DELETE FROM t WHERE step = 'a3'\")",
        after="a2",
    ),
)


@pytest.fixture
def old(project: AlembicProject) -> AlembicProject:
    """A project whose child processes import SQLAlchemy 1.4."""
    assert (PACKAGES / "sqlalchemy").is_dir(), "run `make .tools/installed`"
    project.packages = str(PACKAGES)
    return project


@pytest.mark.parametrize(
    ("driver", "env"),
    [
        pytest.param("psycopg2", ENV, id="psycopg2"),
        pytest.param("asyncpg", ASYNC_ENV, id="asyncpg"),
        pytest.param("pg8000", ENV, id="pg8000"),
        pytest.param("psycopg2", FUTURE, id="future"),
        pytest.param("psycopg2", NO_TRANSACTION, id="no transaction"),
        pytest.param("psycopg2", OWN_TRANSACTION, id="a transaction of env.py"),
    ],
)
def test_each_revision_is_one_fenced_transaction(
    old: AlembicProject, driver: str, env: str
) -> None:
    old.write({"migrations/env.py": env})
    old.add(*THREE)

    def take_over(event: dict[str, Any], _process: subprocess.Popen[bytes]) -> None:
        if event["event"] == "start" and event["id"] == "a3":
            old.take_over(2)

    last = old.run(driver=driver, on_event=take_over)
    assert (last["event"], last["kind"]) == ("failed", "stale_fence"), last
    assert (old.heads(), old.query("SELECT count(*) FROM t")) == (["a2"], [[2]])
    assert old.run(driver=driver, token=2) == {"event": "done", "applied": ["a3"]}, old.events
    rows = old.query(
        "SELECT t.step, t.txid::text = r.xmin::text"
        " FROM t JOIN lambda_migrate.revision r ON r.id = t.step ORDER BY 1"
    )
    assert rows == [["a1", True], ["a2", True], ["a3", True]]
    assert old.run("down", driver=driver, token=2, to="a1")["applied"] == ["a1"]
    assert old.query("SELECT step FROM t") == [["a1"]]


def test_set_local_of_env_py_holds_for_every_revision(old: AlembicProject) -> None:
    old.query("CREATE SCHEMA app")
    old.write({"migrations/env.py": SET_LOCAL})
    old.add(*THREE)
    assert old.run(driver="psycopg2")["applied"] == ["a3"], old.stderr
    tables = old.query("SELECT relname FROM pg_class WHERE relnamespace = 'app'::regnamespace")
    assert ["t"] in tables


def test_a_revision_that_commits_a_part_continues_after_it(old: AlembicProject) -> None:
    kill = "import os, signal\nif os.path.exists('kill'):\n    os.remove('kill')\n"
    old.add(
        revision(
            "a1",
            'op.execute("CREATE TABLE part (a int)")\n'
            "with op.get_context().autocommit_block():\n"
            '    op.execute("CREATE INDEX CONCURRENTLY part_a ON part (a)")\n'
            f"{kill}    os.kill(os.getpid(), signal.SIGKILL)\n"
            'op.execute("ALTER TABLE part ADD b int")',
        )
    )
    old.write({"kill": ""})
    old.run(driver="psycopg2")
    assert (old.heads(), len(old.read_started()["a1"])) == ([], 2)
    old.take_over(2)
    assert old.run(driver="psycopg2", token=2) == {"event": "done", "applied": ["a1"]}, old.events
    assert (old.columns("part"), old.read_started()) == (["a", "b"], {})
