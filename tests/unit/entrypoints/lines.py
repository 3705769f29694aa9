"""Separate the output of a Lambda function into structured lines and EMF."""

from __future__ import annotations

import json
from typing import Any

import pytest


class Lines:
    """Reads what has been written since the last time.

    Args:
        capsys: Holds it.
    """

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.text = ""
        """Everything that was read."""

    def read(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Structured lines, and EMF; anything else is no JSON and fails."""
        text = self._capsys.readouterr().out
        self.text += text
        written = [json.loads(line) for line in text.splitlines()]
        return (
            [line for line in written if "_aws" not in line],
            [line for line in written if "_aws" in line],
        )


class Context:
    """A Lambda context.

    Args:
        seconds: What is left of the invocation.
    """

    function_name = "orders"
    function_version = "1"
    memory_limit_in_mb = 128
    invoked_function_arn = "arn:aws:lambda:eu-central-1:123456789012:function:orders"
    aws_request_id = "request-1"

    def __init__(self, seconds: float = 30.0) -> None:
        self.seconds = seconds

    def get_remaining_time_in_millis(self) -> int:
        return round(self.seconds * 1000)
