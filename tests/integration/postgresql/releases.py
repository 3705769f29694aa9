"""Releases through a pooler, while an application works through the same pool.

::

    python -m tests.integration.postgresql.releases --releases 200

Each release takes over under its own fence and applies a migration. Of every four releases, one
then fails in a script that leaves settings behind, one makes a dry run, and one dies without
closing its connection. The program counts the application's queries that were terminated, and the
settings in its sessions that a new session does not have. Both counts must be 0.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

from lambda_migrate.database_address import parse_url
from lambda_migrate.errors import MigrationFailed
from lambda_migrate.local.servers.pgbouncer import LocalPgBouncer, PoolMode
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL
from lambda_migrate.postgresql.connection import Connection, ConnectionLost, PostgresError
from lambda_migrate.postgresql.ports import LeaseGrant

from .empty_database import EmptyDatabase, ServerURL, migration, soon

LEFT = """
    SELECT array_to_string(array(
        SELECT name || ' = ' || setting FROM pg_settings
        WHERE source = 'session' AND setting IS DISTINCT FROM reset_val
          AND name NOT IN ('application_name', 'client_encoding', 'DateStyle', 'TimeZone',
                           'standard_conforming_strings')
        UNION ALL SELECT 'prepared ' || name FROM pg_prepared_statements
        UNION ALL SELECT 'cursor ' || name FROM pg_cursors WHERE is_holdable
        UNION ALL SELECT 'listens to ' || channel FROM pg_listening_channels() AS channel
        UNION ALL SELECT 'temporary ' || relname FROM pg_class
            WHERE relnamespace = pg_my_temp_schema() AND relkind = 'r'
        UNION ALL SELECT 'advisory lock' FROM pg_locks
            WHERE locktype = 'advisory' AND pid = pg_backend_pid()
        UNION ALL SELECT 'role ' || current_user WHERE current_user <> session_user
    ), '; ')"""
"""What a session has that is not there from its beginning. The settings left out are those that
PgBouncer gives each client back by itself."""

LEAVES_SESSION_STATE = """
    SET statement_timeout = '17s'; SET lock_timeout = '3s'; SET search_path = pg_temp;
    SET idle_in_transaction_session_timeout = '9s'; SET default_transaction_read_only = on;
    PREPARE left_one AS SELECT 1; CREATE TEMP TABLE left_two (id int); LISTEN left_three;
    DECLARE left_four CURSOR WITH HOLD FOR SELECT 1; SELECT pg_advisory_lock(4711);
    SET ROLE pg_monitor;
"""


@dataclass
class Counts:
    """What the application saw.

    Attributes:
        releases: How many were made.
        queries: How many of its queries were answered.
        ended: Those that were not, by the error.
        left: What it found in its sessions, by how often.
    """

    releases: int = 0
    queries: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)


class Application:
    """Threads that query through the pooler until they are stopped."""

    def __init__(self, pooled: ServerURL, counts: Counts, *, threads: int) -> None:
        self._pooled = pooled
        self._counts = counts
        self._guard = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(n,)) for n in range(threads)]

    def __enter__(self) -> Application:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _work(self, number: int) -> None:
        while not self._stop.is_set():
            try:
                with self._pooled.connect("application") as connection:
                    for _ in range(20):  # then another client has the session
                        self._query(connection, number)
                        if self._stop.is_set():
                            return
            except (ConnectionLost, PostgresError) as error:
                with self._guard:
                    self._counts.ended[str(error)] += 1

    def _query(self, connection: Connection, number: int) -> None:
        wait = 0.002 * (1 + number % 4)
        connection.run(f"BEGIN; SELECT pg_sleep({wait})", timeout=20)
        connection.run(f"SELECT pg_sleep({wait}); COMMIT", timeout=20)
        ((found,),) = connection.run(LEFT, timeout=20)
        with self._guard:
            self._counts.queries += 3
            if found:
                self._counts.left[found] += 1


def release(pooled: EmptyDatabase, number: int) -> None:
    """One, through the pooler."""
    session = pooled.database().open_session(
        LeaseGrant("shop", number, f"release {number}"), soon()
    )
    with session:
        one = migration(f"CREATE TABLE IF NOT EXISTS t{number % 50} (id int)", number)
        session.apply(one, "digest", soon())
        if number % 4 == 1:
            with suppress(MigrationFailed):
                session.apply(
                    migration(f"{LEAVES_SESSION_STATE} SELECT 1/0", number + 10_000), "d", soon()
                )
        elif number % 4 == 2:
            session.apply(migration(LEAVES_SESSION_STATE, number + 10_000), "d", soon())
        elif number % 4 == 3:
            session._connection.begin(soon())
            session.abort()  # dies in a transaction
    if number % 4 == 0:
        grant = LeaseGrant("shop", number + 1, "dry run")
        with pooled.database().begin_dry_run(grant, soon()) as dry_run:
            dry_run.run_migration(migration(LEAVES_SESSION_STATE, number + 10_000), soon())
            dry_run.roll_back()


def releases(pool_mode: PoolMode, *, count: int, threads: int = 4) -> Counts:
    """Make ``count`` releases beside an application of so many threads."""
    counts = Counts()
    sizes = {"default_pool_size": str(threads + 2)}
    with (
        LocalPostgreSQL(tcp_port=0, databases=["shop"]) as server,
        LocalPgBouncer(server, pool_mode=pool_mode, settings=sizes) as pooler,
    ):
        pooled = EmptyDatabase(parse_url(pooler.url("shop")))
        with Application(pooled, counts, threads=threads):
            for number in range(1, count + 1):
                release(pooled, number)
                counts.releases += 1
            time.sleep(0.3)
    return counts


def main() -> int:
    """Print the counts of both pool modes; 1 if one of them is not 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.integration.postgresql.releases")
    parser.add_argument("--releases", type=int, default=200)
    parser.add_argument("--threads", type=int, default=4)
    given = parser.parse_args()
    failed = False
    modes: tuple[PoolMode, ...] = ("session", "transaction")
    for mode in modes:
        began = time.monotonic()
        counts = releases(mode, count=given.releases, threads=given.threads)
        found = (counts.ended + counts.left).most_common(10)
        sys.stdout.write(
            f"{mode}: {counts.releases} releases, {counts.queries} queries in"
            f" {time.monotonic() - began:.0f} s; ended: {counts.ended.total()}; left behind:"
            f" {counts.left.total()}\n" + "".join(f"  {n} x {what}\n" for what, n in found)
        )
        sys.stdout.flush()
        failed |= bool(counts.ended or counts.left)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
