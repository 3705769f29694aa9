"""The migrations that every tool applies: the same statements in the same order."""

from __future__ import annotations

from typing import NamedTuple

LONG_SECONDS = 3


class MigrationSource(NamedTuple):
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
    statements = {1: "CREATE TABLE effects (migration integer NOT NULL)"}
    statements[2] = "CREATE TABLE accounts AS SELECT 0 AS balance"
    statements[6] = statements[15] = "UPDATE accounts SET balance = balance + 1"
    statements[10] = f"SELECT pg_sleep({LONG_SECONDS})"
    migrations = []
    for version in range(1, 16 if pending else 6):
        table = f"CREATE TABLE storm_{version} (id bigint PRIMARY KEY, name text)"
        effect = f"INSERT INTO effects VALUES ({version})"  # noqa: S608 - a number
        both = (statements.get(version, table), *([effect] if version > 5 else []))
        migrations.append(MigrationSource(version, f"step_{version}", both))
    return migrations
