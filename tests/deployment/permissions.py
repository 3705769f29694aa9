"""Decide whether IAM would allow a call, by the statements of our template.

It supports only what these use: actions and resources by name (with ``*`` at the end), and
``dynamodb:LeadingKeys``. A statement with any other condition is an error, not a guess.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

__all__ = ["Request", "grants", "is_allowed"]

LAMBDAS_OWN = ("Log", "NetworkInterfaces", "NotForTheFunctionsCode", "SecretsKey", "Traces")
"""Statements for what Lambda and KMS do in a function's name: our code makes no such call."""


@dataclass(frozen=True, order=True)
class Request:
    """One call, as IAM sees it.

    Attributes:
        action: ``dynamodb:GetItem``.
        resource: An ARN.
        key: The partition key of an item, or "".
    """

    action: str
    resource: str
    key: str = ""


def is_allowed(request: Request, statements: Iterable[Mapping[str, Any]]) -> bool:
    """Whether some statement allows it and none denies it."""
    effects = {each["Effect"] for each in statements if _applies(each, request)}
    return effects == {"Allow"}


def grants(statements: Iterable[Mapping[str, Any]]) -> Iterator[Request]:
    """Every call that the function's own statements allow, one by one."""
    for statement in statements:
        if statement["Sid"] in LAMBDAS_OWN:
            continue
        for action in _listed(statement["Action"]):
            for resource in _listed(statement["Resource"]):
                for key in _leading_keys(statement) or [""]:
                    yield Request(action, resource, key)


def _applies(statement: Mapping[str, Any], request: Request) -> bool:
    if statement["Sid"] in LAMBDAS_OWN:
        return False
    keys = _leading_keys(statement)
    return (
        request.action in _listed(statement["Action"])
        and any(fnmatchcase(request.resource, each) for each in _listed(statement["Resource"]))
        and (keys is None or request.key in keys)
    )


def _leading_keys(statement: Mapping[str, Any]) -> list[str] | None:
    condition = statement.get("Condition")
    if not condition:
        return None
    [(operator, [(name, values)])] = [
        (name, list(each.items())) for name, each in condition.items()
    ]
    assert (operator, name) == ("ForAllValues:StringEquals", "dynamodb:LeadingKeys")
    return _listed(values)


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value
