"""``@migrate_on_cold_start``: the schema is ready before the handler receives its first event."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, overload

from lambda_migrate.guard import ColdStartGuard, has_deadline

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import TypeVar

    from typing_extensions import Unpack

    from lambda_migrate.errors import MigrateError
    from lambda_migrate.runner import MigrationRunner
    from lambda_migrate.settings_arguments import SettingsArguments

    H = TypeVar("H", bound=Callable[..., Any])
    OnNotReady = Callable[[Any, Any, MigrateError], Any]

__all__ = ["migrate_on_cold_start", "service_unavailable"]

# What `inspect` finds in a function, without loading it (Python Language Reference, "co_flags").
_CO_GENERATOR = 0x20
_CO_COROUTINE = 0x80
_CO_ASYNC_GENERATOR = 0x200

_ABSENT: Any = object()
"""An argument that was not passed by position."""


@overload
def migrate_on_cold_start(handler: H, /) -> H: ...


@overload
def migrate_on_cold_start(
    *,
    runner: MigrationRunner | None = None,
    on_not_ready: OnNotReady | None = None,
    **settings: Unpack[SettingsArguments],
) -> Callable[[H], H]: ...


def migrate_on_cold_start(
    handler: H | None = None,
    /,
    *,
    runner: MigrationRunner | None = None,
    on_not_ready: OnNotReady | None = None,
    **settings: Unpack[SettingsArguments],
) -> H | Callable[[H], H]:
    """Migrate the database to this code's schema before the first event is handled.

    Without arguments, every setting is read from the environment; an argument takes precedence
    over its environment variable, except that ``LAMBDA_MIGRATE_MODE=off`` always switches the check
    off:

        @migrate_on_cold_start
        def handler(event, context): ...


        @migrate_on_cold_start(target="orders", on_not_ready=service_unavailable)
        def handler(event, context): ...

    The first invocation of an execution environment checks the schema, within its own deadline;
    later ones cost a function call. The handler keeps its name, its signature and its kind: it may
    be a function, a method, a callable object, a coroutine function (the check then runs in a
    thread, so the event loop is not blocked) or a generator function. The decorator can be combined
    with others, and with itself: one for each database.

    Args:
        handler: A Lambda handler, ``(event, context) -> anything``.
        runner: A `MigrationRunner` of your own, instead of settings.
        on_not_ready: Called with event, context and the error (`NotReady` or `MigrationFailed`)
            when the schema is not ready; its return value is the invocation's response. It may be a
            coroutine function if the handler is one. By default the error is raised: the invocation
            fails, and Lambda retries asynchronous ones.
        **settings: See `Settings`.

    Raises:
        ConfigurationError: When decorating: an argument has an unknown name or an unusable value.
        TypeError: When decorating: what is decorated or ``on_not_ready`` cannot be called, or
            there are a runner and settings.
        MigrateError: From the handler, when the schema is not ready; see `MigrationRunner.ensure`.
    """
    if on_not_ready is not None and not callable(on_not_ready):
        raise TypeError(
            f"on_not_ready is {on_not_ready!r}: pass a function (event, context, error), for "
            "example service_unavailable"
        )

    def decorate(function: H) -> H:
        guard = ColdStartGuard(runner, settings)
        decorated: H = _decorate(function, guard, on_not_ready)
        guard.run_at_init()
        return decorated

    return decorate if handler is None else decorate(handler)


def _decorate(function: Any, guard: ColdStartGuard, on_not_ready: OnNotReady | None) -> Any:
    """Return ``function`` behind ``guard``, as the same kind of callable."""
    if isinstance(function, (staticmethod, classmethod)):
        return type(function)(_decorate(function.__func__, guard, on_not_ready))
    if not callable(function) or isinstance(function, type):
        raise TypeError(
            f"migrate_on_cold_start decorates a handler, a function (event, context); got "
            f"{function!r}. Settings are keyword arguments: migrate_on_cold_start(target=...)"
        )
    is_method = _is_method(function)

    def refuse(args: tuple[Any, ...], kwargs: dict[str, Any], error: MigrateError) -> Any:
        if on_not_ready is None:
            raise error
        return on_not_ready(*_find_invocation(args, kwargs, is_method), error)

    def check(args: tuple[Any, ...], kwargs: dict[str, Any]) -> MigrateError | None:
        return guard.check(_find_invocation(args, kwargs, is_method)[1])

    flags = _code_flags(function)
    is_async = flags & (_CO_COROUTINE | _CO_ASYNC_GENERATOR)
    if on_not_ready is not None and not is_async and _code_flags(on_not_ready) & _CO_COROUTINE:
        raise TypeError(
            "on_not_ready is a coroutine function, and the handler is not: pass a plain function"
        )
    if is_async:
        from lambda_migrate.background_check import decorate_async

        return decorate_async(
            function,
            guard,
            refuse,
            find_context=lambda args, kwargs: _find_invocation(args, kwargs, is_method)[1],
            is_generator=bool(flags & _CO_ASYNC_GENERATOR),
        )
    if flags & _CO_GENERATOR:

        @functools.wraps(function)
        def generate(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            error = None if guard.is_open else check(args, kwargs)
            if error is not None:
                yield refuse(args, kwargs, error)
                return None
            return (yield from function(*args, **kwargs))

        return generate

    def call_any(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not guard.is_open:
            error = check(args, kwargs)
            if error is not None:
                return refuse(args, kwargs, error)
        return function(*args, **kwargs)

    @functools.wraps(function)
    def call(event: Any = _ABSENT, context: Any = _ABSENT, /, *args: Any, **kwargs: Any) -> Any:
        if args or kwargs or context is _ABSENT or not guard.is_open:
            values = (event, context, *args)
            return call_any(tuple(each for each in values if each is not _ABSENT), kwargs)
        return function(event, context)  # as Lambda calls; spreading arguments doubles the cost

    return call


def _code_flags(function: Any) -> int:
    """The flags of the code that a call of ``function`` runs; 0 if it is not written in Python."""
    while isinstance(function, functools.partial):
        function = function.func
    if not hasattr(function, "__code__"):  # a bound method has its function's
        function = getattr(type(function), "__call__", None)  # noqa: B004 - not whether it is callable
    code = getattr(function, "__code__", None)
    return getattr(code, "co_flags", 0)


def _is_method(function: Any) -> bool:
    """Whether ``function`` was defined in a class, with an instance before event and context."""
    if hasattr(function, "__self__"):
        return False
    while hasattr(function, "__wrapped__"):  # another decorator's `functools.wraps`
        function = function.__wrapped__
    code = getattr(function, "__code__", None)
    if code is None or code.co_argcount < 3:
        return False
    owner = getattr(function, "__qualname__", "").rpartition(".")[0]
    return bool(owner) and not owner.endswith("<locals>")


def _find_invocation(
    args: tuple[Any, ...], kwargs: dict[str, Any], is_method: bool
) -> tuple[Any, Any]:
    """The event and the context among a handler's arguments.

    The context is the last argument that knows a remaining time. Without one, as in a unit test,
    the position decides.
    """
    for index in range(len(args) - 1, 0, -1):
        if has_deadline(args[index]):
            return args[index - 1], args[index]
    values = args[int(is_method) :]
    event = values[0] if values else kwargs.get("event")
    for value in kwargs.values():
        if has_deadline(value):
            return event, value
    return event, values[1] if len(values) > 1 else kwargs.get("context")


def service_unavailable(event: Any, _context: Any, error: MigrateError) -> dict[str, Any]:
    """Return 503 with Retry-After for an HTTP request; raise the error for every other event.

    Pass it as ``on_not_ready``. HTTP requests are the events of API Gateway (REST, HTTP and
    WebSocket APIs), of a load balancer, a function URL or VPC Lattice. For other events a response
    would count as success: SQS would delete the messages, EventBridge and SNS would not retry. A
    Lambda authorizer's request is not an HTTP request: its response is a policy. The body does not
    contain the cause; the log does.

    Raises:
        MigrateError: ``error``, if the event is not an HTTP request.
    """
    if not _is_http(event):
        raise error
    seconds = max(1, round(getattr(error, "retry_after_seconds", 10.0)))
    return {
        "statusCode": 503,
        "headers": {"Retry-After": str(seconds), "Content-Type": "application/json"},
        "body": '{"message": "The service is being updated. Please try again."}',
        "isBase64Encoded": False,
    }


_WEBSOCKET_EVENTS = ("CONNECT", "MESSAGE", "DISCONNECT")


def _is_http(event: Any) -> bool:
    """Whether the response to ``event`` is an HTTP response, by the formats that AWS documents."""
    if not isinstance(event, dict) or "methodArn" in event or "routeArn" in event:
        return False  # the latter two are requests to an API Gateway Lambda authorizer
    context = event.get("requestContext")
    if not isinstance(context, dict):
        # VPC Lattice, version 1 of its event
        return isinstance(event.get("raw_path"), str) and isinstance(event.get("method"), str)
    if isinstance(event.get("httpMethod"), str):
        return True  # API Gateway, format 1.0; a load balancer
    http = context.get("http")
    if isinstance(http, dict) and "method" in http:
        return True  # API Gateway, format 2.0; a function URL
    if "connectionId" in context:
        return context.get("eventType") in _WEBSOCKET_EVENTS
    return "serviceNetworkArn" in context and "method" in event  # VPC Lattice, version 2
