"""SQL scripts without a database: tokens, checks, classification and excerpts."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambda_migrate.migrations import Migration, Script
from lambda_migrate.migrations.sql.classify import StatementInfo, classify
from lambda_migrate.migrations.sql.excerpt import make_excerpt, redact
from lambda_migrate.migrations.sql.lint import (
    can_run_in_transaction,
    check_migration,
    check_script,
    find_script_warnings,
    list_statements,
    remove_transaction_block,
)
from lambda_migrate.migrations.sql.tokens import Identifier, Statement, split_statements

# Each is one statement to PostgreSQL. (psql itself stumbles over two of them: a function named
# begin, and a column named end in a body.)
HIDING = [
    "select ';commit;'",
    "select 'it''s; commit; '",
    r"select E'\'; commit; '",
    r"select e'\\', 'a;b'",
    r"select 'a\', ';'",
    "select E'a'\n  -- it's a comment\n  '\\'; commit; '",
    r"select U&'\0041; commit;'",
    'select 1 as "a;""; commit;"',
    'select U&"\\0041;" from t',
    "select $$; commit; $$",
    "select $a$; $b$ ; $$ ; $ab$ commit; $a$",
    "select $é$; commit; $é$",
    "select $a$ x$a$",
    "select a$b$c, d$$ from t",
    "select $1 + $2",
    "select b'01', x'1F', n'a;b'",
    "select 1 -- ; commit;",
    "select 1 -- ; commit;\r + 1",
    "select /* ; /* ' */ ; commit; */ 1",
    "select 1 */* ; */ 2",
    "select 1 -/* ; */ 2",
    "select 1 --- ; commit;",
    "create rule r as on insert to t do also (delete from a; delete from b)",
    "select ((';'), (/* ) */ 1), (E'\\''), ($$)$$))",
    "select date'2020-01-01', te'x;y'",
    "create function f() returns int language sql begin atomic select 1; select 2; end",
    "create or replace procedure p() begin /* x */ atomic\n  select case when a then 1 end;\nend",
    "create function f() returns int begin atomic select 1 as end; "
    "select (case 1 when 1 then 2 end); end",
    "create function f() returns int begin atomic end",
    "create function begin() returns int language sql as 'select 1; commit'",
    "create table begin_atomic (a int)",
]
CONTROL = [
    "BEGIN",
    "begin work",
    "BEGIN ISOLATION LEVEL SERIALIZABLE",
    "START TRANSACTION",
    "start /* x */ transaction read only",
    "COMMIT",
    "commit and chain",
    "END",
    "ROLLBACK",
    "rollback work",
    "ROLLBACK AND CHAIN",
    "ABORT",
    "PREPARE TRANSACTION 'x'",
    "COMMIT PREPARED 'x'",
    "ROLLBACK PREPARED 'x'",
]


def faults_of(sql: str, *, transactional: bool = True, line: int = 1) -> list[str]:
    return check_script(Script(sql, line, transactional), path="f.sql")


def only(sql: str) -> Statement:
    (statement,) = split_statements(sql)
    return statement


def is_blank(text: str) -> bool:
    while "/*" in text:
        text = re.sub(r"/\*(?:(?!/\*|\*/).)*\*/", "", text, flags=re.DOTALL)
    return not re.sub(r"--[^\n\r]*", "", text).strip(" \t\n\r\f\v;")


# --- splitting


@pytest.mark.parametrize("sql", HIDING)
def test_nothing_quoted_commented_or_bracketed_cuts_a_statement(sql: str) -> None:
    first, second = split_statements(f"{sql}\n;\nselect 'after'")
    assert sql.startswith(first.text)
    assert is_blank(sql[len(first.text) :])
    assert second.text == "select 'after'"


@pytest.mark.parametrize(
    ("sql", "texts"),
    [
        ("", []),
        (" ;; -- nothing\n/* ; */ ;", []),
        ("select 1", ["select 1"]),
        ("select 1;;select 2 ; ", ["select 1", "select 2"]),
        ("begin; select 1; end", ["begin", "select 1", "end"]),
        ("create function begin() as 'x'; commit", ["create function begin() as 'x'", "commit"]),
        ("select a$b; select c$d", ["select a$b", "select c$d"]),
        ("select $1;select $2", ["select $1", "select $2"]),
        ("select 1) ; select 2", ["select 1)", "select 2"]),
        ("select (1 ; select 2", ["select (1 ; select 2"]),
        ("select 'open ; select 2", ["select 'open ; select 2"]),
        ("select e'open \\", ["select e'open \\"]),
        ("select $$open ; $ ", ["select $$open ; $ "]),
        ("select 1 /* open ; /* */ ;", ["select 1"]),
        ("select 'a\\'; select 2", ["select 'a\\'", "select 2"]),
        ("select 1 -- it's\r; select 2", ["select 1", "select 2"]),
    ],
)
def test_statements_end_where_postgresql_ends_them(sql: str, texts: list[str]) -> None:
    assert [each.text for each in split_statements(sql)] == texts


def test_a_statement_has_its_place_and_its_first_words() -> None:
    sql = '-- one\nselect 1;\n\n  CREATE unique Index /* x */ concurrently "I" on t (a, b) where c'
    second = split_statements(sql)[1]
    assert (second.line, sql[second.start :][:6]) == (4, "CREATE")
    assert second.keywords == ("CREATE", "UNIQUE", "INDEX", "CONCURRENTLY", "ON", "T", "WHERE", "C")


def test_keywords_fold_ascii_letters_alone() -> None:
    dotless, long_s = "\u0131ndex", "\u017fet"  # their upper case would be INDEX and SET
    assert only(f"{dotless} {long_s} a").keywords == (dotless, long_s, "A")


def test_only_the_words_that_matter_are_kept() -> None:
    assert len(only("select " + "a + " * 100 + "1").keywords) == 16


FRAGMENTS = st.sampled_from(
    [
        *"'\"$;()-/*\\eEuU&ab1 \n\r\t",
        "''",
        "$$",
        "$a$",
        "--",
        "/*",
        "*/",
        "e'",
        "U&'",
        "é",
        "\ufeff",
        *("begin", " atomic ", " end ", "create function f() ", "select ", "word " * 20, "x" * 600),
    ]
)


@given(st.lists(FRAGMENTS, max_size=40).map("".join))
def test_the_pieces_and_what_lies_between_them_are_the_script(sql: str) -> None:
    at, rest = 0, []
    for piece in split_statements(sql):
        assert piece.text == sql[piece.start : piece.start + len(piece.text)] != ""
        assert piece.line == sql.count("\n", 0, piece.start) + 1
        rest.append(sql[at : piece.start])
        at = piece.start + len(piece.text)
    rest.append(sql[at:])
    assert all(not split_statements(each) for each in rest), "only comments, spaces and semicolons"


@given(st.lists(st.sampled_from(HIDING), max_size=6))
def test_joining_pieces_and_splitting_again_changes_nothing(parts: list[str]) -> None:
    pieces = [each.text for each in split_statements("\n;".join(parts))]
    assert [each.text for each in split_statements("\n;".join(pieces))] == pieces
    assert len(pieces) == len(parts)


@given(st.lists(st.sampled_from(HIDING), max_size=4), st.integers(0, 4), st.integers(1, 30))
def test_long_statements_are_cut_like_short_ones(parts: list[str], at: int, words: int) -> None:
    parts.insert(at, "select " + "word, " * words + "(1; 2), e'\\';' , $q$;$q$")
    assert len(split_statements("\n;".join(parts))) == len(parts)


@pytest.mark.slow
@pytest.mark.parametrize(
    "sql",
    [
        "insert into t values (1, 'it''s', E'\\''), ($$;$$, now(), \"x\");\n" * 5_000,
        "insert into t values " + "(1, 'x;', now())," * 20_000 + "(0);",
        "select '" + "''" * 100_000,
        "select e'" + "\\'" * 100_000,
        "(" * 100_000,
        "/*" * 100_000,
        "$a$" * 100_001,
        "'a'\n-- b\n" * 20_000,
        "e'a'\n-- b\n" * 20_000,
        "select " + "e u - / " * 20_000,
        "select " + "ee" * 100_000 + "'x\\';",
    ],
)
def test_every_script_is_split_in_linear_time(sql: str) -> None:
    # Anything worse than linear would run into the suite's timeout at these lengths.
    assert len(split_statements(sql)) in (0, 1, 5_000)


def test_a_word_longer_than_one_match_does_not_open_a_string() -> None:
    sql = "select (" + "a " * 499 + "ee'x\\'); select 2"
    assert [each.keywords for each in split_statements(sql)] == [("SELECT",), ("SELECT",)]


# --- judging


@pytest.mark.parametrize("sql", CONTROL)
@pytest.mark.parametrize("transactional", [True, False])
def test_transaction_control_is_refused(sql: str, transactional: bool) -> None:
    if not transactional and sql in ("COMMIT", "END"):
        sql = f"BEGIN; SELECT 1; {sql}"
    fault = faults_of(f"-- x\n{sql};", transactional=transactional, line=5)[-1]
    assert fault.startswith("f.sql:6: ")
    where = "lambda-migrate's own transaction" if transactional else "is committed separately"
    assert f"{where}; remove it" in fault


@pytest.mark.parametrize(
    "sql",
    [
        "savepoint a; rollback to a; rollback to savepoint a; rollback work to a; release a",
        "prepare transaction as select 1",
        "prepare p as select 1",
        'select 1 as "commit"',
        "comment on table t is 'commit'",
        "refresh materialized view concurrently m",
        "alter type t add value 'x'",
        "alter table t detach partition p",
        "create index concurrent on t (a)",
        "reindex index i",
        "reindex (verbose) table t",
        "cluster t",
        'cluster "t" using i',
        "cluster verbose t",
        "drop index i",
        "copy t from program 'x'",
        "copy t to '/tmp/x'",
        "analyze",
        "discard temp",
        "alter database d set work_mem = 1",
        "create table vacuum_log ()",
        "create function f() returns int begin atomic select 1; end",
        "create \u0131ndex concurrently i on t (a)",
    ],
)
def test_statements_that_a_transaction_allows_are_accepted(sql: str) -> None:
    assert faults_of(sql) == []


@pytest.mark.parametrize(
    ("sql", "what"),
    [
        ("create index concurrently i on t (a)", "CREATE INDEX CONCURRENTLY"),
        ("create unique index concurrently i on t (a)", "CREATE UNIQUE INDEX CONCURRENTLY"),
        ("drop index concurrently if exists s.i", "DROP INDEX CONCURRENTLY"),
        ("reindex index concurrently i", "REINDEX CONCURRENTLY"),
        ("reindex (concurrently, verbose) table t", "REINDEX CONCURRENTLY"),
        ("reindex (verbose) table concurrently t", "REINDEX CONCURRENTLY"),
        ("reindex schema s", "REINDEX SCHEMA"),
        ("vacuum (full) t", "VACUUM"),
        ("create database d", "CREATE DATABASE"),
        ("drop database d", "DROP DATABASE"),
        ("create tablespace s location '/x'", "CREATE TABLESPACE"),
        ("drop tablespace s", "DROP TABLESPACE"),
        ("alter system set work_mem = 1", "ALTER SYSTEM"),
        ("alter database d set tablespace s", "ALTER DATABASE ... SET TABLESPACE"),
        ("discard all", "DISCARD ALL"),
        ("cluster", "CLUSTER of every table"),
        ("cluster (verbose)", "CLUSTER of every table"),
        (
            "alter table if exists only a.b detach partition c.d concurrently",
            "DETACH PARTITION CONCURRENTLY",
        ),
    ],
)
def test_statements_that_no_transaction_allows_need_a_file_of_their_own(
    sql: str, what: str
) -> None:
    (alone,) = faults_of(sql)
    assert alone.startswith(f"f.sql:1: {what} cannot run inside a transaction; write `transaction:")
    (second,) = faults_of(f"select 1;\n{sql}")
    assert second.startswith(
        f"f.sql:2: {what} cannot run inside a transaction; move it into a file"
    )
    assert faults_of(sql, transactional=False) == []


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("copy t from stdin", "COPY ... FROM STDIN has no client"),
        ("copy s.t (a, b) from stdin with (format csv)", "COPY ... FROM STDIN"),
        ("copy binary t from stdin", "COPY ... FROM STDIN"),
        ("copy (select a from b) to stdout", "COPY ... TO STDOUT has no client"),
        ('copy "a""b" to stdout', "COPY ... TO STDOUT"),
        ("\\i other.sql", "\\i is a command of psql"),
        ("select 1;\n \\connect x", "\\connect is a command of psql that pg_dump writes; delete"),
        ("\\restrict a8b\n\nset x = 1;", "\\restrict is a command of psql that pg_dump writes"),
        ("select 1;\n\\unrestrict a8b", "\\unrestrict is a command of psql that pg_dump writes"),
        ("create index concurrently on t (a)", "this index has no name"),
    ],
)
def test_what_needs_another_client_or_a_name_is_refused(sql: str, says: str) -> None:
    assert any(says in fault for fault in faults_of(sql))


def test_the_data_below_a_copy_is_not_read_as_sql() -> None:
    (fault,) = faults_of("copy t from stdin;\n1\tit's; commit;\n\\.\ncommit;")
    assert "COPY ... FROM STDIN" in fault


_BLOCKS = [
    ("begin", "commit"),
    ("BEGIN TRANSACTION", "END"),
    ("/* a */ Begin Work", "commit work"),
    ("start transaction", "end transaction"),
    ("begin isolation level read committed, read write", "commit and no chain"),
]


@pytest.mark.parametrize("pair", _BLOCKS)
@pytest.mark.parametrize(
    ("before", "after"), [("", ""), ("-- x\n/* y */ ;\n", ";\n-- z"), ("\n", ";;")]
)
def test_a_transaction_block_around_the_whole_script_is_blanked_out(
    pair: tuple[str, str], before: str, after: str
) -> None:
    begin, commit = pair
    sql = f"{before}{begin};\nselect 1;\nselect 2;\n{commit}{after}"
    assert faults_of(sql) == []
    removed = remove_transaction_block(sql)
    assert [each.text for each in split_statements(removed)] == ["select 1", "select 2"]
    assert (len(removed), removed.find("select 1")) == (len(sql), sql.find("select 1"))


@pytest.mark.parametrize(
    "sql",
    [
        "begin; select 1",
        "select 1; commit",
        "select 0; begin; select 1; commit",
        "begin; select 1; commit; select 2",
        "begin; select 1; commit; begin; select 2; commit",
        "begin; begin; select 1; commit",
        "begin; select 1; rollback",
        "begin; select 1; commit and chain",
        "begin isolation level serializable; select 1; commit",
        "begin read only; select 1; commit",
        "start transaction deferrable; select 1; commit",
    ],
)
def test_any_other_transaction_block_is_refused(sql: str) -> None:
    assert remove_transaction_block(sql) == sql
    assert "a BEGIN and a COMMIT around the whole script are ignored" in faults_of(sql)[0]
    assert faults_of("begin; vacuum; commit", transactional=False)


@pytest.mark.parametrize(
    ("sql", "fault"),
    [
        ("select 1;\ninsert into t values ('abc);\nselect 2", "2:23: this string"),
        ("select 'a''", "1:8: this string"),
        ("select e'a\\'", "1:8: this string"),
        ("select 1;\n\n  select U&'a", "3:10: this string"),
        ('create table "t (id int);', "1:14: this quoted identifier"),
        ('select 1 as "a""', "1:13: this quoted identifier"),
        ("create function f() returns int as $x$ select $$1$$;", "1:36: this dollar quote"),
        ("do $$ begin end $;", "1:4: this dollar quote"),
        ("create table t ();\n/* to be /* done */", "2:1: this comment"),
        ("create table t (id int;\nselect (1);", "1:16: this parenthesis"),
    ],
)
@pytest.mark.parametrize("padding", ["", "-- it's\n" * 700 + "select '(', \"'\", $$'$$;\n"])
def test_what_is_never_closed_is_found_at_its_opening(sql: str, fault: str, padding: str) -> None:
    line, _, rest = fault.partition(":")
    place = f"f.sql:{int(line) + padding.count(chr(10))}:{rest} is never closed; close it with "
    assert [each[: len(place)] for each in faults_of(padding + sql)] == [place]
    assert faults_of(padding + sql, transactional=False)[0].startswith(place)


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("set transaction isolation level serializable", "write `isolation:serializable` on"),
        ("SET LOCAL TRANSACTION ISOLATION LEVEL REPEATABLE READ", "`isolation:repeatable-read`"),
        ("set transaction read write, isolation level serializable", "`isolation:serializable`"),
        ("set transaction_isolation = 'repeatable read'", "`isolation:repeatable-read`"),
        ("set local transaction_isolation to serializable", "`isolation:serializable`"),
        ("set transaction isolation level read committed", "the marker determines the isolation"),
        ("set transaction snapshot '1'", "must come before any query; remove it"),
        ("set transaction read only", "would prevent the history row from being written"),
        ("set transaction_read_only = on", "would prevent the history row from being written"),
    ],
)
def test_a_set_of_the_transactions_mode_is_refused(sql: str, says: str) -> None:
    (fault,) = faults_of(f"select 1;\n{sql};")
    assert fault.startswith("f.sql:2: SET TRANSACTION")
    assert says in fault


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("set statement_timeout = 0", "switches off statement_timeout"),
        ("SET LOCAL lock_timeout TO '0'", "switches off lock_timeout"),
        ("set session lock_timeout = '0ms'", "switches off lock_timeout"),
        ("set transaction_timeout = '0 s'", "switches off transaction_timeout"),
        ("set statement_timeout to default", "switches off statement_timeout"),
        ("reset idle_in_transaction_session_timeout", "switches off idle_in_transaction"),
        ("select pg_catalog.set_config('lock_timeout', '0', false)", "switches off lock_timeout"),
        (
            "set session characteristics as transaction isolation level serializable",
            "`isolation:serializable`",
        ),
        ("set default_transaction_isolation = 'repeatable read'", "`isolation:serializable`"),
    ],
)
def test_settings_without_their_apparent_effect_cause_a_warning(sql: str, says: str) -> None:
    (warning,) = find_script_warnings(Script(f"select 1;\n{sql}", 4), path="f.sql")
    assert warning.startswith("f.sql:5: this ")
    assert says in warning
    assert faults_of(sql) == []


@pytest.mark.parametrize(
    "sql",
    [
        "set transaction read write",
        "set local lock_timeout = '5s'",
        "set statement_timeout = 60000",
        "set statement_timeout = '10min'",
        "set search_path = ''; select set_config('search_path', '', false)",
        "set xmloption = content; set default_tablespace = ''; set client_min_messages = warning",
        "alter role r set statement_timeout = 0",
        "set work_mem = 0; reset role; set constraints all deferred",
    ],
)
def test_other_settings_are_accepted(sql: str) -> None:
    assert (faults_of(sql), find_script_warnings(Script(sql), path="f.sql")) == ([], [])


def test_a_commit_without_a_begin_means_nothing_outside_a_transaction() -> None:
    sql = "alter table t add c int;\nCOMMIT;\ncreate index concurrently i on t (c); end work"
    assert faults_of(sql, transactional=False) == []
    assert [each.keywords[0] for each in list_statements(sql)] == ["ALTER", "CREATE"]
    assert len(faults_of(f"begin; {sql}", transactional=False)) == 3
    assert "contains no statement" in faults_of("commit;", transactional=False)[0]


def test_a_non_transactional_script_has_one_statement_or_several() -> None:
    assert faults_of("-- a\nvacuum; -- b\n;", transactional=False) == []
    assert faults_of("set x.y = 1; vacuum;\n\ncreate table t ();", transactional=False) == []
    assert "contains no statement; write one" in faults_of(";", transactional=False)[0]


@pytest.mark.parametrize(
    ("sql", "can"),
    [
        ("create table t ()", True),
        ("create index i on t (a)", True),
        ("update t set a = 1", True),
        ("alter table t attach partition p default", True),
        ("create index concurrently i on t (a)", False),
        ("alter table t detach partition p concurrently", False),
        ("alter type t add value 'x'", False),
        ("vacuum t", False),
        ("refresh materialized view concurrently m", False),
        ("call p()", False),
        ("do $$ begin commit; end $$", False),
        ("create subscription s connection '' publication p", False),
    ],
)
def test_what_commits_or_must_be_committed_alone_gets_no_transaction(sql: str, can: bool) -> None:
    assert can_run_in_transaction(only(sql)) is can


def test_both_directions_are_checked_and_named_with_the_file() -> None:
    up, down = Script("select 1;\ncommit", 2), Script("rollback", 9)
    with_path = Migration(1, "0001_a", up, down, "", "m/0001_a.sql")
    without = Migration(1, "0001_a", up, None, "")
    assert [fault.split(" ")[0] for fault in check_migration(with_path)] == [
        "m/0001_a.sql:3:",
        "m/0001_a.sql:9:",
    ]
    assert [fault.split(" ")[0] for fault in check_migration(without)] == ["0001_a:3:"]


@given(
    st.lists(st.sampled_from(HIDING), max_size=5),
    st.lists(st.sampled_from(CONTROL), max_size=3),
    st.randoms(use_true_random=False),
)
def test_a_hidden_commit_is_never_reported_and_a_bare_one_always_is(
    hiding: list[str], control: list[str], random: object
) -> None:
    parts = [*hiding, *control]
    random.shuffle(parts)  # type: ignore[attr-defined]  # hypothesis gives a random.Random
    sql = "\n;\n".join(parts)
    faults = faults_of(sql)
    if remove_transaction_block(sql) != sql:
        assert (len(control), faults) == (2, [])
        return
    lines, line = [], 1
    for part in parts:
        lines += [f"f.sql:{line}:"] if part in control else []
        line += part.count("\n") + 2
    assert [fault.split(" ")[0] for fault in faults] == lines


# --- classifying


def named(*names: str) -> tuple[Identifier, ...]:
    return tuple(Identifier(*reversed(name.split("/"))) for name in names)


@pytest.mark.parametrize(
    ("sql", "info"),
    [
        (
            "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS Orders_Id ON ONLY Shop.Orders (id)",
            StatementInfo(
                "create-index",
                named("shop/orders_id"),
                Identifier("orders", "shop"),
                concurrently=True,
                has_if_exists=True,
                unique=True,
                definition="(id)",
            ),
        ),
        (
            'create index "A""b.c" on "S" . "T" using gin (x)',
            StatementInfo(
                "create-index", named('S/A"b.c'), Identifier("T", "S"), definition="using gin (x)"
            ),
        ),
        (
            "create index concurrently if on t (a)",
            StatementInfo(
                "create-index",
                named("if"),
                Identifier("t"),
                concurrently=True,
                definition="(a)",
            ),
        ),
        ("create index concurrently on t (a)", StatementInfo("create-index", concurrently=True)),
        (
            "drop index concurrently if exists a.b, C cascade",
            StatementInfo("drop-index", named("a/b", "c"), concurrently=True, has_if_exists=True),
        ),
        ("drop index d.a.b", StatementInfo("drop-index", named("a/b"))),
        (
            "REINDEX (VERBOSE) INDEX CONCURRENTLY x",
            StatementInfo("reindex", named("x"), object_type="INDEX", concurrently=True),
        ),
        (
            "reindex (concurrently, tablespace s) table a.t",
            StatementInfo("reindex", named("a/t"), object_type="TABLE", concurrently=True),
        ),
        (
            "reindex (concurrently false) index x",
            StatementInfo("reindex", named("x"), object_type="INDEX"),
        ),
        (
            "reindex (verbose, concurrently 'off') index x",
            StatementInfo("reindex", named("x"), object_type="INDEX"),
        ),
        (
            "reindex database concurrently",
            StatementInfo("reindex", object_type="DATABASE", concurrently=True),
        ),
        ("reindex system d", StatementInfo("reindex", named("d"), object_type="SYSTEM")),
        (
            "alter type shop.mood add value if not exists 'it''s' before 'sad'",
            StatementInfo(
                "add-enum-value", named("shop/mood"), enum_value="it's", has_if_exists=True
            ),
        ),
        (
            "alter type mood add value $x$a'b$x$",
            StatementInfo("add-enum-value", named("mood"), enum_value="a'b"),
        ),
        (
            "alter type mood add value e'plain'",
            StatementInfo("add-enum-value", named("mood"), enum_value="plain"),
        ),
        (r"alter type mood add value e'\x41'", StatementInfo("atomic")),
        ("alter type mood add value 'a'\n'b'", StatementInfo("atomic")),
        ("alter type mood rename value 'a' to 'b'", StatementInfo("atomic")),
        ("vacuum (analyze) t", StatementInfo("idempotent")),
        ("analyze", StatementInfo("idempotent")),
        ("refresh materialized view concurrently m", StatementInfo("idempotent")),
        ("alter system set work_mem = '1GB'", StatementInfo("idempotent")),
        ("alter database d set tablespace s", StatementInfo("idempotent")),
        (
            "create database d owner me",
            StatementInfo("create-object", named("d"), object_type="DATABASE"),
        ),
        (
            'drop database if exists "D" with (force)',
            StatementInfo("drop-object", named("D"), object_type="DATABASE", has_if_exists=True),
        ),
        ("drop tablespace s", StatementInfo("drop-object", named("s"), object_type="TABLESPACE")),
        (
            "create subscription s connection ''",
            StatementInfo("create-object", named("s"), object_type="SUBSCRIPTION"),
        ),
        (
            "alter table if exists only a.t detach partition b.p concurrently",
            StatementInfo(
                "detach-partition",
                named("b/p"),
                Identifier("t", "a"),
                object_type="TABLE",
                concurrently=True,
                has_if_exists=True,
            ),
        ),
        (
            "alter table t * detach partition p finalize",
            StatementInfo(
                "detach-partition", named("p"), Identifier("t"), object_type="TABLE", finalize=True
            ),
        ),
        (
            "alter index i attach partition p_i",
            StatementInfo("attach-partition", named("p_i"), Identifier("i"), object_type="INDEX"),
        ),
        ("alter table t detach partition", StatementInfo("atomic")),
        *(
            (sql, StatementInfo("atomic"))
            for sql in (
                "insert into t values (1)",
                "with a as (select 1) delete from t",
                "create table t ()",
                "drop table t",
            )
        ),
        *(
            (sql, StatementInfo("other"))
            for sql in (
                "call p()",
                "do $$begin commit; end$$",
                "alter subscription s refresh publication",
                "alter database d rename to e",
                'drop index concurrently U&"\\0041"',
            )
        ),
        ('create index concurrently U&"\\0041" on t (a)', StatementInfo("other")),
        ("(select 1)", StatementInfo("other")),
        ("drop index", StatementInfo("atomic")),
        ("reindex concurrently", StatementInfo("other")),
        ("create index i", StatementInfo("atomic")),
    ],
)
def test_a_statement_is_classified_by_its_object(sql: str, info: StatementInfo) -> None:
    assert classify(only(sql)) == info


def test_names_are_cut_at_63_bytes_between_characters_as_postgresql_does() -> None:
    info = classify(only(f'create index {"É" * 40} on "{"x" * 70}" (a)'))
    assert info.names == (Identifier("É" * 31),)
    assert info.table == Identifier("x" * 63)


@given(
    st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=15
    )
)
def test_a_quoted_name_is_read_back_as_it_was(name: str) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    assert classify(only(f"drop index {quoted}")).names == (Identifier(name),)


def test_an_identifier_reads_with_its_schema() -> None:
    assert [str(name) for name in named("a", "s/a")] == ["a", "s.a"]


# --- showing


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (
            "alter role a password 'hunter2' valid until 'x'",
            "alter role a password *** valid until 'x'",
        ),
        ("ENCRYPTED PASSWORD 'a''hunter2'", "ENCRYPTED PASSWORD ***"),
        ("PASSWORD E'a\\'hunter2' x", "PASSWORD *** x"),
        ("PASSWORD $x$hunter2$x$ x", "PASSWORD *** x"),
        ("PASSWORD $x$hunter2", "PASSWORD ***"),
        ("PASSWORD U&'hunter2'", "PASSWORD ***"),
        ("PASSWORD /* x */ 'hunter2'", "PASSWORD /* x */ ***"),
        ("PASSWORD 'hunter2", "PASSWORD ***"),
        ("options (user 'u', password 'hunter2')", "options (user 'u', password ***)"),
        ("dblink('host=h password=hunter2 user=u')", "dblink('host=h password=*** user=u')"),
        ("dblink('password=''hunter2 x'' user=u')", "dblink('password=*** user=u')"),
        ("'postgres://me:hunter2@host/db'", "'postgres://me:***@host/db'"),
        ("set_config('app.password', 'hunter2', true)", "set_config('app.password', ***, true)"),
        ("update t set \"password\" = 'hunter2'", 'update t set "password" = ***'),
        ("password text not null default ''", "password text not null default ''"),
        ("alter role a password null", "alter role a password null"),
        ("select password_hash from t where a = 'b'", "select password_hash from t where a = 'b'"),
        ("", ""),
    ],
)
def test_what_follows_password_is_hidden(line: str, shown: str) -> None:
    assert redact(line) == shown
    assert "hunter2" not in shown


@pytest.mark.parametrize(
    ("sql", "position", "line", "column", "text", "caret"),
    [
        ("select 1;\nselect x;\n", 18, 8, 8, "select x;", "       ^"),
        ("selec", 1, 7, 1, "selec", "^"),
        ("\tselect\tx", 9, 7, 9, "    select    x", " " * 14 + "^"),
        ("select '日本', x", 14, 7, 14, "select '日本', x", " " * 15 + "^"),
        ("select 'e\u0301', x", 14, 7, 14, "select 'e\u0301', x", " " * 12 + "^"),
        ("a\x1b[2J\u202eb", 6, 7, 6, "a\ufffd[2J\ufffdb", "     ^"),
        ("select (\n\n", 11, 7, 9, "select (", "        ^"),
        ("select (\n", 99, 7, 9, "select (", "        ^"),
        ("select 1\nx", 9, 7, 9, "select 1", "        ^"),
        ("\n\nx", 2, 8, 1, "", "^"),
        ("x", 0, 7, 1, "x", "^"),
        ("", 1, 7, 1, "", "^"),
        ("role password 'hunter2' nologni", 25, 7, 25, "role password *** nologni", " " * 18 + "^"),
        ("role password 'hunter2' x", 18, 7, 18, "role password *** x", " " * 14 + "^"),
        ("role password 'hunter2' x", 2, 7, 2, "role password *** x", " ^"),
        ("role password\n'hunter2' x", 25, 8, 11, "*** x", "    ^"),
        ("role password 'a\nhunter2\nb' x", 18, 8, 1, "***", "^"),
    ],
)
def test_the_caret_is_below_the_position(
    sql: str, position: int, line: int, column: int, text: str, caret: str
) -> None:
    shown = make_excerpt(sql, position, first_line=7)
    assert (shown.line, shown.column, shown.text, shown.caret) == (line, column, text, caret)


@given(
    st.text("ab \t日é", max_size=400),
    st.text("ab \t日é", max_size=400),
)
def test_a_long_line_is_cut_around_the_place(before: str, after: str) -> None:
    shown = make_excerpt(f"{before}^{after}", len(before) + 1, first_line=1)
    assert shown.column == len(before) + 1
    widths = {"日": 2}
    at = sum(widths.get(c, 1) for c in shown.text[: shown.text.index("^")])
    assert shown.caret == " " * at + "^"
    assert sum(widths.get(c, 1) for c in shown.text) <= 102


@given(st.lists(FRAGMENTS, max_size=20).map("".join), st.integers(-2, 200), st.text(max_size=5))
def test_an_excerpt_never_fails_and_never_shows_a_password(sql: str, at: int, end: str) -> None:
    script = f"alter role a password 'hunter2'; {sql}{end}"
    shown = make_excerpt(script, at, first_line=1)
    assert "hunter2" not in shown.text
    assert shown.text.isprintable() or "\ufffd" in shown.text
