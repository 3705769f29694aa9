"""The migrations that every tool applies: the same statements in the same order."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LONG_SECONDS", "MigrationSource", "small_migrations", "storm_migrations"]

LONG_SECONDS = 3.0
"""How long the long one of `storm_migrations` takes."""


@dataclass(frozen=True, slots=True)
class MigrationSource:
    """One migration, for any tool."""

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


def small_migrations(count: int) -> list[MigrationSource]:
    """A table, then a row, and so on."""
    migrations = []
    for n in range(1, count + 1):
        table = f"things_{(n + 1) // 2}"
        creates = f"CREATE TABLE {table} (id bigint PRIMARY KEY, name text)"
        inserts = f"INSERT INTO {table} VALUES ({n}, 'the first')"  # noqa: S608 - our own names
        migrations.append(MigrationSource(n, f"step_{n}", (creates if n % 2 else inserts,)))
    return migrations


def storm_migrations(*, pending: bool) -> list[MigrationSource]:
    """Five migrations, and ten more that are pending in the storm, one of them long.

    Each of the ten records its effect. Two add to a balance: a second time, that does not fail.
    """
    applied = [
        MigrationSource(number, name, (statement,))
        for number, (name, statement) in enumerate(_APPLIED, 1)
    ]
    if not pending:
        return applied
    return applied + [
        MigrationSource(number, name, (statement, f"INSERT INTO effects VALUES ({number})"))  # noqa: S608 - a number
        for number, (name, statement) in enumerate(_PENDING, len(_APPLIED) + 1)
    ]


_APPLIED = (
    ("effects", "CREATE TABLE effects (migration integer NOT NULL)"),
    ("accounts", "CREATE TABLE accounts AS SELECT 1 AS id, 0 AS balance"),
    ("customers", "CREATE TABLE customers (id bigint PRIMARY KEY, email text)"),
    ("orders", "CREATE TABLE orders (id bigint PRIMARY KEY, customer bigint)"),
    ("orders_by_customer", "CREATE INDEX orders_by_customer ON orders (customer)"),
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
