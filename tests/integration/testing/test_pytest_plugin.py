"""The pytest plugin in users' projects: pytest runs in its own process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sandbox import HANDLER, Sandbox, install_plugin
from tests.unit.docs.pages import DOCS, code_blocks

CHECKS = "from lambda_migrate.testing.migration_checks import *\n"
ORDERS = """-- migrate:up
CREATE TABLE orders (id int PRIMARY KEY, note text);
INSERT INTO orders VALUES (1, 'first');
-- migrate:down
DROP TABLE orders;
"""
INDEX = """-- migrate:up transaction:false
CREATE INDEX CONCURRENTLY orders_note ON orders (note);
-- migrate:down transaction:false
DROP INDEX CONCURRENTLY orders_note;
"""
NO_WAY_BACK = "-- migrate:up\nALTER TABLE orders ADD COLUMN status text DEFAULT 'placed';\n"


class Project:
    """A folder with migrations and tests, as a user has it."""

    def __init__(self, folder: Path, server: str) -> None:
        self.folder = folder
        self.server = server
        self.path = install_plugin(folder / "installed")
        self.write("pytest.ini", "[pytest]\n")

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def run(self, *arguments: str) -> tuple[int, str]:
        """Run pytest; return its exit code and output."""
        # With CI set, pytest's summary repeats whole messages instead of their first lines.
        variables = {
            key: text
            for key, text in os.environ.items()
            if "PYTEST" not in key and key not in ("CI", "BUILD_NUMBER")
        }
        variables["LAMBDA_MIGRATE_TEST_SERVER"] = self.server
        variables["PYTHONPATH"] = self.path
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
            cwd=self.folder,
            env=variables,
            capture_output=True,
            text=True,
            timeout=120,
        )
        return done.returncode, done.stdout + done.stderr

    def git(self, *arguments: str) -> None:
        identity = ("-c", "user.name=x", "-c", "user.email=x@example.com")
        subprocess.run(["git", *identity, *arguments], cwd=self.folder, check=True)


@pytest.fixture
def project(sandbox: Sandbox, tmp_path: Path) -> Project:
    """A project whose tests use a server that others use, too."""
    return Project(tmp_path / "project", sandbox.url)


def test_each_test_of_each_worker_has_a_migrated_copy_and_nothing_is_left(
    project: Project, sandbox: Sandbox
) -> None:
    project.write("migrations/0001_orders.sql", ORDERS)
    project.write("migrations/0002_index.sql", INDEX)
    project.write("migrations/R__notes.sql", "CREATE OR REPLACE VIEW v AS SELECT note FROM orders")
    project.write("migrations/afterMigrate.sql", "SELECT 1")
    project.write(
        "conftest.py",
        "import pytest\n@pytest.fixture\ndef migrated_database(migrated_database):\n"
        "    migrated_database.execute(\"INSERT INTO orders VALUES (2, 'ours')\")\n"
        "    return migrated_database\n",
    )
    project.write(
        "tests/test_copies.py",
        CHECKS + "import pytest\n"
        "@pytest.mark.parametrize('n', range(6))\n"
        "def test_a_copy(migrated_database, scratch_database, n):\n"
        "    count = 'SELECT count(*) FROM orders'\n"
        "    assert migrated_database.execute(count) == [[2]]\n"
        "    assert migrated_database.execute(count.replace('orders', 'v')) == [[2]]\n"
        "    migrated_database.execute('DELETE FROM orders')\n"
        "    scratch_database.execute('CREATE TABLE orders (); SELECT 1')\n",
    )
    code, output = project.run("-n", "2")
    assert (code, "9 passed" in output) == (0, True), output
    assert sandbox.query("SELECT datname FROM pg_database WHERE datname ~ '^lambda_migrate_'") == []


def test_the_checks_name_the_migration_and_what_to_do(project: Project) -> None:
    project.write("migrations/0001_orders.sql", ORDERS)
    project.write("migrations/0002_no_way_back.sql", NO_WAY_BACK)
    project.write(
        "migrations/0003_leaves_a_table.sql",
        "-- migrate:up\nCREATE TABLE IF NOT EXISTS extra ();\n-- migrate:down\nSELECT 1;\n",
    )
    project.write(
        "migrations/0004_drops_a_note.sql",
        "-- migrate:up\nALTER TABLE orders DROP COLUMN note;\n"
        "-- migrate:down\nALTER TABLE orders ADD COLUMN note text;\n",
    )
    project.write("tests/test_migrations.py", CHECKS)
    _, output = project.run()
    assert "0003_leaves_a_table: rolling it back does not restore the schema" in output
    assert "left over: table public.extra" in output
    assert "migrations/0003_leaves_a_table.sql" in output
    assert "0004_drops_a_note: rows were lost" in output
    assert 'public.orders: lost {"id": 1, "note": "first", "status": "placed"}' in output
    assert "2 failed, 1 passed" in output
    project.write("pytest.ini", "[pytest]\nlambda_migrate_lossy = 0004_drops_a_note\n")
    assert "1 failed, 2 passed" in project.run()[1]


def test_a_row_that_the_user_inserts_must_survive_the_migrations(project: Project) -> None:
    project.write("migrations/0001_orders.sql", ORDERS)
    project.write(
        "migrations/0002_rewrites.sql",
        "-- migrate:up\nUPDATE orders SET note = 'lost' WHERE id = 7;\n"
        "-- migrate:down\nSELECT 1;\n",
    )
    fixture = "import pytest\n@pytest.fixture\ndef lambda_migrate_data():\n    return {}\n"
    project.write("tests/conftest.py", fixture)
    project.write("tests/test_migrations.py", CHECKS)
    assert "3 passed" in project.run()[1]
    row = "{'1': \"INSERT INTO orders VALUES (7, 'kept')\"}"
    project.write("tests/conftest.py", fixture.replace("{}", row))
    assert 'lost {"id": 7, "note": "kept"}' in project.run()[1]
    project.write("tests/conftest.py", fixture.replace("{}", "{'9': 'SELECT 1'}"))
    assert "has SQL for '9', but no migration has this name or version" in project.run()[1]


def test_a_migration_that_fails_is_a_failure_without_a_traceback(project: Project) -> None:
    project.write("migrations/0001_orders.sql", ORDERS.replace("int PRIMARY", "itn PRIMARY"))
    project.write(
        "tests/test_migrations.py", CHECKS + "def test_it(migrated_database):\n    assert 0\n"
    )
    _, output = project.run()
    assert output.count('type "itn" does not exist') == 3, output
    assert "Traceback" not in output
    project.write("migrations/1_again.sql", ORDERS)
    _, output = project.run()
    assert "version 1 is taken" in output
    assert "Traceback" not in output


def test_released_files_stay_and_new_ones_follow_them(project: Project) -> None:
    project.write("pytest.ini", "[pytest]\nlambda_migrate_base = released\n")
    project.write("tests/test_migrations.py", CHECKS)
    project.write("migrations/0002_orders.sql", ORDERS)
    project.write("migrations/0004_index.sql", INDEX)
    project.write("migrations/R__notes.sql", "SELECT 1")
    project.write("migrations/afterMigrate.sql", "SELECT 1")
    assert "git cannot read lambda_migrate_base = released" in project.run("-k", "sequence")[1]
    project.git("init", "-q")
    project.git("add", "migrations")
    project.git("commit", "-qm", "released")
    project.git("branch", "released")
    project.write("migrations/0005_status.sql", NO_WAY_BACK)
    project.write("migrations/R__notes.sql", "SELECT 2")
    assert project.run("-k", "sequence")[0] == 0
    project.write("migrations/0002_orders.sql", ORDERS.replace("note", "text"))
    project.write("migrations/0003_status.sql", NO_WAY_BACK)
    (project.folder / "migrations" / "0004_index.sql").unlink()
    _, output = project.run("-k", "sequence")
    assert "0002_orders.sql: it differs from released" in output
    assert "0004_index.sql: it is in released, so it may be applied, and is missing" in output
    (project.folder / "migrations" / "0002_orders.sql").write_text(ORDERS)
    project.write("migrations/0004_index.sql", INDEX)
    assert "0003_status.sql: its version is below 4" in project.run("-k", "sequence")[1]


def test_a_storm_of_cold_starts_on_a_server_that_the_session_starts(project: Project) -> None:
    project.server = ""
    grant = "SELECT 1;\nGRANT SELECT ON orders TO orders_app;\n-- migrate:down"
    project.write("migrations/0001_orders.sql", ORDERS.replace("-- migrate:down", grant))
    page = DOCS / "how-to" / "test-migrations-in-ci.md"
    [conftest] = [each.text for each in code_blocks(page, "python") if "ROLE" in each.text]
    project.write("conftest.py", conftest)
    project.write("app.py", HANDLER)
    project.write(
        "tests/test_storm.py",
        "def test_storm(cold_start_storm, scratch_database):\n"
        "    results = cold_start_storm(5, database=scratch_database)\n"
        "    assert [result.payload for result in results] == [{'served': True}] * 5\n"
        "    assert scratch_database.execute('SELECT count(*) FROM orders') == [[1]]\n",
    )
    code, output = project.run()
    assert (code, "1 passed" in output) == (0, True), output


def test_a_suite_that_uses_no_fixture_loads_nothing(project: Project) -> None:
    project.write(
        "test_it.py",
        "import sys\n"
        "def test_it():\n"
        "    assert 'lambda_migrate.testing.pytest_plugin' in sys.modules\n"
        "    heavy = {'boto3', 'botocore', 'pg8000', 'moto', 'lambda_migrate.engine',\n"
        "             'lambda_migrate.postgresql', 'lambda_migrate.lease'}\n"
        "    assert not heavy & sys.modules.keys()\n",
    )
    code, output = project.run()
    assert code == 0, output


def test_migrations_of_a_package_are_found(project: Project) -> None:
    project.write("shop/__init__.py", "")
    project.write("shop/migrations/0001_orders.sql", ORDERS)
    project.write("pytest.ini", "[pytest]\nlambda_migrate_directory = package:shop/migrations\n")
    count = "migrated_database.execute('SELECT count(*) FROM orders')"
    project.write("test_it.py", f"def test_it(migrated_database):\n    assert {count} == [[1]]\n")
    code, output = project.run()
    assert code == 0, output


def test_an_unreachable_server_is_named(project: Project) -> None:
    project.server = "postgresql://nobody@127.0.0.1:1/postgres"
    project.write("test_it.py", "def test_it(scratch_database):\n    pass\n")
    _, output = project.run()
    assert "127.0.0.1:1" in output
    assert "Traceback" not in output


def test_a_unit_test_calls_a_handler_without_settings_unless_the_project_asks_for_the_check(
    project: Project,
) -> None:
    project.write("app.py", HANDLER)
    project.write(
        "test_app.py", "import app\ndef test_it():\n    assert app.handler({}, None)['served']\n"
    )
    assert project.run()[0] == 0
    code, output = project.run("-o", "lambda_migrate_handlers=on")
    assert (code, "LAMBDA_MIGRATE_MODE=off" in output) == (1, True)
    code, output = project.run("-o", "lambda_migrate_handlers=maybe")
    assert (code, "lambda_migrate_handlers is 'maybe': write off or on" in output) == (4, True)
