"""The SQL of the page on safe migrations works while the old version is in use."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pg8000.native
import pytest

from lambda_migrate.clock import Deadline
from lambda_migrate.engine.operations import Operations
from lambda_migrate.errors import ConfigurationError, MigrateError, MigrationFailed
from tests.sandbox import Sandbox, running, until
from tests.unit.docs.pages import DOCS, code_blocks

PAGE = DOCS / "how-to" / "write-a-safe-migration.md"
ROWS = 20_000
BACKFILL = 5
CONTRACT = 9

OLD_VERSION = (
    "INSERT INTO orders (customer_id, amount) VALUES (1, 7)",
    "UPDATE orders SET amount = 8 WHERE id = (SELECT max(id) FROM orders)",
    "SELECT id, customer_id, amount FROM orders WHERE id = (SELECT max(id) FROM orders)",
)


def migrations() -> dict[str, str]:
    """Return the migration files of the page, by name."""
    files = [block for block in code_blocks(PAGE, "sql") if block.title]
    return {Path(block.title).stem: block.text for block in files}


@pytest.fixture
def orders(sandbox: Sandbox) -> Operations:
    """Create the table with rows of the old version."""
    operations = sandbox.operations(sandbox.code(migrations()))
    operations.up(Deadline.after(60), to=1)
    sandbox.query(
        "INSERT INTO orders (customer_id, amount)"
        f" SELECT n % 100, n FROM generate_series(1, {ROWS}) AS n"
    )
    return operations


def up(operations: Operations, to: int) -> tuple[str, ...]:
    return operations.up(Deadline.after(60), to=to)


def run_in_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[MigrateError]]:
    """Run a function in a thread; return the thread and a list for its error."""
    raised: list[MigrateError] = []

    def run() -> None:
        try:
            work()
        except MigrateError as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, raised


def other_session(sandbox: Sandbox) -> Any:
    socket = str(sandbox.postgresql.socket)
    return pg8000.native.Connection("postgres", database=sandbox.name, unix_sock=socket)


def count_filled(sandbox: Sandbox) -> int:
    return int(sandbox.query("SELECT count(total_cents) FROM orders")[0][0])


def test_the_old_version_works_until_the_contract(orders: Operations, sandbox: Sandbox) -> None:
    for version in range(2, CONTRACT + 1):
        up(orders, version)
        for statement in OLD_VERSION:
            sandbox.query(statement)
    assert sandbox.query("SELECT count(*) FROM orders WHERE total_cents <> amount * 100") == [[0]]


def test_each_version_reads_what_the_other_writes(orders: Operations, sandbox: Sandbox) -> None:
    up(orders, CONTRACT)
    sandbox.query("INSERT INTO orders (customer_id, total_cents) VALUES (1, 1250)")
    assert sandbox.query("SELECT amount FROM orders ORDER BY id DESC LIMIT 1") == [[12]]
    sandbox.query("UPDATE orders SET total_cents = 900 WHERE id = 1")
    assert sandbox.query("SELECT amount FROM orders WHERE id = 1") == [[9]]


def test_the_new_version_works_after_the_contract(orders: Operations, sandbox: Sandbox) -> None:
    up(orders, CONTRACT + 1)
    sandbox.query("INSERT INTO orders (customer_id, total_cents) VALUES (1, 1250)")
    assert sandbox.invalid_indexes() == []
    with pytest.raises(ConfigurationError, match="without a down script"):
        orders.down(Deadline.after(60), steps=1)


def test_the_expansion_can_be_rolled_back(orders: Operations, sandbox: Sandbox) -> None:
    up(orders, CONTRACT - 1)
    orders.down(Deadline.after(60), to=1)
    assert sandbox.query("SELECT sum(amount), count(*) FROM orders") == [
        [ROWS * (ROWS + 1) // 2, ROWS]
    ]


@pytest.mark.parametrize("is_killed", [False, True], ids=["at the deadline", "by a kill"])
def test_an_interrupted_backfill_continues_after_its_last_batch(
    orders: Operations, sandbox: Sandbox, *, is_killed: bool
) -> None:
    up(orders, BACKFILL - 1)
    with closing(other_session(sandbox)) as other:
        other.run("BEGIN")
        other.run(f"SELECT 1 FROM orders WHERE id = {ROWS // 2 + 1} FOR UPDATE")
        seconds = 60.0 if is_killed else 8.0
        thread, raised = run_in_thread(lambda: orders.up(Deadline.after(seconds), to=BACKFILL))
        until(lambda: count_filled(sandbox) == ROWS // 2, what="half of the rows filled in")
        until(running(sandbox, "CALL"), what="the next batch waits for a row")
        if is_killed:
            [[pid, *_]] = sandbox.holders()
            sandbox.query(f"SELECT pg_terminate_backend({pid})")
            other.run("ROLLBACK")
        thread.join()
    # After a lost connection the holder runs it again; after a deadline the next holder does.
    assert [type(error) for error in raised] == ([] if is_killed else [MigrationFailed])
    assert ("0005_backfill_total_cents" in up(orders, CONTRACT)) is not is_killed
    assert count_filled(sandbox) == ROWS
