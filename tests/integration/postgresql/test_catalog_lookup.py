"""The catalog shows whether an interrupted statement of another tool took effect."""

from __future__ import annotations

import pytest

from lambda_migrate.postgresql.connection import PostgresError
from lambda_migrate.sources.catalog_lookup import find_conflict, resolve_in_doubt

from .empty_database import EmptyDatabase

INDEX = "CREATE INDEX CONCURRENTLY item_price ON item (price)"
UNIQUE_INDEX = "CREATE UNIQUE INDEX CONCURRENTLY item_price ON item (price)"
TABLE = "CREATE TABLE item (price int)"
TWO_EQUAL_PRICES = "INSERT INTO item VALUES (1), (1)"


@pytest.mark.parametrize(
    ("before", "statement", "took_effect", "conflict"),
    [
        pytest.param([], INDEX, False, "", id="nothing"),
        pytest.param([INDEX], INDEX, True, "with the same definition", id="the same index"),
        pytest.param([INDEX], UNIQUE_INDEX, False, "another definition", id="another index"),
        pytest.param(
            [TWO_EQUAL_PRICES, UNIQUE_INDEX], UNIQUE_INDEX, False, "INVALID", id="an invalid index"
        ),
        pytest.param([], f"{INDEX}; SELECT 1", None, "", id="several statements"),
        pytest.param([], "VACUUM item; VACUUM", None, "", id="unknown statements"),
    ],
)
def test_a_statement_took_effect_if_the_catalog_has_its_object(
    db: EmptyDatabase, before: list[str], statement: str, took_effect: bool | None, conflict: str
) -> None:
    with db.connect() as connection:
        version = int(connection.run("SHOW server_version_num", timeout=9)[0][0])

        def run(sql: str) -> list[list[object]]:
            return connection.run(sql, timeout=9)

        run(TABLE)
        for each in before[:-1]:
            run(each)
        if before:
            try:
                run(before[-1])
            except PostgresError:
                assert "INVALID" in conflict
        assert conflict in find_conflict(statement, run, version)
        assert resolve_in_doubt(statement, run, version) is took_effect
        assert run("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == [[0]]
