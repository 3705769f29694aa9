"""`MigrateMiddleware` for WSGI applications: Flask, Django, Bottle and others.

Around the application, in front of apig-wsgi, serverless-wsgi, Zappa, the Lambda Web Adapter or a
server::

    from lambda_migrate.wsgi import MigrateMiddleware

    app = Flask(__name__)
    app.wsgi_app = MigrateMiddleware(app.wsgi_app)

Importing this module loads neither boto3 nor pg8000, nor a framework.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lambda_migrate.http_check import (
    CONTEXT_HEADER,
    MAX_WAIT_SECONDS,
    UNAVAILABLE_BODY,
    HTTPCheck,
    retry_after,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from typing_extensions import Unpack

    from lambda_migrate.runner import MigrationRunner
    from lambda_migrate.settings_arguments import SettingsArguments

    Environ = dict[str, Any]
    StartResponse = Callable[..., Any]
    Application = Callable[[Environ, StartResponse], Iterable[bytes]]

__all__ = ["MigrateMiddleware"]

_CONTEXT_KEYS = ("apig_wsgi.context", "lambda.context", "serverless.context", "awsgi.context")
"""Where apig-wsgi, Zappa, serverless-wsgi and aws-wsgi keep the Lambda context."""

_CONTEXT_HEADER = "HTTP_" + CONTEXT_HEADER.upper().replace("-", "_")


class MigrateMiddleware:
    """Serves requests once the schema is ready, and 503 with Retry-After until then.

    The server listens immediately. The first request starts one check, however many threads serve;
    requests wait for it, each until the deadline of its Lambda invocation or for
    ``max_wait_seconds``. Once the schema is ready, a request costs one attribute lookup more.

    Args:
        app: The WSGI application.
        runner: A `MigrationRunner` of your own, instead of settings.
        health_path: A path that the middleware answers with 200, even while the schema is not
            ready, for the readiness check of the Lambda Web Adapter or of a load balancer; "" for
            none.
        max_wait_seconds: How long a request waits at most before it gets 503.
        **settings: See `Settings`.

    Raises:
        ConfigurationError: An argument has an unknown name or an unusable value; or, from a
            request, a setting is wrong.
    """

    def __init__(
        self,
        app: Application,
        *,
        runner: MigrationRunner | None = None,
        health_path: str = "",
        max_wait_seconds: float = MAX_WAIT_SECONDS,
        **settings: Unpack[SettingsArguments],
    ) -> None:
        self.app = app
        self._check = HTTPCheck(
            runner, health_path=health_path, max_wait_seconds=max_wait_seconds, settings=settings
        )
        self._guard = self._check.guard
        self._health_path = health_path

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request, as WSGI calls an application."""
        check = self._check
        if self._health_path and environ.get("PATH_INFO") == self._health_path:
            return _respond(environ, start_response, "200 OK", check.describe_status())
        if self._guard.is_open:
            return self.app(environ, start_response)
        passed_on = next((environ[key] for key in _CONTEXT_KEYS if key in environ), None)
        context = check.make_context(passed_on, environ.get(_CONTEXT_HEADER))
        error = check.background.wait(context, seconds=check.max_wait_seconds)
        if error is None:
            return self.app(environ, start_response)
        header = ("Retry-After", retry_after(error))
        status = "503 Service Unavailable"
        return _respond(environ, start_response, status, UNAVAILABLE_BODY, header)


def _respond(
    environ: Environ,
    start_response: StartResponse,
    status: str,
    body: str,
    *headers: tuple[str, str],
) -> Iterable[bytes]:
    content = body.encode()
    own = ("Content-Type", "application/json"), ("Content-Length", str(len(content)))
    start_response(status, [*own, *headers])
    return [] if environ.get("REQUEST_METHOD") == "HEAD" else [content]
