"""How DynamoDB is called, whoever calls it: within which bounds, and what means "come back"."""

from __future__ import annotations

__all__ = ["BUSY", "CONNECT_SECONDS", "READ_SECONDS"]

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
