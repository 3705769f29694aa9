"""What an answer of DynamoDB's means: an item, "come back later", or a doubt. Pure."""

from __future__ import annotations

import json

from lambda_migrate.lease.calling import BUSY
from lambda_migrate.lease.signed.wire import Doubtful

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from lambda_migrate.lease.signed.wire import Answer

__all__ = ["Busy", "item_of"]

_PARTS = frozenset({"Item", "ConsumedCapacity"})
_KINDS = frozenset({"B", "BOOL", "BS", "L", "M", "N", "NS", "NULL", "S", "SS"})


class Busy(Exception):
    """DynamoDB says that the same call may succeed later."""


def item_of(answer: Answer, target: str) -> Mapping[str, Any]:
    """The item in an answer to GetItem; empty where there is none.

    Args:
        answer: Of any status.
        target: The partition key that was asked for; an item has to carry it.

    Raises:
        Busy: It is none, and says to come back.
        Doubtful: It is anything else.
    """
    if answer.status >= 500:
        raise Busy(f"HTTP {answer.status}")
    document = _document(answer)
    if answer.status == 200:
        return _item(document, target)
    code = str(document.get("__type", "")).rpartition("#")[2]
    if code in BUSY:
        # Its first line: what follows in some messages quotes the request.
        raise Busy(f"{code} {str(document.get('message', '')).partition(chr(10))[0]}")
    raise Doubtful(f"HTTP {answer.status} {code}")


def _document(answer: Answer) -> dict[str, Any]:
    if not _is_whole(answer):
        raise Doubtful("the answer's checksum is another one")
    try:
        # There are no numbers in such a document, only texts: whatever else is there stays text,
        # because a number of a million digits would take seconds to read.
        document = json.loads(answer.body.decode(), parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        raise Doubtful("the answer is no JSON") from None
    if not isinstance(document, dict):
        raise Doubtful("the answer is no JSON object")
    return document


def _is_whole(answer: Answer) -> bool:
    told = answer.headers.get("x-amz-crc32")
    if told is None:
        return True
    from zlib import crc32

    return told == str(crc32(answer.body))


def _item(document: dict[str, Any], target: str) -> dict[str, Any]:
    item: Any = document.get("Item", {})
    is_ours = (
        document.keys() <= _PARTS
        and isinstance(item, dict)
        and all(isinstance(v, dict) and len(v) == 1 and v.keys() <= _KINDS for v in item.values())
        and ("Item" not in document or item.get("target") == {"S": target})
    )
    if not is_ours:
        raise Doubtful("the answer is no answer to GetItem")
    found: dict[str, Any] = item
    return found
