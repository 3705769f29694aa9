"""Owner ids: which attempt holds the lease."""

from __future__ import annotations

import os

__all__ = ["is_owner_of", "new_owner"]


def new_owner(request_id: str = "") -> str:
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
