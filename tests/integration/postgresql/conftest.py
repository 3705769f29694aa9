"""Real servers of every supported major version; a fresh database for every test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from lambda_migrate.database_address import parse_url
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL

from .dry_runs import SHOP
from .empty_database import MAJORS, NEWEST, EmptyDatabase, ServerURL

_SETTINGS = {"deadlock_timeout": "100ms", "max_connections": "60"}


@pytest.fixture(scope="session")
def servers() -> Iterator[Callable[[int], str]]:
    """URL of a server by its major version, started when first asked for."""
    with ExitStack() as stack:
        urls: dict[int, str] = {}

        def url(major: int) -> str:
            if given := os.environ.get("LAMBDA_MIGRATE_TEST_DATABASE_URL"):
                return given
            if major not in urls:
                # A missing version fails here, with the command that installs it.
                server = LocalPostgreSQL(major=major, settings=_SETTINGS)
                urls[major] = stack.enter_context(server).url()
            return urls[major]

        yield url


@pytest.fixture(scope="session")
def databases() -> Iterator[Callable[[str], ServerURL]]:
    """One database of ours on each server, used by test after test."""
    with ExitStack() as stack:
        made: dict[str, ServerURL] = {}

        def database(url: str) -> ServerURL:
            if url not in made:
                server = ServerURL(parse_url(url))
                name = f"lm_test_{os.getpid()}"
                server.execute(f"CREATE DATABASE {name}")
                stack.callback(server.execute, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
                made[url] = ServerURL(server.address.replace(database=name))
            return made[url]

        yield database


_EMPTY = """
    SET client_min_messages = error;
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
      AND backend_type = 'client backend';
    DO $$ DECLARE name text; BEGIN
        FOR name IN SELECT nspname FROM pg_namespace
            WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' LOOP
            EXECUTE format('DROP SCHEMA %I CASCADE', name);
        END LOOP;
        EXECUTE format('ALTER DATABASE %I RESET ALL', current_database());
    END $$;
    CREATE SCHEMA public; GRANT USAGE ON SCHEMA public TO PUBLIC
"""


def _db(database: ServerURL) -> EmptyDatabase:
    with database.connect() as connection:
        connection.run("SET default_transaction_read_only = off")
        connection.run(_EMPTY)
    return EmptyDatabase(database.address)


Servers = Callable[[int], str]
Databases = Callable[[str], ServerURL]


@pytest.fixture
def db(servers: Servers, databases: Databases) -> EmptyDatabase:
    """An empty database on the newest version."""
    return _db(databases(servers(NEWEST)))


@pytest.fixture
def shop(db: EmptyDatabase) -> EmptyDatabase:
    """Customers and orders, for dry runs."""
    db.execute(SHOP)
    return db


@pytest.fixture(params=MAJORS, ids=lambda major: f"pg{major}")
def each_db(
    request: pytest.FixtureRequest, servers: Servers, databases: Databases
) -> EmptyDatabase:
    """An empty database on each version in turn."""
    return _db(databases(servers(request.param)))
