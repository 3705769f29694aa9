"""The local Lambda, with real runtimes, in separate and in forked interpreters."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import psutil
import pytest

from lambda_migrate.local.runtime.function import LocalFunction
from tests.sandbox import is_alive

CODE = Path(__file__).parent / "function"


class Make(Protocol):
    def __call__(self, handler: str, **options: Any) -> LocalFunction: ...


@pytest.fixture(params=[None, ()], ids=["separate", "forked"])
def preload(request: pytest.FixtureRequest) -> Sequence[str] | None:
    modules: Sequence[str] | None = request.param
    return modules


@pytest.fixture
def make(preload: Sequence[str] | None) -> Make:
    return functools.partial(LocalFunction, code=CODE, preload=preload)


@pytest.fixture
def function(make: Make) -> Iterator[LocalFunction]:
    with make("probe.handler", timeout=20) as opened:
        yield opened


def eventually_stopped(pid: int, *, seconds: float = 20.0) -> bool:
    give_up = time.monotonic() + seconds
    while psutil.Process(pid).status() != psutil.STATUS_STOPPED and time.monotonic() < give_up:
        time.sleep(0.01)  # the signal has been sent; on a busy machine it takes its time
    return psutil.Process(pid).status() == psutil.STATUS_STOPPED


def eventually_ended(pids: list[int], *, seconds: float = 20.0) -> bool:
    give_up = time.monotonic() + seconds
    while any(map(is_alive, pids)) and time.monotonic() < give_up:
        time.sleep(0.02)
    return not any(map(is_alive, pids))


def test_a_warm_environment_is_reused(function: LocalFunction) -> None:
    first, second = function.invoke({}), function.invoke({})
    assert (first.cold, second.cold) == (True, False)
    assert (first.payload["count"], second.payload["count"]) == (1, 2)
    assert first.payload["pid"] == second.payload["pid"] == function.environments()[0].pid
    assert first.init_seconds > 0 == second.init_seconds
    assert first.request_id != second.request_id


def test_nothing_runs_between_invocations(function: LocalFunction) -> None:
    before = function.invoke({"sleep": 0.1}).payload["ticks"]
    [environment] = function.environments()
    assert environment.state == "idle"
    assert eventually_stopped(environment.pid)
    time.sleep(0.5)  # a hundred ticks of a thread that is not frozen
    assert function.invoke({}).payload["ticks"] - before < 20


def test_without_freezing_threads_continue(make: Make) -> None:
    with make("probe.handler", freeze=False) as function:
        give_up = time.monotonic() + 20
        while function.invoke({}).payload["ticks"] < 20 and time.monotonic() < give_up:
            time.sleep(0.05)  # without an invocation
        assert function.invoke({}).payload["ticks"] >= 20


def test_the_deadline_is_published_and_enforced(make: Make) -> None:
    with make("probe.handler", timeout=0.5) as function:
        left = function.invoke({}).payload["left"]
        late = function.invoke({"sleep": 30})
        pid = function.environments()[0].pid
        after = function.invoke({})
    assert 0 < left <= 500
    assert (late.status, late.error_type) == ("timeout", "Sandbox.Timedout")
    assert late.error_message.endswith("Task timed out after 0.50 seconds")
    assert late.duration_seconds >= 0.5
    assert not is_alive(pid)
    assert (after.status, after.cold) == ("ok", True)


def test_an_error_of_the_handler_is_reported_and_the_environment_continues(
    function: LocalFunction,
) -> None:
    failed, after = function.invoke({"raise": "no such order"}), function.invoke({})
    assert (failed.status, failed.ok) == ("error", False)
    assert (failed.error_type, failed.error_message) == ("ValueError", "no such order")
    assert failed.payload["stackTrace"]
    assert (after.ok, after.cold) == (True, False)


@pytest.mark.parametrize(
    ("event", "cause"), [({"exit": 3}, "exit status 3"), ({"kill": 1}, "SIGKILL")]
)
def test_a_crash_is_reported_with_the_end_of_the_log(
    function: LocalFunction, event: dict[str, int], cause: str
) -> None:
    crashed, after = function.invoke(event), function.invoke({})
    assert (crashed.status, crashed.error_type) == ("crashed", "Runtime.ExitError")
    assert cause in crashed.error_message
    assert "handling" in crashed.error_message
    assert (after.ok, after.cold) == (True, True)


def test_an_environment_killed_while_idle_is_not_reused(function: LocalFunction) -> None:
    function.invoke({})
    [environment] = function.environments()
    os.kill(environment.pid, signal.SIGKILL)
    assert eventually_ended([environment.pid])
    after = function.invoke({})
    assert (after.ok, after.cold) == (True, True)
    assert function.environment(environment.environment_id).state == "ended"


def test_code_that_cannot_be_loaded_is_an_init_error(make: Make) -> None:
    with make("broken.handler") as function:
        result = function.invoke({})
        assert function.environments()[0].state == "ended"
    assert (result.status, result.error_type) == ("error", "RuntimeError")
    assert result.error_message == "no such setting: COLOUR"


def test_an_initialisation_that_takes_too_long_is_killed(make: Make) -> None:
    with make("probe.handler", init_timeout=0.001) as function:
        result = function.invoke({})
    assert result.status == "timeout"
    assert "did not initialise" in result.error_message


def test_busy_environments_scale_out_up_to_the_limit_and_then_throttle(make: Make) -> None:
    with make("probe.handler", concurrency=2) as function:
        function.start_environments(2)
        busy = [function.submit({"sleep": 1.5}) for _ in range(2)]
        throttled = function.invoke({})
        waited = function.invoke({}, wait=30)
        results = [one.result() for one in busy]
    assert {one.environment_id for one in results} == {"env0001", "env0002"}
    assert (throttled.status, throttled.error_type) == ("throttled", "TooManyRequestsException")
    assert (waited.ok, waited.cold) == (True, False)


@pytest.mark.parametrize("simultaneous", [True, False])
def test_each_environment_of_a_storm_is_cold_once(make: Make, simultaneous: bool) -> None:
    with make("probe.handler", name="a storm") as function:
        function.invoke({})
        results = function.storm(20, {"sleep": 0.5}, simultaneous=simultaneous)
        timeline = function.timeline()
        keys = {one.access_key for one in function.environments()}
    assert all(one.ok and one.cold for one in results)
    assert len({one.payload["pid"] for one in results}) == 20
    assert len({one.environment_id for one in results} | {"env0001"}) == 21
    assert "astormenv0021" in keys
    ready = [one.at for one in timeline if one.phase == "ready"]
    invoked = [one.at for one in timeline if one.phase == "invoked"][1:]
    assert len(ready) == 21
    assert (max(ready) <= min(invoked)) is simultaneous


def test_more_environments_than_the_limit_are_an_error(make: Make) -> None:
    with (
        make("probe.handler", concurrency=1) as function,
        pytest.raises(RuntimeError, match="limit of 1"),
    ):
        function.start_environments(2)


def test_an_environment_has_the_variables_of_lambda_and_of_its_function(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "production")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    variables = {"COLOUR": "blue", "AWS_REGION": "eu-west-1"}
    with make("probe.handler", variables=variables) as function:
        seen = {
            name: function.invoke({"variable": name}).payload
            for name in (
                "COLOUR",
                "AWS_REGION",
                "AWS_PROFILE",
                "PYTHONDONTWRITEBYTECODE",
                "AWS_LAMBDA_INITIALIZATION_TYPE",
                "AWS_ACCESS_KEY_ID",
                "_HANDLER",
            )
        }
    assert seen == {
        "COLOUR": "blue",
        "AWS_REGION": "eu-west-1",
        "AWS_PROFILE": None,
        "PYTHONDONTWRITEBYTECODE": None,
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_ACCESS_KEY_ID": "functionenv0001",
        "_HANDLER": "probe.handler",
    }


def test_each_environment_has_its_own_log(make: Make, tmp_path: Path) -> None:
    with make("probe.handler", log_directory=tmp_path / "logs") as function:
        function.invoke({"note": "one"})
        assert "{'note': 'one'}" in function.logs("env0001")
        assert function.logs("env0099") == ""
    assert [path.name for path in (tmp_path / "logs").glob("env*")] == ["env0001.log"]


def test_an_observer_gets_every_event_of_an_environment(make: Make) -> None:
    seen: list[str] = []
    with make("probe.handler", observer=lambda happening: seen.append(happening.phase)) as function:
        function.invoke({})
    assert seen == ["started", "ready", "invoked", "returned", "ended"]


def test_closing_ends_every_process_even_one_that_is_starting(make: Make) -> None:
    function = make("probe.handler")
    function.open()
    function.start_environments(3)
    function.submit({"sleep": 600})
    pending = function.submit({"sleep": 600})
    pids = [one.pid for one in function.environments() if one.pid]
    function.close()
    function.close()
    assert eventually_ended(pids)
    assert pending.cancelled() or pending.result().status == "crashed"
    with pytest.raises(RuntimeError, match="not open"):
        function.invoke({})


PARENT = """
from pathlib import Path
from lambda_migrate.local.runtime.function import LocalFunction
code = Path({code!r})
with LocalFunction("probe.handler", code=code, timeout=600, preload={preload!r}) as function:
    function.start_environments(3)
    function.submit({{"sleep": 600}})
    print(*[one.pid for one in function.environments()], flush=True)
    function.invoke({{"sleep": 600}})
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_ended_parent_leaves_no_runtime_behind(
    preload: Sequence[str] | None, number: signal.Signals
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT.format(code=str(CODE), preload=preload)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        os.kill(parent.pid, number)
    assert len(pids) == 3
    assert eventually_ended(pids)
