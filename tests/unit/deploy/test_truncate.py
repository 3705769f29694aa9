"""Answers that fit: what is left out is counted, and what matters most stays."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lambda_migrate.deploy.truncate import RESPONSE_BYTES, abridged


def size(answer: object) -> int:
    return len(json.dumps(answer))


def test_what_fits_is_left_as_it_is() -> None:
    answer = {"exit_code": 0, "document": {"applied": ["a"] * 1_000}}
    assert abridged(answer) is answer


def test_the_limit_is_below_lambdas() -> None:
    assert RESPONSE_BYTES < 6_291_556


@pytest.mark.parametrize("limit", [200, 1_000, 50_000])
def test_what_is_too_long_is_cut_and_counted(limit: int) -> None:
    rows = [{"version": n, "name": "x" * 50} for n in range(10_000)]
    before = {"exit_code": 0, "document": {"target": "t", "migrations": rows}}
    answer = abridged(before, limit=max(limit, 2_000))
    document = answer["document"]
    assert size(answer) <= max(limit, 2_000) + 100
    assert len(document["migrations"]) + document["abridged"]["migrations"] == 10_000
    assert document["target"] == "t"
    assert len(before["document"]["migrations"]) == 10_000  # type: ignore[index]  # a plain dict


def test_of_what_is_applied_the_newest_stays_and_of_what_is_to_come_the_next() -> None:
    document: dict[str, Any] = {"migrations": list(range(1_000)), "pending": list(range(1_000))}
    found = abridged({"exit_code": 0, "document": document}, limit=1_000)["document"]
    assert found["migrations"][-1] == 999
    assert found["pending"][0] == 0


def test_the_longest_part_goes_first() -> None:
    document = {"migrations": ["x" * 100] * 1_000, "pending": ["y"] * 30}
    found = abridged({"exit_code": 0, "document": document}, limit=10_000)["document"]
    assert found["pending"] == ["y"] * 30
    assert set(found["abridged"]) == {"migrations"}


def test_a_long_text_is_cut_as_well() -> None:
    error = {"kind": "MigrationFailed", "message": "no", "detail": "ü" * 100_000}
    found = abridged({"exit_code": 1, "error": error}, limit=5_000)["error"]
    assert len(found["detail"]) + found["abridged"]["detail"] == 100_000
    assert found["message"] == "no"


def test_what_cannot_be_cut_ends() -> None:
    answer = {"exit_code": 0, "document": {str(n): n for n in range(1_000)}}
    assert abridged(answer, limit=10)["document"]["abridged"] == {}
