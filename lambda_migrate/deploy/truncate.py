"""Answers that would be too long for Lambda, with as much left out as must be, and counted."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["RESPONSE_BYTES", "abridged"]

RESPONSE_BYTES = 6_000_000
"""Lambda refuses answers of more than 6,291,556 bytes."""

_KEPT_FROM_THE_END = ("applied", "declared", "migrations", "reverted", "told")
_SHORTEST = 20


def abridged(answer: dict[str, Any], *, limit: int = RESPONSE_BYTES) -> dict[str, Any]:
    """``answer`` with its longest parts cut until it fits.

    What was left out is counted under ``abridged`` of its document or error: elements of lists,
    characters of texts. Of what is applied the newest is kept, of what is to come the next.

    Args:
        answer: Fit for JSON; left as it is.
        limit: Bytes of it as ASCII JSON, which is as long as it gets.
    """
    if _size(answer) <= limit:
        return answer
    answer = json.loads(json.dumps(answer))
    body = answer.get("document", answer.get("error", answer))
    left_out: dict[str, int] = {}
    while _size({**answer, "abridged": left_out}) > limit:
        parts = [each for each in _parts(answer) if len(each[0][each[1]]) > _SHORTEST]
        if not parts:
            break
        holder, key = max(parts, key=lambda part: _size(part[0][part[1]]))
        left_out[key] = left_out.get(key, 0) + _halve(holder, key)
    body["abridged"] = left_out
    return answer


def _size(value: Any) -> int:
    return len(json.dumps(value))


def _parts(holder: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Every list and every text of an answer, with where it is."""
    for key, value in holder.items():
        if isinstance(value, dict):
            yield from _parts(value)
        elif isinstance(value, (list, str)):
            yield holder, key


def _halve(holder: dict[str, Any], key: str) -> int:
    whole = holder[key]
    kept = len(whole) // 2
    holder[key] = whole[-kept:] if key in _KEPT_FROM_THE_END else whole[:kept]
    return len(whole) - kept
