"""The first read of a start, which finds the schema ready in most of them.

Only what that takes is loaded: the client, and the one question whether the item marks the manifest
ready. Any doubt is left to the whole check, which gets the item and the client from here.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lambda_migrate.lease.fast_client import FastClient

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from lambda_migrate.clock import Clock

__all__ = [
    "ITEM_LAYOUT",
    "SHORT_DIGEST_BYTES",
    "FirstRead",
    "decode_base64",
    "is_confirmed",
    "is_marked_ready",
    "is_owner_of",
    "join_digests",
    "make_owner",
    "split_digests",
]

ITEM_LAYOUT = 2
"""The layout of the item that this version of the library reads and writes; see `codec`."""

SHORT_DIGEST_BYTES = 8
"""How much of each digest the item stores: 64 bits. The probability that two of n digests of a
target share these is n squared in 2**65: one in 10**13 for 1,000 migrations."""


class FirstRead:
    """One consistent read of the item, without boto3.

    Args:
        environ: Source of credentials, region and endpoint.
        table: Name or ARN of the table.
        target: Partition key of the item.
        clock: Time.

    Attributes:
        started: When it began, monotonic seconds.
        client: What has read, with its connection.
        item: The item as the API returns it; None if boto3 has to read it, or if ``error`` is set.
        error: Why it could not be read.
    """

    def __init__(
        self, environ: Mapping[str, str], table: str, target: str, *, clock: Clock
    ) -> None:
        self.started = clock.monotonic()
        self.client = FastClient(environ, clock=clock)
        self.item: Mapping[str, Any] | None = None
        self.error: Exception | None = None
        try:
            self.item = self.client.get_item(table, target, consistent=True)
        except Exception as error:  # noqa: BLE001 - raised by the first `DynamoDBItemClient.get`
            self.error = error

    def is_ready(self, digest: str, address: str) -> bool:
        """Whether the item marks the manifest ready at the address, beyond doubt."""
        return self.item is not None and is_marked_ready(self.item, digest, address)


def is_marked_ready(item: Mapping[str, Any], digest: str, address: str) -> bool:
    """Whether the item marks the manifest ready at the address; False if it is malformed.

    `LeaseState.is_ready` of the decoded item is the same.

    Args:
        item: As the fast client returns it.
        digest: The manifest's.
        address: See `Database.address_text`.
    """
    try:
        if item["format"]["N"] != str(ITEM_LAYOUT):
            return False
        for record in item["databases"]["M"].values():
            check = record["M"]["addresses"]["M"].get(address)
            if check is not None:
                count = check["M"]["confirmed"]["N"]
                ready = _decode_digests(record["M"]["ready"]["B"])
                older = _decode_digests(record["M"]["older"]["B"])
                return count.isdecimal() and is_confirmed(digest, ready, older, int(count))
    except (KeyError, TypeError, ValueError, AttributeError):
        pass  # the codec reports what is wrong
    return False


def _decode_digests(text: str) -> bytes:
    digests = decode_base64(text)
    if len(digests) % SHORT_DIGEST_BYTES:
        raise ValueError(text)
    return digests


def is_confirmed(digest: str, ready: bytes, older: bytes, confirmed_count: int) -> bool:
    """Whether a digest is among the confirmed ones of a record; see `DatabaseRecord`."""
    short = join_digests([digest])
    if short in split_digests(ready[: confirmed_count * SHORT_DIGEST_BYTES]):
        return True
    is_whole = 0 < confirmed_count == len(ready) // SHORT_DIGEST_BYTES
    return is_whole and short in split_digests(older)


def join_digests(digests: Iterable[str]) -> bytes:
    """The first bytes of each hexadecimal digest, concatenated."""
    return b"".join(bytes.fromhex(digest[: 2 * SHORT_DIGEST_BYTES]) for digest in digests)


def split_digests(joined: bytes) -> list[bytes]:
    """The short digests in ``joined``, in order."""
    size = SHORT_DIGEST_BYTES
    return [joined[start : start + size] for start in range(0, len(joined), size)]


def decode_base64(text: str) -> bytes:
    """The bytes of a base64 text.

    Raises:
        ValueError: It is not the only base64 form of the bytes.
    """
    from binascii import a2b_base64, b2a_base64  # importing base64 takes ten times as long

    value = a2b_base64(text)
    if b2a_base64(value, newline=False) != text.encode():
        raise ValueError(text)
    return value


def make_owner(request_id: str = "") -> str:
    """Create the owner id of one attempt: function, process, and a random part.

    Snapshots clone memory and managed instances run several processes in one environment, so
    neither the function nor the process is enough.

    Args:
        request_id: Included in the id, for `is_owner_of`.
    """
    function = os.environ.get("AWS_LAMBDA_FUNCTION_NAME") or "cli"
    fresh = f"{request_id}.{os.urandom(4).hex()}" if request_id else os.urandom(16).hex()
    return f"{function}/{os.getpid()}/{fresh}"


def is_owner_of(request_id: str, owner: str) -> bool:
    """Whether ``owner`` is the owner id of an attempt of this request."""
    return owner.rpartition("/")[2].rpartition(".")[0] == request_id
