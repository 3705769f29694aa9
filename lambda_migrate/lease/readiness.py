"""How the item's database records change after a check or an inspection, and before a rollback.

A check counts for the address that it was made through. Other addresses of the same identity keep
what they had confirmed, as far as it still agrees with the history. All functions are pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lambda_migrate.lease.record import (
    MAX_READY_DIGESTS,
    SHORT_DIGEST_BYTES,
    DatabaseRecord,
    join_digests,
    split_digests,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import TypeVar

    V = TypeVar("V")

__all__ = [
    "UNKNOWN_IDENTITY",
    "CheckedDatabase",
    "find_conflicting_records",
    "record_check",
    "record_failed_inspection",
    "remove_ready_digests",
]

UNKNOWN_IDENTITY = "unknown"
"""Stands for the identity of a database that was inspected and whose identity is not known."""

MAX_OLDER_DIGESTS = 50
"""How many manifests a record lists besides the newest ones: as many old code versions can start
without a check."""

_MAX_OTHER_DATABASES = 3
"""How many databases the item keeps besides the one that was checked: they share its target by
mistake, or the target is moving away from them."""

_MAX_READY_DIGESTS_OF_OTHER_DATABASES = 40
_MAX_OLDER_DIGESTS_OF_OTHER_DATABASES = 20
_MAX_ADDRESSES = 16
"""A tunnel may use another port each day."""

_MAX_ADDRESSES_OF_OTHER_DATABASES = 4


@dataclass(frozen=True, slots=True)
class CheckedDatabase:
    """What a check found in one database.

    Attributes:
        identity: Of the database.
        address: That led to it.
        digests: Every manifest that its history satisfies, the shortest first.
        fence: The fencing token of the check.
        owner: Who made it.
        at_ms: When, milliseconds since the epoch.
        manifest_digest: The digest that the check was made for, or "".
        digests_before_migration: What `digests` was when the check began; the schema still
            satisfies these.
        is_token_written: Whether the token was written to the database; False for an inspection.
        distrusted_identity: The identity whose record in the item may no longer be true, or "".
        is_new_or_copied_database: The database had no fence before, or is a copy in another cluster
            or of another number: only its own address can have led to one that the item knows.
    """

    identity: str
    address: str
    digests: Sequence[str]
    fence: int
    owner: str
    at_ms: int
    manifest_digest: str = ""
    digests_before_migration: Sequence[str] = ()
    is_token_written: bool = True
    distrusted_identity: str = ""
    is_new_or_copied_database: bool = False


def record_check(
    databases: Mapping[str, DatabaseRecord], check: CheckedDatabase
) -> dict[str, DatabaseRecord]:
    """The item's ``databases`` after a check."""
    if check.is_token_written:
        databases = _reset_distrusted_records(
            databases,
            check.identity,
            check.address,
            distrusted_identity=check.distrusted_identity,
            is_new_or_copied_database=check.is_new_or_copied_database,
        )
    known_record = databases.get(check.identity, DatabaseRecord())
    record = _set_ready_digests(known_record, check.digests)
    confirmed = len(record.ready_digests) // SHORT_DIGEST_BYTES
    addresses = {**record.addresses, check.address: (confirmed, check.fence)}
    record = record._replace(
        older_digests=_merge_older_digests(known_record, record, check),
        addresses=_keep_newest(addresses, _MAX_ADDRESSES, key=lambda entry: entry[1]),
        at_ms=check.at_ms,
    )
    if check.is_token_written:
        record = record._replace(fence=check.fence, owner=check.owner)
    return {check.identity: record, **_other_databases(databases, check)}


def record_failed_inspection(
    databases: Mapping[str, DatabaseRecord], address: str, fence: int
) -> dict[str, DatabaseRecord]:
    """The item's ``databases`` after an inspection without a result: nothing is withdrawn."""
    if all(address not in record.addresses for record in databases.values()):
        unknown = databases.get(UNKNOWN_IDENTITY, DatabaseRecord())
        addresses = {**unknown.addresses, address: (0, fence)}
        addresses = _keep_newest(addresses, _MAX_ADDRESSES, key=lambda entry: entry[1])
        databases = {**databases, UNKNOWN_IDENTITY: unknown._replace(addresses=addresses)}
    return {
        identity: record._replace(
            addresses={
                other: (count, fence if other == address else checked_at)
                for other, (count, checked_at) in record.addresses.items()
            },
        )
        for identity, record in databases.items()
    }


def find_conflicting_records(
    databases: Mapping[str, DatabaseRecord], check: CheckedDatabase
) -> Iterator[DatabaseRecord]:
    """Other databases under the same target whose migrations differ from those just checked.

    Args:
        databases: As they were before the check.
        check: What was found.
    """
    checked = set(split_digests(join_digests(check.digests)))
    newest = join_digests(check.digests[-1:])
    for identity, record in databases.items():
        ready = split_digests(record.ready_digests)
        other = _remove_address(record, check.address)
        if identity == check.identity or not ready or not other.addresses:
            continue
        if ready[-1] not in checked and newest not in ready:
            yield other


def remove_ready_digests(
    databases: Mapping[str, DatabaseRecord],
    identity: str,
    address: str,
    digests: Sequence[str],
    *,
    is_new_or_copied_database: bool = False,
) -> dict[str, DatabaseRecord]:
    """The item's ``databases`` before a rollback.

    Args:
        databases: As they are.
        identity: Of the database that is rolled back.
        address: That led to it.
        digests: What it satisfies even after the rollback, the shortest first.
        is_new_or_copied_database: See `CheckedDatabase`.
    """
    databases = _reset_distrusted_records(
        databases, identity, address, is_new_or_copied_database=is_new_or_copied_database
    )
    known_record = databases.get(identity, DatabaseRecord())
    remaining = set(split_digests(join_digests(digests)))
    older = [short for short in split_digests(known_record.older_digests) if short in remaining]
    others = {other: _remove_address(record, address) for other, record in databases.items()}
    addresses = {**known_record.addresses, address: known_record.addresses.get(address, (0, 0))}
    known_record = _set_ready_digests(known_record._replace(addresses=addresses), digests)
    return {**others, identity: known_record._replace(older_digests=b"".join(older))}


def _reset_distrusted_records(
    databases: Mapping[str, DatabaseRecord],
    identity: str,
    address: str,
    *,
    distrusted_identity: str = "",
    is_new_or_copied_database: bool,
) -> dict[str, DatabaseRecord]:
    """Empty the records that may no longer be true, so that each of their addresses checks again.

    A database with an identity that the item does not know may be one that it knows by another
    identity: the holder that gave it the new one may have died before it could record that.
    """
    is_new = identity not in databases

    def is_distrusted(other: str, record: DatabaseRecord) -> bool:
        may_be_it = is_new and (not is_new_or_copied_database or address in record.addresses)
        return may_be_it or other == distrusted_identity

    return {
        other: record._replace(
            ready_digests=b"", older_digests=b"", addresses=dict.fromkeys(record.addresses, (0, 0))
        )
        if is_distrusted(other, record)
        else record
        for other, record in databases.items()
    }


def _remove_address(record: DatabaseRecord, address: str) -> DatabaseRecord:
    return record._replace(addresses={a: n for a, n in record.addresses.items() if a != address})


def _set_ready_digests(known_record: DatabaseRecord, digests: Sequence[str]) -> DatabaseRecord:
    """The record with ``digests`` as ``ready_digests``; addresses keep what agrees with them."""
    shorts = split_digests(join_digests(digests))
    unlisted_count = max(0, len(shorts) - MAX_READY_DIGESTS)
    matching_count = 0
    for before, now in zip(
        split_digests(known_record.ready_digests),
        shorts[known_record.unlisted_count :],
        strict=False,
    ):
        if before != now:
            break
        matching_count += 1
    if matching_count:
        # A digest stands for all below it; without one nothing is known.
        matching_count += known_record.unlisted_count
    return known_record._replace(
        ready_digests=b"".join(shorts[unlisted_count:]),
        unlisted_count=unlisted_count,
        addresses={
            address: (
                _count_still_confirmed(
                    known_record.unlisted_count + count, matching_count, unlisted_count
                )
                if count
                else 0,
                fence,
            )
            for address, (count, fence) in known_record.addresses.items()
        },
    )


def _count_still_confirmed(confirmed_count: int, matching_count: int, unlisted_count: int) -> int:
    """How many of the listed digests an address has still confirmed."""
    return max(0, min(confirmed_count, matching_count) - unlisted_count)


def _merge_older_digests(
    known_record: DatabaseRecord, record: DatabaseRecord, check: CheckedDatabase
) -> bytes:
    listed = set(split_digests(record.ready_digests))
    proved = set(split_digests(join_digests([*check.digests, *check.digests_before_migration])))
    # What was ready and is not proved was lost without a withdrawal: by a restore, for example.
    # The older ones may be lost with it.
    kept = (
        known_record.older_digests
        if proved.issuperset(split_digests(known_record.ready_digests))
        else b""
    )
    served = (
        [check.manifest_digest]
        if check.manifest_digest in (*check.digests, *check.digests_before_migration)
        else []
    )
    before = check.digests_before_migration[-MAX_READY_DIGESTS:]
    candidates = [
        *split_digests(join_digests([*served, *reversed(before)])),
        *split_digests(kept),
    ]
    unlisted = [short for short in dict.fromkeys(candidates) if short not in listed]
    return b"".join(unlisted[:MAX_OLDER_DIGESTS])


def _other_databases(
    databases: Mapping[str, DatabaseRecord], check: CheckedDatabase
) -> dict[str, DatabaseRecord]:
    """The other databases, shortened, and without the address that points elsewhere now."""
    others = {}
    for identity, record in databases.items():
        other = _remove_address(record, check.address)
        if identity != check.identity and other.addresses:
            others[identity] = _shorten(other)
    return _keep_newest(others, _MAX_OTHER_DATABASES, key=lambda record: record.fence)


def _shorten(record: DatabaseRecord) -> DatabaseRecord:
    surplus = max(
        0, len(record.ready_digests) // SHORT_DIGEST_BYTES - _MAX_READY_DIGESTS_OF_OTHER_DATABASES
    )
    addresses = _keep_newest(
        dict(record.addresses), _MAX_ADDRESSES_OF_OTHER_DATABASES, key=lambda entry: entry[1]
    )
    return record._replace(
        ready_digests=record.ready_digests[surplus * SHORT_DIGEST_BYTES :],
        older_digests=record.older_digests[
            : _MAX_OLDER_DIGESTS_OF_OTHER_DATABASES * SHORT_DIGEST_BYTES
        ],
        unlisted_count=record.unlisted_count + surplus,
        addresses={a: (max(0, n - surplus), fence) for a, (n, fence) in addresses.items()},
    )


def _keep_newest(entries: dict[str, V], count: int, *, key: Callable[[V], int]) -> dict[str, V]:
    names = sorted(entries, key=lambda name: key(entries[name]), reverse=True)
    return {name: entries[name] for name in names[:count]}
