"""Drills: what goes wrong while somebody migrates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pg8000.native
import pytest

from lambda_migrate.local.servers.dynamodb import LocalDynamoDB
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL
from tests.drills.play import Play
from tests.drills.service import (
    ADD_STATUS,
    BROKEN,
    IN_PARTS,
    SLOW,
    V1,
    V2,
    Deployments,
    code,
    session,
)
from tests.stage import TABLE, Stage, running, until


def test_a_migration_that_fails(stage: Stage) -> None:
    with ExitStack() as stack:
        deployments = Deployments(stack, stage)
        before = deployments.of(code(stage, V1))
        assert before.invoke().payload["statusCode"] == 200
        broken = code(stage, {**V1, "0002_set_state": BROKEN})
        after = deployments.of(broken)
        assert after.invoke().payload["statusCode"] == 503
        assert before.invoke().payload["statusCode"] == 200, "the version before goes on serving"

        def deploy(_command: str) -> None:
            mended = deployments.of(broken)
            play.functions = [mended]
            assert mended.invoke().payload["statusCode"] == 200

        def mend() -> None:
            (broken / "migrations" / "0002_set_state.sql").write_text(ADD_STATUS.lstrip())

        play = Play("migration-fails.md", stage, broken, stand_ins={"sam": deploy})
        play.functions = [after]
        play.see()
        assert not play.is_over()
        play.do(by_hand={3: mend})
        assert play.is_over()
        play.finish()


def test_a_migration_in_doubt(stage: Stage) -> None:
    with ExitStack() as stack:
        deployments = Deployments(stack, stage)
        before = deployments.of(code(stage, V1))
        assert before.invoke().payload["statusCode"] == 200
        broken = code(stage, {**V1, "0002_double_amounts": IN_PARTS})
        after = deployments.of(broken)
        assert after.invoke().payload["statusCode"] == 503
        assert before.invoke().payload["statusCode"] == 200, "the version before goes on serving"

        def deploy(_command: str) -> None:
            assert deployments.of(broken).invoke().payload["statusCode"] == 200

        def fix() -> None:
            fixed = IN_PARTS.lstrip().replace(" / (id - 1000)", "")
            (broken / "migrations" / "0002_double_amounts.sql").write_text(fixed)

        play = Play("migration-in-doubt.md", stage, broken, stand_ins={"sam": deploy})
        play.functions = [after]
        play.see()
        assert not play.is_over()
        play.do(by_hand={6: fix})
        assert play.is_over()
        assert stage.query("SELECT count(*) FROM orders WHERE amount <> id * 2") == [[0]]
        play.finish()


def test_a_migration_that_hangs_on_a_lock(stage: Stage) -> None:
    with ExitStack() as stack:
        deployments = Deployments(stack, stage)
        before = deployments.of(code(stage, V1))
        assert before.invoke().ok
        stack.enter_context(reporting(stage))
        current = code(stage, V2)
        after = deployments.of(current)
        answer = after.submit()
        until(running(stage, "ADD COLUMN"), what="the migration waits for its lock")
        until(lambda: stage.item().progress is not None, what="its progress is published")
        play = Play("migration-hangs.md", stage, current)
        play.see()
        assert not play.is_over()
        assert before.invoke().payload["statusCode"] == 200, "nobody queues behind it for long"
        play.do()
        assert answer.result().payload["statusCode"] == 200
        assert play.is_over()
        play.finish()


@contextmanager
def reporting(stage: Stage) -> Iterator[None]:
    """A report that somebody has left open; it is ended from outside."""
    with session(stage, name="report") as report:
        report.run("BEGIN")
        report.run("SELECT count(*) FROM orders")
        yield


def test_a_stuck_lease(stage: Stage) -> None:
    with ExitStack() as stack:
        deployments = Deployments(stack, stage)
        old = code(stage, V1)
        assert deployments.of(old).invoke().ok
        endless = code(stage, {**V1, "0002_add_status": SLOW.format(seconds=300)})
        holder = deployments.of(endless, timeout=300)
        answer = holder.submit()
        until(running(stage, "pg_sleep"), what="the migration runs")
        until(lambda: stage.item().progress is not None, what="its progress is published")

        def deploy(_command: str) -> None:
            restored = deployments.of(old)
            assert restored.invoke().payload["statusCode"] == 200
            play.code = old

        play = Play("stuck-lease.md", stage, endless, stand_ins={"sam": deploy})
        play.see()
        assert not play.is_over()
        end_its_session_and_see_it_connect_again(stage)
        play.do()
        until(answer.done, what="the holder has noticed")
        assert answer.result().payload["statusCode"] == 503
        play.wait_until_over()
        play.finish()
        assert stage.history() == [(1, "applied")]


def end_its_session_and_see_it_connect_again(stage: Stage) -> None:
    """What the page says not to do."""
    [[ended, _, _]] = stage.holders()
    stage.query(f"SELECT pg_terminate_backend({ended})")
    until(
        lambda: [pid for pid, _, query in stage.holders() if pid != ended and "pg_sleep" in query],
        what="the holder is at it again",
    )


def test_a_connection_storm(tmp_path: Path) -> None:
    with (
        LocalPostgreSQL(settings={"max_connections": "16"}) as server,
        LocalDynamoDB() as api,
        ExitStack() as stack,
    ):
        api.create_table(TABLE)
        stage = Stage(server, api, tmp_path)
        server.execute("CREATE ROLE orders_app LOGIN")
        server.execute("CREATE ROLE migrator LOGIN")
        server.execute(f'ALTER DATABASE "{stage.name}" OWNER TO migrator')
        stage.url = server.url(stage.name, user="migrator")
        current = code(stage, V2)
        deployments = Deployments(stack, stage)
        with fleet(stage, 13):
            after = deployments.of(current, timeout=6.0)
            assert after.invoke().payload["statusCode"] == 503
            play = Play("connection-storm.md", stage, current)
            play.functions = [after]
            play.see()
            assert not play.is_over()
            play.do()
            assert play.is_over()
            play.finish()
        # The sixth is refused; some versions of the driver tell it as a connection that broke.
        refused = (pg8000.native.DatabaseError, pg8000.native.InterfaceError)
        with pytest.raises(refused), fleet(stage, 6):
            pytest.fail("six sessions of a role that may have five")
        assert after.invoke().payload["statusCode"] == 200


@contextmanager
def fleet(stage: Stage, size: int) -> Iterator[None]:
    """So many idle sessions of a service."""
    with ExitStack() as stack:
        for _ in range(size):
            stack.enter_context(session(stage, "orders_app", "orders"))
        yield
