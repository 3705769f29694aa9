"""Waiting for another tool's migration: which starts connect, how often, and what others read."""

from __future__ import annotations

import pytest

from lambda_migrate.engine.requirement_inspection import (
    find_requirement_problems,
    read_requirements_status,
    resync_requirements,
)
from lambda_migrate.errors import ConfigurationError, LeaseHeld, MigrationFailed, NotReady
from lambda_migrate.migrations.baseline import ToolHistory, ToolHistoryEntry
from lambda_migrate.migrations.requirements import parse_requirements
from lambda_migrate.outcome import Outcome
from lambda_migrate.runner import MigrationRunner
from lambda_migrate.testing import InMemoryDatabase
from tests.unit.engine.fakes import Fakes, manifest, raises

ADD_STATUS = parse_requirements("prisma:20260101_add_status")
ADD_TOTAL = parse_requirements("prisma:20260202_add_total")


def start(fakes: Fakes, required: str = "", *, seconds: float = 60, **policy: object) -> Outcome:
    """One cold start of an instance of its own."""
    requirements = parse_requirements(required) if required else ADD_STATUS
    target = fakes.target(mode="require", **policy)
    return MigrationRunner(requirements, target).ensure(fakes.deadline(seconds))


def apply(fakes: Fakes, *names: str, tool: str = "prisma", state: str = "applied") -> None:
    """Let the other tool write its rows."""
    entries = [ToolHistoryEntry(name, state) for name in names]
    fakes.database.other_histories = [ToolHistory(tool, "public.t", tuple(entries))]


def test_one_of_many_starts_connects_if_the_row_is_there(fakes: Fakes) -> None:
    apply(fakes, "20260101_add_status")
    assert {start(fakes) for _ in range(100)} == {Outcome.UP_TO_DATE}
    assert fakes.database.connections == 1
    assert fakes.database.token == 0, "nothing of ours is written to the database"
    assert fakes.table.state.owner is None


def test_starts_share_the_inspections_while_the_row_is_missing(fakes: Fakes) -> None:
    """Each waits 4 s; together they connect once after each pause: 0.5, 0.75, 1.1, 1.7, ... s."""
    for _ in range(10):
        with pytest.raises(NotReady, match=r"20260101_add_status: there is no history table"):
            start(fakes, wait_seconds=4)
    waited = fakes.clock.monotonic()
    assert waited >= 40
    assert 8 <= fakes.database.connections <= 14
    before = fakes.database.connections
    fakes.clock.advance(10)
    for _ in range(100):
        with pytest.raises(NotReady):
            start(fakes, wait_seconds=0)
    assert fakes.database.connections <= before + 1


def test_a_start_without_time_reports_what_an_earlier_one_found(fakes: Fakes) -> None:
    apply(fakes, "20260101_add_status", state="rolled back")
    with pytest.raises(NotReady, match="prisma has rolled it back"):
        start(fakes, wait_seconds=0)
    with pytest.raises(NotReady, match="prisma has rolled it back") as raised:
        start(fakes, wait_seconds=0)
    assert fakes.database.connections == 1
    assert "no process holds the lease" not in str(raised.value)


def test_a_waiting_start_is_served_soon_after_the_row_appears(fakes: Fakes) -> None:
    fakes.clock.at(8, lambda: apply(fakes, "20260101_add_status"))
    before = fakes.clock.monotonic()
    assert start(fakes) is Outcome.WAITED
    assert fakes.clock.monotonic() - before < 8 + 8 / 2 + 1
    assert fakes.table.state.failures == (), "nothing is shown as waiting any more"


def test_the_pause_between_two_inspections_does_not_exceed_10_s(fakes: Fakes) -> None:
    with pytest.raises(NotReady):
        start(fakes, seconds=600, wait_seconds=600)
    failure = fakes.table.state.failure
    assert failure is not None
    assert failure.retry_at_ms - failure.at_ms == 10_000
    assert fakes.database.connections >= 600 / (10 + 12)


def test_a_failed_row_fails_every_start_at_once_until_the_pause_is_over(fakes: Fakes) -> None:
    fakes.database.other_histories = [
        ToolHistory("flyway", "public.t", (ToolHistoryEntry("1 first", "failed", 1),))
    ]
    for _ in range(20):
        with pytest.raises(MigrationFailed, match=r"flyway:1: it failed in flyway .* resolve it"):
            start(fakes, "flyway:1")
    assert fakes.database.connections == 1
    fakes.database.other_histories = [
        ToolHistory("flyway", "public.t", (ToolHistoryEntry("1 first", "applied", 1),))
    ]
    fakes.clock.advance(11)
    assert start(fakes, "flyway:1") is Outcome.UP_TO_DATE


def test_a_database_that_does_not_respond_is_inspected_again_after_each_pause(fakes: Fakes) -> None:
    apply(fakes, "20260101_add_status")
    fakes.database.is_down = True
    with pytest.raises(NotReady, match="in-memory database is down"):
        start(fakes, wait_seconds=5)
    assert fakes.table.state.owner is None
    fakes.database.is_down = False
    fakes.clock.advance(10)
    assert start(fakes) is Outcome.UP_TO_DATE


def test_what_cannot_be_read_is_reported_and_read_again_after_the_pause(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply(fakes, "20260101_add_status")
    with monkeypatch.context() as patched:
        refuse = raises(ConfigurationError("GRANT SELECT on it"))
        patched.setattr(fakes.database, "inspect_requirements", lambda *_: refuse())
        for _ in range(5):
            with pytest.raises((ConfigurationError, MigrationFailed), match="GRANT SELECT"):
                start(fakes)
    assert fakes.database.connections == 0
    fakes.clock.advance(11)
    assert start(fakes) is Outcome.UP_TO_DATE


def test_a_killed_inspection_blocks_others_for_one_lease(fakes: Fakes) -> None:
    class Killed(BaseException):
        pass

    apply(fakes, "20260101_add_status")
    fakes.table.after["acquire"] = raises(Killed())
    with pytest.raises(Killed):
        start(fakes)
    assert start(fakes, wait_seconds=30) is Outcome.WAITED
    assert fakes.database.connections == 1


def test_a_start_that_may_only_read_the_item_waits_for_one_that_may_write_it(fakes: Fakes) -> None:
    fakes.table.before["acquire"] = raises(ConfigurationError("UpdateItem is not allowed"))
    with pytest.raises(NotReady, match="UpdateItem is not allowed"):
        start(fakes, wait_seconds=5)
    assert fakes.database.connections == 0


def test_several_requirements_are_ready_side_by_side(fakes: Fakes) -> None:
    apply(fakes, "20260101_add_status")
    assert start(fakes) is Outcome.UP_TO_DATE
    both = "prisma:20260101_add_status, prisma:20260202_add_total"
    with pytest.raises(NotReady, match="20260202_add_total: prisma has not applied it"):
        start(fakes, both, wait_seconds=1)
    apply(fakes, "20260101_add_status", "20260202_add_total")
    fakes.clock.advance(10)
    assert start(fakes, both) is Outcome.UP_TO_DATE
    connections = fakes.database.connections
    assert start(fakes) is Outcome.UP_TO_DATE
    assert fakes.database.connections == connections, "the first one stays ready"


def test_an_address_that_leads_to_another_database_is_inspected_again(fakes: Fakes) -> None:
    """A clone at a new address, and a secret whose address was moved."""
    apply(fakes, "20260101_add_status", "20260202_add_total")
    assert start(fakes) is Outcome.UP_TO_DATE
    fakes.database = InMemoryDatabase(
        address_text=fakes.database.address_text, clock=fakes.clock
    )  # restored from before both; only the other requirement is new here
    apply(fakes, "20260202_add_total")
    assert start(fakes, "prisma:20260202_add_total") is Outcome.UP_TO_DATE
    with pytest.raises(NotReady, match="20260101_add_status: prisma has not applied it"):
        start(fakes, wait_seconds=1)
    elsewhere = fakes.through("clone:5432/orders")
    connections = fakes.database.connections
    assert start(elsewhere, "prisma:20260202_add_total") is Outcome.UP_TO_DATE
    assert fakes.database.connections == connections + 1


def test_migrations_of_our_own_in_the_same_item_stay_ready(fakes: Fakes) -> None:
    own = fakes.migrated(manifest(1, 2))
    other = fakes.through(f"{fakes.database.address_text}#ready_when")
    apply(fakes, "20260101_add_status")
    assert start(other) is Outcome.UP_TO_DATE
    connections = fakes.database.connections
    for _ in range(3):
        assert start(other) is Outcome.UP_TO_DATE
        assert fakes.runner(own).ensure(fakes.deadline()) is Outcome.UP_TO_DATE
    assert fakes.database.connections == connections


def test_it_never_migrates_whatever_its_mode_says(fakes: Fakes) -> None:
    runner = MigrationRunner(ADD_STATUS, fakes.target(mode="migrate", wait_seconds=1))
    with pytest.raises(NotReady):
        runner.ensure(fakes.deadline())
    with pytest.raises(ConfigurationError, match="another tool migrates this database"):
        _ = runner.manifest


def test_without_a_lease_table_the_database_itself_decides(fakes: Fakes) -> None:
    fakes.has_lease_table = False
    fakes.clock.at(3, lambda: apply(fakes, "20260101_add_status"))
    assert start(fakes) is Outcome.WAITED


def test_an_unavailable_lease_table_is_replaced_by_an_inspection_if_allowed(fakes: Fakes) -> None:
    apply(fakes, "20260101_add_status")
    fakes.table.is_down = True
    outcome = start(fakes, check_database_if_store_unavailable=True)
    assert outcome in (Outcome.UP_TO_DATE, Outcome.WAITED)
    apply(fakes)
    with pytest.raises(NotReady):
        start(fakes, check_database_if_store_unavailable=True)


def test_a_row_that_vanished_is_reported_and_corrected_by_a_resync(fakes: Fakes) -> None:
    apply(fakes, "20260101_add_status", "20260202_add_total")
    assert start(fakes) is start(fakes, "prisma:20260202_add_total") is Outcome.UP_TO_DATE
    apply(fakes, "20260202_add_total")
    target = fakes.target(mode="require")
    status = read_requirements_status(target, ADD_STATUS, fakes.deadline())
    [problem] = find_requirement_problems(status)
    assert "prisma has not applied it (public.t): it was rolled back" in problem
    resync_requirements(target, ADD_STATUS, fakes.deadline())
    assert fakes.table.state.owner is None
    for required in (ADD_STATUS, ADD_TOTAL):
        assert not fakes.table.state.is_ready(required.digest, fakes.database.address_text)
    assert start(fakes, "prisma:20260202_add_total") is Outcome.UP_TO_DATE
    resync_requirements(target, ADD_TOTAL, fakes.deadline())
    assert fakes.table.state.is_ready(ADD_TOTAL.digest, fakes.database.address_text)


def test_a_resync_that_cannot_read_the_database_releases_the_lease(fakes: Fakes) -> None:
    target = fakes.target(mode="require")
    fakes.database.is_down = True
    with pytest.raises(NotReady):
        resync_requirements(target, ADD_STATUS, fakes.deadline())
    assert fakes.table.state.owner is None
    fakes.held_by("another")
    with pytest.raises(LeaseHeld):
        resync_requirements(target, ADD_STATUS, fakes.deadline())
