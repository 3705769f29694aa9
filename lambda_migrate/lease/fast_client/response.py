"""What an answer of DynamoDB's means: an item, a failed condition, "come back later", or a doubt.

Pure.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from lambda_migrate.lease.dynamodb_errors import BUSY, ConditionFailed
from lambda_migrate.lease.fast_client.http import Doubtful

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from lambda_migrate.lease.fast_client.http import Answer

__all__ = ["Busy", "item_of", "updated_of"]

_KINDS = frozenset({"B", "BOOL", "BS", "L", "M", "N", "NS", "NULL", "S", "SS"})

_DECODER = json.JSONDecoder(parse_int=str, parse_float=str)
"""There are no numbers in such a document, only texts: whatever else is there stays text, because
a number of a million digits would take seconds to read."""


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
    item = _only(_accepted(answer, target), "Item", target)
    return {} if item is None else item


def updated_of(answer: Answer, target: str) -> Mapping[str, Any]:
    """The item as an UpdateItem (``ALL_NEW``) left it.

    Args:
        answer: Of any status.
        target: The partition key; the item has to carry it.

    Raises:
        ConditionFailed: It was not written; with the item, where that came with the answer.
        Busy: It says to come back.
        Doubtful: It is anything else: perhaps it was written, perhaps not.
    """
    item = _only(_accepted(answer, target), "Attributes", target)
    if item is None:
        raise Doubtful("the answer to UpdateItem holds no item")
    return item


def _accepted(answer: Answer, target: str) -> dict[str, Any]:
    """The document of an answer that is no error."""
    if answer.status >= 500:
        raise Busy(f"HTTP {answer.status}")
    document = _document(answer)
    if answer.status == 200:
        return document
    code = str(document.get("__type", "")).rpartition("#")[2]
    if code in BUSY:
        # Its first line: what follows in some messages quotes the request.
        raise Busy(f"{code} {str(document.get('message', '')).partition(chr(10))[0]}")
    if answer.status == 400 and code == "ConditionalCheckFailedException":
        raise ConditionFailed(_found(document.get("Item"), target))
    raise Doubtful(f"HTTP {answer.status} {code}")


def _document(answer: Answer) -> dict[str, Any]:
    if not _is_whole(answer):
        raise Doubtful("the answer's checksum is another one")
    try:
        document = _DECODER.decode(answer.body.decode())
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


def _only(document: dict[str, Any], part: str, target: str) -> dict[str, Any] | None:
    """The item in a document that holds nothing else."""
    if not document.keys() <= {part, "ConsumedCapacity"}:
        raise Doubtful("the answer is none to the request")
    return _found(document.get(part), target)


def _found(item: Any, target: str) -> dict[str, Any] | None:
    """An item of ours, or none."""
    if item is None:
        return None
    is_ours = (
        isinstance(item, dict)
        and all(isinstance(v, dict) and len(v) == 1 and v.keys() <= _KINDS for v in item.values())
        and item.get("target") == {"S": target}
    )
    if not is_ours:
        raise Doubtful("the item is not the one that was asked for")
    found: dict[str, Any] = item
    return found
