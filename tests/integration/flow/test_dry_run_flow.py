"""Rehearsals and real runtimes on one target: who waits for whom, and what is left."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import pytest

from lambda_migrate.clock import Deadline
from lambda_migrate.engine.dry_run import DryRunResult
from lambda_migrate.errors import LeaseHeld, LeaseLost
from tests.stage import COUNTERS, Stage, effect, ends, running, until

V1 = {"1_counters": COUNTERS}
V2 = {**V1, "2_slow": effect(2, "SELECT pg_sleep(3);"), "3_last": effect(3)}


@pytest.fixture
def code(stage: Stage) -> Path:
    """The second version, on a database that has the first."""
    code = stage.code(V2)
    stage.maintenance(code).up(Deadline.after(60), to=1)
    return code


class Rehearsing(threading.Thread):
    """A rehearsal in a thread of its own."""

    def __init__(self, stage: Stage, code: Path) -> None:
        super().__init__()
        self._maintenance = stage.maintenance(code)
        self.found: DryRunResult | None = None
        self.start()

    def run(self) -> None:
        self.found = self._maintenance.dry_run(Deadline.after(60))


def test_functions_that_start_during_a_dry_run_wait_for_it_and_then_migrate(
    stage: Stage, code: Path
) -> None:
    rehearsing = Rehearsing(stage, code)
    until(running(stage, "pg_sleep(3)"), what="the rehearsal")
    with stage.function(code) as function:
        results = function.storm(10)
        assert all(result.ok for result in results)
        outcomes = Counter(end["outcome"] for end in ends(function))
    rehearsing.join()
    assert rehearsing.found is not None
    assert (rehearsing.found.outcome, rehearsing.found.is_confirmed) == ("passed", True)
    assert outcomes == Counter({"WAITED": 9, "MIGRATED": 1})
    assert stage.effects() == {1: 1, 2: 1, 3: 1}
    assert stage.holders() == []


def test_no_dry_run_starts_while_a_function_migrates(stage: Stage, code: Path) -> None:
    with stage.function(code) as function:
        migrating = threading.Thread(target=function.invoke)
        migrating.start()
        until(running(stage, "pg_sleep(3)"), what="the migration")
        with pytest.raises(LeaseHeld):
            stage.maintenance(code).dry_run(Deadline.after(60))
        migrating.join()
        assert [end["outcome"] for end in ends(function)] == ["MIGRATED"]
    assert stage.effects() == {1: 1, 2: 1, 3: 1}


def released(stage: Stage, code: Path) -> bool:
    """Take the lease from whoever holds it, unless it is being renewed in that very moment."""
    try:
        stage.maintenance(code).release_lease()
    except LeaseHeld:
        return False
    return True


def test_a_dry_run_that_lost_its_lease_is_ended_by_the_next_function(
    stage: Stage, code: Path
) -> None:
    rehearsing = Rehearsing(stage, stage.code({**V1, "2_slow": effect(2, "SELECT pg_sleep(60);")}))
    until(running(stage, "pg_sleep(60)"), what="the rehearsal")
    until(lambda: released(stage, code), what="the lease free")
    with stage.function(code) as function:
        assert function.invoke().ok
    rehearsing.join(timeout=30)
    assert not rehearsing.is_alive()
    assert rehearsing.found is not None
    assert isinstance(rehearsing.found.error, LeaseLost)
    assert stage.effects() == {1: 1, 2: 1, 3: 1}
