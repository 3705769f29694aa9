"""No password, token or row of user data appears in an error, log line, event or item."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lambda_migrate.cli.invocation import CommandInvocation, CommonOptions
from lambda_migrate.clock import Deadline
from lambda_migrate.database_address import parse_url
from lambda_migrate.engine.target import Policy, Target
from lambda_migrate.errors import MigrationFailed
from lambda_migrate.lease.memory import InMemoryLeaseStore
from lambda_migrate.migrations import Manifest
from lambda_migrate.migrations.sql.excerpt import redact
from lambda_migrate.postgresql.connection import (
    ConnectionFailed,
    PostgresError,
    _ConnectAttempt,
    connect,
)
from lambda_migrate.postgresql.credentials import IAMCredentials, SecretCredentials, URLCredentials
from lambda_migrate.runner import MigrationRunner
from lambda_migrate.settings import Settings
from lambda_migrate.testing import RecordingObserver
from tests.integration.postgresql.empty_database import EmptyDatabase, migration

PASSWORD = "hunter2-Tr0ub4dor"
PERSON = "alice@example.com"


def chain(error: BaseException) -> str:
    """What Python, a Logger and a terminal print of an error, and of those that it came from."""
    return "".join(traceback.format_exception(error)) + str(error) + repr(error)


def test_no_repr_shows_a_password() -> None:
    url = f"postgresql://app:{PASSWORD}@127.0.0.1:1/d"
    settings = Settings.load({}, database_url=url)
    address = parse_url(url)
    attempt = _ConnectAttempt(
        address=address,
        application_name="x",
        startup={},
        deadline=Deadline.after(1),
        seconds=1,
    )
    shown = [
        settings,
        settings.address,
        address,
        attempt,
        URLCredentials(address),
        IAMCredentials(address),
        SecretCredentials("arn", address=address),
        CommonOptions(database_url=url),
        CommandInvocation(CommonOptions(database_url=url), environ={}),
    ]
    for value in shown:
        assert PASSWORD not in f"{value!r} {value}"


def test_a_refused_connection_shows_no_password() -> None:
    address = parse_url(f"postgresql://app:{PASSWORD}@127.0.0.1:1/d")
    with pytest.raises(ConnectionFailed) as caught:
        connect(address, application_name="x", timeout=5)
    assert PASSWORD not in chain(caught.value)


# --- rows of a user's table

SCRIPTS = {
    "a duplicate key, whose DETAIL quotes the row": (
        f"CREATE TABLE people (email text UNIQUE); INSERT INTO people VALUES ('{PERSON}');"
        f"INSERT INTO people SELECT email FROM people",
        "23505",
    ),
    "a failed check, whose DETAIL quotes the row": (
        f"CREATE TABLE people (email text CHECK (email = ''));INSERT INTO people SELECT '{PERSON}'",
        "23514",
    ),
    "a foreign key, whose DETAIL quotes the key": (
        "CREATE TABLE people (email text PRIMARY KEY);"
        f"CREATE TABLE orders AS SELECT '{PERSON}'::text AS email;"
        "ALTER TABLE orders ADD FOREIGN KEY (email) REFERENCES people",
        "23503",
    ),
    "a value of the wrong type, which the message quotes": (
        f"CREATE TABLE people AS SELECT '{PERSON}'::text AS email;"
        "ALTER TABLE people ALTER email TYPE int USING email::int",
        "22P02",
    ),
    "a value of the wrong type that holds quotation marks": (
        f"""CREATE TABLE people AS SELECT '"{PERSON}" "x'::text AS email;"""
        "ALTER TABLE people ALTER email TYPE int USING email::int",
        "22P02",
    ),
    "JSON that is none, which the DETAIL quotes": (
        f"CREATE TABLE people AS SELECT '{PERSON}'::text AS email;"
        "ALTER TABLE people ALTER email TYPE json USING email::json",
        "22P02",
    ),
    "a date that is none": (
        f"CREATE TABLE people AS SELECT '{PERSON}'::text AS born;"
        "ALTER TABLE people ALTER born TYPE date USING born::date",
        "22007",
    ),
}


class FailingTarget:
    """A target with a real database, and a record of everything that other instances can read."""

    def __init__(self, db: EmptyDatabase) -> None:
        self.store = InMemoryLeaseStore()
        self.observer = RecordingObserver()
        self._target = Target(
            "orders",
            store=self.store,
            database=db.database(),
            policy=Policy(),
            observer=self.observer,
        )

    def fail(self, manifest: Manifest) -> MigrationFailed:
        with pytest.raises(MigrationFailed) as caught:
            MigrationRunner(manifest, self._target).ensure(Deadline.after(20.0))
        return caught.value

    @property
    def reported(self) -> str:
        """Every event and the item."""
        return repr(self.observer.events) + repr(self.store.state)


@pytest.mark.parametrize("kind", SCRIPTS)
def test_user_data_reaches_no_item_event_or_other_instance(db: EmptyDatabase, kind: str) -> None:
    """The instance that tried raises the whole report, once."""
    script, sqlstate = SCRIPTS[kind]
    target = FailingTarget(db)
    manifest = Manifest([migration(script)])
    tried = target.fail(manifest)
    repeated = target.fail(manifest)
    assert tried.sqlstate == repeated.sqlstate == sqlstate
    assert tried.cause == repeated.cause
    assert PERSON not in tried.summary + tried.cause
    assert PERSON not in chain(repeated)
    assert PERSON not in target.reported
    assert sqlstate in target.reported


def test_an_error_is_not_chained_to_the_drivers_error(db: EmptyDatabase) -> None:
    """pg8000's error shows all fields: DETAIL and context would stand in every traceback again."""
    with db.connect() as connection, pytest.raises(PostgresError) as caught:
        connection.run(
            f"CREATE TEMP TABLE t (e text UNIQUE); INSERT INTO t VALUES ('{PERSON}'), ('{PERSON}')"
        )
    assert PERSON in caught.value.detail
    assert PERSON not in chain(caught.value)
    assert "pg8000" not in chain(caught.value).rpartition("Traceback")[2].partition("PostgresE")[2]


@contextmanager
def role(db: EmptyDatabase) -> Iterator[str]:
    yield "secretive"
    db.execute("DROP ROLE IF EXISTS secretive")


@pytest.mark.parametrize(
    "script",
    [
        f"CREATE ROLE secretive PASSWORD '{PASSWORD}' NONSENSE",
        f"CREATE ROLE secretive PASSWORD '{PASSWORD}'; CREATE ROLE secretive",
        f"CREATE ROLE secretive; ALTER ROLE secretive WITH PASSWORD '{PASSWORD}' VALID UNTIL 'x'",
        f"DO $$ BEGIN RAISE EXCEPTION 'postgresql://app:{PASSWORD}@h/d is away'; END $$",
        f"DO $$ BEGIN RAISE EXCEPTION 'no' USING DETAIL = 'password={PASSWORD}'; END $$",
        f"SELECT 'postgresql://app:{PASSWORD}@h/d'::int",
    ],
)
def test_a_password_in_a_script_is_in_no_error_and_no_item(db: EmptyDatabase, script: str) -> None:
    with role(db):
        target = FailingTarget(db)
        failed = target.fail(Manifest([migration(script)]))
        assert PASSWORD not in str(failed) + failed.cause + failed.detail
        assert PASSWORD not in target.reported


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://app:{PASSWORD}@host/d",
        f"postgres://app:{PASSWORD}@@host/d",
        f"postgres://app:a@{PASSWORD}@host/d",
        f"host=h password={PASSWORD} user=app",
        f"password = '{PASSWORD}'",
        f"PGPASSWORD={PASSWORD} psql",
    ],
)
def test_a_password_is_redacted_wherever_sql_is_quoted(text: str) -> None:
    assert PASSWORD not in redact(text)


def test_an_error_about_an_argument_hides_the_password_of_a_url(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from lambda_migrate.cli import main

    for form in ("table", "json"):
        url = f"postgresql://app:{PASSWORD}@h/d"
        for arguments in (["status", url], ["--database-url", url, "status"], [url]):
            assert main([*arguments, "--format", form]) == 2
    written = capsys.readouterr()
    assert PASSWORD not in written.out + written.err


def test_a_replaced_address_does_not_show_its_password() -> None:
    address = parse_url("postgresql://app@h/d").replace(password=PASSWORD)
    as_text: dict[str, Any] = {"address": address}
    assert PASSWORD not in str(as_text)
