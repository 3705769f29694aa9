"""Orders: a small API behind API Gateway that migrates its schema on cold start.

=======  ========================  ==============================================================
POST     ``/orders``               places an order: ``{"email", "item", "quantity", "unit_cents"}``
GET      ``/orders?email=...``     lists the newest 20 orders of a customer
GET      ``/orders/<order_id>``    returns an order
DELETE   ``/orders/<order_id>``    cancels an order; idempotent
=======  ========================  ==============================================================
"""

from __future__ import annotations

import functools
import json
import os
import ssl
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import pg8000.native
from aws_lambda_powertools import Logger, Metrics, Tracer
from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, Response
from aws_lambda_powertools.event_handler.exceptions import BadRequestError, NotFoundError
from aws_lambda_powertools.logging import correlation_paths
from aws_lambda_powertools.metrics import MetricUnit
from pg8000.exceptions import DatabaseError, InterfaceError

from lambda_migrate import migrate_on_cold_start

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

logger = Logger()
metrics = Metrics()
tracer = Tracer(patch_modules=("botocore",))  # by default it imports every library it can trace
api = APIGatewayHttpResolver()


@functools.cache
def get_order_repository() -> OrderRepository:
    """The repository on the only database connection of this environment.

    The first request connects, not the import: an environment that waits for the schema has no
    connection.
    """
    return OrderRepository(connect())


_TRANSIENT_SQLSTATES = ("53", "57P")
"""Prefixes: insufficient resources (no connection is left), the server starts or shuts down."""


@api.exception_handler([InterfaceError, DatabaseError])  # type: ignore[untyped-decorator]  # Powertools has no type for it
def report_unavailable(error: InterfaceError | DatabaseError) -> Response[dict[str, Any]]:
    """Return 503 if the connection is lost; the next request connects again."""
    if isinstance(error, DatabaseError) and not _get_sqlstate(error).startswith(
        _TRANSIENT_SQLSTATES
    ):
        raise error
    get_order_repository.cache_clear()
    logger.exception("PostgreSQL is unavailable")
    return Response(
        HTTPStatus.SERVICE_UNAVAILABLE,
        content_type="application/json",
        headers={"Retry-After": "1"},
        body={"message": "The service is not available. Please try again."},
    )


def _get_sqlstate(error: DatabaseError) -> str:
    fields = error.args[0] if error.args else None
    return str(fields.get("C", "")) if isinstance(fields, dict) else ""


@api.post("/orders")
@tracer.capture_method
def place_order() -> Response[dict[str, Any]]:
    """Place an order; add the customer if the email address is new."""
    order = get_order_repository().place(**_parse_order(api.current_event.body))
    metrics.add_metric(name="OrdersPlaced", unit=MetricUnit.Count, value=1)
    logger.info("order placed", order_id=order["order_id"])
    return Response(HTTPStatus.CREATED, content_type="application/json", body=order)


@api.get("/orders")
@tracer.capture_method
def list_orders() -> dict[str, Any]:
    """List a customer's newest orders."""
    email = (api.current_event.query_string_parameters or {}).get("email", "")
    listed = get_order_repository().list_for_customer(_parse_email(email))
    metrics.add_metric(name="OrdersRead", unit=MetricUnit.Count, value=len(listed))
    return {"orders": listed}


@api.get("/orders/<order_id>")
@tracer.capture_method
def get_order(order_id: str) -> dict[str, Any]:
    """Return an order."""
    order = _require_order(get_order_repository().get(_parse_order_id(order_id)), order_id)
    metrics.add_metric(name="OrdersRead", unit=MetricUnit.Count, value=1)
    return order


@api.delete("/orders/<order_id>")
@tracer.capture_method
def cancel_order(order_id: str) -> dict[str, Any]:
    """Cancel an order; does nothing if it is cancelled already."""
    order = _require_order(get_order_repository().cancel(_parse_order_id(order_id)), order_id)
    metrics.add_metric(name="OrdersCancelled", unit=MetricUnit.Count, value=1)
    return order


@logger.inject_lambda_context(correlation_id_path=correlation_paths.API_GATEWAY_HTTP)
@tracer.capture_lambda_handler
@metrics.log_metrics
@migrate_on_cold_start
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Lambda's handler."""
    return api.resolve(event, context)


# -- validation -----------------------------------------------------------------------------------


def _parse_order(body: str | None) -> dict[str, Any]:
    try:
        order = json.loads(body or "")
    except ValueError:
        raise BadRequestError("the body must be JSON") from None
    if not isinstance(order, dict):
        raise BadRequestError("the body must be a JSON object")
    return {
        "email": _parse_email(order.get("email")),
        "item": _parse_text(order.get("item"), name="item"),
        "quantity": _parse_integer(order.get("quantity", 1), name="quantity", minimum=1),
        "unit_cents": _parse_integer(order.get("unit_cents"), name="unit_cents", minimum=0),
    }


def _parse_email(value: Any) -> str:
    text = _parse_text(value, name="email")
    if "@" not in text:
        raise BadRequestError("email must be an email address")
    return text.lower()


def _parse_text(value: Any, *, name: str) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise BadRequestError(f"{name} must be a non-empty string")
    return value.strip()


_MAX_INTEGER = 1_000_000  # quantity times price still fits a bigint


def _parse_integer(value: Any, *, name: str, minimum: int) -> int:
    if (
        not isinstance(value, int)
        or isinstance(value, bool)
        or not minimum <= value <= _MAX_INTEGER
    ):
        raise BadRequestError(f"{name} must be an integer from {minimum} to {_MAX_INTEGER}")
    return value


def _parse_order_id(order_id: str) -> int:
    if not (order_id.isascii() and order_id.isdigit() and len(order_id) <= 18):
        raise NotFoundError(f"order {order_id} does not exist")
    return int(order_id)


def _require_order(order: dict[str, Any] | None, order_id: str) -> dict[str, Any]:
    if order is None:
        raise NotFoundError(f"order {order_id} does not exist")
    return order


# -- connection -----------------------------------------------------------------------------------
#
# On a workstation DATABASE_URL has host, user and password. In AWS the host comes from
# LAMBDA_MIGRATE_DATABASE_URL, and user and password from the secret ORDERS_DATABASE_SECRET: a role
# that serves orders but owns no table (see roles.sql).


APPLICATION_NAME = "orders"
"""The name of the connection in ``pg_stat_activity``."""

_AWS_TIMEOUT_SECONDS = 3
_POSTGRESQL_TIMEOUT_SECONDS = 25
"""For connecting and for each statement; an HTTP API waits up to 30 s."""

_LOOPBACK = ("", "localhost", "127.0.0.1", "::1")


def connect() -> pg8000.native.Connection:
    """Connect to ``postgresql://user:password@host:port/name``, or ``?host=/socket/directory``."""
    secret = os.environ.get("ORDERS_DATABASE_SECRET")
    parts = urlsplit(os.environ["LAMBDA_MIGRATE_DATABASE_URL" if secret else "DATABASE_URL"])
    parameters = parse_qs(parts.query)
    port = parts.port or int(parameters.get("port", ["5432"])[0])
    directory = parameters.get("host", [""])[0]
    server = (
        {"unix_sock": f"{directory}/.s.PGSQL.{port}"} if directory else {"host": parts.hostname}
    )
    user, password = _fetch_credentials(secret) if secret else _parse_credentials(parts)
    return pg8000.native.Connection(
        user,
        database=unquote(parts.path.lstrip("/")),
        password=password,
        port=port,
        application_name=APPLICATION_NAME,
        ssl_context=_make_tls_context("" if directory else parts.hostname or ""),
        timeout=_POSTGRESQL_TIMEOUT_SECONDS,
        tcp_keepalive=not directory,
        **server,
    )


def _parse_credentials(parts: SplitResult) -> tuple[str, str | None]:
    password = None if parts.password is None else unquote(parts.password)
    return unquote(parts.username or ""), password


def _fetch_credentials(secret: str) -> tuple[str, str]:
    """Read user and password from a secret in the format of RDS."""
    from aws_lambda_powertools.utilities.parameters import SecretsProvider
    from botocore.config import Config

    config = Config(connect_timeout=_AWS_TIMEOUT_SECONDS, read_timeout=_AWS_TIMEOUT_SECONDS)
    content: Any = SecretsProvider(boto_config=config).get(secret, transform="json")
    return content["username"], content["password"]


def _make_tls_context(host: str) -> ssl.SSLContext | bool:
    """Verify the server's certificate and host name, except on this machine.

    lambda-migrate verifies against the same certificates. pg8000 on its own verifies nothing.
    """
    if host in _LOOPBACK:
        return False
    # Since Python 3.13 ssl.create_default_context rejects certificates of some private authorities.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    file = os.environ.get("LAMBDA_MIGRATE_SSLROOTCERT") or "system"
    if file == "system":
        context.load_default_certs()
    else:
        context.load_verify_locations(file)
    return context


# -- queries --------------------------------------------------------------------------------------
#
# They use only the columns of version 1 of the schema, so this code runs before, during and after
# the migration to version 2, and after a rollback.


_ORDER_COLUMNS = "o.id, c.email, o.item, o.quantity, o.unit_cents, o.status::text"


class OrderRepository:
    """The table of orders with its customers.

    Args:
        connection: Used by no other code.
    """

    def __init__(self, connection: pg8000.native.Connection) -> None:
        self._connection = connection

    def place(self, *, email: str, item: str, quantity: int, unit_cents: int) -> dict[str, Any]:
        """Insert an order, and its customer if the email address is new."""
        return self._fetch_rows(
            f"""
            WITH c AS (
                INSERT INTO customers (email) VALUES (:email)
                ON CONFLICT (email) DO UPDATE SET email = excluded.email
                RETURNING id, email
            ), o AS (
                INSERT INTO orders (customer_id, item, quantity, unit_cents)
                SELECT c.id, :item, :quantity, :unit_cents FROM c
                RETURNING *
            )
            SELECT {_ORDER_COLUMNS} FROM o, c
            """,  # noqa: S608 - a constant list of columns
            email=email,
            item=item,
            quantity=quantity,
            unit_cents=unit_cents,
        )[0]

    def list_for_customer(self, email: str) -> list[dict[str, Any]]:
        """List the newest 20 orders of a customer, newest first."""
        return self._fetch_rows(
            f"""
            SELECT {_ORDER_COLUMNS} FROM orders o JOIN customers c ON c.id = o.customer_id
            WHERE c.email = :email ORDER BY o.created_at DESC, o.id DESC LIMIT 20
            """,  # noqa: S608 - a constant list of columns
            email=email,
        )

    def get(self, order_id: int) -> dict[str, Any] | None:
        """Return an order, or None."""
        rows = self._fetch_rows(
            f"""
            SELECT {_ORDER_COLUMNS} FROM orders o JOIN customers c ON c.id = o.customer_id
            WHERE o.id = :order_id
            """,  # noqa: S608 - a constant list of columns
            order_id=order_id,
        )
        return rows[0] if rows else None

    def cancel(self, order_id: int) -> dict[str, Any] | None:
        """Cancel an order and return it; None if it does not exist."""
        rows = self._fetch_rows(
            f"""
            UPDATE orders o SET status = 'cancelled' FROM customers c
            WHERE o.id = :order_id AND c.id = o.customer_id
            RETURNING {_ORDER_COLUMNS}
            """,  # noqa: S608 - a constant list of columns
            order_id=order_id,
        )
        return rows[0] if rows else None

    def _fetch_rows(self, sql: str, **parameters: Any) -> list[dict[str, Any]]:
        return [_serialize_order(*row) for row in self._connection.run(sql, **parameters)]


def _serialize_order(
    order_id: int, email: str, item: str, quantity: int, unit_cents: int, status: str
) -> dict[str, Any]:
    return {
        "order_id": order_id,
        "email": email,
        "item": item,
        "quantity": quantity,
        "unit_cents": unit_cents,
        "total_cents": quantity * unit_cents,
        "status": status,
    }
