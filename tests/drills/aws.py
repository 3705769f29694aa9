#!/usr/bin/env python3
"""The AWS command line as the runbooks use it: one call of boto3, one key of its response.

The project does not install the AWS command line. This program parses the options in the same way;
botocore's model of the service checks the operation and its parameters.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import boto3

_OUTPUT_OPTIONS = ("query", "output")


def main(service: str, operation: str, *words: str) -> None:
    """Run ``aws <service> <operation> <options>``."""
    given = {
        word.removeprefix("--"): value for word, value in pairwise(words) if word.startswith("--")
    }
    parameters = {
        option.title().replace("-", ""): _value(value)
        for option, value in given.items()
        if option not in _OUTPUT_OPTIONS
    }
    client: Any = boto3.Session().client(service)  # type: ignore[call-overload]  # any service
    answer = getattr(client, operation.replace("-", "_"))(**parameters)
    print(answer[given["query"]] if "query" in given else answer)  # noqa: T201 - output of the program


def _value(text: str) -> str | bytes:
    return Path(text.removeprefix("fileb://")).read_bytes() if text.startswith("fileb://") else text


if __name__ == "__main__":
    main(*sys.argv[1:])
