"""Which statements a partly committed step skips, repeats, or leaves to a person."""

from __future__ import annotations

import pytest

from lambda_migrate.sources.django_statements import (
    DjangoRerunKind,
    classify_django_statements,
    hash_statements,
)
from lambda_migrate.sources.statement_log import (
    IN_DOUBT,
    LogMismatch,
    RerunKind,
    StatementLog,
    classify_statements,
    ends_transaction,
    find_function_names,
    make_entry,
)

TABLE = make_entry(RerunKind.SCHEMA, "CREATE TABLE t ()", None)
INDEX = make_entry(RerunKind.SCHEMA, "CREATE INDEX CONCURRENTLY i ON t (x)", None)
ROWS = make_entry(RerunKind.ROWS, "UPDATE t SET x = %s", (1,))


def test_a_rerun_skips_what_is_committed_and_looks_up_what_is_in_doubt() -> None:
    first = StatementLog.resume(())
    assert first.match(TABLE) == "run"
    first.pending.append(TABLE)
    first.record_commit()
    rerun = StatementLog.resume([*first.committed, IN_DOUBT + INDEX])
    assert [rerun.match(TABLE), rerun.match(INDEX)] == ["skip", "look-up"]
    rerun.require_complete()
    assert rerun.match(TABLE) == "run"


def test_rows_and_unknown_statements_are_never_repeated() -> None:
    for entries in ([TABLE, ROWS], [IN_DOUBT + ROWS], [TABLE, IN_DOUBT]):
        with pytest.raises(LogMismatch):
            StatementLog.resume(entries)


def test_a_statement_that_differs_from_the_committed_one_is_a_mismatch() -> None:
    with pytest.raises(LogMismatch, match="not among those"):
        StatementLog.resume([TABLE]).match(INDEX)
    with pytest.raises(LogMismatch, match="does not repeat"):
        StatementLog.resume([TABLE, IN_DOUBT + INDEX]).require_complete()


def test_what_is_rolled_back_is_forgotten_also_to_a_savepoint() -> None:
    log = StatementLog.resume(())
    log.pending.append(TABLE)
    log.record_savepoint("SAVEPOINT s")
    log.pending.append(INDEX)
    log.record_savepoint("ROLLBACK TO SAVEPOINT s;")
    assert log.pending == [TABLE]
    log.record_rollback()
    log.record_commit()
    assert log.committed == []


@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        ("SELECT 1; SHOW search_path", RerunKind.READ),
        ("WITH x AS (DELETE FROM t RETURNING 1) SELECT * FROM x", RerunKind.ROWS),
        ("SET LOCAL x.y = 1", RerunKind.SESSION),
        ("CREATE TEMP TABLE t ()", RerunKind.SESSION),
        ("CREATE TABLE t (); SELECT 1", RerunKind.SCHEMA),
        ("CREATE TABLE t (); UPDATE t SET x = 1", RerunKind.ROWS),
        ("CALL p()", RerunKind.ROWS),
        ("", RerunKind.SESSION),
    ],
)
def test_a_text_has_the_kind_of_its_most_far_reaching_statement(sql: str, kind: RerunKind) -> None:
    assert classify_statements(sql) is kind


@pytest.mark.parametrize(
    ("sql", "end"),
    [
        ("COMMIT", "COMMIT"),
        ("end;", "COMMIT"),
        ("ROLLBACK", "ROLLBACK"),
        ("ROLLBACK TO SAVEPOINT s", ""),
        ("SELECT 1; COMMIT", "MIXED"),
        ("SELECT 1", ""),
    ],
)
def test_a_text_that_ends_its_transaction_is_recognized(sql: str, end: str) -> None:
    assert ends_transaction(sql) == end


def test_functions_that_may_write_are_named() -> None:
    assert find_function_names('SELECT F(x), "g" (1), h FROM t') == ["f", "g"]


@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        ("SELECT max(x) FROM t", DjangoRerunKind.READ),
        ("SELECT fill_rows()", DjangoRerunKind.ROWS),
        ("WITH x AS (INSERT INTO t VALUES (1) RETURNING 1) SELECT 1", DjangoRerunKind.ROWS),
        ("SET lock_timeout = 1", DjangoRerunKind.SESSION),
        ("SET CONSTRAINTS ALL IMMEDIATE; ALTER TABLE t ADD x int", DjangoRerunKind.SCHEMA),
        ("CREATE INDEX i ON t (x)", DjangoRerunKind.SCHEMA),
        ("CREATE INDEX CONCURRENTLY i ON t (x)", DjangoRerunKind.NON_TRANSACTIONAL),
        ("CALL p()", DjangoRerunKind.NON_TRANSACTIONAL),
        ("DO $$ BEGIN COMMIT; END $$", DjangoRerunKind.NON_TRANSACTIONAL),
        ("DO $$ BEGIN PERFORM 1; END $$", DjangoRerunKind.ROWS),
        ("COMMIT", DjangoRerunKind.CONTROL),
        ("", DjangoRerunKind.READ),
    ],
)
def test_sql_of_django_has_the_strongest_kind_of_its_statements(
    sql: str, kind: DjangoRerunKind
) -> None:
    assert classify_django_statements(sql) is kind


def test_parameters_are_part_of_the_hash() -> None:
    assert len({hash_statements("SELECT %s", [each]) for each in (1, 2, "1")}) == 3
