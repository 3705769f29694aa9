"""A shop's customers and orders after some years, as COPY takes them. Pure: the same for a seed.

Real data is uneven, and migrations that are quick on even data are slow on it: a few customers have
most of the orders (Zipf), amounts are log-normal, business grows, sleeps at night and rests on
Mondays, what is optional is mostly NULL, names come in every script, and a few values are far
longer than anybody had thought.

Only `random.Random.random` is drawn from: Python promises that its sequence stays the same.
"""

from __future__ import annotations

import hashlib
import math
import random
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from itertools import accumulate
from statistics import NormalDist

__all__ = ["CUSTOMERS", "ORDERS", "Shop", "checksum"]

CUSTOMERS = "customers (id, email, name, created_at, credit_cents)"
ORDERS = "orders (id, customer_id, item, quantity, unit_cents, status, note, created_at)"
"""Where the rows of `Shop.customers` and `Shop.orders` go."""

GUEST = 1
"""The customer that the example's first migration makes; all others come after."""

_CHUNK = 2_000
"""Rows in one message of COPY."""

_DAYS = 1_200
_GROWTH = 0.0022
"""Of the business in a day: tenfold in three years."""

_WEEK = (0.7, 0.95, 1.0, 1.05, 1.3, 1.35, 0.95)
"""From Monday to Sunday."""

_HOURS = (2, 1, 1, 1, 1, 2, 4, 7, 10, 12, 13, 14, 16, 14, 13, 13, 14, 16, 19, 22, 22, 17, 10, 5)

_ZIPF = 1.05
_PER_CUSTOMER = 8
_PRODUCTS = 400

_NAMES = (
    *("Ada Lovelace", "José Núñez", "Zoë O'Brien", "Łukasz Żółć", "Nguyễn Thị Ánh", "Søren Ørsted"),
    *("Γεωργία Παπαδοπούλου", "Пётр Ильич", "Ķristīne Bērziņa", "İbrahim Çağlar", "محمد الفاتح"),
    *("שרה כהן", "नरेन्द्र शर्मा", "สมชาย ใจดี", "王小明", "佐藤 花子", "김민준", "Ọlá Adébáyọ̀"),
    *(
        "d'Artagnan",
        "Robert'); DROP TABLE customers;--",
        "Anne-Marie\u00a0Weiß",
        "X Æ A-12",
        "👩‍🚀 Mae",
    ),
    *("Back\\slash", "Tab\there", "Jean\nLuc", " Leading Space", "e\u0301 decomposed", "null"),
)
_LONG_NAME = "Wolfeschlegelsteinhausenbergerdorff" * 40

_ADJECTIVES = ("green", "black", "rolled", "smoked", "white", "old", "spiced", "first-flush")
_THINGS = ("tea", "Crème brûlée", "kettle", "抹茶", "Thé à la menthe", "чай", "cup ☕", "tin")
_LONG_ITEM = "assortment of " + "tea, " * 2_000

_NOTES = (
    *("please ring twice", "", "leave it with the neighbour", "für Oma 🎂", "急いでください"),
    *("no sugar\\no milk", "second floor\nleft", "اتصل قبل التوصيل", "n/a", "NULL"),
)
_LONG_NOTE = "The quick brown fox jumps over the lazy dog. " * 450


@dataclass(frozen=True)
class Shop:
    """So many orders, and whoever placed them.

    Attributes:
        orders: How many.
        seed: Chooses everything that is left to chance.
        until: The day after the last order.

    Raises:
        ValueError: Fewer than no orders.
    """

    orders: int
    seed: int
    until: date

    def __post_init__(self) -> None:
        if self.orders < 0:
            raise ValueError(f"{self.orders} orders: write a number from 0")

    @property
    def customers(self) -> int:
        """How many; many of them never ordered anything."""
        return max(1, self.orders // _PER_CUSTOMER)

    def email(self, turn: int) -> str:
        """The address of one of the customers, each turn another one, from all over the table."""
        return _email(GUEST + 1 + (turn * _coprime(self.customers)) % self.customers)

    def copy_customers(self) -> Iterator[bytes]:
        """Rows of `CUSTOMERS`, in the text format of COPY, some thousand at a time."""
        return _chunks(self._customer_rows())

    def copy_orders(self) -> Iterator[bytes]:
        """Rows of `ORDERS`, likewise; ids and times ascend together."""
        return _chunks(self._order_rows())

    # -- when, and by whom ------------------------------------------------------------------------

    @cached_property
    def _moments(self) -> array[float]:
        """When each order was placed: seconds since the first day, ascending."""
        chance = self._chance("moments")
        busy = [self._weight(day) for day in range(_DAYS)]
        day_of, hour_of = _drawer(busy), _drawer(_HOURS)
        moments = (
            day_of(chance()) * 86_400.0 + hour_of(chance()) * 3_600.0 + chance() * 3_600.0
            for _ in range(self.orders)
        )
        return array("d", sorted(moments))

    def _weight(self, day: int) -> float:
        return math.exp(_GROWTH * day) * _WEEK[(self._first_day + timedelta(day)).weekday()]

    @property
    def _first_day(self) -> date:
        return self.until - timedelta(_DAYS)

    @cached_property
    def _buyers(self) -> array[int]:
        """Who placed each order. The great ones are scattered among the small."""
        chance, count = self._chance("buyers"), self.customers
        rank_of = _drawer([1 / rank**_ZIPF for rank in range(1, count + 1)])
        step = _coprime(count)
        return array("q", (self._customer(rank_of(chance()), step) for _ in range(self.orders)))

    def _customer(self, rank: int, step: int) -> int:
        return GUEST + 1 + (rank * step) % self.customers

    # -- rows -------------------------------------------------------------------------------------

    def _customer_rows(self) -> Iterator[str]:
        chance, stamp = self._chance("customers"), _Stamps(self._first_day)
        joined = self._joined()
        name_of, names = _uneven(chance, len(_NAMES)), [_escaped(name) for name in _NAMES]
        for number, first in enumerate(joined):
            customer = GUEST + 1 + number
            at = first if first is not None else chance() * _DAYS * 86_400
            draw = chance()
            name = names[name_of()] if draw > 0.22 else "\\N"  # some never told theirs
            if draw < 0.00005:
                name = _LONG_NAME
            credit = 500 if chance() < 0.3 else 0
            email = _email(customer, "+" + "tag." * 50 if draw > 0.9999 else "")
            yield f"{customer}\t{email}\t{name}\t{stamp(at)}\t{credit}\n"

    def _joined(self) -> list[float | None]:
        """When each customer came: a little before the first order; None without one."""
        chance = self._chance("joined")
        joined: list[float | None] = [None] * self.customers
        for buyer, at in zip(self._buyers, self._moments, strict=True):
            if joined[buyer - GUEST - 1] is None:
                joined[buyer - GUEST - 1] = max(0.0, at - chance() * 3_600)
        return joined

    def _order_rows(self) -> Iterator[str]:
        chance, stamp = self._chance("orders"), _Stamps(self._first_day)
        product_of, items = self._products(chance)
        cents = _log_normal(median=1_450, spread=0.9)
        notes, long_note = [_escaped(note) for note in _NOTES], _escaped(_LONG_NOTE)
        for order, (at, buyer) in enumerate(zip(self._moments, self._buyers, strict=True), 1):
            draw = chance()
            quantity = 1 if draw < 0.7 else 1 + int(-math.log(1.0000001 - chance()) * 3) % 500
            price = 0 if draw > 0.997 else cents(chance())
            status = "cancelled" if chance() < 0.04 else "placed"
            draw = chance()
            note = notes[int(draw * 100) % len(notes)] if draw < 0.12 else "\\N"
            if draw > 0.99998:
                note = long_note
            item = items[product_of(chance())]
            yield (
                f"{order}\t{buyer}\t{item}\t{quantity}\t{price}\t{status}\t{note}\t{stamp(at)}\n"
            )

    def _products(self, chance: Callable[[], float]) -> tuple[Callable[[float], int], list[str]]:
        """A few sell well, most hardly; one has a name of ten thousand letters."""
        items = [
            f"{_ADJECTIVES[int(chance() * len(_ADJECTIVES))]} "
            f"{_THINGS[int(chance() * len(_THINGS))]} no. {number}"
            for number in range(_PRODUCTS)
        ]
        weights = [1 / rank for rank in range(1, _PRODUCTS + 1)]
        return _drawer([*weights, 0.00002 * sum(weights)]), [*items, _LONG_ITEM]

    def _chance(self, what: str) -> Callable[[], float]:
        """A sequence of its own for each purpose: one more column leaves the others as they are."""
        return random.Random(f"{self.seed} {what}").random  # noqa: S311 - it is to be repeatable


def checksum(chunks: Iterable[bytes]) -> str:
    """SHA-256 of all rows, in hexadecimal."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def _chunks(rows: Iterator[str]) -> Iterator[bytes]:
    held: list[str] = []
    for row in rows:
        held.append(row)
        if len(held) == _CHUNK:
            yield "".join(held).encode()
            held.clear()
    if held:
        yield "".join(held).encode()


def _drawer(weights: Sequence[float]) -> Callable[[float], int]:
    """From a number below 1 to a position, each as often as its weight says."""
    bounds = list(accumulate(weights))
    total, last = bounds[-1], len(bounds) - 1
    return lambda draw: min(bisect_left(bounds, draw * total), last)


def _uneven(chance: Callable[[], float], count: int) -> Callable[[], int]:
    return lambda: int(chance() ** 1.7 * count)


_STEPS = 4_096


def _log_normal(*, median: float, spread: float) -> Callable[[float], int]:
    """From a number below 1 to whole cents, by a table of quantiles."""
    normal = NormalDist()
    table = [
        min(999_999, round(median * math.exp(spread * normal.inv_cdf((step + 0.5) / _STEPS))))
        for step in range(_STEPS)
    ]
    return lambda draw: table[int(draw * _STEPS)]


def _coprime(count: int) -> int:
    """A step that visits every one of ``count`` places."""
    return next(
        step for step in range(int(count * 0.618) + 1, 2 * count + 2) if math.gcd(step, count) == 1
    )


def _email(customer: int, tag: str = "") -> str:
    return f"buyer{customer}{tag}@example.{('com', 'org', 'net')[customer % 3]}"


_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def _escaped(text: str) -> str:
    return text.translate(_ESCAPES)


class _Stamps:
    """Seconds since a day, as PostgreSQL reads a timestamp."""

    def __init__(self, first: date) -> None:
        self._days = [str(first + timedelta(day)) for day in range(_DAYS + 1)]

    def __call__(self, seconds: float) -> str:
        day, rest = divmod(seconds, 86_400)
        minutes, second = divmod(rest, 60)
        hour, minute = divmod(int(minutes), 60)
        return f"{self._days[int(day)]} {hour:02d}:{minute:02d}:{second:06.3f}+00"
