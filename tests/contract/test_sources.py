"""Migrations from SQL files, from Alembic and from Django behave alike."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from lambda_migrate.clock import Deadline
from lambda_migrate.errors import MigrationFailed
from lambda_migrate.sources.protocol import ChildRequest
from lambda_migrate.sources.session import read_revision_graph
from tests.contract.sources import SERVICES, AlembicService, Service
from tests.sandbox import Sandbox, until


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest, sandbox: Sandbox, tmp_path: Path) -> Service:
    return SERVICES[request.param](sandbox, tmp_path)


@pytest.fixture(params=[name for name in SERVICES if name != "sql"])
def tool(request: pytest.FixtureRequest, sandbox: Sandbox, tmp_path: Path) -> AlembicService:
    service = SERVICES[request.param](sandbox, tmp_path)
    assert isinstance(service, AlembicService)
    return service


def test_pending_steps_are_applied_once_and_later_starts_open_nothing(service: Service) -> None:
    service.add(1)
    service.add(2)
    started = [service.start() for _ in range(4)]
    assert sorted(each.outcome() for each in started)[:1] == ["MIGRATED"]
    service.add(3)
    assert service.run() == "MIGRATED"
    assert service.effects() == [1, 2, 3]
    service.sandbox.postgresql.execute(
        f"ALTER DATABASE {service.sandbox.name} ALLOW_CONNECTIONS false"
    )
    assert service.run() == "UP_TO_DATE"
    assert service.run(mode="require") == "UP_TO_DATE"


def test_a_failure_keeps_earlier_steps_and_other_starts_fail_at_once(service: Service) -> None:
    service.add(1)
    service.add(2, "SELECT 1/0")
    assert service.run().startswith("MigrationFailed")
    assert "division by zero" in (outcome := service.run())
    assert "attempt 1 failed in another instance" in outcome
    assert service.effects() == [1]
    service.add(2)
    assert service.run() == "MIGRATED"
    assert service.effects() == [1, 2]


def test_a_holder_killed_inside_a_step_leaves_nothing_of_it(service: Service) -> None:
    started = service.start_in_slow_step(1)
    started.process.kill()
    assert service.run() == "MIGRATED"
    assert service.effects() == [1]


def test_a_child_killed_inside_a_step_is_a_failure(tool: AlembicService) -> None:
    started = tool.start_in_slow_step(1)
    (child,) = started.children()
    os.kill(child, signal.SIGKILL)
    assert "was killed by signal 9" in started.outcome()
    assert tool.effects() == []
    assert tool.command("up")
    assert tool.effects() == [1]


def test_a_frozen_holder_commits_nothing_after_its_successor_took_over(service: Service) -> None:
    started = service.start_in_slow_step(1)
    started.signal(signal.SIGSTOP)
    assert service.run() == "MIGRATED"
    started.signal(signal.SIGCONT)
    assert started.outcome().startswith(("LeaseLost", "DatabaseUnavailable"))
    assert service.effects() == [1]


def test_a_holder_that_loses_its_lease_ends_its_step(service: Service) -> None:
    started = service.start_in_slow_step(1, seconds=600)  # so that the deadline does not end it
    service.lose_lease()
    assert started.outcome().startswith("LeaseLost")
    until(lambda: not service.is_sleeping(), what="the statement outlives the lease")
    assert service.effects() == []


def test_a_lease_that_is_lost_after_the_last_step_ends_the_child(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """Tools work on after it: env.py may do more, Django sends signals."""
    service = AlembicService(sandbox, tmp_path)
    with (service.root / "migrations" / "env.py").open("a") as env:
        env.write("\nimport time\ntime.sleep(600)\n")
    service.add(1)
    started = service.start(seconds=600)
    until(lambda: service.effects() == [1], what="the step is not applied")
    (child,) = started.children()
    service.lose_lease()
    assert started.outcome().startswith("LeaseLost")
    assert not Path(f"/proc/{child}").exists()


def test_a_lock_that_another_session_holds_for_a_while_is_waited_for(service: Service) -> None:
    service.add(1)
    assert service.run() == "MIGRATED"
    service.add(2, "SELECT nextval('attempts')", "LOCK TABLE effect")
    with psycopg.connect(service.url) as other:
        other.execute("SELECT FROM effect")
        started = service.start(lock_timeout_seconds="0.2")
        attempts = "SELECT last_value FROM attempts"
        until(lambda: service.sandbox.query(attempts)[0][0] > 1, what="it does not try again")
    assert started.outcome() == "MIGRATED"
    assert service.effects() == [1, 2]


def test_a_step_that_outlasts_the_deadline_is_rolled_back(service: Service) -> None:
    service.add(1, "SELECT nextval('attempts')", "SELECT pg_sleep(600)")
    has_begun = "SELECT is_called FROM attempts"
    outcome = run_past_deadline(service, lambda: service.sandbox.query(has_begun) == [[True]])
    assert "the deadline passed" in outcome
    assert not service.is_sleeping()
    assert service.effects() == []


def test_a_deadline_after_the_last_step_is_not_a_failure(sandbox: Sandbox, tmp_path: Path) -> None:
    service = AlembicService(sandbox, tmp_path)
    service.add(1)
    env = service.root / "migrations" / "env.py"
    text = env.read_text()
    env.write_text(f"{text}\nimport time\ntime.sleep(600)\n")
    outcome = run_past_deadline(service, lambda: service.effects() == [1])
    assert outcome.startswith("NotReady the deadline passed while alembic")
    env.write_text(text)
    assert service.run() == "MIGRATED"


def test_a_tool_that_takes_all_the_time_before_its_first_step_is_a_failure(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """Other instances, one after the other, would wait for it as long."""
    service = AlembicService(sandbox, tmp_path)
    (service.root / "migrations" / "env.py").write_text("import time; time.sleep(600)\n")
    options = {"alembic_config": "", "alembic_revision": "heads", "source_setup": ""}
    request = ChildRequest("alembic", "describe", str(tmp_path), options, "alembic", "s")
    with pytest.raises(MigrationFailed, match="the deadline passed"):
        read_revision_graph(request, Deadline.after(0))


def run_past_deadline(service: Service, has_begun: Callable[[], bool]) -> str:
    """The outcome of a run that got as far as the test needs; a busy machine begins slowly."""
    for seconds in (8, 20, 45):
        outcome = service.run(seconds=seconds)
        if has_begun():
            break
    return outcome


def test_a_partly_committed_step_is_named_until_it_is_finished(tool: AlembicService) -> None:
    tool.add(1)
    tool.add_parts(2, "CREATE TABLE part ()", "SELECT 1/0")
    if tool.source == "alembic":
        assert "s and rolled back" in tool.command("plan", "--dry-run", "--yes")
    assert tool.run().startswith("MigrationFailed")
    commands = ("status", "plan", "verify") if tool.source == "alembic" else ("status",)
    for command in commands:
        shown = " ".join(tool.command(command).split())
        assert tool.name(2) in shown
        assert "a part of it is committed: `lambda-migrate up` continues" in shown
    if tool.source == "alembic":
        assert f"possibly committed in part: {tool.name(2)}" in tool.command("doctor")
    warn = "DO $$ BEGIN RAISE WARNING 'mind the gap'; END $$"
    tool.add_parts(2, "CREATE TABLE part ()", "INSERT INTO effect VALUES (2)", warn)
    assert "mind the gap" in tool.command("up")
    assert tool.effects() == [1, 2]
    assert "part of it" not in tool.command("status")


def test_a_rollback_withdraws_what_is_ready(service: Service) -> None:
    for number in (1, 2, 3):
        service.add(number)
    assert service.run() == "MIGRATED"
    assert "rolled back 2 migrations" in service.command("down", "--steps", "2", "--yes")
    assert service.effects() == [1]
    assert service.run(mode="require", wait_seconds="0").startswith("NotReady")
    assert service.run() == "MIGRATED"
    assert service.effects() == [1, 2, 3]


def test_older_code_is_served_on_a_newer_schema(service: Service) -> None:
    service.add(1)
    assert service.run() == "MIGRATED"
    service.add(2)
    service.add(3)
    assert service.run() == "MIGRATED"
    service.path(3).unlink()  # no process has seen this code before
    assert service.run() in ("MIGRATED", "UP_TO_DATE")
    service.path(2).unlink()
    assert service.run() == "UP_TO_DATE"
    assert service.effects() == [1, 2, 3]


def test_steps_that_the_tool_itself_applied_are_current(tool: AlembicService) -> None:
    tool.add(1)
    assert tool.run() == "MIGRATED"
    tool.add(2)
    tool.run_tool()
    tool.add(3)
    assert tool.run() == "MIGRATED"
    assert tool.effects() == [1, 2, 3]
    rows = tool.sandbox.query("SELECT position FROM lambda_migrate.revision ORDER BY position")
    assert [position for (position,) in rows] == [1, 2, 3]


def test_a_database_that_the_tool_has_migrated_is_adopted_unchanged(tool: AlembicService) -> None:
    tool.add(1)
    tool.add(2)
    tool.run_tool()
    assert tool.run() == "MIGRATED"
    assert tool.effects() == [1, 2]


def test_a_revision_that_is_in_no_code_is_reported(sandbox: Sandbox, tmp_path: Path) -> None:
    service = AlembicService(sandbox, tmp_path)
    service.add(1)
    assert service.run() == "MIGRATED"
    sandbox.query("UPDATE alembic_version SET version_num = 'ffff'")
    service.add(2)
    assert service.run().startswith("Diverged")
    assert "ffff" in service.command("status")
    assert service.effects() == [1]


def test_a_child_ends_with_its_parent(tool: AlembicService) -> None:
    started = tool.start_in_slow_step(1)
    (child,) = started.children()
    started.process.kill()
    until(lambda: not Path(f"/proc/{child}").exists(), what="the child outlives its parent")
    until(lambda: not tool.is_sleeping(), what="the statement outlives the child")
