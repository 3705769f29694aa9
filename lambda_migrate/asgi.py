"""`MigrateMiddleware` for ASGI applications: FastAPI, Starlette, Django, Litestar and others.

Around the application, in front of Mangum, the Lambda Web Adapter or a server::

    from lambda_migrate.asgi import MigrateMiddleware

    app = FastAPI()
    app.add_middleware(MigrateMiddleware)

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
    from collections.abc import Awaitable, Callable, MutableMapping

    from typing_extensions import Unpack

    from lambda_migrate.errors import MigrateError
    from lambda_migrate.runner import MigrationRunner
    from lambda_migrate.settings_arguments import SettingsArguments

    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
    Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
    Application = Callable[[Scope, Receive, Send], Awaitable[None]]

__all__ = ["MigrateMiddleware"]

_CONTEXT_HEADER = CONTEXT_HEADER.encode()
_TRY_AGAIN_LATER = 1013
"""The WebSocket close code "Try Again Later" (IANA's WebSocket registries)."""


class MigrateMiddleware:
    """Serves requests once the schema is ready, and 503 with Retry-After until then.

    The server listens immediately. The first request starts one check, however many come; requests
    wait for it, each until the deadline of its Lambda invocation or for ``max_wait_seconds``. Once
    the schema is ready, a request costs one attribute lookup more.

    The check is not made at the lifespan's start: Mangum runs the lifespan in every invocation, and
    a server does not listen before it.

    Args:
        app: The ASGI application.
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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, as ASGI calls an application."""
        check = self._check
        if self._health_path and scope["type"] == "http" and self._is_health_check(scope):
            await _respond(send, 200, check.describe_status())
            return
        if self._guard.is_open or scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        header = next((v for k, v in scope.get("headers", ()) if k == _CONTEXT_HEADER), None)
        context = check.make_context(scope.get("aws.context"), header)
        error = await check.background.wait_async(context, seconds=check.max_wait_seconds)
        if error is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()  # the connection; it is refused by closing it before it is accepted
            await send({"type": "websocket.close", "code": _TRY_AGAIN_LATER})
        else:
            await _respond_unavailable(send, error)

    def _is_health_check(self, scope: Scope) -> bool:
        # With a root path, servers and adapters disagree on whether the path contains it.
        return scope["path"] in (self._health_path, scope.get("root_path", "") + self._health_path)


async def _respond_unavailable(send: Send, error: MigrateError) -> None:
    await _respond(send, 503, UNAVAILABLE_BODY, (b"retry-after", retry_after(error).encode()))


async def _respond(send: Send, status: int, body: str, *headers: tuple[bytes, bytes]) -> None:
    content = body.encode()
    own = (b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))
    await send({"type": "http.response.start", "status": status, "headers": [*own, *headers]})
    await send({"type": "http.response.body", "body": content})
