"""A manifest compared with a history."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambda_migrate.migrations import (
    HistoryRow,
    Manifest,
    Migration,
    Plan,
    RowState,
    Script,
)
from lambda_migrate.migrations.version import Version


def manifest(*versions: int, path: str = "") -> Manifest:
    return Manifest(
        Migration(v, f"{v:04}_it", Script("select 1"), None, checksum(v), path) for v in versions
    )


def checksum(version: Version) -> str:
    return hashlib.sha256(str(version).encode()).hexdigest()


def row(
    version: Version, state: RowState = RowState.APPLIED, *, edited: bool = False
) -> HistoryRow:
    return HistoryRow(version, f"{version:04}_it", "" if edited else checksum(version), "", state)


def history(*versions: Version) -> list[HistoryRow]:
    return [row(version) for version in versions]


def shape(plan: Plan) -> dict[str, list[Version] | list[tuple[str, Version]]]:
    """What a plan holds, by version; empty parts left out."""
    parts: dict[str, list[Version] | list[tuple[str, Version]]] = {
        "pending": [each.version for each in plan.pending],
        "applied": [each.version for each in plan.applied],
        "ahead": [each.version for each in plan.ahead],
        "in_doubt": [each.version for each in plan.in_doubt],
        "divergences": [(each.kind, each.version) for each in plan.divergences],
    }
    return {name: part for name, part in parts.items() if part}


@pytest.mark.parametrize(
    ("shipped", "rows", "expected", "is_current"),
    [
        ([], [], {}, True),
        ([1, 2], [], {"pending": [1, 2]}, False),
        ([1, 2, 3], history(1), {"pending": [2, 3], "applied": [1]}, False),
        ([1, 2], history(2, 1), {"applied": [1, 2]}, True),
        ([1], history(3, 1, 2), {"applied": [1], "ahead": [2, 3]}, True),
        ([], history(1), {"ahead": [1]}, True),
        (
            [1, 2],
            [row(1, edited=True), row(2)],
            {"applied": [2], "divergences": [("edited", 1)]},
            False,
        ),
        ([1, 3], history(1, 2, 3), {"applied": [1, 3], "divergences": [("missing", 2)]}, False),
        (
            [1, 2, 3],
            history(1, 3),
            {"pending": [2], "applied": [1, 3], "divergences": [("out-of-order", 2)]},
            False,
        ),
        (
            [2, 4, 5],
            [row(5), row(4, edited=True), row(3)],
            {
                "pending": [2],
                "applied": [5],
                "divergences": [("out-of-order", 2), ("missing", 3), ("edited", 4)],
            },
            False,
        ),
        (
            [1, 2],
            [row(1), row(2, RowState.STARTED)],
            {"applied": [1], "in_doubt": [2]},
            False,
        ),
        (
            [1, 2],
            [row(1, RowState.ROLLING_BACK), row(2)],
            {"applied": [2], "in_doubt": [1]},
            False,
        ),
        # Doubt about newer code's migration is not this code's to resolve.
        (
            [1],
            [row(1), row(4, RowState.STARTED), row(3)],
            {"applied": [1], "ahead": [3, 4]},
            True,
        ),
    ],
)
def test_a_plan_is_the_difference_between_manifest_and_history(
    shipped: list[int],
    rows: list[HistoryRow],
    expected: dict[str, object],
    is_current: bool,
) -> None:
    plan = manifest(*shipped).make_plan(rows)
    assert shape(plan) == expected
    assert plan.is_current is is_current


def test_out_of_order_is_pending_where_it_is_allowed() -> None:
    plan = manifest(1, 2, 3).make_plan(history(1, 3), allow_out_of_order=True)
    assert shape(plan) == {"pending": [2], "applied": [1, 3]}


def test_allowing_out_of_order_excuses_no_other_divergence() -> None:
    rows = [row(1, edited=True), row(2), row(4)]
    plan = manifest(1, 3, 4).make_plan(rows, allow_out_of_order=True)
    assert shape(plan)["divergences"] == [("edited", 1), ("missing", 2)]


@pytest.mark.parametrize(
    ("shipped", "rows", "says"),
    [
        ([1], [row(1, edited=True)], "the file (m.sql) changed after it was applied"),
        ([2], history(1, 2), "its file is missing"),
        ([1, 2], history(2), "pending below version 2"),
    ],
)
def test_a_divergence_has_advice(shipped: list[int], rows: list[HistoryRow], says: str) -> None:
    (divergence,) = manifest(*shipped, path="m.sql").make_plan(rows).divergences
    assert str(divergence).startswith("0001_it: ")
    assert says in str(divergence)
    assert "`lambda-migrate " in divergence.advice or "LAMBDA_MIGRATE_" in divergence.advice


VERSIONS = st.sets(st.integers(1, 12))


@given(VERSIONS, VERSIONS)
def test_code_is_served_exactly_when_its_manifest_is_a_prefix_of_the_history(
    shipped: set[int], applied: set[int]
) -> None:
    plan = manifest(*shipped).make_plan(history(*applied))
    is_prefix = sorted(applied)[: len(shipped)] == sorted(shipped)
    assert plan.is_current is is_prefix


@given(VERSIONS, VERSIONS, st.booleans())
def test_applying_what_is_pending_leaves_nothing_to_do(
    shipped: set[int], applied: set[int], allow: bool
) -> None:
    plan = manifest(*shipped).make_plan(history(*applied), allow_out_of_order=allow)
    if not plan.divergences:
        after = history(*applied, *(each.version for each in plan.pending))
        assert manifest(*shipped).make_plan(after, allow_out_of_order=allow).is_current


@given(VERSIONS, VERSIONS, st.booleans())
def test_every_row_and_every_migration_is_in_a_plan_once(
    shipped: set[int], applied: set[int], allow: bool
) -> None:
    plan = manifest(*shipped).make_plan(history(*applied), allow_out_of_order=allow)
    missing = [each.version for each in plan.divergences if each.kind == "missing"]
    rows = [each.version for each in (*plan.applied, *plan.ahead)]
    assert sorted(rows + missing) == sorted(applied)
    assert {each.version for each in plan.pending} == shipped - applied


@pytest.mark.slow
def test_ten_thousand_migrations_are_planned_in_one_go() -> None:
    # Anything quadratic would run into the suite's timeout.
    everything = manifest(*range(1, 10_001))
    plan = everything.make_plan(history(*range(1, 10_001, 2)), allow_out_of_order=True)
    assert (len(plan.pending), len(plan.applied)) == (5_000, 5_000)
    assert {everything.digest_at(each.version) for each in everything} == set(everything.digests)
