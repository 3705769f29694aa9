"""What an answer of DynamoDB's means: an item, a failed condition, "come back later", or a doubt.

Pure.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from lambda_migrate.lease.dynamodb_errors import RETRYABLE_CODES, ConditionFailed
from lambda_migrate.lease.fast_client.http import FallbackNeeded

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from lambda_migrate.lease.fast_client.http import Response

__all__ = ["RetryLater", "parse_item", "parse_updated_item"]

_KINDS = frozenset({"B", "BOOL", "BS", "L", "M", "N", "NS", "NULL", "S", "SS"})

_DECODER = json.JSONDecoder(parse_int=str, parse_float=str)
"""There are no numbers in such a document, only texts: whatever else is there stays text, because
a number of a million digits would take seconds to read."""


class RetryLater(Exception):
    """DynamoDB says that the same call may succeed later."""


def parse_item(answer: Response, target: str) -> Mapping[str, Any]:
    """The item in an answer to GetItem; empty where there is none.

    Args:
        answer: Of any status.
        target: The partition key that was asked for; an item has to carry it.

    Raises:
        RetryLater: It is none, and says to come back.
        FallbackNeeded: It is anything else.
    """
    item = _only(_accepted(answer, target), "Item", target)
    return {} if item is None else item


def parse_updated_item(answer: Response, target: str) -> Mapping[str, Any]:
    """The item as an UpdateItem (``ALL_NEW``) left it.

    Args:
        answer: Of any status.
        target: The partition key; the item has to carry it.

    Raises:
        ConditionFailed: It was not written; with the item, where that came with the answer.
        RetryLater: It says to come back.
        FallbackNeeded: It is anything else: perhaps it was written, perhaps not.
    """
    item = _only(_accepted(answer, target), "Attributes", target)
    if item is None:
        raise FallbackNeeded("the answer to UpdateItem holds no item")
    return item


def _accepted(answer: Response, target: str) -> dict[str, Any]:
    """The document of an answer that is no error."""
    if answer.status >= 500:
        raise RetryLater(f"HTTP {answer.status}")
    document = _document(answer)
    if answer.status == 200:
        return document
    code = str(document.get("__type", "")).rpartition("#")[2]
    if code in RETRYABLE_CODES:
        # Its first line: what follows in some messages quotes the request.
        raise RetryLater(f"{code} {str(document.get('message', '')).partition(chr(10))[0]}")
    if answer.status == 400 and code == "ConditionalCheckFailedException":
        raise ConditionFailed(_found(document.get("Item"), target))
    raise FallbackNeeded(f"HTTP {answer.status} {code}")


def _document(answer: Response) -> dict[str, Any]:
    if not _is_whole(answer):
        raise FallbackNeeded("the answer's checksum is another one")
    try:
        document = _DECODER.decode(answer.body.decode())
    except (ValueError, RecursionError):
        raise FallbackNeeded("the answer is no JSON") from None
    if not isinstance(document, dict):
        raise FallbackNeeded("the answer is no JSON object")
    return document


def _is_whole(answer: Response) -> bool:
    told = answer.headers.get("x-amz-crc32")
    if told is None:
        return True
    from zlib import crc32

    return told == str(crc32(answer.body))


def _only(document: dict[str, Any], part: str, target: str) -> dict[str, Any] | None:
    """The item in a document that holds nothing else."""
    if not document.keys() <= {part, "ConsumedCapacity"}:
        raise FallbackNeeded("the answer is none to the request")
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
        raise FallbackNeeded("the item is not the one that was asked for")
    found: dict[str, Any] = item
    return found
