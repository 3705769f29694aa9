"""Customers and orders of the example after some years, made in PostgreSQL; the same for a seed.

Real data is uneven, and migrations that are quick on even data are slow on it: a few customers have
most of the orders (Zipf), amounts are log-normal, business grows, what is optional is mostly NULL,
names come in every script, and a few values are very long.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date
from itertools import count
from typing import Any

from lambda_migrate.local.demo.example import get_order, place_order, read_order_id
from lambda_migrate.local.runtime.environment import InvocationResult
from lambda_migrate.postgresql.sql_fragments import quote_literal
from load.storm.scenarios import Orders

_FIRST_CUSTOMER = 2
"""Id of the first customer; 1 is the guest that the example's first migration makes."""

_DAYS = 1_200
_ORDERS_PER_CUSTOMER = 8

_NAMES = (
    *("Ada Lovelace", "Zoë O'Brien", "Пётр Ильич", "محمد الفاتح", "王小明", "👩‍🚀 Mae"),
    *("Robert'); DROP TABLE customers;--", "Back\\slash", "Tab\there", "null"),
)
_NOTES = ("please ring twice", "", "für Oma 🎂", "急いでください", "no sugar\\no milk", "NULL")

_ORDERS = """
INSERT INTO orders (id, customer_id, item, quantity, unit_cents, status, note, created_at)
OVERRIDING SYSTEM VALUE
SELECT row_number() OVER (ORDER BY at, n),
    -- Zipf: a rank k is drawn with a probability of about 1/k; ranks are scattered over the ids.
    {first} + floor(exp(pg_temp.u('buyer', n) * ln({customers} + 1)))::bigint
        * {step} % {customers},
    CASE WHEN pg_temp.u('long item', n) < 0.00005 THEN 'assortment of ' || repeat('tea, ', 2000)
        ELSE 'tea no. ' || floor(exp(pg_temp.u('product', n) * ln(400))) END,
    1 + least(499, floor(-ln(1 - pg_temp.u('quantity', n)))),
    CASE WHEN pg_temp.u('free', n) > 0.997 THEN 0 ELSE least(999999, round(1450 * exp(
        0.9 * sqrt(-2 * ln(1 - pg_temp.u('radius', n)))
        * cos(2 * pi() * pg_temp.u('angle', n))))) END,
    (CASE WHEN pg_temp.u('status', n) < 0.04 THEN 'cancelled' ELSE 'placed' END)::order_status,
    CASE WHEN pg_temp.u('long note', n) < 0.00005
        THEN repeat('The quick brown fox jumps over the lazy dog. ', 450)
        WHEN pg_temp.u('note', n) < 0.12
        THEN ({notes})[1 + floor(pg_temp.u('which note', n) * {note_count})] END,
    at
FROM (
    SELECT n, timestamptz '{until} 00:00+00' - interval '1 second'
        - power(pg_temp.u('day', n), 2) * interval '{days} days' AS at
    FROM generate_series(1, {orders}) AS n
) AS drawn
"""

_CUSTOMERS = """
INSERT INTO customers (id, email, name, created_at, credit_cents)
OVERRIDING SYSTEM VALUE
SELECT n,
    'buyer' || n || '@example.com',
    CASE WHEN pg_temp.u('long name', n) < 0.00005 THEN repeat('Wolfeschlegelstein', 80)
        WHEN pg_temp.u('named', n) > 0.22
        THEN ({names})[1 + floor(power(pg_temp.u('name', n), 1.7) * {name_count})] END,
    coalesce(first_order - pg_temp.u('joined', n) * interval '1 hour',
        timestamptz '{until} 00:00+00' - pg_temp.u('visited', n) * interval '{days} days'),
    CASE WHEN pg_temp.u('credit', n) < 0.3 THEN 500 ELSE 0 END
FROM generate_series({first}, {last}) AS n
LEFT JOIN (SELECT customer_id, min(created_at) AS first_order FROM orders GROUP BY 1) AS o
    ON o.customer_id = n
"""

_CREATE_UNIFORM = """
CREATE OR REPLACE FUNCTION pg_temp.u(purpose text, n bigint) RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (hashtextextended(purpose || n, {seed}) & 9007199254740991)::float8 / 9007199254740992
$$
"""


@dataclass(frozen=True)
class GeneratedOrders:
    """Orders of the example, and their customers."""

    orders: int  # how many
    seed: int  # the same seed gives the same data
    until: date  # the day after the last order

    @property
    def customers(self) -> int:
        """How many; many of them never ordered anything."""
        return max(1, self.orders // _ORDERS_PER_CUSTOMER)

    def email(self, customer_number: int) -> str:
        """The address of a customer: each number is another one, from all over the table."""
        customer = _FIRST_CUSTOMER + customer_number * _coprime(self.customers) % self.customers
        return f"buyer{customer}@example.com"

    def fill(self, run: Callable[[str], object]) -> None:
        """Insert the rows into the example's tables, in one script.

        As pg_restore does, foreign keys are not checked row by row; a check checks all of them.
        """
        values = {
            "orders": self.orders,
            "customers": self.customers,
            "step": _coprime(self.customers),
            "first": _FIRST_CUSTOMER,
            "last": _FIRST_CUSTOMER + self.customers - 1,
            "until": self.until,
            "days": _DAYS,
            "names": _array(_NAMES),
            "name_count": len(_NAMES),
            "notes": _array(_NOTES),
            "note_count": len(_NOTES),
        }
        script = [
            _CREATE_UNIFORM.format(seed=int(self.seed)),
            "SET session_replication_role = replica",
            _ORDERS.format(**values),
            _CUSTOMERS.format(**values),
        ]
        for table in ("customers", "orders"):
            newest = f"(SELECT greatest(max(id), 1) FROM {table})"  # noqa: S608 - two names of our own
            script.append(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), {newest})")
        run("; ".join(script))


@dataclass(frozen=True, slots=True)
class GeneratedOrdersPackage(Orders):
    """The example, whose clients are customers of `generated`, one after another."""

    generated: GeneratedOrders = field(kw_only=True)
    _customer_numbers: Iterator[int] = field(default_factory=count, compare=False, repr=False)

    def event(self, kind: str, subject: int) -> Any:
        """See `Package.event`."""
        if kind == "read":
            return get_order(subject)
        event = place_order()
        email = self.generated.email(next(self._customer_numbers))
        return {**event, "body": json.dumps({**json.loads(event["body"]), "email": email})}

    def read_confirmed_orders(self, results: Iterable[InvocationResult]) -> list[int]:
        """Ids of the orders that were confirmed to a client."""
        return [
            read_order_id(result)
            for result in results
            if isinstance(result.payload, dict) and result.payload.get("statusCode") == 201
        ]


def _array(texts: Iterable[str]) -> str:
    return f"ARRAY[{', '.join(map(quote_literal, texts))}]"


def _coprime(count: int) -> int:
    """A step that visits every one of ``count`` places."""
    return next(
        step for step in range(int(count * 0.618) + 1, 2 * count + 2) if math.gcd(step, count) == 1
    )
