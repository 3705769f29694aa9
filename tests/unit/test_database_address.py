"""Database URLs as libpq reads them, and what is refused where libpq would guess."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from lambda_migrate.database_address import SSLMODES, DatabaseAddress, parse_url
from lambda_migrate.errors import ConfigurationError

PASSWORD = "hunter2"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://h/db", {"host": "h", "database": "db"}),
        ("postgres://h/db", {"host": "h", "database": "db"}),
        ("postgresql://u@h", {"host": "h", "database": "u", "user": "u"}),
        ("postgresql://u:@h/db", {"host": "h", "database": "db", "user": "u"}),
        (
            "postgresql://u:p@h:6543/db",
            {"host": "h", "database": "db", "user": "u", "password": "p", "port": 6543},
        ),
        (
            "postgresql://a%40b:p%2F%3A%25%C3%A9@h/d%20b",
            {"host": "h", "database": "d b", "user": "a@b", "password": "p/:%é"},
        ),
        (
            "postgresql://u:a:b@h/db",
            {"host": "h", "database": "db", "user": "u", "password": "a:b"},
        ),
        (
            "postgresql://u:a+b@h/db",
            {"host": "h", "database": "db", "user": "u", "password": "a+b"},
        ),
        ("postgresql://[::1]/db", {"host": "::1", "database": "db"}),
        (
            "postgresql://[2001:db8::1]:6543/db",
            {"host": "2001:db8::1", "database": "db", "port": 6543},
        ),
        (
            "postgresql://u@/db?host=/run/pg",
            {"socket_dir": "/run/pg", "database": "db", "user": "u"},
        ),
        (
            "postgresql:///db?host=/run/pg&port=1",
            {"socket_dir": "/run/pg", "database": "db", "port": 1},
        ),
        ("postgresql://%2Frun%2Fpg/db", {"socket_dir": "/run/pg", "database": "db"}),
        ("postgresql://%2Frun:6543/db", {"socket_dir": "/run", "database": "db", "port": 6543}),
        ("postgresql://x/db?host=h", {"host": "h", "database": "db"}),
        (
            "postgresql://?host=h&user=u&password=p&dbname=db&port=7",
            {"host": "h", "user": "u", "password": "p", "database": "db", "port": 7},
        ),
        (
            "postgresql://h/db?sslmode=require",
            {"host": "h", "database": "db", "sslmode": "require"},
        ),
        ("postgresql://h/db?ssl=true", {"host": "h", "database": "db", "sslmode": "require"}),
        (
            "postgresql://h/db?sslmode=verify-ca&sslrootcert=/opt/a%20b.pem",
            {"host": "h", "database": "db", "sslmode": "verify-ca", "sslrootcert": "/opt/a b.pem"},
        ),
        (
            "postgresql://h/db?connect_timeout=7",
            {"host": "h", "database": "db", "connect_timeout": 7.0},
        ),
        ("postgresql://h/db?connect_timeout=0", {"host": "h", "database": "db"}),
        (
            "postgresql://h/db?channel_binding=require&application_name=app",
            {
                "host": "h",
                "database": "db",
                "channel_binding": "require",
                "application_name": "app",
            },
        ),
        (
            "postgresql://h/db?gssencmode=disable&client_encoding=UTF8",
            {"host": "h", "database": "db"},
        ),
    ],
)
def test_a_url_is_read_as_libpq_reads_it(url: str, expected: dict[str, Any]) -> None:
    assert parse_url(url) == DatabaseAddress(**expected)


@pytest.mark.parametrize(
    ("url", "reported"),
    [
        ("", "does not begin with postgresql://"),
        ("mysql://u:hunter2@h/db", "does not begin with postgresql://"),
        ("mysql://u:hunter2@h/db?a=b", "does not begin with postgresql://"),
        ("h.example/db", "does not begin with postgresql://"),
        ("'postgresql://u:hunter2@h/db'", "is in quotes"),
        ("psql 'postgresql://u:hunter2@h/db'", "keep its argument alone"),
        ("Host=h;Username=u;Password=hunter2", "has semicolons"),
        ("host=h password=hunter2", "no database"),
        ("host=h dbname=d password='hunter2", "keyword=value"),
        ("host=h hunter2 dbname=d", "keyword=value"),
        ("host=h port=x dbname=d password=hunter2", "1 to 65535"),
        ("host=h dbname=d nonsense=hunter2", "'nonsense' is not supported"),
        ("host=a,b dbname=d", "several hosts"),
        ("host=h dbname=d host=i", "is given twice"),
        ("postgresql://", "no host"),
        ("postgresql:///db", "no host"),
        ("postgresql://h", "no database"),
        ("postgresql://h1,h2/db", "several hosts"),
        ("postgresql://h1:1,h2:2/db", "several hosts"),
        ("postgresql:///db?host=h1,h2", "several hosts"),
        ("postgresql://h/db?port=1,2", "several hosts"),
        ("postgresql://u:hunter2@h:0/db", "1 to 65535"),
        ("postgresql://u:hunter2@h:65536/db", "1 to 65535"),
        ("postgresql://u:hunter2@h:abc/db", "1 to 65535"),
        ("postgresql://h:99999999999999999999/db", "1 to 65535"),
        ("postgresql://u:hunter2/x@h/db", "%40"),
        ("postgresql://u:hunter2/x", "percent-encoded"),
        ("postgresql://u:hun@ter2@h/db", "%40"),
        ("postgresql://u:hun?hunter2=x@h/db", "%40"),
        ("postgresql://u:hunter2%zz@h/db", "hexadecimal"),
        ("postgresql://u:hunter2%@h/db", "hexadecimal"),
        ("postgresql://u:hunter2%00@h/db", "hexadecimal"),
        ("postgresql://u:hunter2%ff@h/db", "UTF-8"),
        ("postgresql://[::1/db", r"\[::1\]"),
        ("postgresql://[::1]x/db", r"\[::1\]"),
        ("postgresql://%40abstract/db", "abstract"),
        ("postgresql://h/db?sslmode=verify", "sslmode 'verify' is unknown"),
        ("postgresql://h/db?sslmode=require&sslrootcert=system", "too weak"),
        ("postgresql://h/db?sslmode=disable&sslrootcert=system", "too weak"),
        ("postgresql://h/db?sslmode=disable&channel_binding=require", "needs TLS"),
        ("postgresql://h/db?channel_binding=disable", "prefer or require"),
        ("postgresql://h/db?connect_timeout=soon", "whole number"),
        ("postgresql://h/db?connect_timeout=-1", "whole number"),
        ("postgresql://h/db?sslmode", "has no value"),
        ("postgresql://h/db?sslmode=require&sslmode=disable", "is given twice"),
        ("postgresql://h/db?ssl=no-verify", "write sslmode=require"),
        ("postgresql://h/db?sslaccept=accept_invalid_certs", "write sslmode=require"),
        ("postgresql://h/db?service=shop", "service files are not read"),
        ("postgresql://h/db?targetServerType=preferSecondary", "need the primary"),
        ("postgresql://h/db?replication=database", "'replication' is not supported"),
        ("postgresql://h/db?sslcert=x", "client certificates"),
        ("postgresql://h/db?hostaddr=10.0.0.1", "put the host"),
        ("postgresql://h/db?target_session_attrs=standby", "accepts writes"),
        ("postgresql://h/db?gssencmode=require", "'gssencmode' is not supported"),
        ("postgresql://h/db?nonsense=1", "'nonsense' is not supported.*sslmode"),
    ],
)
def test_what_cannot_be_used_is_refused_and_no_password_repeated(url: str, reported: str) -> None:
    with pytest.raises(ConfigurationError, match=reported) as error:
        parse_url(url)

    assert PASSWORD not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://u:p@h:6543/db",
        "postgresql+psycopg2://u:p@h:6543/db",
        "postgresql+asyncpg://u:p@h:6543/db",
        "postgres+pg8000://u:p@h:6543/db",
        "postgis://u:p@h:6543/db?conn_max_age=600",
        "pgsql://u:p@h:6543/db",
        "jdbc:postgresql://h:6543/db?user=u&password=p&prepareThreshold=0&targetServerType=primary",
        "postgresql://u:p@h:6543/db?schema=public&pgbouncer=true&connection_limit=1",
        "postgresql://u:p@h:6543/db?target_session_attrs=read-write&keepalives=1&sslsni=1",
        "host=h port=6543 dbname=db user=u password=p",
        "  dbname = db user='u' password = 'p' host=h port=6543 client_encoding=LATIN1 ",
    ],
)
def test_other_clients_forms_name_the_same_database(url: str) -> None:
    assert parse_url(url) == parse_url("postgresql://u:p@h:6543/db")


@pytest.mark.parametrize(
    ("written", "password"),
    [
        ("it\\'s", "it's"),
        ("'a b'", "a b"),
        (r"'it\'s a \\ b'", r"it's a \ b"),
        (r"a\ b", "a b"),
        ("a=b", "a=b"),
        ("''", None),
    ],
)
def test_quotes_and_backslashes_in_a_keyword_string_are_read_as_by_libpq(
    written: str, password: str | None
) -> None:
    assert parse_url(f"host=h dbname=d password={written} user=u").password == password


@pytest.mark.parametrize(
    ("query", "sslmode"),
    [("ssl=require", "require"), ("ssl=false", "disable"), ("ssl=verify-full", "verify-full")],
)
def test_the_tls_parameter_of_other_clients_is_read_as_sslmode(query: str, sslmode: str) -> None:
    assert parse_url(f"postgresql+asyncpg://h/db?{query}").sslmode == sslmode


@pytest.mark.parametrize(
    ("query", "options"),
    [
        ("options=-csearch_path%3Dx", "-csearch_path=x"),
        ("schema=app", '-csearch_path="app"'),
        ("schema=my%20app", '-csearch_path="my\\ app"'),
        ("currentSchema=app,public", "-csearch_path=app,public"),
        ("search_path=a,%20b", "-csearch_path=a,\\ b"),
        ("options=-ctimezone%3DUTC&search_path=a", "-ctimezone=UTC -csearch_path=a"),
    ],
)
def test_session_defaults_become_options(query: str, options: str) -> None:
    assert parse_url(f"postgresql://h/db?{query}").options == options


VARIABLES = {
    "PGHOST": "pg.example",
    "PGPORT": "6543",
    "PGDATABASE": "shop",
    "PGUSER": "app",
    "PGPASSWORD": PASSWORD,
    "PGPASSFILE": "/etc/pgpass",
    "PGSSLMODE": "verify-ca",
    "PGSSLROOTCERT": "/ca.pem",
    "PGCONNECT_TIMEOUT": "7",
    "PGCHANNELBINDING": "require",
    "PGOPTIONS": "-c geqo=off",
    "PGAPPNAME": "shop",
}


def test_libpqs_variables_alone_name_a_database() -> None:
    assert parse_url(None, VARIABLES) == DatabaseAddress(
        host="pg.example",
        port=6543,
        database="shop",
        user="app",
        password=PASSWORD,
        passfile="/etc/pgpass",
        sslmode="verify-ca",
        sslrootcert="/ca.pem",
        connect_timeout=7.0,
        channel_binding="require",
        options="-c geqo=off",
        application_name="shop",
    )


def test_libpqs_variables_fill_in_only_what_the_url_leaves_out() -> None:
    address = parse_url("postgresql://u@h/db?sslmode=require&options=-cgeqo%3Don", VARIABLES)
    assert (address.host, address.database, address.user) == ("h", "db", "u")
    assert (address.sslmode, address.options) == ("require", "-cgeqo=on")
    assert (address.port, address.password) == (6543, PASSWORD)
    assert parse_url("postgresql:///db", {"PGHOST": "/run/pg"}).socket_dir == "/run/pg"


@pytest.mark.parametrize(
    ("name", "value"),
    [("PGPORT", "x"), ("PGCONNECT_TIMEOUT", "x"), ("PGCHANNELBINDING", "x"), ("PGHOST", "a,b")],
)
def test_a_wrong_variable_is_named(name: str, value: str) -> None:
    reported = "several hosts" if name == "PGHOST" else f"{name} "
    with pytest.raises(ConfigurationError, match=reported) as error:
        parse_url(None, {**VARIABLES, name: value})
    assert PASSWORD not in str(error.value)


def test_every_fault_is_reported_at_once() -> None:
    with pytest.raises(ConfigurationError) as error:
        parse_url("postgresql://u:hunter2@h:x/db?sslmode=no&connect_timeout=never")

    assert len(error.value.faults) == 3


def test_no_text_of_an_address_contains_the_password() -> None:
    address = parse_url("postgresql://u:hunter2@h/db")

    assert PASSWORD not in f"{address} {address!r} {address.text}"
    assert copy.copy(address).password == PASSWORD


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("postgresql://u:p@DB.Example/Orders", "db.example:5432/Orders"),
        ("postgresql://[::1]:1/db", "[::1]:1/db"),
        ("postgresql:///db?host=/Run/pg", "/Run/pg:5432/db"),
    ],
)
def test_the_text_is_the_location_and_nothing_else(url: str, text: str) -> None:
    assert parse_url(url).text == text


@pytest.mark.parametrize(
    ("host", "mode"),
    [
        ("localhost", "prefer"),
        ("LocalHost", "prefer"),
        ("127.0.0.1", "prefer"),
        ("127.8.9.10", "prefer"),
        ("::1", "prefer"),
        ("127.evil.example.com", "verify-full"),
        ("127.0.0.1.example.com", "verify-full"),
        ("10.0.0.1", "verify-full"),
        ("db.example", "verify-full"),
        ("localhost.example", "verify-full"),
    ],
)
def test_off_loopback_the_default_is_verify_full(host: str, mode: str) -> None:
    assert DatabaseAddress(database="db", host=host).effective_sslmode == mode


@pytest.mark.parametrize("mode", SSLMODES)
def test_a_requested_mode_is_used_except_on_a_unix_socket(mode: str) -> None:
    assert DatabaseAddress(database="db", host="h", sslmode=mode).effective_sslmode == mode
    assert (
        DatabaseAddress(database="db", socket_dir="/run", sslmode=mode).effective_sslmode
        == "disable"
    )


def test_a_root_certificate_on_loopback_is_meant_to_be_used() -> None:
    address = DatabaseAddress(database="db", host="localhost", sslrootcert="/ca.pem")

    assert address.effective_sslmode == "verify-full"


def test_other_tls_settings_replace_only_what_they_name() -> None:
    address = DatabaseAddress(database="db", host="h", sslmode="require", sslrootcert="/a")

    assert address.with_tls(sslmode="verify-ca").sslrootcert == "/a"
    assert address.with_tls(sslrootcert="/b").sslmode == "require"
    assert address.with_tls() == address
