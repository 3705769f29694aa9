"""A revision that commits in parts can be killed at any point and is then completed."""

from __future__ import annotations

import pytest

from tests.integration.sources.alembic_project import ASYNC_ENV, ENV, AlembicProject, revision

KILLS = '''
import os, pathlib, signal
from sqlalchemy import event
from sqlalchemy.engine import Engine

countdown = pathlib.Path("countdown")

def tick(connection=None):
    """Kill this process at the point whose number the file has, once."""
    if countdown.exists():
        left = int(countdown.read_text()) - 1
        countdown.write_text(str(left)) if left else countdown.unlink()
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

def before(connection, cursor, statement, parameters, context, executemany):
    if "part" in statement:
        tick()

def listen():
    """Before a statement after lambda-migrate's listener, after it before that one."""
    event.listen(Engine, "before_cursor_execute", before)
    event.listen(Engine, "after_cursor_execute", before, insert=True)
    event.listen(Engine, "commit", tick)
'''

PARTS = """
op.execute("CREATE TABLE part (a int, b int)")
with op.get_context().autocommit_block():
    op.execute("CREATE INDEX CONCURRENTLY part_a ON part (a)")
    op.execute("ALTER TYPE mood ADD VALUE 'partly'")
op.execute("ALTER TABLE part ADD c int")
"""

FIRST = revision("a1", "op.execute(\"CREATE TYPE mood AS ENUM ('glad')\")")


def use_kills(project: AlembicProject, env: str = ENV) -> None:
    listens = "from kills import listen; listen()\n"
    project.write({"kills.py": KILLS, "migrations/env.py": listens + env})


def describe_state(project: AlembicProject) -> list[list[object]]:
    return project.query(
        "SELECT (SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute"
        " WHERE attrelid = to_regclass('part') AND attnum > 0),"
        " (SELECT string_agg(indexrelid::regclass || ':' || indisvalid, ' ') FROM pg_index"
        " WHERE indrelid = to_regclass('part')),"
        " (SELECT string_agg(enumlabel, ' ') FROM pg_enum)"
    )


@pytest.mark.parametrize("point", [3, 4, 5, 6, 7, 9])
def test_killed_at_any_point_it_ends_as_if_it_had_run_once(
    project: AlembicProject, point: int
) -> None:
    use_kills(project)
    project.add(FIRST, revision("a2", PARTS.strip(), after="a1"))
    project.write({"countdown": str(point)})
    project.run()
    was_killed = not (project.folder / "countdown").exists()
    assert was_killed == (project.heads() != ["a2"])
    (project.folder / "countdown").unlink(missing_ok=True)
    project.take_over(2)
    assert project.run(token=2) == {"event": "done", "applied": ["a2"]}, project.events
    assert describe_state(project) == [["a b c", "part_a:true", "glad partly"]]
    assert project.read_started() == {}


@pytest.mark.parametrize("driver", ["psycopg2", "asyncpg"])
def test_killed_at_any_point_under_another_driver_it_ends_as_if_it_had_run_once(
    project: AlembicProject, driver: str
) -> None:
    use_kills(project, ASYNC_ENV if driver == "asyncpg" else ENV)
    project.add(FIRST, revision("a2", PARTS.strip(), after="a1"))
    project.write({"countdown": "5"})
    project.run(driver=driver)
    assert project.read_started()["a2"][-1].startswith("?")
    assert project.run(driver=driver) == {"event": "done", "applied": ["a2"]}, project.events
    assert describe_state(project) == [["a b c", "part_a:true", "glad partly"]]


COMMITS_ROWS = """
op.execute("INSERT INTO part VALUES (1)")
op.get_bind().commit()
op.execute("INSERT INTO part VALUES (2)")
"""


@pytest.mark.parametrize(
    ("driver", "commit", "point"),
    [
        # Points: before and after the insert, the commit, before and after the next insert.
        ("psycopg", "op.get_bind().commit()", 4),
        ("psycopg", "op.get_bind().connection.commit()", 3),
        ("psycopg2", 'op.execute("COMMIT")\\nop.execute("SELECT 1 -- part")', 3),
    ],
)
def test_rows_that_were_committed_are_never_repeated_silently(
    project: AlembicProject, driver: str, commit: str, point: int
) -> None:
    use_kills(project)
    body = COMMITS_ROWS.strip().replace("op.get_bind().commit()", commit.replace("\\n", "\n"))
    project.add(
        revision("a1", 'op.execute("CREATE TABLE numbers (n int)")'),
        revision("a2", body.replace("INTO part", "/* part */ INTO numbers"), after="a1"),
    )
    project.write({"countdown": str(point + 1)})
    project.run(driver=driver)
    assert project.query("SELECT count(*) FROM numbers") == [[1]]
    assert project.heads() == ["a1"]
    last = project.run(driver=driver)
    assert (last["event"], last["kind"], last["id"]) == ("failed", "repair", "a2")
    assert "`alembic stamp a2`, then run `lambda-migrate repair a2 --as applied`" in last["message"]
    assert project.query("SELECT count(*) FROM numbers") == [[1]]


def test_rows_of_a_second_connection_are_never_repeated_silently(project: AlembicProject) -> None:
    project.add(
        revision("a1", 'op.execute("CREATE TABLE numbers (n int)")'),
        revision(
            "a2",
            'op.execute("ALTER TABLE numbers ADD m int") if False else None\n'
            "with op.get_bind().engine.begin() as other:\n"
            '    other.execute(sa.text("INSERT INTO numbers VALUES (1)"))\n'
            "raise SystemExit(1)",
            after="a1",
        ),
    )
    assert project.run()["event"] == "failed"
    assert project.run()["kind"] == "repair"
    assert project.query("SELECT count(*) FROM numbers") == [[1]]


def test_a_revision_that_was_changed_after_it_was_interrupted_needs_a_person(
    project: AlembicProject,
) -> None:
    use_kills(project)
    project.add(FIRST, revision("a2", PARTS.strip(), after="a1"))
    project.write({"countdown": "5"})
    project.run()
    # Of another length: Python takes its bytecode for current if size and second are the same.
    project.add(revision("a2", PARTS.strip().replace("part (a int", "part (zz int"), after="a1"))
    last = project.run()
    assert (last["kind"], last["id"]) == ("repair", "a2")
    assert "not among those that it had committed" in last["message"]


def test_a_failed_statement_outside_a_transaction_leaves_no_doubt(project: AlembicProject) -> None:
    create = 'op.execute("CREATE TABLE part (a nonsense)")'
    body = f"with op.get_context().autocommit_block():\n    {create}"
    project.add(revision("a1", body))
    assert project.run()["sqlstate"] == "42704"
    project.add(revision("a1", body.replace("nonsense", "int")))
    assert project.run() == {"event": "done", "applied": ["a1"]}


def test_a_transactional_revision_that_was_killed_just_runs_again(project: AlembicProject) -> None:
    use_kills(project)
    project.add(
        revision("a1", 'op.execute("CREATE TABLE part ()")\nop.execute("SELECT 1 -- part")')
    )
    project.write({"countdown": "3"})
    project.run()
    assert (project.read_started(), project.columns("part")) == ({}, [])
    assert project.run() == {"event": "done", "applied": ["a1"]}
