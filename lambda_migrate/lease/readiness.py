"""What the item says of databases after a check or before a rollback: pure, table-tested.

A check is one look at a database under the lease: its identity, its history, and so every manifest
that it satisfies. It counts for the address that it was made through; other addresses of the same
identity keep what they have, as far as it still agrees.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lambda_migrate.lease.record import (
    MAX_READY,
    SHORT_DIGEST_BYTES,
    DatabaseRecord,
    join_digests,
    split_digests,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

__all__ = [
    "UNKNOWN_IDENTITY",
    "DatabaseCheck",
    "find_conflicting_records",
    "record_check",
    "record_failed_inspection",
    "withdraw_ready",
]

UNKNOWN_IDENTITY = "unknown"
"""Stands for a database that was looked at and has no identity that the item could know."""

MAX_OLDER = 50
"""How many manifests besides the newest ones a record lists: as many code versions that are old
and still start."""

_OTHERS_KEPT = 3
"""How many databases besides the one checked the item remembers: they share its target by mistake,
or are being moved from."""

_READY_OF_OTHERS = 40
_OLDER_OF_OTHERS = 20
_ADDRESSES_KEPT = 16
"""A tunnel may use another port each day."""

_ADDRESSES_OF_OTHERS = 4


@dataclass(frozen=True, slots=True)
class DatabaseCheck:
    """What was found in one database.

    Attributes:
        identity: Of the database.
        address: That led to it.
        digests: Every manifest that its history satisfies, the shortest first.
        fence: The token of the check.
        owner: Who made it.
        at_ms: When, milliseconds since the epoch.
        served: The digest that the check was made for, or "".
        before: What `digests` was when the check began; the schema still satisfies these.
        has_fence: Whether the token was written to the database: false for a mere look.
        distrusted: The identity whose record in the item may no longer be true, or "".
        is_separate: The database had no fence before, or is a copy in another cluster or of
            another number: only its own address can have led to one that the item knows.
    """

    identity: str
    address: str
    digests: Sequence[str]
    fence: int
    owner: str
    at_ms: int
    served: str = ""
    before: Sequence[str] = ()
    has_fence: bool = True
    distrusted: str = ""
    is_separate: bool = False


def record_check(
    databases: Mapping[str, DatabaseRecord], check: DatabaseCheck
) -> dict[str, DatabaseRecord]:
    """The item's ``databases`` after a check."""
    if check.has_fence:
        databases = _doubted(
            databases,
            check.identity,
            check.address,
            distrusted=check.distrusted,
            is_separate=check.is_separate,
        )
    known = databases.get(check.identity, DatabaseRecord())
    record = _listed(known, check.digests)
    confirmed = len(record.ready) // SHORT_DIGEST_BYTES
    addresses = {**record.addresses, check.address: (confirmed, check.fence)}
    record = replace(
        record,
        older=_older(known, record, check),
        addresses=_newest(addresses, _ADDRESSES_KEPT, key=lambda entry: entry[1]),
        at_ms=check.at_ms,
    )
    if check.has_fence:
        record = replace(record, fence=check.fence, owner=check.owner)
    return {check.identity: record, **_others(databases, check)}


def record_failed_inspection(
    databases: Mapping[str, DatabaseRecord], address: str, fence: int
) -> dict[str, DatabaseRecord]:
    """The item's ``databases`` after a look without a result: what was confirmed stays so."""
    if all(address not in record.addresses for record in databases.values()):
        unknown = databases.get(UNKNOWN_IDENTITY, DatabaseRecord())
        databases = {
            **databases,
            UNKNOWN_IDENTITY: replace(
                unknown,
                addresses=_newest(
                    {**unknown.addresses, address: (0, fence)},
                    _ADDRESSES_KEPT,
                    key=lambda entry: entry[1],
                ),
            ),
        }
    return {
        identity: replace(
            record,
            addresses={
                each: (count, fence if each == address else seen)
                for each, (count, seen) in record.addresses.items()
            },
        )
        for identity, record in databases.items()
    }


def find_conflicting_records(
    databases: Mapping[str, DatabaseRecord], check: DatabaseCheck
) -> Iterator[DatabaseRecord]:
    """Other databases of the target whose migrations are others than those just checked.

    Args:
        databases: As they were before the check.
        check: What was found.
    """
    mine = set(split_digests(join_digests(check.digests)))
    newest = join_digests(check.digests[-1:])
    for identity, record in databases.items():
        theirs = split_digests(record.ready)
        other = _without(record, check.address)
        if identity == check.identity or not theirs or not other.addresses:
            continue
        if theirs[-1] not in mine and newest not in theirs:
            yield other


def withdraw_ready(
    databases: Mapping[str, DatabaseRecord],
    identity: str,
    address: str,
    digests: Sequence[str],
    *,
    is_separate: bool = False,
) -> dict[str, DatabaseRecord]:
    """The item's ``databases`` before a rollback.

    Args:
        databases: As they are.
        identity: Of the database that is rolled back.
        address: That led to it.
        digests: What it will satisfy even afterwards, the shortest first.
        is_separate: As of `DatabaseCheck`.
    """
    databases = _doubted(databases, identity, address, is_separate=is_separate)
    known = databases.get(identity, DatabaseRecord())
    left = set(split_digests(join_digests(digests)))
    older = [mark for mark in split_digests(known.older) if mark in left]
    left_behind = {i: _without(record, address) for i, record in databases.items()}
    addresses = {**known.addresses, address: known.addresses.get(address, (0, 0))}
    known = _listed(replace(known, addresses=addresses), digests)
    return {**left_behind, identity: replace(known, older=b"".join(older))}


def _doubted(
    databases: Mapping[str, DatabaseRecord],
    identity: str,
    address: str,
    *,
    distrusted: str = "",
    is_separate: bool,
) -> dict[str, DatabaseRecord]:
    """The records without what may no longer be true; each address looks again.

    A database of an identity that the item does not know may be one that it knows by another: the
    holder that gave it the new identity may have died before it could record that.
    """
    is_new = identity not in databases

    def is_doubtful(each: str, record: DatabaseRecord) -> bool:
        may_be_it = is_new and (not is_separate or address in record.addresses)
        return may_be_it or each == distrusted

    return {
        each: replace(
            record, ready=b"", older=b"", addresses=dict.fromkeys(record.addresses, (0, 0))
        )
        if is_doubtful(each, record)
        else record
        for each, record in databases.items()
    }


def _without(record: DatabaseRecord, address: str) -> DatabaseRecord:
    return replace(record, addresses={a: n for a, n in record.addresses.items() if a != address})


def _listed(known: DatabaseRecord, digests: Sequence[str]) -> DatabaseRecord:
    """The record with ``digests`` as what is ready; addresses keep what agrees with it."""
    marks = split_digests(join_digests(digests))
    dropped = max(0, len(marks) - MAX_READY)
    agreed = 0
    for before, now in zip(split_digests(known.ready), marks[known.dropped :], strict=False):
        if before != now:
            break
        agreed += 1
    if agreed:
        agreed += known.dropped  # a digest stands for all below it; without one that is unknown
    return replace(
        known,
        ready=b"".join(marks[dropped:]),
        dropped=dropped,
        addresses={
            address: (_carried(known.dropped + count, agreed, dropped) if count else 0, fence)
            for address, (count, fence) in known.addresses.items()
        },
    )


def _carried(confirmed: int, agreed: int, dropped: int) -> int:
    """How much of what an address has confirmed is still listed."""
    return max(0, min(confirmed, agreed) - dropped)


def _older(known: DatabaseRecord, record: DatabaseRecord, check: DatabaseCheck) -> bytes:
    listed = set(split_digests(record.ready))
    found = {
        *split_digests(join_digests(check.digests)),
        *split_digests(join_digests(check.before)),
    }
    # What was ready and is not proved was lost without a withdrawal: by a restore, for example.
    # The older ones may be lost with it.
    kept = known.older if found.issuperset(split_digests(known.ready)) else b""
    served = [check.served] if check.served in (*check.digests, *check.before) else []
    before = check.before[-MAX_READY:]
    candidates = [
        *split_digests(join_digests([*served, *reversed(before)])),
        *split_digests(kept),
    ]
    return b"".join([mark for mark in dict.fromkeys(candidates) if mark not in listed][:MAX_OLDER])


def _others(
    databases: Mapping[str, DatabaseRecord], check: DatabaseCheck
) -> dict[str, DatabaseRecord]:
    """The other databases, without the address that was just seen to lead elsewhere."""
    others = {}
    for identity, record in databases.items():
        other = _without(record, check.address)
        if identity != check.identity and other.addresses:
            others[identity] = _shortened(other)
    return _newest(others, _OTHERS_KEPT, key=lambda record: record.fence)


def _shortened(record: DatabaseRecord) -> DatabaseRecord:
    gone = max(0, len(record.ready) // SHORT_DIGEST_BYTES - _READY_OF_OTHERS)
    addresses = _newest(dict(record.addresses), _ADDRESSES_OF_OTHERS, key=lambda entry: entry[1])
    return replace(
        record,
        ready=record.ready[gone * SHORT_DIGEST_BYTES :],
        older=record.older[: _OLDER_OF_OTHERS * SHORT_DIGEST_BYTES],
        dropped=record.dropped + gone,
        addresses={a: (max(0, n - gone), fence) for a, (n, fence) in addresses.items()},
    )


if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    V = TypeVar("V")


def _newest(entries: dict[str, V], kept: int, *, key: Callable[[V], int]) -> dict[str, V]:
    names: Iterable[str] = sorted(entries, key=lambda name: key(entries[name]), reverse=True)
    return {name: entries[name] for name in list(names)[:kept]}
