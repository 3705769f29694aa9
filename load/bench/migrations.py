"""The migrations that every peer applies: the same statements in the same order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["LONG_SECONDS", "Change", "simple", "small", "storm"]

LONG_SECONDS = 3.0
"""How long the long one of `storm` takes."""


@dataclass(frozen=True, slots=True)
class Change:
    """One migration."""

    version: int
    name: str
    statements: tuple[str, ...]

    @property
    def stem(self) -> str:
        """Its file's name, without the ending."""
        return f"{self.version:04}_{self.name}"

    @property
    def script(self) -> str:
        """Its statements as one text."""
        return "".join(f"{statement};\n" for statement in self.statements)


def simple(count: int) -> list[Change]:
    """Small tables, all of them applied before anything is measured."""
    return [
        Change(n, f"things_{n}", (f"CREATE TABLE things_{n} (id bigint PRIMARY KEY, name text)",))
        for n in range(1, count + 1)
    ]


def small(count: int) -> list[Change]:
    """A table, then a row, and so on."""
    changes = []
    for n in range(1, count + 1):
        table = f"things_{(n + 1) // 2}"
        creates = f"CREATE TABLE {table} (id bigint PRIMARY KEY, name text)"
        inserts = f"INSERT INTO {table} VALUES ({n}, 'the first')"  # noqa: S608 - our own names
        changes.append(Change(n, f"step_{n}", (creates if n % 2 else inserts,)))
    return changes


def storm(*, pending: bool) -> list[Change]:
    """Five migrations, and ten more that are pending in the storm, one of them long.

    Each of the ten records its effect. Two add to a balance: a second time, that does not fail.
    """
    changes = [*_FIRST]
    if pending:
        changes += [
            Change(number, name, (statement, f"INSERT INTO effects VALUES ({number})"))  # noqa: S608 - a number
            for number, (name, statement) in enumerate(_PENDING, len(_FIRST) + 1)
        ]
    return changes


_FIRST: Sequence[Change] = (
    Change(1, "effects", ("CREATE TABLE effects (migration integer NOT NULL)",)),
    Change(
        2,
        "accounts",
        (
            "CREATE TABLE accounts (id bigint PRIMARY KEY, balance bigint NOT NULL)",
            "INSERT INTO accounts VALUES (1, 0)",
        ),
    ),
    Change(3, "customers", ("CREATE TABLE customers (id bigint PRIMARY KEY, email text)",)),
    Change(4, "orders", ("CREATE TABLE orders (id bigint PRIMARY KEY, customer bigint)",)),
    Change(5, "orders_by_customer", ("CREATE INDEX orders_by_customer ON orders (customer)",)),
)

_PENDING = (
    ("credit", "UPDATE accounts SET balance = balance + 1 WHERE id = 1"),
    ("add_total", "ALTER TABLE orders ADD COLUMN total bigint NOT NULL DEFAULT 0"),
    ("items", "CREATE TABLE items (id bigint PRIMARY KEY, name text)"),
    ("items_by_name", "CREATE INDEX items_by_name ON items (name)"),
    ("long", f"SELECT pg_sleep({LONG_SECONDS:g})"),
    ("first_item", "INSERT INTO items VALUES (1, 'tea')"),
    ("invoices", "CREATE TABLE invoices (id bigint PRIMARY KEY, number text)"),
    ("add_paid", "ALTER TABLE invoices ADD COLUMN paid boolean NOT NULL DEFAULT false"),
    ("unpaid", "CREATE INDEX unpaid ON invoices (id) WHERE NOT paid"),
    ("credit_again", "UPDATE accounts SET balance = balance + 1 WHERE id = 1"),
)
