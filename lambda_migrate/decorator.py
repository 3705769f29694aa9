"""``@migrate_on_cold_start``: the schema is ready before the handler receives its first event."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, overload

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from lambda_migrate.errors import MigrateError
    from lambda_migrate.runner import MigrationRunner
    from lambda_migrate.settings_arguments import SettingsArguments

    Handler = Callable[..., Any]
    OnNotReady = Callable[[Any, Any, MigrateError], Any]

H = TypeVar("H", bound=Callable[..., Any])

__all__ = ["migrate_on_cold_start", "service_unavailable"]

LONG_INIT_TYPES = frozenset({"provisioned-concurrency", "snap-start", "lambda-managed-instances"})
"""Where initialization may take 130 s or the function's timeout, whichever is longer, instead of
10 s (AWS Lambda Developer Guide, "Understanding the Lambda execution environment lifecycle")."""

_INIT_SECONDS = 125.0

_OUTCOME_UNCHECKED = "UNCHECKED"
"""``Outcome.UNCHECKED``, whose module is not loaded yet."""


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
    over its environment variable:

        @migrate_on_cold_start
        def handler(event, context): ...


        @migrate_on_cold_start(target="orders", on_not_ready=service_unavailable)
        def handler(event, context): ...

    The first invocation of an execution environment checks the schema, within its own deadline;
    later ones cost a function call. The handler keeps its name and signature, and the decorator can
    be combined with others.

    Args:
        handler: A Lambda handler, ``(event, context) -> anything``.
        runner: A `MigrationRunner` of your own, instead of settings.
        on_not_ready: Called with event, context and the error (`NotReady` or `MigrationFailed`)
            when the schema is not ready; its return value is the invocation's response. By default
            the error is raised: the invocation fails, and Lambda retries asynchronous ones.
        **settings: See `Settings`.

    Raises:
        MigrateError: From the handler, when the schema is not ready; see `MigrationRunner.ensure`.
    """

    def decorate(function: H) -> H:
        guard = _ColdStartGuard(runner, settings, on_not_ready)

        @functools.wraps(function)
        def guarded(event: Any, context: Any, *args: Any, **kwargs: Any) -> Any:
            if args or kwargs or not guard.is_open:
                return guard.call(function, event, context, *args, **kwargs)
            return function(event, context)  # spreading empty arguments would double its cost

        guard.run_at_init()
        return guarded  # type: ignore[return-value]  # wraps() keeps the signature, mypy loses it

    return decorate if handler is None else decorate(handler)


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


class _ColdStartGuard:
    """Closed until the schema is ready; one for each decorated handler of a process."""

    __slots__ = ("_lock", "_on_not_ready", "_own_runner", "_runner", "_settings", "is_open")

    def __init__(
        self,
        runner: MigrationRunner | None,
        settings: SettingsArguments,
        on_not_ready: OnNotReady | None,
    ) -> None:
        self.is_open = False
        self._own_runner = runner
        self._runner = runner
        self._settings = settings
        self._on_not_ready = on_not_ready
        self._lock = threading.Lock()
        if runner is not None and settings.keys() - {"init"}:
            names = ", ".join(sorted(settings.keys() - {"init"}))
            raise TypeError(
                f"migrate_on_cold_start got a runner and settings ({names}), but a runner has "
                "settings of its own: pass one or the other"
            )

    def call(self, function: Handler, event: Any, context: Any, *args: Any, **kwargs: Any) -> Any:
        from lambda_migrate.errors import MigrationFailed, NotReady

        try:
            if not self.is_open:
                self._acquire_thread_lock(context)
                try:
                    self._ensure_migrated(context)
                finally:
                    self._lock.release()
        except (NotReady, MigrationFailed) as error:
            if self._on_not_ready is None:
                raise
            return self._on_not_ready(event, context, error)
        return function(event, context, *args, **kwargs)

    def _acquire_thread_lock(self, context: Any) -> None:
        """Wait for another thread's check, at most until this invocation's deadline.

        Raises:
            NotReady: The other check is still running.
        """
        if self._lock.acquire(blocking=False):
            return
        from lambda_migrate.clock import Deadline
        from lambda_migrate.engine.cold_start import DEFAULT_DEADLINE_SECONDS
        from lambda_migrate.engine.target import Policy
        from lambda_migrate.errors import NotReady

        policy = Policy() if self._runner is None else self._runner.target.policy
        deadline = Deadline.from_context(context)
        seconds = DEFAULT_DEADLINE_SECONDS
        if deadline is not None:
            seconds = deadline.moved_earlier(policy.safety_margin_seconds).remaining()
        if not self._lock.acquire(timeout=seconds):
            raise NotReady(
                "the schema is not ready: another invocation in this process is still checking it, "
                f"and this one has waited {seconds:.1f} s"
            )

    def _ensure_migrated(self, context: Any) -> None:
        if self.is_open:
            return  # another thread opened it while this one waited for the lock
        self.is_open = self._is_switched_off() or self._check(context)

    def _check(self, context: Any) -> bool:
        """Check; return whether the result holds for later invocations."""
        from lambda_migrate.clock import Deadline

        runner = self._get_runner()
        request_id = str(getattr(context, "aws_request_id", None) or "")
        deadline = Deadline.from_context(context, runner.target.clock)
        return runner.ensure(deadline, request_id=request_id) != _OUTCOME_UNCHECKED

    def _is_switched_off(self) -> bool:
        """Whether the mode is ``off``; this works even if other settings are wrong."""
        mode = self._settings.get("mode") or os.environ.get("LAMBDA_MIGRATE_MODE", "")
        return self._own_runner is None and str(mode).strip().lower() == "off"

    def _get_runner(self) -> MigrationRunner:
        """The runner, created on the first invocation.

        A configuration error is logged like every other failed check: in one structured line.
        """
        if self._runner is None:
            from lambda_migrate.errors import ConfigurationError
            from lambda_migrate.runner import MigrationRunner
            from lambda_migrate.wiring import default_observer, report_check_failure

            try:
                self._runner = MigrationRunner.from_settings(
                    observer=default_observer(), **self._settings
                )
            except ConfigurationError as error:
                report_check_failure(error, target_name=str(self._settings.get("target") or ""))
                raise
        return self._runner

    def run_at_init(self) -> None:
        """Check during initialization, if the setting ``init`` asks for it and there is time.

        An error is logged, and the first invocation checks again, so that it can raise it.
        """
        kind = os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand")
        if kind == "snap-start":
            from snapshot_restore_py import register_after_restore

            register_after_restore(self.forget_result)
        init = self._settings.get("init") or os.environ.get("LAMBDA_MIGRATE_INIT", "")
        if str(init).strip().lower() != "when-long" or kind not in LONG_INIT_TYPES:
            return
        from lambda_migrate.clock import Deadline
        from lambda_migrate.errors import MigrateError

        if self._is_switched_off():
            return
        try:
            runner = self._get_runner()
            outcome = runner.ensure(Deadline.after(_INIT_SECONDS, runner.target.clock))
            self.is_open = outcome != _OUTCOME_UNCHECKED
        except MigrateError:
            self.is_open = False

    def forget_result(self) -> None:
        """Close again after a snapshot was restored: the schema may have changed since."""
        self.is_open = False
        self._runner = self._own_runner
        if self._own_runner is not None:
            self._own_runner.forget_result()
