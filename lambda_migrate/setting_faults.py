"""The faults of settings that exclude each other, are missing, or have an unknown name.

`Settings` loads this module only when it may be needed: most cold starts do without.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from lambda_migrate.database_address import DatabaseAddress

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

__all__ = ["describe_missing", "describe_unknown_name", "find_conflicts"]


def describe_unknown_name(kind: str, name: str, known: Collection[str]) -> str:
    """The fault of a variable or an argument that no setting has, with the nearest known name."""
    close = difflib.get_close_matches(name, known, n=1)
    advice = f"did you mean {close[0]}?" if close else f"valid names: {', '.join(sorted(known))}"
    return f"lambda-migrate has no {kind} {name}: {advice}"


def describe_missing(*, table: bool, database: bool) -> Iterator[str]:
    """The faults of settings that are required and not set."""
    if table:
        yield f"{_label('table')} is not set: write the name of the lease table"
    if database:
        yield (
            f"no database is named: set {_label('database_url')} to "
            f"postgresql://user:password@host:5432/name, or {_label('database_secret')} to a "
            "secret's ARN, or PGHOST, PGDATABASE and PGUSER (PGSERVICE is not read)"
        )


def find_conflicts(values: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[str]:
    """Find settings that exclude each other.

    Args:
        values: Every setting by name, with its default if it is not set.
        given: Those that are set.

    Yields:
        One sentence for each fault.
    """
    yield from _find_ready_when_faults(values, given)
    yield from _find_source_faults(values, given)
    lease, margin = values["lease_seconds"], values["safety_margin_seconds"]
    if lease <= 2 * margin:
        yield (
            f"{_label('lease_seconds')} ({lease:g}) must be more than twice "
            f"{_label('safety_margin_seconds')} ({margin:g})"
        )
    yield from _find_login_faults(
        values["database_url"], iam=values["database_iam"], secret=values["database_secret"]
    )
    yield from _find_tls_faults(values)


def _find_ready_when_faults(values: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[str]:
    if values["ready_when"] is None:
        return
    if values["mode"] == "migrate":
        yield (
            f"{_label('ready_when')} needs LAMBDA_MIGRATE_MODE=require (argument mode): "
            "another tool migrates this database, and this function only waits for it"
        )
    others = ["directory"] if "directory" in given else []
    others += ["source"] if values["source"] != "sql" else []
    for other in others:
        yield (
            f"set only one of {_label('ready_when')} and {_label(other)}: keep {other} if "
            "lambda-migrate applies the migrations, otherwise remove it"
        )


def _find_source_faults(values: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[str]:
    source = values["source"]
    if source == "sql":
        return
    for name in ("directory", "placeholders", "allow_out_of_order", "ignore_other_history"):
        if given.get(name):
            yield (
                f"{_label(name)} has no meaning for the source {source!r}: remove it, or set "
                f"{_label('source')} to sql"
            )


def _find_login_faults(address: DatabaseAddress | None, *, iam: bool, secret: str) -> Iterator[str]:
    if iam and secret:
        yield (
            f"{_label('database_iam')} and {_label('database_secret')} are two ways to log "
            "in: keep one"
        )
    if address is None:
        if iam:
            yield (
                f"{_label('database_iam')} needs {_label('database_url')} to name the host and "
                "the user: postgresql://user@host:5432/name"
            )
        return
    if address.password is not None and (iam or secret):
        other = "database_iam" if iam else "database_secret"
        yield (
            f"{_label('database_url')} holds a password, and {_label(other)} is another way "
            "to log in: remove one of them"
        )
    if not address.user and not secret:
        yield (
            f"{_label('database_url')} names no user: write postgresql://user@host:5432/name, "
            f"set PGUSER, or name a secret that has the user: {_label('database_secret')}"
        )
    if iam and address.socket_dir:
        yield f"{_label('database_iam')} needs TLS, and a Unix socket has none"


def _find_tls_faults(values: Mapping[str, Any]) -> Iterator[str]:
    address = values["database_url"] or DatabaseAddress(database="-", host="-")
    address = address.with_tls(sslmode=values["sslmode"], sslrootcert=values["sslrootcert"])
    for fault in address.faults():
        yield f"{_label('sslmode')}, {_label('sslrootcert')}: {fault}"
    if values["database_iam"] and address.sslmode in ("disable", "allow", "prefer"):
        yield (
            f"{_label('database_iam')} needs TLS: write sslmode=verify-full, not {address.sslmode}"
        )


def _label(name: str) -> str:
    return f"LAMBDA_MIGRATE_{name.upper()} (argument {name})"
