"""Shortens responses that are too long for Lambda, and counts what was left out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MAX_RESPONSE_BYTES", "truncate_response"]

MAX_RESPONSE_BYTES = 6_000_000
"""Lambda refuses responses of more than 6,291,556 bytes."""

_KEEP_LAST_ELEMENTS = ("applied", "marked_as_applied", "migrations", "progress", "rolled_back")
_MIN_LENGTH = 20


def truncate_response(
    response: dict[str, Any], *, limit: int = MAX_RESPONSE_BYTES
) -> dict[str, Any]:
    """Cut the longest lists and strings of a response until it fits.

    What was left out is counted under ``abridged`` of its document or error: elements of lists,
    characters of strings. Of applied migrations the newest are kept, of pending ones the next.

    Args:
        response: JSON-serializable; it is not modified.
        limit: Maximum bytes as ASCII JSON, which is its longest form.
    """
    if _get_size(response) <= limit:
        return response
    response = json.loads(json.dumps(response))
    body = response.get("document", response.get("error", response))
    left_out: dict[str, int] = {}
    while _get_size({**response, "abridged": left_out}) > limit:
        parts = [each for each in _list_parts(response) if len(each[0][each[1]]) > _MIN_LENGTH]
        if not parts:
            break
        parent, key = max(parts, key=lambda part: _get_size(part[0][part[1]]))
        left_out[key] = left_out.get(key, 0) + _halve(parent, key)
    body["abridged"] = left_out
    return response


def _get_size(value: Any) -> int:
    return len(json.dumps(value))


def _list_parts(parent: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield every list and string of a response as its parent and key.

    Of a list with few elements, such as one migration with much SQL, also those inside them.
    """
    for key, value in parent.items():
        if isinstance(value, dict):
            yield from _list_parts(value)
        elif isinstance(value, (list, str)):
            yield parent, key
        if isinstance(value, list) and len(value) <= _MIN_LENGTH:
            for each in value:
                if isinstance(each, dict):
                    yield from _list_parts(each)


def _halve(parent: dict[str, Any], key: str) -> int:
    whole = parent[key]
    kept = len(whole) // 2
    parent[key] = whole[-kept:] if key in _KEEP_LAST_ELEMENTS else whole[:kept]
    return len(whole) - kept
