"""Orders: a small API behind API Gateway, on a schema that is ready before the first order.

=======  ========================  ==============================
POST     ``/orders``               ``{"email", "item", "quantity", "unit_cents"}`` -> 201
GET      ``/orders?email=...``     the newest 20 of a customer
GET      ``/orders/<order_id>``    one of them
DELETE   ``/orders/<order_id>``    cancels it; twice is once
=======  ========================  ==============================
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
tracer = Tracer(patch_modules=("botocore",))  # by default it loads every driver it can trace
api = APIGatewayHttpResolver()


@functools.cache
def orders() -> Orders:
    """The table of orders, on this environment's one connection.

    Opened by the first order and not at import: an environment that still waits for the schema
    holds no connection.
    """
    return Orders(connect())


_PASSING = ("53", "57P")
"""Beginnings of SQLSTATEs that say "not now": no connection is left, the server goes or comes."""


@api.exception_handler([InterfaceError, DatabaseError])  # type: ignore[untyped-decorator]  # theirs
def say_again_later(error: InterfaceError | DatabaseError) -> Response[dict[str, Any]]:
    """Answer 503 where the connection is lost; the next order opens another."""
    if isinstance(error, DatabaseError) and not _sqlstate(error).startswith(_PASSING):
        raise error
    orders.cache_clear()
    logger.exception("PostgreSQL is not to be had")
    return Response(
        HTTPStatus.SERVICE_UNAVAILABLE,
        content_type="application/json",
        headers={"Retry-After": "1"},
        body={"message": "The service is not available. Please try again."},
    )


def _sqlstate(error: DatabaseError) -> str:
    said = error.args[0] if error.args else None
    return str(said.get("C", "")) if isinstance(said, dict) else ""


@api.post("/orders")
@tracer.capture_method
def place_order() -> Response[dict[str, Any]]:
    """Place an order; the customer is made if the address is new."""
    order = orders().place(**_checked(_json(api.current_event.body)))
    metrics.add_metric(name="OrdersPlaced", unit=MetricUnit.Count, value=1)
    logger.info("order placed", order_id=order["order_id"])
    return Response(HTTPStatus.CREATED, content_type="application/json", body=order)


@api.get("/orders")
@tracer.capture_method
def list_orders() -> dict[str, Any]:
    """List a customer's newest orders."""
    email = (api.current_event.query_string_parameters or {}).get("email", "")
    found = orders().of_customer(_email(email))
    metrics.add_metric(name="OrdersRead", unit=MetricUnit.Count, value=len(found))
    return {"orders": found}


@api.get("/orders/<order_id>")
@tracer.capture_method
def get_order(order_id: str) -> dict[str, Any]:
    """Show one order."""
    order = _found(orders().get(_number(order_id)), order_id)
    metrics.add_metric(name="OrdersRead", unit=MetricUnit.Count, value=1)
    return order


@api.delete("/orders/<order_id>")
@tracer.capture_method
def cancel_order(order_id: str) -> dict[str, Any]:
    """Cancel an order; one that is cancelled stays so."""
    order = _found(orders().cancel(_number(order_id)), order_id)
    metrics.add_metric(name="OrdersCancelled", unit=MetricUnit.Count, value=1)
    return order


@logger.inject_lambda_context(correlation_id_path=correlation_paths.API_GATEWAY_HTTP)
@tracer.capture_lambda_handler
@metrics.log_metrics
@migrate_on_cold_start
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Lambda's entry."""
    return api.resolve(event, context)


# -- what clients send ----------------------------------------------------------------------------


def _json(body: str | None) -> Any:
    try:
        return json.loads(body or "")
    except ValueError:
        raise BadRequestError("the body must be JSON") from None


def _checked(body: Any) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise BadRequestError("the body must be a JSON object")
    return {
        "email": _email(body.get("email")),
        "item": _text(body.get("item"), name="item"),
        "quantity": _count(body.get("quantity", 1), name="quantity", least=1),
        "unit_cents": _count(body.get("unit_cents"), name="unit_cents", least=0),
    }


def _email(value: Any) -> str:
    text = _text(value, name="email")
    if "@" not in text:
        raise BadRequestError("email must be an address")
    return text.lower()


def _text(value: Any, *, name: str) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise BadRequestError(f"{name} must be a text")
    return value.strip()


_MOST = 1_000_000  # times itself it is still a bigint


def _count(value: Any, *, name: str, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _MOST:
        raise BadRequestError(f"{name} must be a whole number from {least} to {_MOST}")
    return value


def _number(order_id: str) -> int:
    if not (order_id.isascii() and order_id.isdigit() and len(order_id) <= 18):
        raise NotFoundError(f"there is no order {order_id}")
    return int(order_id)


def _found(order: dict[str, Any] | None, order_id: str) -> dict[str, Any]:
    if order is None:
        raise NotFoundError(f"there is no order {order_id}")
    return order


# -- where the database is, and as whom we come --------------------------------------------------
#
# On a workstation DATABASE_URL says both. In AWS LAMBDA_MIGRATE_DATABASE_URL says where, and the
# secret that ORDERS_DATABASE_SECRET names says as whom: a role that serves orders and owns nothing
# (roles.sql).


APPLICATION_NAME = "orders"
"""What ``pg_stat_activity`` shows for our connections."""

_AWS_SECONDS = 3
_SECONDS = 25
"""For connecting, and for each answer: a little less than an HTTP API waits for us."""

_LOOPBACK = ("", "localhost", "127.0.0.1", "::1")


def connect() -> pg8000.native.Connection:
    """Connect to ``postgresql://user:password@host:port/name``, or ``?host=/socket/directory``."""
    secret = os.environ.get("ORDERS_DATABASE_SECRET")
    parts = urlsplit(os.environ["LAMBDA_MIGRATE_DATABASE_URL" if secret else "DATABASE_URL"])
    parameters = parse_qs(parts.query)
    port = parts.port or int(parameters.get("port", ["5432"])[0])
    directory = parameters.get("host", [""])[0]
    place = {"unix_sock": f"{directory}/.s.PGSQL.{port}"} if directory else {"host": parts.hostname}
    user, password = _login_of(secret) if secret else _login_in(parts)
    return pg8000.native.Connection(
        user,
        database=unquote(parts.path.lstrip("/")),
        password=password,
        port=port,
        application_name=APPLICATION_NAME,
        ssl_context=_tls("" if directory else parts.hostname or ""),
        timeout=_SECONDS,
        tcp_keepalive=not directory,
        **place,
    )


def _login_in(parts: SplitResult) -> tuple[str, str | None]:
    password = None if parts.password is None else unquote(parts.password)
    return unquote(parts.username or ""), password


def _login_of(secret: str) -> tuple[str, str]:
    """User and password of a secret in the RDS format."""
    from aws_lambda_powertools.utilities.parameters import SecretsProvider
    from botocore.config import Config

    config = Config(connect_timeout=_AWS_SECONDS, read_timeout=_AWS_SECONDS)
    content: Any = SecretsProvider(boto_config=config).get(secret, transform="json")
    return content["username"], content["password"]


def _tls(host: str) -> ssl.SSLContext | bool:
    """Off this machine, verify the server's certificate and name, as lambda-migrate does.

    By the same file of certificates; pg8000 by itself would verify nothing.
    """
    if host in _LOOPBACK:
        return False
    # ssl.create_default_context demands, since Python 3.13, what a private authority may leave out.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    file = os.environ.get("LAMBDA_MIGRATE_SSLROOTCERT") or "system"
    if file == "system":
        context.load_default_certs()
    else:
        context.load_verify_locations(file)
    return context


# -- the orders in PostgreSQL ---------------------------------------------------------------------
#
# Only what version 1 of the schema has is read and written: while version 2 migrates, and after it
# was rolled back, the environments that run this code go on unharmed.


_COLUMNS = "o.id, c.email, o.item, o.quantity, o.unit_cents, o.status::text"


class Orders:
    """The table of orders with its customers.

    Args:
        connection: Ours alone.
    """

    def __init__(self, connection: pg8000.native.Connection) -> None:
        self._connection = connection

    def place(self, *, email: str, item: str, quantity: int, unit_cents: int) -> dict[str, Any]:
        """Store an order, and its customer if the address is new."""
        return self._rows(
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
            SELECT {_COLUMNS} FROM o, c
            """,  # noqa: S608 - a constant list of columns
            email=email,
            item=item,
            quantity=quantity,
            unit_cents=unit_cents,
        )[0]

    def of_customer(self, email: str) -> list[dict[str, Any]]:
        """The newest 20 of a customer, the newest first."""
        return self._rows(
            f"""
            SELECT {_COLUMNS} FROM orders o JOIN customers c ON c.id = o.customer_id
            WHERE c.email = :email ORDER BY o.created_at DESC, o.id DESC LIMIT 20
            """,  # noqa: S608 - a constant list of columns
            email=email,
        )

    def get(self, order_id: int) -> dict[str, Any] | None:
        """One order, or None."""
        rows = self._rows(
            f"""
            SELECT {_COLUMNS} FROM orders o JOIN customers c ON c.id = o.customer_id
            WHERE o.id = :order_id
            """,  # noqa: S608 - a constant list of columns
            order_id=order_id,
        )
        return rows[0] if rows else None

    def cancel(self, order_id: int) -> dict[str, Any] | None:
        """Cancel an order and return it; None if there is none."""
        rows = self._rows(
            f"""
            UPDATE orders o SET status = 'cancelled' FROM customers c
            WHERE o.id = :order_id AND c.id = o.customer_id
            RETURNING {_COLUMNS}
            """,  # noqa: S608 - a constant list of columns
            order_id=order_id,
        )
        return rows[0] if rows else None

    def _rows(self, sql: str, **parameters: Any) -> list[dict[str, Any]]:
        return [_order(*row) for row in self._connection.run(sql, **parameters)]


def _order(
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
