"""The state item as DynamoDB stores it; every attribute is validated when it is read.

Layout, version 2 (partition key ``target``):

=============  ====  =========================================================================
``format``     N     layout version
``fence``      N     how often the lease was acquired
``owner``      S     present while the lease is held
``lease_until``  N   milliseconds since the epoch, present with ``owner``
``lease_ms``   N     length of the holder's lease, present with ``owner``
``databases``  M     identity -> {``ready`` B, ``older`` B, ``unlisted`` N, ``fence`` N,
                     ``owner`` S, ``at`` N,
                     ``addresses`` M: address -> {``confirmed`` N, ``fence`` N}}
``progress``   M     {``migration`` S, ``done`` N, ``total`` N, ``started`` N, ``attempts`` N}
``failure``    M     {``digest`` S, ``migration`` S, ``version`` S, ``sqlstate`` S, ``cause`` S,
                     ``attempts`` N, ``at`` N, ``retry_at`` N, ``available_ms`` N?,
                     ``is_process_killed`` BOOL?, ``address`` S?,
                     ``is_unmet_requirement`` BOOL?}: the last failure
``failures``   L     other failures, each as ``failure``, the last one first
=============  ====  =========================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.lease.first_read import ITEM_LAYOUT, SHORT_DIGEST_BYTES, decode_base64
from lambda_migrate.lease.record import DatabaseRecord, LeaseState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from lambda_migrate.lease.progress import Failure, Progress

__all__ = [
    "ITEM_LAYOUT",
    "decode",
    "encode_databases",
    "encode_failure",
    "encode_failures",
    "encode_progress",
]

if TYPE_CHECKING:
    AttributeValue = dict[str, Any]


def decode(item: Mapping[str, AttributeValue] | None, *, target: str) -> LeaseState:
    """Read an item; a missing one is an empty state.

    Args:
        item: Attribute name -> typed value (``{"N": "7"}``), as the API returns it.
        target: For messages.

    Raises:
        ConfigurationError: The layout is unknown, or an attribute has a wrong type or value.
    """
    if not item or set(item) == {"target"}:
        return LeaseState()
    reader = _AttributeReader(item, f"item {target!r}")
    layout = reader.number("format")
    if layout != ITEM_LAYOUT:
        raise ConfigurationError(
            f"the lease table's item {target!r} has layout {layout}, and this version of "
            f"lambda-migrate reads {ITEM_LAYOUT} only; nothing was changed. "
            + (
                "Deploy the newer library to every function of this target"
                if layout > ITEM_LAYOUT
                else "Stop the functions that write the older layout, then delete the item: the "
                "next cold start creates a new one from PostgreSQL's history"
            )
        )
    return LeaseState(
        fence=reader.number("fence", 0),
        owner=reader.optional_text("owner"),
        lease_until_ms=reader.number("lease_until", 0),
        lease_ms=reader.number("lease_ms", 0),
        databases={i: _decode_database(r) for i, r in reader.map_entries("databases")},
        progress=_decode_progress(reader.child("progress")),
        failure=_decode_optional_failure(reader.child("failure")),
        older_failures=tuple(map(_decode_failure, reader.list_entries("failures"))),
    )


def encode_databases(databases: Mapping[str, DatabaseRecord]) -> AttributeValue:
    """``databases`` as a map attribute."""
    return {"M": {identity: _encode_database(record) for identity, record in databases.items()}}


def _encode_database(record: DatabaseRecord) -> AttributeValue:
    return {
        "M": {
            "ready": {"B": record.ready_digests},
            "older": {"B": record.older_digests},
            "unlisted": _encode_number(record.unlisted_count),
            "fence": _encode_number(record.fence),
            "owner": {"S": record.owner},
            "at": _encode_number(record.at_ms),
            "addresses": {
                "M": {
                    address: {
                        "M": {
                            "confirmed": _encode_number(confirmed),
                            "fence": _encode_number(fence),
                        }
                    }
                    for address, (confirmed, fence) in record.addresses.items()
                }
            },
        }
    }


def encode_progress(progress: Progress) -> AttributeValue:
    """``progress`` as a map attribute."""
    fields = {
        "migration": {"S": progress.migration},
        "done": _encode_number(progress.done),
        "total": _encode_number(progress.total),
        "started": _encode_number(progress.started_ms),
        "attempts": _encode_number(progress.attempts),
    }
    return {"M": fields}


def encode_failure(failure: Failure) -> AttributeValue:
    """``failure`` as a map attribute."""
    fields: AttributeValue = {
        "digest": {"S": failure.digest},
        "migration": {"S": failure.migration},
        "version": {"S": failure.version},
        "sqlstate": {"S": failure.sqlstate},
        "cause": {"S": failure.cause},
        "attempts": _encode_number(failure.attempts),
        "at": _encode_number(failure.at_ms),
        "retry_at": _encode_number(failure.retry_at_ms),
    }
    if failure.available_ms is not None:
        fields["available_ms"] = _encode_number(failure.available_ms)
    if failure.is_process_killed:
        fields["is_process_killed"] = {"BOOL": True}
    if failure.address:
        fields["address"] = {"S": failure.address}
    if failure.is_unmet_requirement:
        fields["is_unmet_requirement"] = {"BOOL": True}
    return {"M": fields}


def encode_failures(failures: Iterable[Failure]) -> AttributeValue:
    """Failures as a list attribute."""
    return {"L": [encode_failure(failure) for failure in failures]}


def _encode_number(number: int) -> AttributeValue:
    # int(): so that a number computed from a malformed one can be read again.
    return {"N": str(int(number))}


def _decode_database(reader: _AttributeReader) -> DatabaseRecord:
    return DatabaseRecord(
        ready_digests=reader.short_digests("ready"),
        older_digests=reader.short_digests("older"),
        unlisted_count=max(0, reader.number("unlisted")),
        addresses={
            address: (max(0, check.number("confirmed")), check.number("fence"))
            for address, check in reader.map_entries("addresses")
        },
        fence=reader.number("fence"),
        owner=reader.text("owner"),
        at_ms=reader.number("at"),
    )


def _decode_progress(reader: _AttributeReader | None) -> Progress | None:
    if reader is None:
        return None
    from lambda_migrate.lease.progress import Progress

    return Progress(
        migration=reader.text("migration"),
        done=reader.number("done"),
        total=reader.number("total"),
        started_ms=reader.number("started"),
        attempts=reader.number("attempts"),
    )


def _decode_optional_failure(reader: _AttributeReader | None) -> Failure | None:
    return None if reader is None else _decode_failure(reader)


def _decode_failure(reader: _AttributeReader) -> Failure:
    from lambda_migrate.lease.progress import Failure

    return Failure(
        digest=reader.text("digest"),
        migration=reader.text("migration"),
        version=reader.text("version"),
        sqlstate=reader.text("sqlstate"),
        cause=reader.text("cause"),
        attempts=reader.number("attempts"),
        at_ms=reader.number("at"),
        retry_at_ms=reader.number("retry_at"),
        available_ms=(reader.number("available_ms") if "available_ms" in reader.fields else None),
        is_process_killed="is_process_killed" in reader.fields,
        address=reader.optional_text("address") or "",
        is_unmet_requirement="is_unmet_requirement" in reader.fields,
    )


_TYPE_NAMES = {"N": "a number", "S": "a string", "M": "a map", "B": "a binary", "L": "a list"}


class _AttributeReader:
    """Typed access to a map of attribute values; its errors name the wrong one."""

    __slots__ = ("fields", "path")

    def __init__(self, fields: Mapping[str, AttributeValue], path: str) -> None:
        self.fields = fields
        self.path = path

    def number(self, name: str, default: int | None = None) -> int:
        text = self._value(name, "N", default if default is None else str(default))
        digits = str(text)
        if not digits.removeprefix("-").isdecimal() or len(digits) > 20:
            raise self._error(name, "a whole number")
        return int(digits)

    def text(self, name: str) -> str:
        return str(self._value(name, "S", None))

    def optional_text(self, name: str) -> str | None:
        return self.text(name) if name in self.fields else None

    def short_digests(self, name: str) -> bytes:
        """A binary: bytes from boto3, base64 text from the fast client."""
        value = self._value(name, "B", None)
        try:
            digests = decode_base64(value) if isinstance(value, str) else bytes(value)
        except (TypeError, ValueError):
            digests = b"?"  # of no digests
        if len(digests) % SHORT_DIGEST_BYTES:
            raise self._error(name, "a list of short digests")
        return digests

    def child(self, name: str) -> _AttributeReader | None:
        return self._map(name) if name in self.fields else None

    def map_entries(self, name: str) -> list[tuple[str, _AttributeReader]]:
        parent = self.child(name)
        if parent is None:
            return []
        return [(key, parent._map(key)) for key in parent.fields]

    def list_entries(self, name: str) -> list[_AttributeReader]:
        """The maps of a list."""
        if name not in self.fields:
            return []
        path = f"{self.path}, attribute {name!r}"
        values = self._value(name, "L", None)
        if not isinstance(values, list):
            raise self._error(name, "a list")
        return [_AttributeReader({name: value}, path)._map(name) for value in values]

    def _map(self, name: str) -> _AttributeReader:
        return _AttributeReader(self._value(name, "M", None), f"{self.path}, attribute {name!r}")

    def _value(self, name: str, kind: str, default: str | None) -> Any:
        value = self.fields.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, dict) or kind not in value:
            raise self._error(name, _TYPE_NAMES[kind])
        return value[kind]

    def _error(self, name: str, expected: str) -> ConfigurationError:
        return ConfigurationError(
            f"the lease table's {self.path}: attribute {name!r} is not {expected}; another "
            "program writes to this item. Correct it, or delete it: the next cold start creates a "
            "new one from PostgreSQL's history"
        )
