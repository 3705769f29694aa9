"""What Lambda hands to a handler, as far as we look at it."""

from __future__ import annotations

__all__ = ["Context"]


class Context:
    """An invocation with two minutes left."""

    aws_request_id = "bench"
    function_name = "bench"

    def get_remaining_time_in_millis(self) -> int:
        """As Lambda names it."""
        return 120_000
