"""How DynamoDB is called, whoever calls it: within which bounds, and what means "come back"."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

__all__ = ["BUSY", "CONNECT_SECONDS", "READ_SECONDS", "ConditionFailed"]

CONNECT_SECONDS = 0.8
READ_SECONDS = 0.9
"""Together below the default safety margin of 2 s, so that a call begun before the deadline ends
before it. DynamoDB answers in single-digit milliseconds; botocore's own default is 60 s each."""

BUSY = frozenset(
    {
        "InternalServerError",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "ThrottlingException",
        "Throttling",
        "TransactionConflictException",
        "LimitExceededException",
    }
)
"""Codes by which it says that the same call may succeed later; so does every 5xx."""


class ConditionFailed(Exception):
    """The condition of a write did not hold; nothing was written.

    Attributes:
        item: What was in the way, where the engine tells it.
    """

    def __init__(self, item: Mapping[str, Any] | None) -> None:
        self.item = item
        super().__init__("the condition did not hold")
