"""Every command on these pages runs, and prints the output on the page."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from lambda_migrate.local.servers.postgresql import find_binaries
from tests.integration.docs.transcript import expected_lines, make_script, normalize, run
from tests.sandbox import Sandbox, install_plugin
from tests.unit.docs.pages import DOCS, ROOT, code_blocks


def assert_output_in_order(printed: str, page: Path) -> None:
    lines = iter(normalize(printed))
    missing = [line for line in expected_lines(page) if not any(line == each for each in lines)]
    assert missing == [], f"{page.name} has output that was not printed:\n{printed}"


def test_the_quickstart(tmp_path: Path) -> None:
    page = DOCS / "quickstart.md"
    # At its end nothing is left in the shell, and the reader may start again.
    second_run = make_script(page, before="python storm.py\n") + "kill $!\n"
    exported = "AWS_(ENDPOINT|ACCESS|REGION)|LAMBDA_MIGRATE_(DATABASE_URL|TABLE|TARGET)"
    after = f"echo AND AFTER\nenv | grep -E '^({exported})' || true\n{second_run}"
    printed = run(page, tmp_path, {}, after=after)
    first, _, second = printed.partition("AND AFTER\n")
    assert_output_in_order(first, page)
    plan = [line for line in first.splitlines() if line.startswith("`lambda-migrate up` would")]
    assert normalize(second)[0] == normalize(plan[0])[0]


EXISTING_SCHEMA = """
    CREATE TABLE customers (id bigint PRIMARY KEY, email text NOT NULL UNIQUE);
    CREATE TABLE countries (code text PRIMARY KEY, name text NOT NULL);
    INSERT INTO countries VALUES ('DE', 'Germany; "D"'), ('FR', 'France\nhexagon');
    CREATE TABLE roles (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, country text
        REFERENCES countries (code));
    INSERT INTO roles (country) VALUES ('DE'), (NULL);
    CREATE TYPE status AS ENUM ('placed', 'sent');
    CREATE TABLE orders (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        customer_id bigint NOT NULL REFERENCES customers (id),
        status status NOT NULL DEFAULT 'placed'
    );
    CREATE FUNCTION sent() RETURNS bigint LANGUAGE sql AS $$
        SELECT count(*) FROM orders WHERE status = 'sent' $$;
    CREATE VIEW placed AS SELECT * FROM orders WHERE status = 'placed';
    INSERT INTO customers VALUES (1, 'ada@example.com');
"""


def test_adopting_an_existing_database(sandbox: Sandbox, tmp_path: Path) -> None:
    for statement in EXISTING_SCHEMA.split(";\n"):
        if statement.strip():
            sandbox.query(statement)
    page = DOCS / "how-to" / "adopt-an-existing-database.md"
    folder = tmp_path / "service"
    folder.mkdir()
    environment = {
        "DATABASE_URL": sandbox.url,
        "EMPTY_URL": sandbox.postgresql.create_database(f"{sandbox.name}_empty"),
        "PATH": f"{find_binaries()}{os.pathsep}{os.environ['PATH']}",
    }
    assert_output_in_order(run(page, folder, environment), page)
    assert sandbox.query("SELECT version, baseline FROM lambda_migrate.history") == [["1", True]]
    assert sandbox.query("SELECT email FROM customers") == [["ada@example.com"]]
    empty = f"{sandbox.name}_empty"
    for table, count in (("customers", 0), ("countries", 2), ("roles", 2)):
        assert sandbox.postgresql.execute(f"SELECT count(*) FROM {table}", empty) == [[count]]
    assert sandbox.postgresql.execute("INSERT INTO roles DEFAULT VALUES RETURNING id", empty) == [
        [3]
    ]


def test_adopting_another_tool(sandbox: Sandbox, tmp_path: Path) -> None:
    page = DOCS / "how-to" / "adopt-another-tool.md"
    for statement in (
        "CREATE TABLE orders (id bigint PRIMARY KEY, placed_at timestamptz NOT NULL)",
        "CREATE TABLE schema_migrations (version bigint PRIMARY KEY, dirty boolean NOT NULL)",
        "INSERT INTO schema_migrations VALUES (1, false)",
    ):
        sandbox.query(statement)
    assert_output_in_order(run(page, tmp_path, {"DATABASE_URL": sandbox.url}), page)


def test_repeatable_migrations(sandbox: Sandbox, tmp_path: Path) -> None:
    page = DOCS / "how-to" / "repeatable-migrations.md"
    assert_output_in_order(run(page, tmp_path, {"DATABASE_URL": sandbox.url}), page)
    assert sandbox.query("SELECT with_tax(100)") == [[119]]


def test_placeholders(sandbox: Sandbox, tmp_path: Path) -> None:
    page = DOCS / "how-to" / "placeholders.md"
    printed = run(page, tmp_path, {"DATABASE_URL": sandbox.url})
    assert_output_in_order(printed, page)
    assert "s3cret" not in printed
    assert sandbox.query("INSERT INTO orders VALUES (1) RETURNING region") == [["eu-central-1"]]


def test_testing_migrations_in_ci(tmp_path: Path) -> None:
    page = DOCS / "how-to" / "test-migrations-in-ci.md"
    (tmp_path / "page").mkdir()
    variables = {"PYTHONPATH": install_plugin(tmp_path / "installed")}
    assert_output_in_order(run(page, tmp_path / "page", variables), page)


def test_monitoring(tmp_path: Path) -> None:
    assert "3 passed" in run(DOCS / "how-to" / "monitoring.md", tmp_path, {})


def test_the_readme_of_the_example() -> None:
    [program] = [each.text for each in code_blocks(ROOT / "examples/orders/README.md", "python")]
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 10
