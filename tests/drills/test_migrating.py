"""Drills of faults during a migration."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pg8000.native
import pytest

from lambda_migrate.local.servers.dynamodb import LocalDynamoDB
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL
from tests.drills.drill import Drill
from tests.drills.service import (
    ADD_STATUS,
    BROKEN,
    COMMITS_IN_PARTS,
    SLOW,
    V1,
    V2,
    Deployments,
    code,
    session,
)
from tests.sandbox import TABLE, Sandbox, running, until


def test_a_failing_migration(sandbox: Sandbox) -> None:
    with ExitStack() as stack:
        deployments = Deployments(stack, sandbox)
        before = deployments.deploy(code(sandbox, V1))
        assert before.invoke().payload["statusCode"] == 200
        broken = code(sandbox, {**V1, "0002_set_state": BROKEN})
        after = deployments.deploy(broken)
        assert after.invoke().payload["statusCode"] == 503
        assert before.invoke().payload["statusCode"] == 200, "the previous version is still served"

        def deploy() -> None:
            fixed = deployments.deploy(broken)
            drill.functions = [fixed]
            assert fixed.invoke().payload["statusCode"] == 200

        def fix() -> None:
            (broken / "migrations" / "0002_set_state.sql").write_text(ADD_STATUS.lstrip())

        drill = Drill("migration-fails.md", sandbox, broken, deploy=deploy)
        drill.functions = [after]
        drill.check_symptoms()
        assert not drill.is_over()
        drill.run_steps(manual_steps={3: fix})
        assert drill.is_over()
        drill.require_all_blocks_ran()


def test_a_migration_in_doubt(sandbox: Sandbox) -> None:
    with ExitStack() as stack:
        deployments = Deployments(stack, sandbox)
        before = deployments.deploy(code(sandbox, V1))
        assert before.invoke().payload["statusCode"] == 200
        broken = code(sandbox, {**V1, "0002_double_amounts": COMMITS_IN_PARTS})
        after = deployments.deploy(broken)
        assert after.invoke().payload["statusCode"] == 503
        assert before.invoke().payload["statusCode"] == 200, "the previous version is still served"

        def deploy() -> None:
            assert deployments.deploy(broken).invoke().payload["statusCode"] == 200

        def fix() -> None:
            fixed = COMMITS_IN_PARTS.lstrip().replace(" / (id - 1000)", "")
            (broken / "migrations" / "0002_double_amounts.sql").write_text(fixed)

        drill = Drill("migration-in-doubt.md", sandbox, broken, deploy=deploy)
        drill.functions = [after]
        drill.check_symptoms()
        assert not drill.is_over()
        drill.run_steps(manual_steps={6: fix})
        assert drill.is_over()
        assert sandbox.query("SELECT count(*) FROM orders WHERE amount <> id * 2") == [[0]]
        drill.require_all_blocks_ran()


def test_a_migration_that_waits_for_a_lock(sandbox: Sandbox) -> None:
    with ExitStack() as stack:
        deployments = Deployments(stack, sandbox)
        before = deployments.deploy(code(sandbox, V1))
        assert before.invoke().ok
        stack.enter_context(open_report(sandbox))
        current = code(sandbox, V2)
        after = deployments.deploy(current)
        answer = after.submit()
        until(running(sandbox, "ADD COLUMN"), what="the migration waits for its lock")
        until(lambda: sandbox.item().progress is not None, what="its progress is published")
        drill = Drill("migration-hangs.md", sandbox, current)
        drill.check_symptoms()
        assert not drill.is_over()
        assert before.invoke().payload["statusCode"] == 200, "no request waits long behind it"
        drill.run_steps()
        assert answer.result().payload["statusCode"] == 200
        assert drill.is_over()
        drill.require_all_blocks_ran()


@contextmanager
def open_report(sandbox: Sandbox) -> Iterator[None]:
    """Keep a transaction open that has read the table; the drill ends its session."""
    with session(sandbox, name="report") as report:
        report.run("BEGIN")
        report.run("SELECT count(*) FROM orders")
        yield


def test_a_stuck_lease(sandbox: Sandbox) -> None:
    with ExitStack() as stack:
        deployments = Deployments(stack, sandbox)
        old = code(sandbox, V1)
        assert deployments.deploy(old).invoke().ok
        endless = code(sandbox, {**V1, "0002_add_status": SLOW.format(seconds=300)})
        holder = deployments.deploy(endless, timeout=300)
        answer = holder.submit()
        until(running(sandbox, "pg_sleep"), what="the migration runs")
        until(lambda: sandbox.item().progress is not None, what="its progress is published")

        def deploy() -> None:
            restored = deployments.deploy(old)
            assert restored.invoke().payload["statusCode"] == 200

        drill = Drill("stuck-lease.md", sandbox, endless, previous=old, deploy=deploy)
        drill.check_symptoms()
        assert not drill.is_over()
        end_its_session_and_see_it_connect_again(sandbox)
        drill.run_steps()
        until(answer.done, what="the holder notices")
        assert answer.result().payload["statusCode"] == 503
        drill.wait_until_over()
        drill.require_all_blocks_ran()
        assert sandbox.history() == [(1, "applied")]


def end_its_session_and_see_it_connect_again(sandbox: Sandbox) -> None:
    """Do what the page warns against, and show that it does not help."""
    [[ended, _, _]] = sandbox.holders()
    sandbox.query(f"SELECT pg_terminate_backend({ended})")
    until(
        lambda: [
            pid for pid, _, query in sandbox.holders() if pid != ended and "pg_sleep" in query
        ],
        what="the holder connects again",
    )


def test_a_connection_storm(tmp_path: Path) -> None:
    with (
        LocalPostgreSQL(settings={"max_connections": "16"}) as server,
        LocalDynamoDB() as api,
        ExitStack() as stack,
    ):
        api.create_table(TABLE)
        sandbox = Sandbox(server, api, tmp_path)
        server.execute("CREATE ROLE orders_app LOGIN")
        server.execute("CREATE ROLE migrator LOGIN")
        server.execute(f'ALTER DATABASE "{sandbox.name}" OWNER TO migrator')
        sandbox.url = server.url(sandbox.name, user="migrator")
        current = code(sandbox, V2)
        deployments = Deployments(stack, sandbox)
        with open_idle_sessions(sandbox, 13):
            after = deployments.deploy(current, timeout=6.0)
            assert after.invoke().payload["statusCode"] == 503
            drill = Drill("connection-storm.md", sandbox, current)
            drill.functions = [after]
            drill.check_symptoms()
            assert not drill.is_over()
            drill.run_steps(manual_steps={4: lambda: require_limit(sandbox)})
            assert drill.is_over()
            drill.require_all_blocks_ran()
        with open_idle_sessions(sandbox, 6):
            pass  # the limit is removed
        assert after.invoke().payload["statusCode"] == 200


def require_limit(sandbox: Sandbox) -> None:
    """The sixth session is refused; some versions of the driver report a broken connection."""
    refused = (pg8000.native.DatabaseError, pg8000.native.InterfaceError)
    with pytest.raises(refused), open_idle_sessions(sandbox, 6):
        pytest.fail("the role opened six sessions; its limit is five")


@contextmanager
def open_idle_sessions(sandbox: Sandbox, size: int) -> Iterator[None]:
    """Open idle sessions of the serving role."""
    with ExitStack() as stack:
        for _ in range(size):
            stack.enter_context(session(sandbox, "orders_app", "orders"))
        yield
