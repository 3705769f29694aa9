"""What env.py may do, what it may not do, and how that is reported."""

from __future__ import annotations

import pytest

from tests.integration.sources.alembic_project import (
    ASYNC_ENV,
    ENV,
    INI,
    AlembicProject,
    revision,
)

ONE = revision("a1", 'op.execute("CREATE TABLE t ()")', 'op.execute("DROP TABLE t")')


def test_several_heads_branches_merges_and_dependencies_are_applied_in_order(
    project: AlembicProject,
) -> None:
    """The graph has dependencies as parents, as the version table is computed with them."""
    project.add(
        ONE,
        revision("b1", "pass", after="a1", extra="branch_labels = ('left',)"),
        revision("b2", "pass", after="a1"),
        revision("c1", "pass", after=("b1", "b2")),
        revision("x1", "pass", extra="depends_on = 'b2'"),
        revision("x2", "pass", after="x1"),
    )
    assert project.run("describe")["event"] == "done"
    plan = project.events[0]
    parents = {each["id"]: sorted(each["parents"]) for each in plan["graph"]}
    assert parents == {
        "a1": [], "b1": ["a1"], "b2": ["a1"], "c1": ["b1", "b2"], "x1": ["b2"], "x2": ["x1"],
    }  # fmt: skip
    assert sorted(plan["heads"]) == ["c1", "x2"]
    assert (project.heads(), project.columns("t")) == ([], [])
    done = project.run()
    assert done["applied"] == project.heads() == ["c1", "x2"]
    assert len(project.mirror()) == 6
    project.run("down", to="base")
    assert (project.heads(), project.mirror()) == ([], [])


def test_a_target_revision_limits_plan_and_run(project: AlembicProject) -> None:
    project.add(ONE, revision("a2", "pass", after="a1"), revision("a3", "pass", after="a2"))
    assert project.run(options={"alembic_revision": "a2"})["applied"] == ["a2"]
    assert project.events[0]["heads"] == ["a2"]
    assert project.run(to="a3")["applied"] == ["a3"]


def test_steps_below_a_merge_and_more_than_there_are_can_be_rolled_back(
    project: AlembicProject,
) -> None:
    """`alembic downgrade -2` calls the first ambiguous."""
    project.add(
        revision("a1", ""),
        revision("b1", "", after="a1"),
        revision("b2", "", after="a1"),
        revision("c1", "", after=("b1", "b2")),
    )
    project.run()
    project.run("down", steps=2)
    assert len(project.heads()) == 1
    project.run("down", steps=99)
    assert project.heads() == []


def test_a_target_that_does_not_exist_is_named(project: AlembicProject) -> None:
    project.add(revision("a1", ""))
    for fields, name in (
        ({"to": "nonesuch"}, "--to nonesuch"),
        ({"options": {"alembic_revision": "gone"}}, "LAMBDA_MIGRATE_ALEMBIC_REVISION=gone"),
    ):
        failed = project.run(**fields)
        assert failed["kind"] == "configuration"
        assert failed["message"].startswith(f"{name}: Can't locate revision")
        assert "`alembic history` lists the revisions" in failed["message"]
        assert not failed["path"]


def test_env_py_may_choose_where_the_revisions_are(project: AlembicProject) -> None:
    place = "context.script.version_locations = ['migrations/versions/chosen']\n"
    env = ENV.replace("engine =", f"{place}engine =")
    chosen = {"migrations/versions/chosen/a1_step.py": ONE, "elsewhere/a1_step.py": ONE}
    project.write({"migrations/env.py": env, **chosen})
    assert project.run()["applied"] == ["a1"]
    elsewhere = env.replace("migrations/versions/chosen", "elsewhere")
    project.write({"migrations/env.py": elsewhere})
    assert "which" in (last := project.run())["message"]
    assert (last["kind"], last["event"]) == ("configuration", "failed")


def test_an_environment_without_revisions_is_refused_unless_it_is_allowed(
    project: AlembicProject,
) -> None:
    """Every database would satisfy it, and a packaging error can cause it."""
    last = project.run()
    assert (last["kind"], last["message"][:26]) == ("manifest", "there are no revisions in ")
    assert project.run(options={"allow_empty": True})["event"] == "done"


def test_a_revision_that_is_not_in_the_code_is_left_to_the_parent(
    project: AlembicProject,
) -> None:
    project.add(ONE)
    project.run()
    project.query("UPDATE alembic_version SET version_num = 'newer'")
    assert project.run() == {"event": "done", "applied": ["newer"]}
    assert (project.events[0]["steps"], project.events[0]["applied"]) == ([], ["newer"])


def test_after_an_upgrade_by_hand_nothing_is_pending(project: AlembicProject) -> None:
    project.add(ONE, revision("a2", "pass", after="a1"))
    project.run_alembic("upgrade", "head")
    project.run()
    assert [each["event"] for each in project.events] == ["plan", "done"]
    project.add(revision("a3", "pass", after="a2"))
    project.run()
    assert [each["event"] for each in project.events] == ["plan", "start", "applied", "done"]
    project.run_alembic("downgrade", "base")
    assert project.heads() == []


def test_the_version_table_is_reported_where_it_is(project: AlembicProject) -> None:
    project.query("CREATE SCHEMA app")
    env = ENV.replace("connection=connection", "connection=connection, version_table_schema='app'")
    project.write({"migrations/env.py": env})
    project.add(ONE)
    project.run()
    assert project.events[0]["version_table"] == ["app", "alembic_version"]
    assert project.query("SELECT version_num FROM app.alembic_version") == [["a1"]]


def test_an_error_names_revision_file_line_and_statement(project: AlembicProject) -> None:
    project.add(ONE, revision("a2", 'op.execute("ALTER TABLE nowhere ADD x int")', after="a1"))
    last = project.run()
    assert (last["event"], last["kind"], last["id"]) == ("failed", "migration", "a2")
    assert last["message"] == 'relation "nowhere" does not exist'
    assert (last["sqlstate"], last["path"]) == ("42P01", "migrations/versions/a2_step.py")
    lines = (project.folder / last["path"]).read_text().splitlines()
    assert "nowhere" in lines[last["line"] - 1]
    assert "ALTER TABLE nowhere" in last["detail"]
    assert project.heads() == ["a1"]


def test_a_lock_timeout_is_retried_until_the_deadline(project: AlembicProject) -> None:
    project.add(ONE)
    project.run()
    project.write({"blocker.py": BLOCKER})
    project.add(
        revision(
            "a2",
            "import blocker; blocker.release_after(2)\nop.add_column("
            "'t', sa.Column('x', sa.Integer))",
            after="a1",
        )
    )
    assert project.run(lock_timeout_ms=200)["applied"] == ["a2"]
    assert [each["event"] for each in project.events].count("start") > 1


def test_the_lock_is_reported_even_if_the_deadline_comes_first(project: AlembicProject) -> None:
    project.add(ONE)
    project.run()
    project.write({"blocker.py": BLOCKER})
    project.add(
        revision("a2", "import blocker; blocker.release_after(9)\nop.drop_table('t')", after="a1")
    )
    last = project.run(lock_timeout_ms=60_000, seconds=8)
    assert (last["event"], last["sqlstate"]) == ("failed", "55P03")


BLOCKER = '''
import os
from sqlalchemy import create_engine, text

attempts = 0
other = None

def release_after(attempts_allowed):
    """Hold a lock on t over the first attempts, on a connection that is no engine's of Alembic."""
    global attempts, other
    import psycopg
    attempts += 1
    if attempts == 1:
        other = psycopg.connect(os.environ["URL"].replace("+psycopg", ""))
        other.execute("LOCK TABLE t")
    elif attempts > attempts_allowed:
        other.close()
'''


BREAKS = """
import psycopg, socket
execute, statements = psycopg.Cursor.execute, []

def break_once(cursor, *arguments, **options):
    statements.append(arguments)
    if len(statements) == int(context.config.get_main_option("breaks_at")):
        with socket.socket(fileno=os.dup(cursor.connection.fileno())) as connection:
            connection.shutdown(socket.SHUT_RDWR)
    return execute(cursor, *arguments, **options)

psycopg.Cursor.execute = break_once
engine"""


def test_a_lost_connection_is_not_a_failure_of_a_migration(project: AlembicProject) -> None:
    """Whichever statement finds it broken: SQLAlchemy's, ours, or the migration's own."""
    project.write({"migrations/env.py": ENV.replace("\nengine", BREAKS)})
    project.add(
        revision(
            "a1",
            "op.execute('CREATE TABLE t (id int)')\n"
            "with op.get_context().autocommit_block():\n"
            "    op.execute('CREATE INDEX CONCURRENTLY i ON t (id)')\n",
        )
    )
    kinds = []
    for statement in (1, 6, 18, 1000):
        project.write({"alembic.ini": f"{INI}breaks_at = {statement}\n"})
        last = project.run()
        kinds.append((last["event"], last.get("kind")))
    assert kinds == [("failed", "unavailable")] * 3 + [("done", None)]


def test_a_statement_ends_with_the_deadline(project: AlembicProject) -> None:
    """Also if env.py sets a longer limit; a shorter one stays."""
    env = ENV.replace(
        "        context.run",
        "        connection.execute(text(\"SET statement_timeout = '1h'\"))\n        context.run",
    )
    project.write({"migrations/env.py": env})
    project.add(revision("a1", 'op.execute("SELECT pg_sleep(30)")'))
    last = project.run(seconds=2)
    assert (last["event"], last["sqlstate"]) == ("failed", "57014")
    project.write({"migrations/env.py": env.replace("1h", "100ms")})
    assert project.run(seconds=50)["sqlstate"] == "57014"


@pytest.mark.parametrize(
    ("env", "kind", "message"),
    [
        pytest.param(
            ENV.replace('os.environ["URL"]', 'os.environ["URL"].rpartition("/")[0] + "/postgres"'),
            *("configuration", "points to a different database"),
            id="another database",
        ),
        pytest.param(
            ENV.replace('os.environ["URL"]', '"sqlite://"'), "configuration", "sqlite", id="sqlite"
        ),
        pytest.param("pass", "migration", "without running the migrations", id="nothing"),
        pytest.param(
            ENV.replace("connection=connection", 'url=os.environ["URL"], as_sql=True'),
            *("configuration", "offline mode"),
            id="offline",
        ),
        pytest.param(
            ENV.replace('os.environ["URL"]', '"postgresql+psycopg://nobody@127.0.0.1:1/x"'),
            *("unavailable", "127.0.0.1"),
            id="no server",
        ),
        pytest.param(
            ASYNC_ENV.replace("asyncio.run(main())", "")
            + "async def outer():\n    asyncio.get_running_loop().create_task(main())\n"
            + "asyncio.run(outer())\n",
            *("migration", "without running the migrations"),
            id="a task that nobody waits for",
        ),
        pytest.param(
            "import no_such_module",
            *("configuration", "No module named 'no_such_module'; install it where"),
            id="import",
        ),
    ],
)
def test_an_env_py_that_cannot_work_is_refused(
    project: AlembicProject, env: str, kind: str, message: str
) -> None:
    project.write({"migrations/env.py": env})
    project.add(ONE)
    for command in ("dry-run", "up"):
        last = project.run(command)
        assert (last["event"], last["kind"]) == ("failed", kind), (command, last)
        assert message in last["message"]
    assert (project.heads(), project.columns("t"), project.mirror()) == ([], [], [])


def test_several_databases_are_refused_before_anything_is_applied(project: AlembicProject) -> None:
    """As in the template `multidb`."""
    project.write({"migrations/env.py": MULTIPLE_DATABASES})
    project.add(ONE)
    last = project.run()
    assert (last["kind"], project.columns("t")) == ("configuration", [])
    assert "connect to no other in env.py" in last["message"]


MULTIPLE_DATABASES = """
import os
from alembic import context
from sqlalchemy import create_engine

urls = {"one": os.environ["URL"], "two": os.environ["URL"].rpartition("/")[0] + "/postgres"}
connections = {name: create_engine(url).connect() for name, url in urls.items()}
transactions = {name: each.begin() for name, each in connections.items()}
for name, connection in connections.items():
    context.configure(connection=connection, upgrade_token=name)
    context.run_migrations()
for transaction in transactions.values():
    transaction.commit()
"""


SCHEMA_FOR_EACH_TENANT = ENV.replace(
    """    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
""",
    """    for schema in ("tenant_a", "tenant_b"):
        connection.execute(text(f"SET search_path TO {schema}"))
        connection.commit()
        context.configure(connection=connection)
        with context.begin_transaction():
            context.run_migrations()
""",
)


def test_one_of_several_version_tables_can_be_chosen(project: AlembicProject) -> None:
    """Even before it exists; `env.py` runs the migrations for the others on its own only."""
    project.query("CREATE SCHEMA tenant_a")
    project.query("CREATE SCHEMA tenant_b")
    project.write({"migrations/env.py": SCHEMA_FOR_EACH_TENANT})
    project.add(ONE)
    tables = "SELECT concat(schemaname, '.', tablename) FROM pg_tables WHERE schemaname ~ 'tenant'"
    chosen = {"alembic_version_table": "tenant_b.alembic_version"}
    for command in ("describe", "up"):
        assert project.run(command, options=chosen)["event"] == "done"
        assert project.events[0]["version_table"] == ["tenant_b", "alembic_version"]
    assert sorted(project.query(tables)) == [["tenant_b.alembic_version"], ["tenant_b.t"]]
    refused = project.run()["message"]
    assert "(tenant_a.alembic_version, then tenant_b.alembic_version)" in refused
    wrong = project.run(options={"alembic_version_table": "tenant_c.alembic_version"})
    assert wrong["kind"] == "configuration"
    assert "it does for tenant_a.alembic_version, tenant_b.alembic_version" in wrong["message"]


def test_a_setup_function_yields_the_config_and_wraps_the_run(project: AlembicProject) -> None:
    project.write(
        {"setup.py": SETUP, "migrations/env.py": "import setup; assert setup.is_open\n" + ENV}
    )
    project.add(ONE)
    options = {"source_setup": "setup:prepare"}
    assert project.run(options=options)["applied"] == ["a1"]
    missing = project.run(options={"source_setup": "setup:nothing"})
    assert missing["kind"] == "configuration"
    assert "LAMBDA_MIGRATE_SOURCE_SETUP=setup:nothing" in missing["message"]
    project.write({"elsewhere/env.py": ENV, "elsewhere/versions/z1.py": revision("z1", "pass")})
    elsewhere = project.run(options={"source_setup": "setup:prepare_elsewhere"})
    assert (elsewhere["kind"], "does not name" in elsewhere["message"]) == ("configuration", True)


SETUP = """
from contextlib import contextmanager
from alembic.config import Config

is_open = False

@contextmanager
def prepare(folder="migrations"):
    global is_open
    is_open = True
    config = Config("alembic.ini")
    config.set_main_option("script_location", folder)
    yield config
    is_open = False

def prepare_elsewhere():
    return prepare("elsewhere")
"""


def test_an_environment_in_pyproject_and_the_options_of_the_command_line_work(
    project: AlembicProject,
) -> None:
    (project.folder / "alembic.ini").unlink()
    project.write(
        {
            "pyproject.toml": '[tool.alembic]\nscript_location = "%(here)s/migrations"\n',
            "migrations/env.py": READS_COMMAND_LINE + ENV,
        }
    )
    project.add(ONE)
    assert project.run()["applied"] == ["a1"]
    assert "upgrade heads {}" in project.stderr
    project.run("down")
    assert "downgrade -1 {}" in project.stderr


READS_COMMAND_LINE = """
from alembic import context
options = context.config.cmd_opts
print(options.cmd[0].__name__, options.revision, context.get_x_argument(as_dictionary=True))
"""


def test_names_of_the_project_hide_neither_alembic_nor_the_standard_library(
    project: AlembicProject,
) -> None:
    """A folder `alembic` with an `__init__.py` is common; on Lambda, the code comes first."""
    names = {"alembic/__init__.py": "", "alembic/env.py": ENV, "signal.py": "raise ValueError"}
    project.write({**names, "alembic.ini": "[alembic]\nscript_location = alembic\n"})
    project.write({"alembic/versions/a1_step.py": ONE})
    assert project.run()["applied"] == ["a1"]
    (project.folder / "signal.py").unlink()
    project.packages = str(project.folder)
    project.write({"alembic/versions/a2_step.py": revision("a2", "import alembic", after="a1")})
    assert project.run()["applied"] == ["a2"]


def test_fileconfig_and_prints_do_not_reach_the_parent(project: AlembicProject) -> None:
    logging = (
        "[loggers]\nkeys = root\n[handlers]\nkeys = console\n[formatters]\nkeys =\n"
        "[logger_root]\nlevel = INFO\nhandlers = console\n"
        "[handler_console]\nclass = StreamHandler\nargs = (sys.stdout,)\n"
    )
    project.write(
        {
            "alembic.ini": INI + logging,
            "migrations/env.py": "import logging.config\nfrom alembic import context\n"
            "logging.config.fileConfig(context.config.config_file_name)\nprint('hello')\n" + ENV,
        }
    )
    project.add(ONE)
    assert project.run()["applied"] == ["a1"]
    assert "hello" in project.stderr


@pytest.mark.parametrize("driver", ["psycopg", "pg8000"])
def test_every_connection_has_the_name_of_the_holder(project: AlembicProject, driver: str) -> None:
    query = "SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()"
    project.add(revision("a1", f'op.execute("CREATE TABLE names AS {query}")'))
    project.run(driver=driver)
    assert project.query("SELECT * FROM names") == [["lambda-migrate:test:1"]]


def test_the_schema_of_the_library_can_be_left_out_of_autogenerate(project: AlembicProject) -> None:
    """With `include_schemas`, Alembic would drop tables that are not in the models."""
    env = ENV.replace(
        "connection=connection", "connection=connection, target_metadata=META, include_schemas=True"
    ).replace("engine =", "from sqlalchemy import MetaData\nMETA = MetaData()\nengine =")
    project.write({"migrations/env.py": env})
    with pytest.raises(AssertionError, match="lambda_migrate"):
        project.run_alembic("check")
    filtered = env.replace(
        "include_schemas=True",
        "include_schemas=True, include_name=lambda name, kind, parents: "
        "kind != 'schema' or name != 'lambda_migrate'",
    )
    project.write({"migrations/env.py": filtered})
    project.run_alembic("check")


def test_an_isolation_level_is_kept_for_every_revision(project: AlembicProject) -> None:
    env = ENV.replace("poolclass", 'isolation_level="SERIALIZABLE", poolclass')
    project.write({"migrations/env.py": env})
    level = "SELECT current_setting('transaction_isolation')"
    project.add(
        revision("a1", f'op.execute("CREATE TABLE t AS {level} AS level")'),
        revision("a2", f'op.execute("INSERT INTO t {level}")', after="a1"),
    )
    assert project.run()["applied"] == ["a2"]
    assert project.query("SELECT DISTINCT level FROM t") == [["serializable"]]


def test_a_dialect_without_autocommit_blocks_fails_as_with_alembic_alone(
    project: AlembicProject,
) -> None:
    body = "with op.get_context().autocommit_block():\n    op.execute('VACUUM')"
    project.add(ONE, revision("a2", body, after="a1"))
    with pytest.raises(AssertionError):
        project.run_alembic("upgrade", "head", driver="pg8000")
    last = project.run(driver="pg8000")
    assert (last["event"], last["id"], project.heads()) == ("failed", "a2", ["a1"])
    assert project.run(driver="psycopg")["applied"] == ["a2"]


def test_the_child_ends_after_exit_functions_and_without_freeing_its_objects(
    project: AlembicProject,
) -> None:
    """Waiters wait for its end, and to free the objects of an application takes a while."""
    at_exit = """
import atexit, os, sys

class Kept:
    def __del__(self, mkdir=os.mkdir):
        mkdir("freed")

sys.kept = Kept()
atexit.register(os.mkdir, "exited")
"""
    project.write({"migrations/env.py": at_exit + ENV})
    project.add(ONE)
    assert project.run()["event"] == "done"
    assert (project.folder / "exited").exists()
    assert not (project.folder / "freed").exists()


FAILS_FIRST = """
attempts = 0

def fail_first():
    global attempts
    attempts += 1
    assert attempts > 1, "the first attempt"
"""

TRIES_TWICE = ENV.replace(
    "with engine.connect", "for _ in range(2):\n  with engine.connect"
).replace(
    "    with context.begin_transaction():\n        context.run_migrations()",
    "    try:\n      with context.begin_transaction():\n        context.run_migrations()\n"
    "      break\n    except AssertionError as error:\n      print(error)\n"
    "      connection.rollback()",
)
"""An env.py that catches errors, and runs the migrations again."""


def test_env_py_may_retry_migrations_that_were_rolled_back_entirely(
    project: AlembicProject,
) -> None:
    project.write({"migrations/env.py": TRIES_TWICE, "attempt.py": FAILS_FIRST})
    failing = "import attempt; attempt.fail_first()"
    project.add(
        ONE, revision("a2", f"op.execute('ALTER TABLE t ADD x int'); {failing}", after="a1")
    )
    assert project.run()["applied"] == ["a2"]
    commit = "op.execute('ALTER TABLE t ADD y int'); op.get_bind().commit(); "
    project.add(revision("a3", commit + failing, after="a2"))
    last = project.run()
    assert (last["message"], last["is_partly_committed"]) == (
        "AssertionError: the first attempt",
        True,
    )


def test_an_error_that_env_py_catches_is_reported(project: AlembicProject) -> None:
    project.write({"migrations/env.py": TRIES_TWICE})
    project.add(ONE, revision("a2", "assert False, 'in a revision'", after="a1"))
    last = project.run()
    assert (last["kind"], last["id"]) == ("migration", "a2")
    assert last["message"] == "AssertionError: in a revision"
    assert project.heads() == ["a1"]


def test_a_connection_of_the_setup_function_has_the_name_of_the_holder(
    project: AlembicProject,
) -> None:
    project.write({"setup.py": CONNECTS, "migrations/env.py": PASSED_CONNECTION})
    query = "SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()"
    project.add(revision("a1", f'op.execute("CREATE TABLE names AS {query}")'))
    project.run(options={"source_setup": "setup:prepare"})
    assert project.query("SELECT * FROM names") == [["lambda-migrate:test:1"]]


CONNECTS = """
import os
from contextlib import contextmanager
from alembic.config import Config
from sqlalchemy import create_engine

@contextmanager
def prepare():
    config = Config("alembic.ini")
    with create_engine(os.environ["URL"]).connect() as config.attributes["connection"]:
        yield config
"""

PASSED_CONNECTION = """
from alembic import context

context.configure(connection=context.config.attributes["connection"])
with context.begin_transaction():
    context.run_migrations()
"""
