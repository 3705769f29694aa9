"""An empty database for a test, with helpers for holders, migrations and second sessions."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lambda_migrate.clock import Deadline
from lambda_migrate.database_address import DatabaseAddress
from lambda_migrate.manifest_digest import compute_checksum
from lambda_migrate.migrations import HistoryRow, Migration, Script
from lambda_migrate.migrations.version import Version
from lambda_migrate.postgresql.connection import Connection, connect
from lambda_migrate.postgresql.database import PostgreSQLDatabase
from lambda_migrate.postgresql.ports import LeaseGrant
from lambda_migrate.postgresql.session import PostgreSQLSession

MAJORS = (14, 15, 16, 17, 18)
NEWEST = 18
TIMEOUT_SECONDS = 20.0
"""Seconds after which a test that waits for something gives up."""


class Always:
    """Chance that always says the same, so that pauses are short."""

    def __init__(self, value: float = 0.05) -> None:
        self._value = value

    def random(self) -> float:
        return self._value


def migration(
    up: str,
    version: int = 1,
    *,
    down: str | None = None,
    non_transactional: bool = False,
    down_non_transactional: bool = False,
    line: int = 1,
) -> Migration:
    """One migration, as if read from ``NNNN_m.sql``."""
    name = f"{version:04}_m"
    return Migration(
        version,
        name,
        Script(up, line, transactional=not non_transactional),
        None if down is None else Script(down, 7, transactional=not down_non_transactional),
        compute_checksum(f"{up}{down}"),
        f"migrations/{name}.sql",
    )


def soon(seconds: float = TIMEOUT_SECONDS) -> Deadline:
    return Deadline.after(seconds)


def until(condition: Callable[[], Any]) -> Any:
    """Wait until something is true, and return it."""
    give_up = time.monotonic() + TIMEOUT_SECONDS
    while not (value := condition()):
        assert time.monotonic() < give_up, "it never came true"
        time.sleep(0.01)
    return value


class Running(threading.Thread):
    """A call in a thread of its own; `outcome` is what it returned or raised."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self.result: Any = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self._call()
        except Exception as error:  # noqa: BLE001 - whatever it is, the test looks at it
            self.result = error

    def outcome(self) -> Any:
        self.join(TIMEOUT_SECONDS)
        assert not self.is_alive(), "it never ended"
        return self.result


@dataclass(frozen=True)
class ServerURL:
    """A server, by an address on it."""

    address: DatabaseAddress

    def connect(self, name: str = "test") -> Connection:
        return connect(self.address, application_name=name, timeout=TIMEOUT_SECONDS)

    def execute(self, sql: str) -> list[list[Any]]:
        with self.connect() as connection:
            return connection.run(sql, timeout=TIMEOUT_SECONDS)


@dataclass(frozen=True)
class EmptyDatabase(ServerURL):
    """An empty database."""

    def database(self, **changes: Any) -> PostgreSQLDatabase:
        """The database under test; a ``lock_timeout`` of 0.2 s unless a test sets another."""
        changes.setdefault(
            "connect",
            lambda name, seconds: connect(self.address, application_name=name, timeout=seconds),
        )
        changes.setdefault("lock_timeout_seconds", 0.2)
        return PostgreSQLDatabase(self.address.text, random=Always(), **changes)

    @contextmanager
    def holder(
        self,
        fence: int = 1,
        owner: str = "me",
        *,
        deadline: Deadline | None = None,
        terminate_holders: bool = True,
        grant: dict[str, Any] | None = None,
        **changes: Any,
    ) -> Iterator[PostgreSQLSession]:
        """A holder under a fence of its own."""
        right = LeaseGrant(**{"target": "shop", "fence": fence, "owner": owner, **(grant or {})})
        with self.database(**changes).open_session(
            right, deadline or soon(), terminate_holders=terminate_holders
        ) as session:
            yield session

    def apply(self, *migrations: Migration, fence: int = 1, **changes: Any) -> None:
        """Take over and apply."""
        with self.holder(fence, **changes) as session:
            for one in migrations:
                session.apply(one, f"digest-{one.version}", soon())
            session.record_environment()

    def history(self) -> list[HistoryRow]:
        return self.database().read_history(soon())

    def versions(self) -> list[Version]:
        return [row.version for row in self.history()]

    def states(self) -> dict[Version, str]:
        return {row.version: row.state.value for row in self.history()}

    def has(self, relation: str) -> bool:
        return bool(self.execute(f"SELECT to_regclass('{relation}') IS NOT NULL")[0][0])

    def column(self, sql: str) -> list[Any]:
        return [row[0] for row in self.execute(sql)]

    def is_running(self, text: str) -> bool:
        """Whether some other session runs a statement that contains ``text``."""
        return bool(self.pids(f"state = 'active' AND query LIKE '%{text}%'"))

    def pids(self, condition: str) -> Sequence[int]:
        return self.column(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
            f" AND pid <> pg_backend_pid() AND {condition}"
        )

    def holders(self) -> Sequence[int]:
        return self.pids("application_name LIKE 'lambda-migrate:%'")

    def terminate(self, pid: int) -> None:
        self.execute(f"SELECT pg_terminate_backend({pid}, 5000)")

    def is_valid(self, index: str) -> bool | None:
        rows = self.execute(
            f"SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('{index}')"
        )
        return bool(rows[0][0]) if rows else None
