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
from itertools import count
from pathlib import Path
from typing import Any

from lambda_migrate.local.demo.example import get_order, place_order, read_order_id
from lambda_migrate.local.runtime.environment import InvocationResult
from lambda_migrate.postgresql.sql_fragments import quote_literal
from load.storm.scenarios import OrdersPackage

_FIRST_CUSTOMER = 2  # by id; 1 is the guest that the example's first migration makes
_END_DATE, _DAYS = "2026-02-02", 1_200  # the day after the last order; days before it
_ORDERS_PER_CUSTOMER = 8

_NAMES = (
    *("Ada Lovelace", "Zoë O'Brien", "Пётр Ильич", "محمد الفاتح", "王小明", "👩‍🚀 Mae"),
    *("Robert'); DROP TABLE customers;--", "Back\\slash", "Tab\there", "null"),
)
_NOTES = ("please ring twice", "", "für Oma 🎂", "急いでください", "no sugar\\no milk", "NULL")


@dataclass(frozen=True)
class GeneratedOrders:
    """Orders of the example, and their customers."""

    order_count: int
    seed: int  # the same seed gives the same data

    @property
    def customer_count(self) -> int:
        """Many of them never ordered anything."""
        return max(1, self.order_count // _ORDERS_PER_CUSTOMER)

    def make_email(self, customer_number: int) -> str:
        """The address of a customer: each number is another one, from all over the table."""
        offset = customer_number * _find_coprime_step(self.customer_count) % self.customer_count
        return f"buyer{_FIRST_CUSTOMER + offset}@example.com"

    def insert_rows(self, run_script: Callable[[str], object]) -> None:
        """Insert the rows into the example's tables, in one script."""
        script = Path(__file__).with_suffix(".sql").read_text()
        run_script(
            script.format(
                seed=int(self.seed),
                orders=self.order_count,
                customers=self.customer_count,
                step=_find_coprime_step(self.customer_count),
                first=_FIRST_CUSTOMER,
                last=_FIRST_CUSTOMER + self.customer_count - 1,
                until=_END_DATE,
                days=_DAYS,
                names=_make_array(_NAMES),
                name_count=len(_NAMES),
                notes=_make_array(_NOTES),
                note_count=len(_NOTES),
            )
        )


@dataclass(frozen=True, slots=True)
class GeneratedOrdersPackage(OrdersPackage):
    """The example, whose clients are customers of `generated_orders`, one after another."""

    generated_orders: GeneratedOrders = field(kw_only=True)
    _customer_numbers: Iterator[int] = field(default_factory=count, compare=False, repr=False)

    def make_event(self, kind: str, subject: int) -> Any:
        """See `Package.make_event`."""
        if kind == "read":
            return get_order(subject)
        event = place_order()
        email = self.generated_orders.make_email(next(self._customer_numbers))
        return {**event, "body": json.dumps({**json.loads(event["body"]), "email": email})}

    def read_confirmed_orders(self, results: Iterable[InvocationResult]) -> list[int]:
        """Ids of the orders that were confirmed to a client."""
        return [
            read_order_id(result)
            for result in results
            if isinstance(result.payload, dict) and result.payload.get("statusCode") == 201
        ]


def _make_array(texts: Iterable[str]) -> str:
    return f"ARRAY[{', '.join(map(quote_literal, texts))}]"


def _find_coprime_step(count: int) -> int:
    """A step that visits every one of ``count`` places."""
    return next(
        step for step in range(int(count * 0.618) + 1, 2 * count + 2) if math.gcd(step, count) == 1
    )
