"""What only a real server can show of the same port."""

from __future__ import annotations

from dataclasses import replace

from tests.contract.databases import FIRST, PostgreSQLBench, grant, soon


def test_reading_the_history_creates_nothing(fresh_database: PostgreSQLBench) -> None:
    before = fresh_database.tables()
    assert fresh_database.database.read_history(soon()) == []
    assert fresh_database.tables() == before


def test_each_function_may_have_a_schema_of_its_own(fresh_database: PostgreSQLBench) -> None:
    other = replace(fresh_database.database, schema='my "other" schema')
    with fresh_database.database.take_over(grant(5), soon()) as held:
        held.apply(FIRST, "digest", soon())
    with other.take_over(grant(6), soon()) as held:
        assert held.history() == []


def test_rehearsing_a_first_run_creates_nothing(fresh_database: PostgreSQLBench) -> None:
    before = fresh_database.tables()
    with fresh_database.database.rehearse(grant(1), soon()) as rehearsal:
        rehearsal.run(FIRST, soon())
        rehearsal.end()
    assert fresh_database.database.read_environment(soon()) == ""
    assert fresh_database.tables() == before
