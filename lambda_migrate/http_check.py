"""`HTTPCheck`: the check behind the ASGI and WSGI middlewares, and its deadline on Lambda."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from lambda_migrate.background_check import BackgroundCheck
from lambda_migrate.guard import ColdStartGuard, has_deadline, is_on_lambda

if TYPE_CHECKING:
    from lambda_migrate.errors import MigrateError
    from lambda_migrate.runner import MigrationRunner
    from lambda_migrate.settings_arguments import SettingsArguments

__all__ = ["MAX_WAIT_SECONDS", "UNAVAILABLE_BODY", "HTTPCheck", "retry_after"]

MAX_WAIT_SECONDS = 25.0
"""API Gateway gives up after 29 s."""

UNAVAILABLE_BODY = '{"message": "The service is being updated. Please try again."}'
"""Without the cause, which the log has."""

CONTEXT_HEADER = "x-amzn-lambda-context"
"""The Lambda Web Adapter's header: the invocation's context as JSON, with ``deadline`` in
milliseconds since the epoch (the adapter's guide, "Request & Lambda Context"; lambda_runtime's
``Context``)."""


class HTTPCheck:
    """What `asgi.MigrateMiddleware` and `wsgi.MigrateMiddleware` have in common.

    Args:
        runner: A `MigrationRunner` of the user's own, instead of settings.
        health_path: See there.
        max_wait_seconds: See there.
        settings: See `Settings`.

    Raises:
        ConfigurationError: An argument has an unknown name or an unusable value.
    """

    def __init__(
        self,
        runner: MigrationRunner | None,
        *,
        health_path: str,
        max_wait_seconds: float,
        settings: SettingsArguments,
    ) -> None:
        from lambda_migrate.errors import ConfigurationError

        faults = []
        if not isinstance(health_path, str) or (health_path and not health_path.startswith("/")):
            faults.append(f"argument health_path is {health_path!r}: write a path such as /health")
        if not isinstance(max_wait_seconds, (int, float)) or not max_wait_seconds > 0:
            faults.append(
                f"argument max_wait_seconds is {max_wait_seconds!r}: write a number above 0"
            )
        if faults:
            raise ConfigurationError(faults)
        self.max_wait_seconds = max_wait_seconds
        self.guard = ColdStartGuard(runner, settings)
        self.background = BackgroundCheck(self.guard)
        self.guard.run_at_init()

    def make_context(self, context: object, header: str | bytes | None) -> object:
        """The context of a request's invocation.

        Args:
            context: The Lambda context, if the adapter passes it on.
            header: The Lambda Web Adapter's header, if there is one. A client can send it to a
                server outside Lambda, so it counts only on Lambda.

        Returns:
            What is known of it, with a deadline at most `max_wait_seconds` from now. None outside
            Lambda, where a check ends with no request's deadline and continues after a 503.
        """
        latest = time.time() + self.max_wait_seconds
        if has_deadline(context):
            remaining = context.get_remaining_time_in_millis() / 1000  # type: ignore[attr-defined]
            deadline = time.time() + remaining
            request_id = str(getattr(context, "aws_request_id", None) or "")
        elif is_on_lambda():
            deadline, request_id = _parse_header(header)
        else:
            return None
        deadline = deadline if deadline < latest else latest  # a header may say NaN
        return _InvocationContext(deadline, request_id)

    def describe_status(self) -> str:
        """The body of the response at the health path.

        Outside Lambda a health check also starts the check, so that a server without traffic gets
        ready. On Lambda it is the adapter's readiness check, during initialization, where no
        deadline is known.
        """
        if not self.guard.is_open and not is_on_lambda():
            self.background.start(None)
        return json.dumps({"status": "ready" if self.guard.is_open else "not ready"})


def _parse_header(header: str | bytes | None) -> tuple[float, str]:
    """The deadline in seconds since the epoch, infinite if there is none; the request's id."""
    try:
        values = json.loads(header or "{}")
        deadline = float(values.get("deadline") or values["deadline_ms"]) / 1000
        return deadline, str(values.get("request_id") or "")
    except (ValueError, TypeError, KeyError, AttributeError):
        return float("inf"), ""


class _InvocationContext:
    """As much of a Lambda context as an adapter passes on."""

    def __init__(self, deadline: float, request_id: str) -> None:
        self.aws_request_id = request_id
        self._deadline = deadline

    def get_remaining_time_in_millis(self) -> int:
        """As Lambda's context has it."""
        return max(0, round((self._deadline - time.time()) * 1000))


def retry_after(error: MigrateError) -> str:
    """The value of a Retry-After header, in seconds."""
    return str(max(1, round(getattr(error, "retry_after_seconds", 10.0))))
