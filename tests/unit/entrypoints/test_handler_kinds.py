"""Every kind of handler: methods, coroutine functions, generators, callable objects, partials."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from typing import Any
from unittest.mock import MagicMock

import pytest

from lambda_migrate import migrate_on_cold_start
from lambda_migrate.clock import Deadline
from lambda_migrate.errors import ConfigurationError, MigrateError, NotReady
from lambda_migrate.outcome import Outcome
from lambda_migrate.runner import MigrationRunner
from tests.unit.engine.fakes import Fakes, manifest
from tests.unit.entrypoints.lines import Context

V1 = manifest(1)
EVENT = {"path": "/orders"}


class FailingRunner(MigrationRunner):
    """Is not ready the given number of times, and records the deadlines."""

    def __init__(self, failures: int) -> None:
        super().__init__(V1, Fakes().target())
        self.failures = failures
        self.remaining: list[float | None] = []

    def ensure(self, deadline: Deadline | None = None, *, request_id: str = "") -> Outcome:
        self.remaining.append(None if deadline is None else round(deadline.remaining()))
        if len(self.remaining) <= self.failures:
            raise NotReady("not yet")
        return Outcome.UP_TO_DATE


def respond(event: Any, context: Any, error: MigrateError) -> Any:
    return "refused", event, type(context).__name__, str(error)


async def respond_async(event: Any, context: Any, error: MigrateError) -> Any:
    await asyncio.sleep(0)
    return respond(event, context, error)


REFUSED = ("refused", EVENT, "Context", "not yet")


def function(runner: MigrationRunner, **options: Any) -> Callable[..., Any]:
    @migrate_on_cold_start(runner=runner, **options)
    def handler(event: Any, context: Any) -> Any:
        return "served", event

    return handler


def method(runner: MigrationRunner, **options: Any) -> Callable[..., Any]:
    class Orders:
        @migrate_on_cold_start(runner=runner, **options)
        def handle(self, event: Any, context: Any) -> Any:
            assert isinstance(self, Orders)
            return "served", event

    return Orders().handle


def class_method(runner: MigrationRunner, **options: Any) -> Callable[..., Any]:
    class Orders:
        @classmethod
        @migrate_on_cold_start(runner=runner, **options)
        def handle(cls, event: Any, context: Any) -> Any:
            assert cls is Orders
            return "served", event

    return Orders.handle


def class_method_inside(runner: MigrationRunner, **options: Any) -> Callable[..., Any]:
    class Orders:
        @migrate_on_cold_start(runner=runner, **options)
        @classmethod
        def handle(cls, event: Any, context: Any) -> Any:
            return "served", event

    return Orders.handle


def static_method(runner: MigrationRunner, **options: Any) -> Callable[..., Any]:
    class Orders:
        @staticmethod
        @migrate_on_cold_start(runner=runner, **options)
        def handle(event: Any, context: Any) -> Any:
            return "served", event

    return Orders().handle


def static_method_inside(runner: MigrationRunner, **options: Any) -> Callable[..., Any]:
    class Orders:
        @migrate_on_cold_start(runner=runner, **options)
        @staticmethod
        def handle(event: Any, context: Any) -> Any:
            return "served", event

    return Orders().handle


def call_method(runner: MigrationRunner, **options: Any) -> Callable[..., Any]:
    class Orders:
        @migrate_on_cold_start(runner=runner, **options)
        def __call__(self, event: Any, context: Any) -> Any:
            return "served", event

    return Orders()


def instance(runner: MigrationRunner, **options: Any) -> Callable[..., Any]:
    class Orders:
        def __call__(self, event: Any, context: Any) -> Any:
            return "served", event

    return migrate_on_cold_start(runner=runner, **options)(Orders())


def method_below_another_decorator(runner: MigrationRunner, **options: Any) -> Callable[..., Any]:
    def pass_on(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call_function(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return call_function

    class Orders:
        @migrate_on_cold_start(runner=runner, **options)
        @pass_on
        def handle(self, event: Any, context: Any) -> Any:
            return "served", event

    return Orders().handle


def bound_method(runner: MigrationRunner, **options: Any) -> Callable[..., Any]:
    class Orders:
        def handle(self, event: Any, context: Any) -> Any:
            return "served", event

    return migrate_on_cold_start(runner=runner, **options)(Orders().handle)


def partial(runner: MigrationRunner, **options: Any) -> Callable[..., Any]:
    def handler(table: str, event: Any, context: Any, *, color: str) -> Any:
        return "served", event

    return migrate_on_cold_start(runner=runner, **options)(
        functools.partial(handler, "orders", color="red")
    )


def coroutine(runner: MigrationRunner, **options: Any) -> Callable[..., Any]:
    @migrate_on_cold_start(runner=runner, **options)
    async def handler(event: Any, context: Any) -> Any:
        await asyncio.sleep(0)
        return "served", event

    return handler


def coroutine_method(runner: MigrationRunner, **options: Any) -> Callable[..., Any]:
    class Orders:
        @migrate_on_cold_start(runner=runner, **options)
        async def handle(self, event: Any, context: Any) -> Any:
            return "served", event

    return Orders().handle


def coroutine_instance(runner: MigrationRunner, **options: Any) -> Callable[..., Any]:
    class Orders:
        async def __call__(self, event: Any, context: Any) -> Any:
            return "served", event

    return migrate_on_cold_start(runner=runner, **options)(Orders())


SYNCHRONOUS = [
    function,
    method,
    class_method,
    class_method_inside,
    static_method,
    static_method_inside,
    call_method,
    method_below_another_decorator,
    instance,
    bound_method,
    partial,
]
ASYNCHRONOUS = [coroutine, coroutine_method, coroutine_instance]


def call(handler: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    result = handler(*args, **kwargs)
    return asyncio.run(result) if inspect.iscoroutine(result) else result


@pytest.mark.parametrize("make", SYNCHRONOUS + ASYNCHRONOUS)
def test_every_kind_of_handler_is_checked_once_within_its_deadline(make: Any) -> None:
    runner = FailingRunner(0)
    handler = make(runner)
    context = Context(30)
    assert call(handler, EVENT, context) == ("served", EVENT)
    assert call(handler, event=EVENT, context=context) == ("served", EVENT)
    assert runner.remaining == [30]


@pytest.mark.parametrize("make", SYNCHRONOUS + ASYNCHRONOUS)
def test_on_not_ready_gets_the_event_and_the_context_of_every_kind(make: Any) -> None:
    handler = make(FailingRunner(1), on_not_ready=respond)
    assert call(handler, EVENT, Context()) == REFUSED
    assert call(handler, EVENT, Context()) == ("served", EVENT)


@pytest.mark.parametrize("make", SYNCHRONOUS + ASYNCHRONOUS)
def test_arguments_by_keyword_are_found(make: Any) -> None:
    handler = make(FailingRunner(1), on_not_ready=respond)
    assert call(handler, event=EVENT, context=Context()) == REFUSED


def test_a_first_and_a_later_call_pass_every_argument_on() -> None:
    @migrate_on_cold_start(runner=FailingRunner(0))
    def handler(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    context = Context(30)
    for args, kwargs in (
        ((EVENT, context), {}),
        ((EVENT, context, "more"), {}),
        ((EVENT, context), {"more": 1}),
        ((EVENT,), {"context": context}),
        ((), {"event": EVENT, "context": context}),
        ((EVENT,), {}),
    ):
        assert handler(*args, **kwargs) == handler(*args, **kwargs) == (args, kwargs)


@pytest.mark.parametrize("make", SYNCHRONOUS)
def test_without_a_context_the_position_decides_which_argument_is_the_event(make: Any) -> None:
    handler = make(FailingRunner(1), on_not_ready=respond)
    assert call(handler, EVENT, None)[1:3] == (EVENT, "NoneType")


@pytest.mark.parametrize("make", ASYNCHRONOUS)
def test_a_coroutine_function_stays_one_and_may_respond_by_another(make: Any) -> None:
    handler = make(FailingRunner(1), on_not_ready=respond_async)
    assert inspect.iscoroutinefunction(handler)
    assert call(handler, EVENT, Context()) == REFUSED


@pytest.mark.parametrize("make", ASYNCHRONOUS)
def test_the_event_loop_continues_during_the_check(make: Any) -> None:
    other_task_ran = threading.Event()

    class WaitingRunner(FailingRunner):
        def ensure(self, deadline: Deadline | None = None, *, request_id: str = "") -> Outcome:
            assert other_task_ran.wait(20)
            return super().ensure(deadline, request_id=request_id)

    async def run_both() -> Any:
        first = asyncio.create_task(handler(EVENT, Context()))
        await asyncio.sleep(0)
        other_task_ran.set()
        return await asyncio.gather(first, handler(EVENT, Context()))

    runner = WaitingRunner(0)
    handler = make(runner)
    assert asyncio.run(run_both()) == [("served", EVENT)] * 2
    assert len(runner.remaining) == 1


def test_a_cancelled_invocation_does_not_cancel_the_check_of_the_others() -> None:
    may_finish = threading.Event()

    class WaitingRunner(FailingRunner):
        def ensure(self, deadline: Deadline | None = None, *, request_id: str = "") -> Outcome:
            assert may_finish.wait(20)
            return super().ensure(deadline, request_id=request_id)

    async def run_both() -> Any:
        first = asyncio.create_task(handler(EVENT, Context()))
        second = asyncio.create_task(handler(EVENT, Context()))
        await asyncio.sleep(0.01)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        may_finish.set()
        return await second

    runner = WaitingRunner(0)
    handler = coroutine(runner)
    assert asyncio.run(run_both()) == ("served", EVENT)
    assert len(runner.remaining) == 1


def test_an_invocation_with_more_time_checks_again_after_the_check_of_one_with_less() -> None:
    may_finish = threading.Event()

    class WaitingRunner(FailingRunner):
        def ensure(self, deadline: Deadline | None = None, *, request_id: str = "") -> Outcome:
            assert may_finish.wait(20)
            return super().ensure(deadline, request_id=request_id)

    async def run_both() -> Any:
        tasks = [asyncio.create_task(handler(EVENT, Context(seconds))) for seconds in (20, 60)]
        await asyncio.sleep(0)  # both wait for the check of the first
        may_finish.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    runner = WaitingRunner(1)
    handler = coroutine(runner)
    refused, served = asyncio.run(run_both())
    assert isinstance(refused, NotReady)
    assert served == ("served", EVENT)
    assert runner.remaining == [20, 60]


@pytest.mark.parametrize("make", [function, coroutine])
def test_a_process_forked_during_a_check_makes_its_own(make: Any) -> None:
    may_finish = threading.Event()
    began = threading.Event()

    class WaitingRunner(FailingRunner):
        def ensure(self, deadline: Deadline | None = None, *, request_id: str = "") -> Outcome:
            began.set()
            assert os.getpid() != parent or may_finish.wait(20)
            return super().ensure(deadline, request_id=request_id)

    parent = os.getpid()
    handler = make(WaitingRunner(0))
    first = threading.Thread(target=call, args=(handler, EVENT, Context()))
    first.start()
    assert began.wait(20)
    child = os.fork()
    if child == 0:
        served = False
        try:
            served = call(handler, EVENT, Context(3)) == ("served", EVENT)
        finally:
            os._exit(not served)
    status = os.waitpid(child, 0)[1]
    may_finish.set()
    first.join()
    assert status == 0


def test_an_event_loop_that_is_not_asyncios_is_named() -> None:
    with pytest.raises(ConfigurationError, match="needs asyncio's event loop"):
        coroutine(FailingRunner(0))(EVENT, Context()).send(None)


def test_an_error_of_the_check_is_raised_from_a_coroutine_function() -> None:
    with pytest.raises(NotReady, match="not yet"):
        call(coroutine(FailingRunner(1)), EVENT, Context())


def test_a_generator_function_stays_one_and_yields_the_response() -> None:
    @migrate_on_cold_start(runner=FailingRunner(1), on_not_ready=lambda *_: "503")
    def handler(event: Any, context: Any) -> Iterator[str]:
        yield "a"
        yield "b"

    assert inspect.isgeneratorfunction(handler)
    assert list(handler(EVENT, Context())) == ["503"]
    assert list(handler(EVENT, Context())) == ["a", "b"]


def test_a_generators_return_value_is_kept() -> None:
    @migrate_on_cold_start(runner=FailingRunner(0))
    def handler(event: Any, context: Any) -> Generator[str, None, str]:
        yield "a"
        return "done"

    items = handler(EVENT, Context())
    assert next(items) == "a"
    with pytest.raises(StopIteration) as stopped:
        next(items)
    assert stopped.value.value == "done"


def test_closing_an_asynchronous_generator_closes_the_handlers() -> None:
    closed = []

    @migrate_on_cold_start(runner=FailingRunner(0))
    async def handler(event: Any, context: Any) -> AsyncGenerator[str, None]:
        try:
            yield "a"
            yield "b"
        finally:
            closed.append("closed")

    async def stop_early() -> None:
        items = handler(EVENT, Context())
        assert await items.__anext__() == "a"
        await items.aclose()
        assert closed == ["closed"]

    asyncio.run(stop_early())


def test_an_asynchronous_generator_function_stays_one_and_yields_the_response() -> None:
    @migrate_on_cold_start(runner=FailingRunner(1), on_not_ready=respond_async)
    async def handler(event: Any, context: Any) -> AsyncIterator[Any]:
        yield "a"
        yield "b"

    async def collect() -> list[Any]:
        return [item async for item in handler(EVENT, Context())]

    assert inspect.isasyncgenfunction(handler)
    assert asyncio.run(collect()) == [REFUSED]
    assert asyncio.run(collect()) == ["a", "b"]


def test_stacked_decorators_check_one_database_each(fakes: Fakes) -> None:
    orders, invoices = FailingRunner(0), FailingRunner(1)

    @migrate_on_cold_start(runner=orders)
    @migrate_on_cold_start(runner=invoices, on_not_ready=respond)
    def handler(event: Any, context: Any) -> Any:
        return "served", event

    assert handler(EVENT, Context()) == REFUSED
    assert handler(EVENT, Context()) == ("served", EVENT)
    assert [len(orders.remaining), len(invoices.remaining)] == [1, 2]


def test_an_event_with_a_remaining_time_is_not_taken_for_the_context() -> None:
    class Event(dict[str, Any]):
        def get_remaining_time_in_millis(self) -> int:
            return 1

    runner = FailingRunner(1)
    event = Event(EVENT)
    assert method(runner, on_not_ready=respond)(event, Context(30)) == REFUSED
    assert runner.remaining == [30]


# --- refused when decorating


@pytest.mark.parametrize("wrong", ["orders", 1, type("Orders", (), {})])
def test_an_object_that_is_not_a_handler_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"a function \(event, context\); got .*target=\.\.\."):
        migrate_on_cold_start(wrong)


def test_an_on_not_ready_that_cannot_be_called_is_refused() -> None:
    with pytest.raises(TypeError, match="on_not_ready is 503: pass a function"):
        migrate_on_cold_start(on_not_ready=503)  # type: ignore[call-overload]


def test_a_coroutine_function_cannot_respond_for_a_plain_handler() -> None:
    with pytest.raises(TypeError, match="on_not_ready is a coroutine function"):
        function(FailingRunner(0), on_not_ready=respond_async)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tabel": "leases"}, "no argument tabel: did you mean table"),
        ({"lease_seconds": "soon"}, "argument lease_seconds is 'soon': write a number of seconds"),
        ({"mode": True}, "argument mode is True: write one of migrate, require, off"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused_when_decorating(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        migrate_on_cold_start(**settings)(respond)


# --- without a context


def test_the_variable_switches_off_a_handler_with_another_mode_as_argument(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @migrate_on_cold_start(mode="require")
    def handler(event: Any, context: Any) -> Any:
        return "served"

    monkeypatch.setenv("LAMBDA_MIGRATE_MODE", "off")
    assert handler(EVENT, None) == "served"


@pytest.mark.parametrize("context", [None, MagicMock()])
def test_a_unit_test_without_settings_gets_an_error_that_names_what_to_set(context: Any) -> None:
    @migrate_on_cold_start
    def handler(event: Any, context: Any) -> Any: ...

    with pytest.raises(ConfigurationError, match="LAMBDA_MIGRATE_MODE=off") as caught:
        handler(EVENT, context)
    assert "outside Lambda" in str(caught.value)


def test_on_lambda_a_handler_needs_its_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "orders")
    with pytest.raises(ConfigurationError, match="pass the context that Lambda passes"):
        function(FailingRunner(0))(EVENT, None)
