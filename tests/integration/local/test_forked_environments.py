"""Environments forked from one warm interpreter are separate processes.

`test_local_function` runs the tests of separate interpreters with forked ones, too.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from lambda_migrate.local.runtime.function import LocalFunction, StartBarrier
from lambda_migrate.local.runtime.process import ProcessError

CODE = Path(__file__).parent / "function"


@pytest.fixture
def function() -> Iterator[LocalFunction]:
    options = {"COLOUR": "blue"}
    with LocalFunction(
        "probe.handler", code=CODE, timeout=60, preload=["colorsys"], variables=options
    ) as opened:
        yield opened


def find_fork_server(function: LocalFunction) -> psutil.Process:
    """The one child of this process that environments are forked from."""
    [parent] = {psutil.Process(view.pid).parent() for view in function.environments()}
    assert parent is not None
    assert parent.ppid() == os.getpid()
    return parent


def test_each_environment_has_its_own_process_session_and_random_numbers(
    function: LocalFunction,
) -> None:
    seen = [one.payload for one in function.storm(5, {"identity": True})]
    for name in ("pid", "session", "group", "chance", "uuid"):
        assert len({each[name] for each in seen}) == 5, name
    assert all(each["pid"] == each["session"] == each["group"] for each in seen)
    assert {each["parent"] for each in seen} == {find_fork_server(function).pid}


def test_each_environment_has_the_variables_directory_and_path_of_a_runtime(
    function: LocalFunction,
) -> None:
    forked = function.invoke({"identity": True}).payload
    with LocalFunction("probe.handler", code=CODE, variables={"COLOUR": "blue"}) as separate:
        fresh = separate.invoke({"identity": True}).payload
    for name in ("directory", "first_path", "arguments", "nice"):
        assert forked[name] == fresh[name], name
    own = {"AWS_LAMBDA_RUNTIME_API", "_X_AMZN_TRACE_ID"}
    assert {k: v for k, v in forked["variables"].items() if k not in own} == {
        k: v for k, v in fresh["variables"].items() if k not in own
    }


def test_the_preloaded_modules_are_imported_but_not_the_function(function: LocalFunction) -> None:
    loaded = function.invoke({"identity": True}).payload["loaded"]
    assert "colorsys" in loaded
    with LocalFunction("probe.handler", code=CODE, preload=[]) as other:
        assert "colorsys" not in other.invoke({"identity": True}).payload["loaded"]
    parent = find_fork_server(function)
    assert not any("awslambdaric" in mapped.path for mapped in parent.memory_maps())


def test_no_file_descriptor_of_another_process_stays_open(function: LocalFunction) -> None:
    function.storm(5, {})
    files = function.invoke({"identity": True}).payload["files"]
    [last] = function.storm(1, {"identity": True})
    assert len(last.payload["files"]) <= len(files)
    assert not any("pidfd" in name or "eventpoll" in name for name in last.payload["files"])


def test_memory_of_preloaded_modules_is_shared() -> None:
    with LocalFunction("probe.handler", code=CODE, preload=["boto3", "pg8000.native"]) as function:
        function.start_environments(10)
        pids = [view.pid for view in function.environments()]
        own = [psutil.Process(pid).memory_full_info() for pid in pids]
    assert all(memory.uss < memory.rss / 2 for memory in own)


def test_if_the_fork_server_ends_every_environment_ends_with_an_error(
    function: LocalFunction,
) -> None:
    function.start_environments(2)
    running = function.submit({"sleep": 600})
    while not any(view.state == "busy" for view in function.environments()):
        time.sleep(0.005)
    pids = [view.pid for view in function.environments()]
    find_fork_server(function).kill()
    assert running.result().status == "crashed"
    _, alive = psutil.wait_procs([psutil.Process(p) for p in pids if psutil.pid_exists(p)], 20)
    assert not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]
    with pytest.raises(ProcessError, match="gone"):
        function.start_environments(1)


def test_a_module_that_cannot_be_preloaded_is_an_error_at_the_start(tmp_path: Path) -> None:
    function = LocalFunction(
        "probe.handler", code=CODE, preload=["no_such_module"], log_directory=tmp_path
    )
    with pytest.raises(ProcessError, match="no_such_module"):
        function.open()
    function.close()


THREADED = """
import sys
import time
from lambda_migrate.local.runtime import fork_server
sys.path.insert(0, sys.argv.pop())
fork_server.main()
"""


def test_a_preloaded_module_that_starts_a_thread_is_rejected() -> None:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, its:
        ended = subprocess.run(
            [sys.executable, "-c", THREADED, str(its.fileno()), "threaded", str(CODE)],
            pass_fds=[its.fileno()],
            capture_output=True,
            text=True,
        )
    assert ended.returncode == 1
    assert "started a thread" in ended.stderr


def test_end_idle_ends_only_idle_environments(
    function: LocalFunction,
) -> None:
    ids = function.start_environments(4)
    busy = function.submit({"sleep": 1.0})
    ended = function.end_idle(ids[:2]) + function.end_idle()
    assert busy.result().ok
    assert sorted(ended) == sorted(set(ids) - {busy.result().environment_id})
    states = {view.environment_id: view.state for view in function.environments()}
    assert {name for name, state in states.items() if state == "ended"} == set(ended)
    last_words = [one.phase for one in function.timeline() if one.environment_id == ended[0]]
    assert last_words[-1] == "ended"


def test_cold_starts_at_a_barrier_are_released_together(function: LocalFunction) -> None:
    barrier = StartBarrier(4)
    early = [function.submit_cold({}, barrier=barrier) for _ in range(3)]
    assert not any(one.done() for one in early)
    results = [one.result() for one in (*early, function.submit_cold({}, barrier=barrier))]
    assert all(one.ok and one.cold for one in results)
    timeline = function.timeline()
    ready = max(one.at for one in timeline if one.phase == "ready")
    assert ready <= min(one.at for one in timeline if one.phase == "invoked")
    assert function.submit_cold({}, barrier=barrier).result().cold  # it stays open


def test_a_cold_start_above_the_limit_is_throttled_and_delays_no_other() -> None:
    with LocalFunction("probe.handler", code=CODE, preload=[], concurrency=1) as function:
        barrier = StartBarrier(2)
        results = [
            one.result() for one in [function.submit_cold({}, barrier=barrier) for _ in range(2)]
        ]
    assert sorted(one.status for one in results) == ["ok", "throttled"]


def test_niceness_applies_only_to_the_environments() -> None:
    with LocalFunction("probe.handler", code=CODE, preload=[], niceness=7) as function:
        assert function.invoke({"identity": True}).payload["nice"] == 7
        assert find_fork_server(function).nice() == psutil.Process().nice()
