"""Dry runs and functions on one target wait for each other, with real runtimes."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import pytest

from lambda_migrate.clock import Deadline
from lambda_migrate.engine.dry_run import DryRunResult
from lambda_migrate.errors import LeaseHeld, LeaseLost
from tests.sandbox import COUNTERS, Sandbox, effect, ends, running, until

V1 = {"1_counters": COUNTERS}
V2 = {**V1, "2_slow": effect(2, "SELECT pg_sleep(3);"), "3_last": effect(3)}


@pytest.fixture
def code(sandbox: Sandbox) -> Path:
    """The second version, on a database that has the first."""
    code = sandbox.code(V2)
    sandbox.operations(code).up(Deadline.after(60), to=1)
    return code


class BackgroundDryRun(threading.Thread):
    """A dry run in a thread of its own."""

    def __init__(self, sandbox: Sandbox, code: Path) -> None:
        super().__init__()
        self._operations = sandbox.operations(code)
        self.found: DryRunResult | None = None
        self.start()

    def run(self) -> None:
        self.found = self._operations.dry_run(Deadline.after(60))


def test_functions_that_start_during_a_dry_run_wait_for_it_and_then_migrate(
    sandbox: Sandbox, code: Path
) -> None:
    dry_run = BackgroundDryRun(sandbox, code)
    until(running(sandbox, "pg_sleep(3)"), what="the dry run")
    with sandbox.function(code) as function:
        results = function.storm(10)
        assert all(result.ok for result in results)
        outcomes = Counter(end["outcome"] for end in ends(function))
    dry_run.join()
    assert dry_run.found is not None
    assert (dry_run.found.outcome, dry_run.found.is_rollback_confirmed) == ("passed", True)
    assert outcomes == Counter({"WAITED": 9, "MIGRATED": 1})
    assert sandbox.effects() == {1: 1, 2: 1, 3: 1}
    assert sandbox.holders() == []


def test_no_dry_run_starts_while_a_function_migrates(sandbox: Sandbox, code: Path) -> None:
    with sandbox.function(code) as function:
        migrating = threading.Thread(target=function.invoke)
        migrating.start()
        until(running(sandbox, "pg_sleep(3)"), what="the migration")
        with pytest.raises(LeaseHeld):
            sandbox.operations(code).dry_run(Deadline.after(60))
        migrating.join()
        assert [end["outcome"] for end in ends(function)] == ["MIGRATED"]
    assert sandbox.effects() == {1: 1, 2: 1, 3: 1}


def released(sandbox: Sandbox, code: Path) -> bool:
    """Release the lease, unless its holder renews it at that moment."""
    try:
        sandbox.operations(code).release_lease()
    except LeaseHeld:
        return False
    return True


def test_a_dry_run_that_lost_its_lease_is_terminated_by_the_next_function(
    sandbox: Sandbox, code: Path
) -> None:
    dry_run = BackgroundDryRun(
        sandbox, sandbox.code({**V1, "2_slow": effect(2, "SELECT pg_sleep(60);")})
    )
    until(running(sandbox, "pg_sleep(60)"), what="the dry run")
    until(lambda: released(sandbox, code), what="the lease free")
    with sandbox.function(code) as function:
        assert function.invoke().ok
    dry_run.join(timeout=30)
    assert not dry_run.is_alive()
    assert dry_run.found is not None
    assert isinstance(dry_run.found.error, LeaseLost)
    assert sandbox.effects() == {1: 1, 2: 1, 3: 1}
