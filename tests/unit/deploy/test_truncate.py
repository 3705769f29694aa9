"""Shortened responses: what is left out is counted, and the most important part stays."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lambda_migrate.deploy.truncate import MAX_RESPONSE_BYTES, truncate_response


def size(answer: object) -> int:
    return len(json.dumps(answer))


def test_a_response_that_fits_is_unchanged() -> None:
    answer = {"exit_code": 0, "document": {"applied": ["a"] * 1_000}}
    assert truncate_response(answer) is answer


def test_the_limit_is_below_lambdas() -> None:
    assert MAX_RESPONSE_BYTES < 6_291_556


@pytest.mark.parametrize("limit", [200, 1_000, 50_000])
def test_long_lists_are_cut_and_counted(limit: int) -> None:
    rows = [{"version": n, "name": "x" * 50} for n in range(10_000)]
    before = {"exit_code": 0, "document": {"target": "t", "migrations": rows}}
    answer = truncate_response(before, limit=max(limit, 2_000))
    document = answer["document"]
    assert size(answer) <= max(limit, 2_000) + 100
    assert len(document["migrations"]) + document["abridged"]["migrations"] == 10_000
    assert document["target"] == "t"
    assert len(before["document"]["migrations"]) == 10_000  # type: ignore[index]  # a plain dict


def test_the_newest_applied_and_the_next_pending_migrations_are_kept() -> None:
    document: dict[str, Any] = {"migrations": list(range(1_000)), "pending": list(range(1_000))}
    found = truncate_response({"exit_code": 0, "document": document}, limit=1_000)["document"]
    assert found["migrations"][-1] == 999
    assert found["pending"][0] == 0


def test_the_longest_part_is_cut_first() -> None:
    document = {"migrations": ["x" * 100] * 1_000, "pending": ["y"] * 30}
    found = truncate_response({"exit_code": 0, "document": document}, limit=10_000)["document"]
    assert found["pending"] == ["y"] * 30
    assert set(found["abridged"]) == {"migrations"}


def test_a_long_text_is_cut() -> None:
    error = {"kind": "MigrationFailed", "message": "no", "detail": "ü" * 100_000}
    found = truncate_response({"exit_code": 1, "error": error}, limit=5_000)["error"]
    assert len(found["detail"]) + found["abridged"]["detail"] == 100_000
    assert found["message"] == "no"


def test_a_response_without_long_parts_is_left_as_it_is() -> None:
    answer = {"exit_code": 0, "document": {str(n): n for n in range(1_000)}}
    assert truncate_response(answer, limit=10)["document"]["abridged"] == {}
