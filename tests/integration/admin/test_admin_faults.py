"""Commands through a function under random faults: reports match the database."""

from __future__ import annotations

import os
import random
import signal
import threading
import time

import pytest

from tests.integration.admin.test_admin_function import Vpc, open_vpc
from tests.sandbox import COUNTERS, Sandbox, effect, until

MIGRATIONS = {
    "0001_counters": COUNTERS,
    **{f"000{n}_n{n}": effect(n, "SELECT pg_sleep(0.3);") for n in range(2, 6)},
}
STEPS = (
    ("up", "--to", "3"),
    ("down", "--steps", "1", "--yes"),
    ("up",),
    ("down", "--to", "2", "--yes"),
    ("up",),
)


def names(sandbox: Sandbox) -> set[str]:
    """Read the names of applied migrations from the history."""
    if sandbox.query("SELECT to_regclass('lambda_migrate.history')") == [[None]]:
        return set()
    return {name for (name,) in sandbox.query("SELECT name FROM lambda_migrate.history")}


def kill_one(vpc: Vpc, *, after: float, done: threading.Event) -> None:
    """Kill a busy environment, unless the command ends before."""
    while not done.is_set():
        busy = [each for each in vpc.function.environments() if each.state == "busy"]
        if busy:
            if not done.wait(after):
                os.kill(busy[0].pid, signal.SIGKILL)
            return
        time.sleep(0.02)


def under_faults(vpc: Vpc, chance: random.Random, *command: str) -> tuple[int, dict[str, object]]:
    """Run a command with lost responses, throttled calls and perhaps a killed process."""
    vpc.api.throttle(chance.randrange(2))
    for _ in range(chance.randrange(3)):
        vpc.api.drop_responses(at=chance.choice(("start", "end")))
    done = threading.Event()
    killer = threading.Thread(
        target=kill_one, args=(vpc,), kwargs={"after": chance.uniform(0, 2), "done": done}
    )
    if chance.random() < 0.5:
        killer.start()
    try:
        return vpc.run_json(*command)
    finally:
        done.set()
        if killer.ident is not None:
            killer.join()
        vpc.api.clear_faults()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_reports_match_the_database_and_nothing_happens_twice(sandbox: Sandbox, seed: int) -> None:
    chance = random.Random(seed)
    with open_vpc(sandbox, MIGRATIONS, timeout=15.0) as vpc:
        for command in STEPS:
            before = names(sandbox)
            code, response = under_faults(vpc, chance, *command)
            changed = names(sandbox) ^ before
            error = response.get("error")
            reported = (
                error["committed"]
                if isinstance(error, dict)
                else response.get("applied", response.get("rolled_back"))
            )
            assert isinstance(reported, list), response
            where = f"seed {seed}, {command}: {code}, {response}"
            assert set(reported) == changed if code == 0 else set(reported) <= changed, where
            if "--steps" in command:
                assert len(changed) <= 1, where
            versions = {int(name[:4]) for name in names(sandbox)}
            if versions:
                assert sandbox.effects() == dict.fromkeys(versions, 1), where
            until(
                lambda: sandbox.item().owner is None or is_lease_expired(sandbox),
                what="the lease ends",
            )
        assert vpc.run_json("up", "--wait")[0] == 0
    assert sandbox.effects() == dict.fromkeys(range(1, 6), 1)


def is_lease_expired(sandbox: Sandbox) -> bool:
    return sandbox.item().lease_until_ms + 1_500 < time.time() * 1000
