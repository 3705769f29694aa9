"""A runtime's memory does not grow with invocations, and a finished check leaves nothing open."""

from __future__ import annotations

from typing import Any

import pytest

from lambda_migrate.local.runtime.function import LocalFunction
from tests.sandbox import COUNTERS, Sandbox, effect, ends

MIGRATIONS = {"1_counters": COUNTERS, "2_more": effect(2)}
SLOW = {**MIGRATIONS, "3_slow": effect(3, "SELECT pg_sleep(2);")}

MEASURING_HANDLER = """
import gc, os, sys, threading
from lambda_migrate import migrate_on_cold_start

def measure():
    gc.collect()
    sockets = 0
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            sockets += os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:")
        except FileNotFoundError:  # the listing's own
            pass
    with open("/proc/self/statm") as statm:
        resident = int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return {
        "blocks": sys.getallocatedblocks(),
        "objects": len(gc.get_objects()),
        "resident": resident,
        "descriptors": len(os.listdir("/proc/self/fd")),
        "sockets": sockets,
        "threads": len(os.listdir("/proc/self/task")),
        "names": sorted(thread.name for thread in threading.enumerate()),
    }

def plain(event, context):
    return None

def check_again(times, context):
    for _ in range(times):
        migrate_on_cold_start(plain)({}, context)

def answer(event, context):
    check_again(event.get("checks", 0), context)
    return measure() if event.get("measure") else None

checked = migrate_on_cold_start(answer)

def handler(event, context):
    before = measure() if event.get("before") else None
    return {"before": before, "after": checked(event, context)}
"""

WARM_UP = 1_000
"""Calls. The interpreter's own tables and free lists grow during the first hundreds."""

CALLS = 10_000

SMALLEST_OBJECT_BYTES = 16


def assert_no_growth(first: dict[str, Any], last: dict[str, Any], *, calls: int) -> None:
    """Less than one object for every hundred calls, and nothing stays open."""
    for what in ("descriptors", "sockets", "threads", "names"):
        assert last[what] == first[what], what
    for what in ("blocks", "objects"):
        assert last[what] - first[what] < calls / 100, what


def resident_bytes_per_call(first: dict[str, Any], last: dict[str, Any], *, calls: int) -> float:
    growth: int = last["resident"] - first["resident"]
    return growth / calls


def warm_invocations(function: LocalFunction) -> tuple[dict[str, Any], dict[str, Any]]:
    """What one environment measures after `WARM_UP` and after `CALLS` invocations."""
    measured = []
    for calls in (WARM_UP, CALLS - WARM_UP):
        for _ in range(calls - 1):
            assert function.invoke({}).ok
        measured.append(function.invoke({"measure": True}).payload["after"])
    assert len(function.environments()) == 1
    return measured[0], measured[1]


@pytest.mark.timeout(900)  # 20 s; a machine with other work took more than the usual 300 s
def test_a_runtime_does_not_grow_over_10_000_warm_invocations(sandbox: Sandbox) -> None:
    """Lambda's own runtime client grows by some bytes with each; the decorator adds none."""
    calls = CALLS - WARM_UP
    code = sandbox.code(MIGRATIONS, handler=MEASURING_HANDLER)
    with sandbox.function(code) as function:
        decorated = warm_invocations(function)
    bare_handler = MEASURING_HANDLER.replace("migrate_on_cold_start(answer)", "answer")
    with sandbox.function(sandbox.code(MIGRATIONS, handler=bare_handler)) as function:
        bare = warm_invocations(function)
    assert_no_growth(*decorated, calls=calls)
    of_decorator = resident_bytes_per_call(*decorated, calls=calls)
    assert of_decorator - resident_bytes_per_call(*bare, calls=calls) < SMALLEST_OBJECT_BYTES


def test_a_runtime_does_not_grow_over_1_000_cold_checks(sandbox: Sandbox) -> None:
    event = {"measure": True, "checks": 1_000}
    code = sandbox.code(MIGRATIONS, handler=MEASURING_HANDLER)
    with sandbox.function(code) as function:
        _, first, last = (function.invoke(event).payload["after"] for _ in range(3))
    assert_no_growth(first, last, calls=1_000)
    assert resident_bytes_per_call(first, last, calls=1_000) < SMALLEST_OBJECT_BYTES


def test_a_finished_check_leaves_no_socket_and_no_thread(sandbox: Sandbox) -> None:
    event = {"measure": True, "before": True}
    with sandbox.function(sandbox.code(SLOW, handler=MEASURING_HANDLER)) as function:
        results = function.storm(2, event) + function.storm(1, event)
        outcomes = [end["outcome"] for end in ends(function)]
    assert sorted(outcomes) == ["MIGRATED", "UP_TO_DATE", "WAITED"]
    for payload in (result.payload for result in results):
        for what in ("sockets", "threads", "names"):
            assert payload["after"][what] == payload["before"][what], what
