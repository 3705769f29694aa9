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
    stage.operations(code).up(Deadline.after(60), to=1)
    return code


class BackgroundDryRun(threading.Thread):
    """A dry run in a thread of its own."""

    def __init__(self, stage: Stage, code: Path) -> None:
        super().__init__()
        self._operations = stage.operations(code)
        self.found: DryRunResult | None = None
        self.start()

    def run(self) -> None:
        self.found = self._operations.dry_run(Deadline.after(60))


def test_functions_that_start_during_a_dry_run_wait_for_it_and_then_migrate(
    stage: Stage, code: Path
) -> None:
    dry_run = BackgroundDryRun(stage, code)
    until(running(stage, "pg_sleep(3)"), what="the dry run")
    with stage.function(code) as function:
        results = function.storm(10)
        assert all(result.ok for result in results)
        outcomes = Counter(end["outcome"] for end in ends(function))
    dry_run.join()
    assert dry_run.found is not None
    assert (dry_run.found.outcome, dry_run.found.is_confirmed) == ("passed", True)
    assert outcomes == Counter({"WAITED": 9, "MIGRATED": 1})
    assert stage.effects() == {1: 1, 2: 1, 3: 1}
    assert stage.holders() == []


def test_no_dry_run_starts_while_a_function_migrates(stage: Stage, code: Path) -> None:
    with stage.function(code) as function:
        migrating = threading.Thread(target=function.invoke)
        migrating.start()
        until(running(stage, "pg_sleep(3)"), what="the migration")
        with pytest.raises(LeaseHeld):
            stage.operations(code).dry_run(Deadline.after(60))
        migrating.join()
        assert [end["outcome"] for end in ends(function)] == ["MIGRATED"]
    assert stage.effects() == {1: 1, 2: 1, 3: 1}


def released(stage: Stage, code: Path) -> bool:
    """Release the lease, unless its holder renews it at that moment."""
    try:
        stage.operations(code).release_lease()
    except LeaseHeld:
        return False
    return True


def test_a_dry_run_that_lost_its_lease_is_ended_by_the_next_function(
    stage: Stage, code: Path
) -> None:
    dry_run = BackgroundDryRun(
        stage, stage.code({**V1, "2_slow": effect(2, "SELECT pg_sleep(60);")})
    )
    until(running(stage, "pg_sleep(60)"), what="the dry run")
    until(lambda: released(stage, code), what="the lease free")
    with stage.function(code) as function:
        assert function.invoke().ok
    dry_run.join(timeout=30)
    assert not dry_run.is_alive()
    assert dry_run.found is not None
    assert isinstance(dry_run.found.error, LeaseLost)
    assert stage.effects() == {1: 1, 2: 1, 3: 1}
