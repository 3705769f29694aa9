"""The page on dry runs: its migrations, its output, and its filter are right."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from unittest.mock import patch

import pytest

from lambda_migrate.cli import main
from lambda_migrate.commands.dry_run_advice import advise
from lambda_migrate.engine.dry_run import RAN, DryRunStep
from lambda_migrate.postgresql.dry_run_effects import MigrationEffects, RelationLock, TableChange
from tests.sandbox import TABLE, Sandbox
from tests.unit.docs.pages import DOCS, code_blocks

PAGE = DOCS / "how-to" / "dry-run.md"
SQL = list(code_blocks(PAGE, "sql"))
FILES = {Path(block.title).stem: block.text for block in SQL if block.title}
(ROWS,) = (block.text for block in SQL if not block.title)
PASSED, FAILED = (block.text for block in code_blocks(PAGE, "text"))


class Orders:
    """The table of the page, with its first migration applied and fewer rows."""

    def __init__(self, sandbox: Sandbox, files: Mapping[str, str] = FILES) -> None:
        self.query = sandbox.query
        self.migrations = sandbox.code(files) / "migrations"
        self._environ = {
            **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
            **sandbox.dynamodb.variables(),
            "LAMBDA_MIGRATE_DATABASE_URL": sandbox.url,
            "LAMBDA_MIGRATE_DIRECTORY": str(self.migrations),
            "LAMBDA_MIGRATE_TABLE": TABLE,
            "LAMBDA_MIGRATE_TARGET": sandbox.name,
        }

    def run(self, *arguments: str) -> tuple[int, str]:
        """Exit code and standard output of the command line."""
        out = io.StringIO()
        with patch.dict(os.environ, self._environ, clear=True), redirect_stdout(out):
            code = main(list(arguments))
        return code, out.getvalue()


@pytest.fixture
def orders(sandbox: Sandbox) -> Orders:
    orders = Orders(sandbox)
    assert orders.run("up", "--to", "1")[0] == 0
    for statement in filter(None, ROWS.replace("1000000", "20000").split(";\n")):
        orders.query(statement)
    return orders


def migrations_and_locks(text: str) -> list[str]:
    """Return the lines of migrations and tables: outcome, lock, and blocked statements."""
    lines = [re.sub(r" in [\d.]+ m?s$", "", line) for line in text.splitlines()]
    return [line[:52].rstrip() for line in lines if re.match(r"(\d{4}_\w+|  public\.\w+)  ", line)]


def test_the_output_is_that_of_the_page_except_for_times_and_sizes(orders: Orders) -> None:
    code, out = orders.run("plan", "--dry-run", "--yes")
    assert code == 0
    assert migrations_and_locks(out) == migrations_and_locks(PASSED)
    assert len(migrations_and_locks(PASSED)) == 7
    assert "20,000 updated, 20,000 scanned" in out
    why = "not run, because what runs outside a transaction cannot be rolled back"
    reason = f"- 0005_by_customer: {why}\n"
    assert reason in out
    assert reason in PASSED


def test_the_advice_follows_from_the_times() -> None:
    table = "public.orders"
    filled = TableChange(table, 0, 1_000_000, 0, 1_000_000, bytes_after=1)
    rewritten = TableChange(table, 0, 0, 0, 1_499_240, rewritten=True, bytes_after=1)
    lock = RelationLock(table, "table", "ACCESS EXCLUSIVE", earlier_migration="0002_add_total")
    steps = [
        DryRunStep(3, "0003_fill_total", RAN, effects=MigrationEffects(5.4, (), (filled,))),
        DryRunStep(
            4,
            "0004_wider_customers",
            RAN,
            effects=MigrationEffects(1.5, (lock,), (rewritten,)),
        ),
    ]
    advice = PASSED[PASSED.index("advice:\n") : PASSED.index("not rolled back")].splitlines()[1:]
    assert advice == [f"- {sentence}" for step in steps for sentence in advise(step)]


def test_the_failure_is_that_of_the_page(orders: Orders) -> None:
    wrong = FILES["0003_fill_total"].replace("amount", "amont")
    (orders.migrations / "0003_fill_total.sql").write_text(wrong)
    code, out = orders.run("plan", "--dry-run", "--yes")
    assert code == 1
    assert migrations_and_locks(out) == migrations_and_locks(FAILED)
    end = FAILED[FAILED.index("0003_fill_total failed: ") :].splitlines()
    shown = out[out.index("0003_fill_total failed: ") :].splitlines()
    assert [line for line in shown if "0003_fill_total.sql" not in line] == [
        line for line in end if "0003_fill_total.sql" not in line
    ]


def test_it_changes_neither_the_table_nor_the_history(orders: Orders) -> None:
    before = orders.query("SELECT count(*), sum(amount) FROM orders")
    orders.run("plan", "--dry-run", "--yes")
    assert orders.query("SELECT count(*), sum(amount) FROM orders") == before
    _, out = orders.run("status", "--format", "json")
    assert json.loads(out)["counts"] == {
        **dict.fromkeys(json.loads(out)["counts"], 0),
        "applied": 1,
        "pending": 4,
    }


def test_a_pipeline_can_read_the_blocked_statements_and_their_duration(orders: Orders) -> None:
    _, out = orders.run("plan", "--dry-run", "--yes", "--format", "json")
    migrations = json.loads(out)["dry_run"]["migrations"]
    blocking = [
        each["name"]
        for each in migrations
        if (each["seconds"] or 0) > 0 and any(lock["blocks"] for lock in each["locks"])
    ]
    assert blocking == ["0002_add_total", "0004_wider_customers"]


def test_the_migrations_of_the_page_on_safe_migrations_pass_a_dry_run(
    sandbox: Sandbox,
) -> None:
    """A dry run skips the backfill, so it does not report that the validation after it fails."""
    page = DOCS / "how-to" / "write-a-safe-migration.md"
    files = {Path(f.title).stem: f.text for f in code_blocks(page, "sql") if f.title}
    safe = Orders(sandbox, files)
    assert safe.run("up", "--to", "1")[0] == 0
    safe.query("INSERT INTO orders (customer_id, amount) SELECT n, n FROM generate_series(1, 99) n")
    code, out = safe.run("plan", "--dry-run", "--yes", "--format", "json")
    found = json.loads(out)["dry_run"]
    assert (code, found["outcome"]) == (0, "incomplete")
    assert {each["outcome"] for each in found["migrations"]} == {"ran", "skipped"}
