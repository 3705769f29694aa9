"""Every revision commits with its version row and under the fence, however env.py is written."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from tests.integration.sources.alembic_project import (
    ASYNC_ENV,
    DRIVERS,
    ENV,
    AlembicProject,
    revision,
)

CREATE = 'op.execute("CREATE TABLE t (step text, txid bigint DEFAULT txid_current())")'


def insert(number: str) -> str:
    """The body of a revision that records its transaction."""
    return f"op.execute(\"INSERT INTO t VALUES ('{number}')\")"


THREE = (
    revision("a1", f"{CREATE}\n{insert('a1')}", 'op.execute("DROP TABLE t")'),
    revision(
        "a2",
        f"{insert('a2')}\nop.execute(\"DO $$ BEGIN RAISE WARNING 'mind the gap'; END $$\")",
        "op.execute(\"DELETE FROM t WHERE step = 'a2'\")",
        after="a1",
    ),
    revision("a3", insert("a3"), "op.execute(\"DELETE FROM t WHERE step = 'a3'\")", after="a2"),
)


def use_driver(project: AlembicProject, driver: str) -> None:
    project.write({"migrations/env.py": ASYNC_ENV if driver == "asyncpg" else ENV})


@pytest.mark.parametrize("driver", DRIVERS)
def test_each_revision_is_one_transaction_with_its_version_row(
    project: AlembicProject, driver: str
) -> None:
    use_driver(project, driver)
    project.add(*THREE)
    assert project.run(driver=driver) == {"event": "done", "applied": ["a3"]}
    notices = [each for each in project.events if each["event"] == "notice"]
    assert notices == [
        {"event": "notice", "id": "a2", "severity": "WARNING", "message": "mind the gap"}
    ]
    rows = project.query(
        "SELECT t.step, t.txid::text = r.xmin::text, count(*) OVER (PARTITION BY t.txid)"
        " FROM t JOIN lambda_migrate.revision r ON r.id = t.step ORDER BY 1"
    )
    assert rows == [["a1", True, 1], ["a2", True, 1], ["a3", True, 1]]
    assert project.query(
        "SELECT v.xmin = r.xmin FROM alembic_version v"
        " JOIN lambda_migrate.revision r ON r.id = v.version_num"
    ) == [[True]]
    assert project.mirror() == [("a1", "applied", 1), ("a2", "applied", 1), ("a3", "applied", 1)]


READ_NOTICES = """
connection = op.get_bind().connection
connection.cursor().execute("DO $$ BEGIN RAISE NOTICE 'mind the gap'; END $$")
if "mind the gap" not in str(connection.driver_connection.notices):
    raise ValueError("the notice is lost")
"""


@pytest.mark.parametrize("driver", ["psycopg2", "pg8000"])
def test_a_revision_can_read_the_notices_of_its_driver(
    project: AlembicProject, driver: str
) -> None:
    project.add(revision("a1", READ_NOTICES))
    assert project.run(driver=driver) == {"event": "done", "applied": ["a1"]}


@pytest.mark.parametrize("driver", ["psycopg2", "asyncpg"])
def test_a_stale_token_commits_nothing_more(project: AlembicProject, driver: str) -> None:
    use_driver(project, driver)
    project.add(*THREE)

    def take_over(event: dict[str, Any], _process: subprocess.Popen[bytes]) -> None:
        if event["event"] == "start" and event["id"] == "a2":
            project.take_over(2)

    last = project.run(driver=driver, on_event=take_over)
    assert (last["event"], last["kind"], last["token"]) == ("failed", "stale_fence", 2)
    assert project.heads() == ["a1"]
    assert project.mirror() == [("a1", "applied", 1)]
    assert project.run(driver=driver, token=2)["applied"] == ["a3"]


SQL_BEFORE_CONFIGURE = ENV.replace(
    "    context.configure", '    connection.execute(text("SELECT 1"))\n    context.configure'
)
OWN_TRANSACTION = ENV.replace("engine.connect()", "engine.begin()")
AUTOCOMMIT = ENV.replace("poolclass", 'isolation_level="AUTOCOMMIT", poolclass')
POOL = ENV.replace(", poolclass=pool.NullPool", "")
ADVISORY_LOCK = ENV.replace(
    "        context.run",
    '        connection.execute(text("SELECT pg_advisory_xact_lock(7)"))\n        context.run',
)
SWALLOWS_ERRORS = (
    ENV.replace("with engine", "try:\n  with engine").replace("\n    ", "\n      ")
    + "except Exception as error:\n    print(error)\n"
)


@pytest.mark.parametrize(
    "env",
    [
        pytest.param(SQL_BEFORE_CONFIGURE, id="SQL before configure"),
        pytest.param(OWN_TRANSACTION, id="a transaction of env.py"),
        pytest.param(AUTOCOMMIT, id="AUTOCOMMIT"),
        pytest.param(POOL, id="a pool"),
        pytest.param(ADVISORY_LOCK, id="an advisory lock"),
    ],
)
def test_however_env_py_connects_no_revision_is_lost(project: AlembicProject, env: str) -> None:
    project.write({"migrations/env.py": env})
    project.add(*THREE)
    assert project.run() == {"event": "done", "applied": ["a3"]}
    assert project.heads() == ["a3"]
    assert [state for _, state, _ in project.mirror()] == ["applied"] * 3
    assert project.query("SELECT count(DISTINCT txid) FROM t") == [[3]]
    last = project.run("down", to="a1")
    assert (last["applied"], project.heads(), len(project.mirror())) == (["a1"], ["a1"], 1)


@pytest.mark.parametrize("env", [OWN_TRANSACTION, AUTOCOMMIT, SWALLOWS_ERRORS])
def test_a_stale_token_stops_every_kind_of_env_py(project: AlembicProject, env: str) -> None:
    project.write({"migrations/env.py": env})
    project.add(*THREE)

    def take_over(event: dict[str, Any], _process: subprocess.Popen[bytes]) -> None:
        if event["event"] == "start" and event["id"] == "a3":
            project.take_over(2)

    last = project.run(on_event=take_over)
    assert (last["event"], last["kind"]) == ("failed", "stale_fence")
    assert project.heads() == ["a2"]
    assert project.query("SELECT count(*) FROM t") == [[2]]


def test_a_stale_token_commits_nothing_of_env_py_itself(project: AlembicProject) -> None:
    own = 'with engine.begin() as other:\n    other.execute(text("CREATE TABLE own (x int)"))\n'
    env = ENV.replace("with engine.connect", own + "with engine.connect")
    project.write({"migrations/env.py": env})
    project.add(*THREE)
    project.take_over(2)
    assert project.run(token=1)["kind"] == "stale_fence"
    assert project.columns("own") == []


def test_set_local_of_env_py_holds_for_every_revision(project: AlembicProject) -> None:
    """With one transaction per revision, it would end with the first one."""
    project.query("CREATE SCHEMA app")
    setting = 'connection.execute(text("SET LOCAL search_path = app, public"))'
    project.write(
        {
            "migrations/env.py": ENV.replace(
                "        context.run", f"        {setting}\n        context.run"
            )
        }
    )
    project.add(
        revision("a1", 'op.execute("CREATE TABLE t1 ()")'),
        revision("a2", 'op.execute("CREATE TABLE t2 ()")', after="a1"),
        revision("a3", 'op.execute("CREATE TABLE t3 ()")', after="a2"),
    )
    project.run()
    tables = project.query(
        "SELECT string_agg(relname, ' ' ORDER BY 1) FROM pg_class WHERE"
        " relnamespace = 'app'::regnamespace AND relkind = 'r'"
    )
    assert tables == [["alembic_version t1 t2 t3"]]


def test_set_local_on_another_connection_of_env_py_stays_there(project: AlembicProject) -> None:
    project.query("CREATE SCHEMA app")
    other = (
        "other = engine.connect()\n"
        'other.execute(text("SET LOCAL search_path = app"))\n'
        "with engine.connect() as connection:"
    )
    env = ENV.replace("with engine.connect() as connection:", other)
    project.write({"migrations/env.py": env})
    project.add(
        revision("a1", 'op.execute("CREATE TABLE t1 ()")'),
        revision("a2", 'op.execute("CREATE TABLE t2 ()")', after="a1"),
    )
    project.run()
    assert project.query("SELECT to_regclass('public.t2')") == [["t2"]]


@pytest.mark.parametrize(
    ("driver", "commit"),
    [
        ("psycopg", "op.get_bind().commit()"),
        ("psycopg", "op.get_bind().connection.commit()"),
        ("pg8000", "op.get_bind().connection.commit()"),
        ("psycopg2", 'op.execute("COMMIT")'),
        ("asyncpg", 'op.execute("COMMIT")'),
        ("pg8000", 'op.execute("COMMIT")'),
    ],
)
def test_a_revision_that_commits_loses_no_later_one(
    project: AlembicProject, driver: str, commit: str
) -> None:
    use_driver(project, driver)
    body = f"{insert('a2')}\n{commit}\n{insert('more')}"
    project.add(THREE[0], revision("a2", body, after="a1"), THREE[2])
    assert project.run(driver=driver) == {"event": "done", "applied": ["a3"]}
    assert project.heads() == ["a3"]
    assert project.query("SELECT string_agg(step, ' ' ORDER BY step) FROM t") == [["a1 a2 a3 more"]]
    assert [state for _, state, _ in project.mirror()] == ["applied"] * 3


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_a_second_connection_neither_waits_nor_escapes_the_fence(
    project: AlembicProject, driver: str
) -> None:
    second = (
        "with op.get_bind().engine.begin() as other:\n"
        "    other.execute(sa.text(\"INSERT INTO t VALUES ('two')\"))"
    )
    use_driver(project, driver)
    project.add(THREE[0], revision("a2", f"{insert('a2')}\n{second}", after="a1"), THREE[2])
    assert project.run(driver=driver)["applied"] == ["a3"]
    assert project.query("SELECT count(*), count(DISTINCT txid) FROM t") == [[4, 4]]
    assert len(project.mirror()) == 3


def test_a_cursor_of_the_driver_shares_the_fence(project: AlembicProject) -> None:
    body = "op.get_bind().connection.cursor().execute(\"INSERT INTO t VALUES ('raw')\")"
    project.add(THREE[0], revision("a2", body, after="a1"))

    def take_over(event: dict[str, Any], _process: subprocess.Popen[bytes]) -> None:
        if event["event"] == "start" and event["id"] == "a2":
            project.take_over(2)

    assert project.run(on_event=take_over)["kind"] == "stale_fence"
    assert project.query("SELECT count(*) FROM t") == [[1]]
    assert project.run(token=2)["applied"] == ["a2"]


def test_a_downgrade_that_fails_keeps_the_steps_before_it(project: AlembicProject) -> None:
    project.add(*THREE[:1], revision("a2", insert("a2"), 'op.execute("SELECT 1/0")', after="a1"))
    project.add(revision("a3", insert("a3"), insert("undone"), after="a2"))
    project.run()
    last = project.run("down", to="base")
    assert (last["event"], last["id"], last["sqlstate"]) == ("failed", "a2", "22012")
    assert project.heads() == ["a2"]
    assert [row[:2] for row in project.mirror()] == [("a1", "applied"), ("a2", "applied")]


def test_a_stop_rolls_back_and_keeps_what_is_applied(project: AlembicProject) -> None:
    project.add(*THREE)
    last = project.run(on_event=lambda event, _: event.get("id") != "a3")
    assert last == {"event": "done", "applied": ["a2"]}
    assert project.heads() == ["a2"]
    assert project.run()["applied"] == ["a3"]


def test_a_dry_run_changes_nothing(project: AlembicProject) -> None:
    project.add(*THREE)
    assert project.run("dry-run")["event"] == "done"
    assert [each["event"] for each in project.events].count("applied") == 3
    assert (project.heads(), project.mirror(), project.columns("t")) == ([], [], [])
    project.add(revision("a4", "op.get_bind().connection.commit()", after="a3"))
    last = project.run("dry-run")
    assert (last["event"], last["id"]) == ("failed", "a4")
    assert (project.heads(), project.columns("t")) == ([], [])


def test_env_py_may_commit_settings_and_nothing_else_in_a_dry_run(project: AlembicProject) -> None:
    """A search path that is committed before `context.configure()` is common."""
    first = "    connection.execute(text('{}'))\n    connection.commit()\n    context.configure"
    env = ENV.replace("    context.configure", first.format("SET search_path TO app"))
    project.write({"migrations/env.py": env})
    project.query("CREATE SCHEMA app")
    project.add(revision("a1", "op.execute('CREATE TABLE app.t AS SELECT id FROM known')"))
    project.query("CREATE TABLE app.known AS SELECT 1 AS id")
    assert project.run("dry-run")["event"] == "done"
    assert project.query("SELECT to_regclass('app.t')") == [[None]]
    env = ENV.replace("    context.configure", first.format("CREATE TABLE made ()"))
    project.write({"migrations/env.py": env})
    assert project.run("dry-run")["message"].startswith("env.py commits, so a dry run")
    assert project.query("SELECT to_regclass('made')") == [[None]]


def test_a_revision_may_work_as_a_role_without_rights_on_our_tables(
    project: AlembicProject,
) -> None:
    project.query("CREATE ROLE limited")
    project.query("GRANT CREATE ON SCHEMA public TO limited")
    body = "op.execute('SET ROLE limited')\nop.execute('CREATE TABLE {} ()')\n"
    reset = "op.execute('RESET ROLE')"
    project.add(
        revision("a1", body.format("t") + reset),
        revision("a2", body.format("u") + "op.get_bind().commit()\n" + reset, after="a1"),
    )
    last = project.run()
    assert project.heads() == ["a1"]
    assert (last["id"], last["kind"], "GRANT USAGE" in last["message"]) == (
        "a2",
        "configuration",
        True,
    )
    assert project.query("SELECT to_regclass('u')") == [[None]]
