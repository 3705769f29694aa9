"""A holder that is killed at any stage, or frozen past its lease, leaves a correct database."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pg8000.native
import pytest

from lambda_migrate.local.runtime.function import LocalFunction
from tests.sandbox import (
    COUNTERS,
    HANDLER,
    Sandbox,
    busy,
    effect,
    ends,
    running,
    sleeps_once,
    until,
)

CONCURRENT = """
-- migrate:up transaction:false
CREATE INDEX CONCURRENTLY orders_amount ON orders (amount);
-- migrate:down transaction:false
DROP INDEX CONCURRENTLY orders_amount;
"""

SLEEPS_IN_3 = {
    "1_counters": COUNTERS,
    "2_before": effect(2),
    "3_sleeps": effect(3, sleeps_once(120)),
    "4_after": effect(4),
}


@contextmanager
def session(sandbox: Sandbox) -> Iterator[Any]:
    """A connection of another program."""
    connection = pg8000.native.Connection(
        "postgres", database=sandbox.name, unix_sock=str(sandbox.postgresql.socket)
    )
    try:
        yield connection
    finally:
        connection.close()


def signal_holder(function: LocalFunction, number: signal.Signals) -> int:
    """Signal the only environment that is at work; returns its process."""
    (holder,) = busy(function)
    os.kill(holder.pid, number)
    return holder.pid


def test_a_holder_killed_before_its_first_transaction_blocks_no_successor(
    sandbox: Sandbox,
) -> None:
    code = sandbox.code({"1_counters": COUNTERS, "2_more": effect(2)})
    # The tables are there, so that a lock on one of them can hold the holder up.
    sandbox.operations(sandbox.code({"1_counters": COUNTERS})).up(_forever())
    with sandbox.function(code) as function, session(sandbox) as other:
        other.run("BEGIN")
        other.run("LOCK TABLE lambda_migrate.fence IN ACCESS EXCLUSIVE MODE")
        doomed = function.submit()
        until(running(sandbox, "fence"), what="the holder waits for the fence")
        signal_holder(function, signal.SIGKILL)
        assert doomed.result().status == "crashed"
        other.run("ROLLBACK")
        assert function.invoke().ok
    assert sandbox.effects() == {1: 1, 2: 1}


def test_a_successor_continues_where_a_holder_was_killed_inside_a_transaction(
    sandbox: Sandbox,
) -> None:
    with sandbox.function(sandbox.code(SLEEPS_IN_3)) as function:
        doomed = function.submit()
        until(running(sandbox, "pg_sleep"), what="migration 3 sleeps")
        first = sandbox.item()
        signal_holder(function, signal.SIGKILL)
        assert doomed.result().status == "crashed"
        result = function.invoke()
        assert result.ok
        (end,) = ends(function)
    assert end["applied"] == ["3_sleeps", "4_after"], "1 and 2 had been committed"
    assert end["fence"] > first.fence
    assert sandbox.effects() == {1: 1, 2: 1, 3: 1, 4: 1}
    assert sandbox.holders() == []


def test_a_holder_killed_inside_a_repeatable_migration_leaves_the_previous_text(
    sandbox: Sandbox,
) -> None:
    texts = {name: f"CREATE OR REPLACE VIEW v AS SELECT '{name}' AS text;" for name in "ab"}
    old = {"1_counters": COUNTERS, "R__a": texts["a"], "afterEachMigrate": _NOTE}
    with sandbox.function(sandbox.code(old)) as older:
        assert older.invoke().ok
        new = sandbox.code({**old, "R__a": f"{texts['b']} {sleeps_once(120)}"})
        with sandbox.function(new) as function:
            doomed = function.submit()
            until(running(sandbox, "pg_sleep"), what="the repeatable migration sleeps")
            signal_holder(function, signal.SIGKILL)
            assert doomed.result().status == "crashed"
            assert sandbox.query("SELECT text FROM v") == [["a"]]
            assert function.invoke().ok
            (end,) = ends(function)
        assert (end["applied"], sandbox.query("SELECT text FROM v")) == (["R__a"], [["b"]])
        older.end_idle()
        assert older.invoke().ok, "older code is served"
    assert sandbox.query("SELECT text FROM v") == [["b"]]
    assert sandbox.effects() == {1: 1, 2: 3}, "each commit had its hook"
    assert sandbox.holders() == []


_NOTE = "INSERT INTO effects VALUES (2);"


def test_a_migration_that_kills_three_holders_is_a_failure_until_its_file_is_corrected(
    sandbox: Sandbox,
) -> None:
    counters = {"1_counters": COUNTERS}
    sandbox.operations(sandbox.code(counters)).up(_forever())
    deadly = {**counters, "2_deadly": effect(2, "SELECT pg_sleep(120);")}
    with sandbox.function(sandbox.code(deadly)) as function:
        for number in (1, 2, 3):
            doomed = function.submit()
            until(partial(_is_attempt, sandbox, number), what="it says what it begins")
            signal_holder(function, signal.SIGKILL)
            assert doomed.result().status == "crashed"
        refused = function.invoke()
        assert refused.error_type == "MigrationFailed"
        assert "2_deadly: 3 processes in a row ended" in refused.error_message
    failure = sandbox.item().failure
    assert failure is not None
    assert (failure.is_process_killed, failure.version, failure.attempts) == (True, "2", 1)
    with sandbox.function(sandbox.code({**counters, "2_deadly": effect(2)})) as function:
        assert function.invoke().ok
    assert sandbox.effects() == {1: 1, 2: 1}


def _is_attempt(sandbox: Sandbox, number: int) -> bool:
    progress = sandbox.item().progress
    return progress is not None and progress.attempts == number


STUCK_BEFORE_THE_TABLE = HANDLER.replace(
    "from lambda_migrate import migrate_on_cold_start",
    """
import time
from lambda_migrate import migrate_on_cold_start
from lambda_migrate.engine.holder import LeaseSession

# No signal can be aimed at the instant between PostgreSQL's answer and the next request.
LeaseSession.store_completion = lambda *_: time.sleep(300)
""",
)


def test_a_holder_killed_after_its_last_commit_leaves_nothing_to_apply(
    sandbox: Sandbox,
) -> None:
    migrations = {"1_counters": COUNTERS, "2_more": effect(2)}
    with sandbox.function(sandbox.code(migrations, handler=STUCK_BEFORE_THE_TABLE)) as function:
        doomed = function.submit()
        until(lambda: _is_applied(sandbox, 2), what="2 is committed")
        signal_holder(function, signal.SIGKILL)
        assert doomed.result().status == "crashed"
    assert sandbox.item().owner is not None, "no process released the lease"
    with sandbox.function(sandbox.code(migrations)) as function:
        assert function.invoke().ok
        (end,) = ends(function)
    assert end["applied"] == []
    assert sandbox.effects() == {1: 1, 2: 1}
    assert sandbox.item().owner is None


def test_a_holder_killed_while_an_index_builds_leaves_no_invalid_index(sandbox: Sandbox) -> None:
    code = sandbox.code({"1_counters": COUNTERS, "2_index": CONCURRENT, "3_more": effect(3)})
    sandbox.operations(sandbox.code({"1_counters": COUNTERS})).up(_forever())
    with sandbox.function(code) as function, session(sandbox) as other:
        other.run("BEGIN")
        other.run("UPDATE orders SET amount = amount WHERE id = 1")
        doomed = function.submit()
        until(running(sandbox, "CREATE INDEX"), what="the index waits for an older transaction")
        until(sandbox.invalid_indexes, what="it is in the catalog, invalid")
        signal_holder(function, signal.SIGKILL)
        assert doomed.result().status == "crashed"
        assert sandbox.history()[-1] == (2, "started")
        other.run("ROLLBACK")
        assert function.invoke().ok
    assert sandbox.invalid_indexes() == []
    assert sandbox.query("SELECT count(*) FROM pg_indexes WHERE indexname = 'orders_amount'") == [
        [1]
    ]
    assert sandbox.history() == [(1, "applied"), (2, "applied"), (3, "applied")]


@pytest.mark.parametrize("woken", ["after the successor", "never before its own deadline"])
def test_a_holder_frozen_inside_a_transaction_past_its_lease_commits_nothing(
    sandbox: Sandbox, woken: str
) -> None:
    with sandbox.function(sandbox.code(SLEEPS_IN_3)) as function:
        frozen = function.submit()
        until(running(sandbox, "pg_sleep"), what="migration 3 sleeps")
        pid = signal_holder(function, signal.SIGSTOP)
        assert function.invoke().ok, "the successor takes over"
        before = _everything(sandbox)
        if woken == "after the successor":
            os.kill(pid, signal.SIGCONT)
            result = frozen.result()
            assert (result.status, result.error_type) == ("error", "LeaseLost")
        else:
            os.kill(pid, signal.SIGKILL)
            assert frozen.result().status == "crashed"
        assert _everything(sandbox) == before, "as if it had never woken"
        assert function.invoke().ok
    assert sandbox.effects() == {1: 1, 2: 1, 3: 1, 4: 1}


def test_a_holder_frozen_for_less_than_its_lease_continues(sandbox: Sandbox) -> None:
    code = sandbox.code({"1_counters": COUNTERS, "2_sleeps": effect(2, "SELECT pg_sleep(1);")})
    with sandbox.function(code, lease_seconds="20") as function:
        frozen = function.submit()
        until(running(sandbox, "pg_sleep"), what="migration 2 sleeps")
        pid = signal_holder(function, signal.SIGSTOP)
        until(lambda: not running(sandbox, "pg_sleep")(), what="the statement is over")
        os.kill(pid, signal.SIGCONT)
        assert frozen.result().ok
    assert sandbox.effects() == {1: 1, 2: 1}


def _is_applied(sandbox: Sandbox, version: int) -> bool:
    there = sandbox.query("SELECT to_regclass('lambda_migrate.history') IS NOT NULL")[0][0]
    return bool(there) and (version, "applied") in sandbox.history()


def _everything(sandbox: Sandbox) -> list[Any]:
    """All that a stale holder could have changed."""
    return [
        sandbox.query("SELECT * FROM effects ORDER BY 1, 2"),
        sandbox.query("SELECT version, state, fence, owner FROM lambda_migrate.history ORDER BY 1"),
        sandbox.query("SELECT token, owner FROM lambda_migrate.fence"),
        sandbox.item(),
    ]


def _forever() -> Any:
    from lambda_migrate.clock import Deadline

    return Deadline.after(300)
