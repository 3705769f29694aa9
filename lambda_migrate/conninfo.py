"""Connection strings other than a plain libpq URL: keywords, and other clients' parameters.

Loaded only for such a string, by `database_address`, which reads the others and is not imported
here. No fault repeats user, password or host.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

__all__ = ["IGNORED_PARAMETERS", "describe_unknown_form", "parse_keywords", "translate_parameter"]

_EXAMPLE = "write postgresql://user:password@host:5432/name?sslmode=verify-full"

_KEYWORD = re.compile(
    r"\s*([^\s=]+)\s*=\s*"
    r"('(?:[^'\\]|\\.)*'|(?!')(?:[^\s\\]|\\.)*)"  # a backslash makes the next character literal
    r"(?=\s|$)"
)

_IGNORED_WITH_REASON = (
    (
        "lambda-migrate derives its timeouts from the deadline",
        "statement_timeout lock_timeout idle_in_transaction_session_timeout socket_timeout "
        "socketTimeout command_timeout",
    ),
    (
        "lambda-migrate opens one connection, without a pool",
        "connection_limit pool_timeout pool pool_size max_overflow pool_max_conns conn_max_age "
        "conn_health_checks",
    ),
    (
        "lambda-migrate uses no prepared statements",
        "statement_cache_size prepared_statement_cache_size prepareThreshold "
        "preparedStatementCacheQueries reWriteBatchedInserts stringtype binary_parameters",
    ),
    ("lambda-migrate notices a pooler by itself", "pgbouncer"),
    ("lambda-migrate always uses UTF-8", "client_encoding encoding charset"),
    (
        "lambda-migrate sets its own keepalives",
        "keepalives keepalives_idle keepalives_interval keepalives_count tcp_user_timeout "
        "tcpKeepAlive",
    ),
    ("there is only one host", "load_balance_hosts"),
    ("connections are named after target and fence", "fallback_application_name"),
    ("TLS is never compressed", "sslcompression"),
    ("GSSAPI is not used", "krbsrvname gssdelegation gsslib"),
)
IGNORED_PARAMETERS: Mapping[str, str] = {
    name: reason for reason, names in _IGNORED_WITH_REASON for name in names.split()
}
"""Parameters that are ignored whatever their value, and why that is harmless."""

_IGNORED_VALUES: Mapping[str, Collection[str]] = {
    "gssencmode": ("disable", "prefer"),
    "sslnegotiation": ("postgres", "direct"),
    "sslsni": ("1",),
    "ssl_min_protocol_version": ("", "TLSv1", "TLSv1.1", "TLSv1.2"),
    "target_session_attrs": ("any", "read-write", "primary"),
    "targetServerType": ("any", "master", "primary"),
    "replication": ("false", "off", "no", "0"),
    "sslaccept": ("strict",),
}
"""Parameters that may have these values, with which the library does the same anyway."""

_SYNONYMS = {
    "ApplicationName": "application_name",
    "connectTimeout": "connect_timeout",
    "loginTimeout": "connect_timeout",
    "channelBinding": "channel_binding",
    "sslRootCert": "sslrootcert",
    "database": "dbname",
    "username": "user",
}
"""Other clients' names for supported parameters."""

_SSL_VALUES = {"true": "require", "1": "require", "false": "disable", "0": "disable"}
_SEARCH_PATHS = ("schema", "currentSchema", "search_path")

_ADVICE = {
    "hostaddr": "put the host into the URL instead; its certificate is checked against that name",
    "sslcert": "client certificates are not supported; use a password, a secret or IAM",
    "sslkey": "client certificates are not supported; use a password, a secret or IAM",
    "sslidentity": "client certificates are not supported; use a password, a secret or IAM",
    "service": "service files are not read; put host, port and name into the URL",
    "target_session_attrs": "migrations need the primary; use the one host that accepts writes",
    "targetServerType": "migrations need the primary; use the one host that accepts writes",
    "sslaccept": "write sslmode=require to accept a certificate without verifying it",
    "ssl": "write sslmode=require, or sslmode=verify-full",
}


def parse_keywords(text: str, faults: list[str]) -> Iterator[tuple[str, str]]:
    """Parse a keyword string as libpq does: ``host=db.example dbname=shop password='a b'``."""
    at = 0
    while text[at:].strip():
        match = _KEYWORD.match(text, at)
        if match is None:
            faults.append(
                "it is not a list of keyword=value with blanks between them; write a value with "
                "blanks or quotes in single quotes, with a backslash before each ' and \\"
            )
            return
        value = match[2][1:-1] if match[2].startswith("'") else match[2]
        yield match[1], re.sub(r"\\(.)", r"\1", value)
        at = match.end()


def translate_parameter(
    fields: Mapping[str, str],
    key: str,
    value: str,
    faults: list[str],
    *,
    sslmodes: Collection[str],
    supported: Collection[str],
) -> dict[str, str]:
    """Translate a parameter of another client; {} if it is ignored or, with a fault, refused.

    Args:
        fields: The parameters before it.
        key: Its name.
        value: Its value.
        faults: Receives a sentence if it is refused.
        sslmodes: libpq's modes, which are values of ``ssl`` as well.
        supported: libpq's names of the supported parameters.
    """
    if key in _SYNONYMS:
        return {_SYNONYMS[key]: value}
    if key == "ssl" and (value in _SSL_VALUES or value in sslmodes):
        return {"sslmode": _SSL_VALUES.get(value, value)}
    if key in _SEARCH_PATHS:
        return _set_search_path(fields, key, value)
    if key not in IGNORED_PARAMETERS and value not in _IGNORED_VALUES.get(key, ()):
        advice = _ADVICE.get(
            key, f"remove it; supported parameters: {', '.join(sorted(supported))}"
        )
        faults.append(f"parameter {key!r} is not supported: {advice}")
    return {}


def _set_search_path(fields: Mapping[str, str], key: str, value: str) -> dict[str, str]:
    """Set the session's default, unless it is the server's: poolers refuse such an option."""
    if value in ("", "public"):
        return {}
    if key == "schema":  # Prisma quotes it
        value = '"' + value.replace('"', '""') + '"'
    escaped = re.sub(r"([\s\\])", r"\\\1", value)
    return {"options": f"{fields.get('options', '')} -csearch_path={escaped}".lstrip()}


def describe_unknown_form(text: str) -> str:
    """Say what is wrong with a text that is no connection string."""
    if text[:1] in ("'", '"', "`"):
        return f"the database URL is in quotes; remove them, and {_EXAMPLE}"
    if text.startswith("psql "):
        return f"the database URL is a psql command; keep its argument alone: {_EXAMPLE}"
    if ";" in text and "=" in text:
        return (
            "the database URL has semicolons, as an ADO.NET connection string, which is not "
            f"supported; {_EXAMPLE}"
        )
    return f"the database URL does not begin with postgresql://; {_EXAMPLE}"
