"""No name, search path or session makes our statements do anything else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from uuid import uuid4

import pytest

from lambda_migrate.database_address import DEFAULT_SCHEMA
from lambda_migrate.errors import ConfigurationError, LeaseHeld
from lambda_migrate.migrations import Migration, RowState
from lambda_migrate.postgresql.connection import Connection, PostgresError
from lambda_migrate.postgresql.queries import Queries
from lambda_migrate.postgresql.sql_fragments import (
    SAFE_SEARCH_PATH,
    application_name,
    quote_identifier,
    quote_literal,
)
from tests.integration.postgresql.empty_database import (
    MAJORS,
    EmptyDatabase,
    ServerURL,
    migration,
    soon,
)

from .hostile import CONTROL_CHARACTERS, SQL

NAMES = {
    **SQL,
    **{k: v for k, v in CONTROL_CHARACTERS.items() if k != "tag"},
    "63 bytes": "\u017c" * 31 + '"',
}


def run_every_statement(db: EmptyDatabase, *, schema: str = DEFAULT_SCHEMA) -> None:
    """Every kind of statement of ours, from the first to the last."""
    rows = [
        migration("CREATE TABLE a (x int)", 1, down="DROP TABLE a"),
        migration(
            "CREATE INDEX CONCURRENTLY i ON a (x)", 2, non_transactional=True, down="DROP INDEX i"
        ),
        migration("CREATE TYPE mood AS ENUM ('sad')", 3, down="DROP TYPE mood"),
        migration("ALTER TYPE mood ADD VALUE 'o''k'", 4, non_transactional=True),
        migration("REINDEX INDEX CONCURRENTLY i", 5, non_transactional=True),
        migration("DROP INDEX CONCURRENTLY i", 6, non_transactional=True),
    ]
    with db.holder(schema=schema) as session:
        for each in rows:
            session.apply(each, f"digest-{each.version}", soon())
        session.record_applied([(migration("SELECT 1", 7), "digest-7")], baseline=True)
        for version in (2, 4, 5, 6):  # as if interrupted
            row = next(row for row in session.read_history() if row.version == version)
            session.resolve_in_doubt(
                replace(row, state=RowState.STARTED, up=rows[version - 1].up), soon()
            )
        session.delete_rows([row.version for row in session.read_history() if row.version > 3])
        for row in reversed(session.read_history()):
            if row.version in (1, 3):
                session.roll_back(row, soon())
    db.database(schema=schema).read_history(soon())


@pytest.fixture
def victim(db: EmptyDatabase) -> Iterator[EmptyDatabase]:
    db.execute("CREATE TABLE victim (x int); INSERT INTO victim VALUES (1)")
    yield db
    assert db.column("SELECT x FROM victim") == [1]


@pytest.mark.parametrize("kind", NAMES)
def test_a_schema_name_is_quoted(victim: EmptyDatabase, kind: str) -> None:
    name = NAMES[kind]
    run_every_statement(victim, schema=name)
    listed = victim.column("SELECT nspname FROM pg_namespace WHERE nspname !~ '^(pg_|info)'")
    assert sorted(listed) == sorted(["public", name])


@pytest.mark.parametrize("kind", NAMES)
def test_the_history_returns_texts_unchanged(victim: EmptyDatabase, kind: str) -> None:
    text = NAMES[kind]
    one = Migration(
        1,
        text,
        migration(f"SELECT {quote_literal(text)}").up,
        migration(f"SELECT {quote_literal(text)}").up,
        text,
        text,
    )
    right = {"target": text, "environment": text, "request_id": text}
    with victim.holder(owner=text, grant=right) as session:
        session.apply(one, text, soon())
        session.record_environment()
        session.record_applied([(replace(one, version=2), text)], baseline=True)
    first, second = victim.history()
    for row in (first, second):
        assert (row.name, row.checksum, row.digest, row.owner) == (text,) * 4
        assert row.down == one.down
    stamped = victim.execute("SELECT owner, target, environment FROM lambda_migrate.fence")
    assert stamped == [[text, text, text]]
    with pytest.raises(ConfigurationError), victim.holder(2, grant={"target": text}):
        pass


@pytest.mark.parametrize("text", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("conforming", ["on", "off"])
def test_literals_and_identifiers_are_quoted(db: EmptyDatabase, text: str, conforming: str) -> None:
    """Whatever a script did to the session."""
    with db.connect() as connection:
        connection.run(f"SET standard_conforming_strings = {conforming}")
        rows = connection.run(f"SELECT {quote_literal(text)} AS {quote_identifier(text[:20])}")
    assert rows == [[text]]


@pytest.mark.parametrize("kind", NAMES)
def test_names_and_targets_are_quoted_where_sessions_are_terminated(
    victim: EmptyDatabase, kind: str
) -> None:
    """The name of a session is 63 bytes of ASCII to PostgreSQL, whatever the target is."""
    target = NAMES[kind]
    name = application_name(target, 10**18 - 1, 'sch"ema')
    assert name.isascii()
    assert len(name) <= 63
    with victim.connect(application_name(target, 1)) as namesake:
        with victim.holder(2, grant={"target": target}) as session:
            session.apply(migration("SELECT 1"), "d", soon())
            session._connection.run_non_transactional("VACUUM pg_class", soon())
        assert namesake.run("SELECT 1") == [[1]]


# --- CVE-2018-1058: another role's objects on the role's path

_TRAP = """
    CREATE FUNCTION evil.trap(what text) RETURNS void LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'hijacked: %', what; END $$;
"""
_HIJACKERS = {
    "pg_terminate_backend": "(int) RETURNS bool",
    "pg_terminate_backend ": "(int, int) RETURNS bool",
    "pg_backend_pid": "() RETURNS int",
    "pg_current_xact_id": "() RETURNS xid8",
    "pg_current_xact_id_if_assigned": "() RETURNS xid8",
    "pg_advisory_xact_lock": "(int) RETURNS void",
    "pg_has_role": "(oid, text) RETURNS bool",
    "pg_has_role ": "(text, text) RETURNS bool",
    "hashtext": "(text) RETURNS int",
    "clock_timestamp": "() RETURNS timestamptz",
    "transaction_timestamp": "() RETURNS timestamptz",
    "to_regclass": "(text) RETURNS regclass",
    "to_regtype": "(text) RETURNS regtype",
    "to_regnamespace": "(text) RETURNS regnamespace",
    "starts_with": "(text, text) RETURNS bool",
    "substr": "(text, int) RETURNS text",
    "to_char": "(timestamp, text) RETURNS text",
    "timezone": "(text, timestamptz) RETURNS timestamp",
    "current_database": "() RETURNS name",
    "count": "(bool) RETURNS bigint",
    "concat": "(name, text, name) RETURNS text",
    "chr": "(int) RETURNS text",
    "has_schema_privilege": "(oid, text) RETURNS bool",
    "has_table_privilege": "(oid, text) RETURNS bool",
}
_OPERATORS = [
    ("=", "oid", "regclass", "bool"),
    ("=", "oid", "oid", "bool"),
    ("=", "oid", "regtype", "bool"),
    ("=", "name", "name", "bool"),
    ("=", "text", "text", "bool"),
    ("=", "bigint", "bigint", "bool"),
    ("=", "bigint", "int", "bool"),
    ("<", "bigint", "int", "bool"),
    ("<=", "bigint", "int", "bool"),
    (">", "bigint", "int", "bool"),
    ("<>", "int", "int", "bool"),
    ("~", "name", "name", "bool"),
    ("~", "text", "text", "bool"),
    ("*", "numeric", "int", "numeric"),
    ("-", "timestamptz", "timestamptz", "interval"),
]
_RELATIONS = [
    "pg_class",
    "pg_attribute",
    "pg_type",
    "pg_index",
    "pg_enum",
    "pg_stat_activity",
    "history",
    "fence",
]


def _make_traps() -> Iterator[str]:
    yield "CREATE SCHEMA evil; CREATE SCHEMA lambda_migrate_2"
    yield _TRAP
    for name, signature in _HIJACKERS.items():
        result = signature.partition("RETURNS ")[2]
        yield (
            f"CREATE FUNCTION evil.{name.strip()}{signature} LANGUAGE plpgsql VOLATILE AS"
            f" $$ BEGIN PERFORM evil.trap('{name}'); RETURN NULL::{result}; END $$"
            if result != "void"
            else f"CREATE FUNCTION evil.{name.strip()}{signature} LANGUAGE plpgsql AS"
            f" $$ BEGIN PERFORM evil.trap('{name}'); END $$"
        )
    for number, (operator, left, right, result) in enumerate(_OPERATORS):
        yield (
            f"CREATE FUNCTION evil.op{number}({left}, {right}) RETURNS {result} LANGUAGE plpgsql AS"
            f" $$ BEGIN PERFORM evil.trap('{operator}'); RETURN NULL; END $$;"
            f"CREATE OPERATOR evil.{operator} (LEFTARG = {left}, RIGHTARG = {right},"
            f" FUNCTION = evil.op{number})"
        )
    for name in _RELATIONS:
        yield f"CREATE TABLE evil.{name} (trap int)"
    for name in ("text", "timestamptz"):
        yield f"CREATE DOMAIN evil.{name} AS pg_catalog.{name} CHECK (false)"


PATHS = ["evil", "evil, public", "evil, pg_catalog", "pg_catalog, evil"]


@pytest.mark.parametrize("path", PATHS)
def test_functions_operators_and_tables_of_other_roles_are_not_used(
    db: EmptyDatabase, path: str
) -> None:
    db.execute(";".join(_make_traps()))
    db.execute(
        "CREATE TABLE public.schema_migrations (version varchar PRIMARY KEY);"
        " INSERT INTO public.schema_migrations VALUES ('1')"
    )
    with search_path(db, path):
        _check_traps(db)
        _run_every_qualified_statement(db)


@contextmanager
def search_path(db: EmptyDatabase, path: str) -> Iterator[None]:
    db.execute(f"ALTER DATABASE {_database(db)} SET search_path = {path}")
    try:
        yield
    finally:
        db.execute(f"ALTER DATABASE {_database(db)} RESET search_path")


def _database(db: EmptyDatabase) -> str:
    return quote_identifier(db.address.database)


def _check_traps(db: EmptyDatabase) -> None:
    """The traps work: a statement that names no schema runs one."""
    with db.connect() as connection, pytest.raises(PostgresError, match="hijacked"):
        connection.run("SELECT extract(epoch FROM pg_catalog.now()) * 1000")


def _run_every_qualified_statement(db: EmptyDatabase) -> None:
    """As `run_every_statement`, by scripts that are on their guard themselves."""
    rows = [
        migration("CREATE TABLE public.a (x int)", 1, down="DROP TABLE public.a"),
        migration("CREATE INDEX CONCURRENTLY i ON public.a (x)", 2, non_transactional=True),
        migration("CREATE TYPE public.mood AS ENUM ('sad')", 3, down="DROP TYPE public.mood"),
        migration("ALTER TYPE public.mood ADD VALUE 'ok'", 4, non_transactional=True),
        migration("REINDEX INDEX CONCURRENTLY public.i", 5, non_transactional=True),
        migration("DROP INDEX CONCURRENTLY public.i", 6, non_transactional=True),
    ]
    with db.holder(2) as session:
        for each in rows[:3]:
            session.apply(each, "digest", soon())
        for each in rows[3:]:
            session.apply(each, "digest", soon())
        assert [str(each) for each in session.read_tool_histories()] == [
            "dbmate has applied 1 version to this database (public.schema_migrations)"
        ]
        for version in (2, 4, 5, 6):
            row = next(row for row in session.read_history() if row.version == version)
            session.resolve_in_doubt(
                replace(row, state=RowState.STARTED, up=rows[version - 1].up), soon()
            )
        session.record_applied([(migration("SELECT 1", 7), "digest-7")], baseline=True)
        session.delete_rows([row.version for row in session.read_history() if row.version > 3])
        for row in reversed(session.read_history()):
            if row.version in (1, 3):
                session.roll_back(row, soon())
    with db.connect() as other:
        other.run(Queries(DEFAULT_SCHEMA).try_advisory_lock())
        with pytest.raises(LeaseHeld), db.holder(3, terminate_holders=False):
            pass
    db.history()


def test_a_script_runs_under_the_roles_own_path(db: EmptyDatabase) -> None:
    db.execute("CREATE SCHEMA app")
    with search_path(db, "app"):
        db.apply(
            migration("CREATE TABLE t (x int)"),
            migration("CREATE INDEX CONCURRENTLY t_x ON t (x)", 2, non_transactional=True),
            migration("INSERT INTO t VALUES (1)", 3),
        )
    assert db.has("app.t")
    assert db.is_valid("app.t_x")
    assert db.versions() == [1, 2, 3]


def test_the_search_path_is_reset_after_the_transaction(db: EmptyDatabase) -> None:
    with db.connect() as connection:
        connection.run(f"{SAFE_SEARCH_PATH} SELECT 1")
        assert connection.run("SHOW search_path") == [['"$user", public']]


# --- any client may give its session any name


@contextmanager
def login(db: EmptyDatabase, *, more: str = "") -> Iterator[Callable[[str], Connection]]:
    """A role without rights that may log in."""
    role = f"other_{uuid4().hex[:8]}"
    db.execute(f"CREATE ROLE {role} LOGIN {more}")
    other = EmptyDatabase(db.address.replace(user=role))
    try:
        yield other.connect
    finally:
        db.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.fixture
def plain(db: EmptyDatabase) -> Iterator[EmptyDatabase]:
    """The same database, as a role that is no superuser."""
    role = f"migrating_{uuid4().hex[:8]}"
    db.execute(
        f"CREATE ROLE {role} LOGIN; GRANT CREATE ON DATABASE {_database(db)} TO {role};"
        f"GRANT CREATE ON SCHEMA public TO {role}"
    )
    yield EmptyDatabase(db.address.replace(user=role))
    db.execute(f"REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_session_of_another_role_with_our_application_name_is_ignored(
    plain: EmptyDatabase, db: EmptyDatabase
) -> None:
    with login(db) as connect, connect(application_name("shop", 1)) as other:
        plain.apply(migration("CREATE TABLE a (x int)"), fence=2)
        with plain.holder(3, terminate_holders=False):
            pass
        assert other.run("SELECT 1") == [[1]]


def test_a_login_without_privileges_can_neither_read_nor_change_the_fence(
    plain: EmptyDatabase, db: EmptyDatabase
) -> None:
    plain.apply(migration("CREATE TABLE a (x int)"))
    with login(db) as connect, connect("any client") as other:
        for statement in (
            "SELECT * FROM lambda_migrate.fence",
            "UPDATE lambda_migrate.fence SET token = 99",
            "BEGIN; LOCK TABLE lambda_migrate.fence; COMMIT",
            "SELECT * FROM lambda_migrate.history",
            "DELETE FROM lambda_migrate.history",
            "CREATE TABLE lambda_migrate.x (x int)",
        ):
            with pytest.raises(PostgresError, match="permission denied"):
                other.run(statement)
            other.run("ROLLBACK")


def test_an_older_holder_of_another_role_is_still_superseded(
    plain: EmptyDatabase, db: EmptyDatabase
) -> None:
    """It is in the fence row: it did hold, and is not to be passed over."""
    db.apply(migration("SELECT 1"))
    db.execute(
        f"GRANT ALL ON SCHEMA lambda_migrate TO {plain.address.user};"
        f"GRANT ALL ON ALL TABLES IN SCHEMA lambda_migrate TO {plain.address.user}"
    )
    with db.holder(2), pytest.raises(ConfigurationError, match="another role"), plain.holder(3):
        pass


def test_the_oldest_supported_server_accepts_every_statement(
    servers: Callable[[int], str], databases: Callable[[str], ServerURL]
) -> None:
    """Functions and rules of resolution differ between versions; the other tests run on one."""
    db = EmptyDatabase(databases(servers(MAJORS[0])).address)
    db.execute("DROP SCHEMA IF EXISTS lambda_migrate CASCADE")
    run_every_statement(db)
    assert db.versions() == []
