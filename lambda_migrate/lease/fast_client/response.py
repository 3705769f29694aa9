"""What a response of DynamoDB means: an item, a failed condition, or "try again later"."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from lambda_migrate.lease.dynamodb_call import ConditionFailed
from lambda_migrate.lease.fast_client.http import FallbackNeeded

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from lambda_migrate.lease.fast_client.http import HTTPResponse

__all__ = ["RetryLater", "parse_item", "parse_updated_item"]

_TYPES = frozenset({"B", "BOOL", "BS", "L", "M", "N", "NS", "NULL", "S", "SS"})

_DECODER = json.JSONDecoder(parse_int=str, parse_float=str)
"""DynamoDB sends numbers as text. Any other number stays text as well, because converting one of a
million digits would take seconds."""


class RetryLater(Exception):
    """DynamoDB reports that the same request may succeed later."""


def parse_item(response: HTTPResponse, target: str) -> Mapping[str, Any]:
    """The item in a response to GetItem; empty if there is none.

    Args:
        response: Of any status.
        target: The partition key of the request; the item must have it.

    Raises:
        RetryLater: The same request may succeed later.
        FallbackNeeded: The response is anything else.
    """
    item = _extract_item(_parse_document(response, target), "Item", target)
    return {} if item is None else item


def parse_updated_item(response: HTTPResponse, target: str) -> Mapping[str, Any]:
    """The item in a response to UpdateItem with ``ALL_NEW``.

    Args:
        response: Of any status.
        target: The partition key of the request; the item must have it.

    Raises:
        ConditionFailed: Nothing was written; has the item, if it came with the response.
        RetryLater: The same request may succeed later.
        FallbackNeeded: The response is anything else; the item may have been written.
    """
    item = _extract_item(_parse_document(response, target), "Attributes", target)
    if item is None:
        raise FallbackNeeded("the response to UpdateItem has no item")
    return item


def _parse_document(response: HTTPResponse, target: str) -> dict[str, Any]:
    """The JSON document of a response that is not an error."""
    if response.status >= 500:
        raise RetryLater(f"HTTP {response.status}")
    document = _parse_json(response)
    if response.status == 200:
        return document
    from lambda_migrate.lease.dynamodb_errors import RETRYABLE_CODES, describe_retryable

    code = str(document.get("__type", "")).rpartition("#")[2]
    if code in RETRYABLE_CODES:
        raise RetryLater(describe_retryable(code, str(document.get("message", ""))))
    if response.status == 400 and code == "ConditionalCheckFailedException":
        raise ConditionFailed(_check_item(document.get("Item"), target))
    raise FallbackNeeded(f"HTTP {response.status} {code}")


def _parse_json(response: HTTPResponse) -> dict[str, Any]:
    checksum = response.headers.get("x-amz-crc32")
    if checksum is not None:
        from zlib import crc32

        if checksum != str(crc32(response.body)):
            raise FallbackNeeded("the checksum does not match")
    try:
        document = _DECODER.decode(response.body.decode())
    except (ValueError, RecursionError):
        raise FallbackNeeded("the body is not JSON") from None
    if not isinstance(document, dict):
        raise FallbackNeeded("the body is not a JSON object")
    return document


def _extract_item(document: dict[str, Any], name: str, target: str) -> dict[str, Any] | None:
    """The item in a document that holds nothing else."""
    if not document.keys() <= {name, "ConsumedCapacity"}:
        raise FallbackNeeded("the body is not a response to this request")
    return _check_item(document.get(name), target)


def _check_item(item: Any, target: str) -> dict[str, Any] | None:
    """The item itself, if it is well-formed and has the partition key of the request."""
    if item is None:
        return None
    is_valid = (
        isinstance(item, dict)
        and all(isinstance(v, dict) and len(v) == 1 and v.keys() <= _TYPES for v in item.values())
        and item.get("target") == {"S": target}
    )
    if not is_valid:
        raise FallbackNeeded("the item is malformed, or another one than was requested")
    valid: dict[str, Any] = item
    return valid
