"""Placeholders: where a script may have them, what is refused, and what messages show."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambda_migrate.errors import ConfigurationError, ManifestError
from lambda_migrate.migrations import Manifest, Migration, Script, parse_migration
from lambda_migrate.migrations.sql.lint import check_migration, check_script, find_script_warnings
from lambda_migrate.migrations.sql.placeholders import (
    SubstitutedSQL,
    parse_placeholders,
    redact_values,
)
from lambda_migrate.migrations.sql.tokens import split_statements
from lambda_migrate.postgresql.queries import _down_values, parse_down_script
from lambda_migrate.settings import Settings

VALUES = {
    "role": "app",
    "region": "eu",
    "quote": "it's",
    "empty": "",
    "odd": "\\'$",
    "long": "x" * 64,
}
MARKER = "-- migrate:up placeholders:true\n"


def read(text: str, name: str = "0001_it.sql") -> Migration:
    return parse_migration(text.encode(), filename=name, path=name)


def faults_of(sql: str, values: dict[str, str] | None = VALUES) -> list[str]:
    script = Script(sql, 2, has_placeholders=True)
    return check_script(script, path="f.sql", placeholders=values)


def substitute(sql: str, values: dict[str, str] = VALUES) -> str:
    assert faults_of(sql, values) == []
    return SubstitutedSQL(sql, values, is_unchanged=False).sql


def test_only_a_marked_script_has_placeholders() -> None:
    marked = read(f"{MARKER}SELECT 1;\n-- migrate:down\nSELECT 1;")
    assert marked.up.has_placeholders
    assert marked.down is not None
    assert not marked.down.has_placeholders
    for name in ("R__view.sql", "0001_it.sql"):
        assert read(f"{MARKER}SELECT 1;", name).up.has_placeholders
    plain = Script("SELECT '${x}', ${literal:x}")
    assert check_script(plain, path="f.sql", placeholders={}) == []
    assert find_script_warnings(plain, path="f.sql") == [
        "f.sql:1: `${literal:x}` is not replaced; write `placeholders:true` on the marker"
    ]
    sent = SubstitutedSQL(plain.sql, VALUES, is_unchanged=True)
    assert (sent.sql, sent.find_original_position(9)) == (plain.sql, 9)


def test_a_script_outside_a_transaction_has_no_placeholders() -> None:
    with pytest.raises(ManifestError, match=r"1: `placeholders:true` with `transaction:false`: "):
        read("-- migrate:up transaction:false placeholders:true\nVACUUM;")


@pytest.mark.parametrize(
    ("sql", "sent"),
    [
        ("GRANT x ON y TO ${ident:role};", 'GRANT x ON y TO "app";'),
        ("SELECT ${literal:quote}::text", "SELECT 'it''s'::text"),
        ("SELECT ${literal:odd}", r"SELECT E'\\''\044'"),
        (r"SELECT 1 AS ${ident:odd}", r"""SELECT 1 AS U&"\\'\0024" """.rstrip()),
        ("SELECT (${literal:empty})", "SELECT ('')"),
        ("SELECT 1 FROM a.${ident:role}.b", 'SELECT 1 FROM a."app".b'),
        ("DO $a$ BEGIN PERFORM ${literal:role}; END $a$", "DO $a$ BEGIN PERFORM 'app'; END $a$"),
        ("SELECT $a$ $$ ${literal:role} $$ $a$", "SELECT $a$ $$ 'app' $$ $a$"),
        (r"SELECT '\${a}', a$b, $1 -- ${x}", "SELECT '${a}', a$b, $1 -- ${x}"),
        ("/* ${x} /* ' */ */ SELECT ${literal:role}", "/* ${x} /* ' */ */ SELECT 'app'"),
        (r"DO $$ SELECT \${x} $$", "DO $$ SELECT ${x} $$"),
    ],
)
def test_a_placeholder_is_replaced_by_its_quoted_value(sql: str, sent: str) -> None:
    assert substitute(sql) == sent


@pytest.mark.parametrize(
    ("sql", "fault"),
    [
        ("\n${role}", "3: `${role}` is not a placeholder; write ${ident:role} for a name, "),
        ("'${role}'", "2: `${role}` is not a placeholder; write ${ident:role} for a name, "),
        ("${text:role}", "2: `${text:role}` is not a placeholder; write ${ident:role} for a "),
        ("${ident:}", "2: `${ident:}` is not a placeholder; write ${ident:name} for a name, "),
        ("${", "2: `${` is not a placeholder; write ${ident:name} for a name, "),
        ("'${literal:role}'", "2: `${literal:role}` is in quotes; remove them, because the "),
        ('"${ident:role}"', "2: `${ident:role}` is in quotes; remove them, because the value"),
        ("DO $$ SELECT 'x\n ${ident:role}' $$", "3: `${ident:role}` is in quotes; remove them"),
        ("app_${ident:role}", "2: `${ident:role}` is attached to other characters; separate it"),
        ("${ident:role}_x", "2: `${ident:role}` is attached to other characters; separate it"),
        ("U&${ident:role}", "2: `${ident:role}` is attached to other characters; separate it"),
        ("${literal:none}", "2: `${literal:none}` has no value; set it in LAMBDA_MIGRATE_PLACE"),
        ("${ident:empty}", "2: the value of `${ident:empty}` has 0 bytes, and a name has 1 to 63"),
        ("${ident:long}", "2: the value of `${ident:long}` has 64 bytes, and a name has 1 to 63"),
    ],
)
def test_what_cannot_be_replaced_is_refused(sql: str, fault: str) -> None:
    (found,) = faults_of(f"SELECT {sql}")
    assert found.startswith(f"f.sql:{fault}")
    assert "x" * 64 not in found


def test_faults_of_the_file_are_found_without_values_and_all_at_once() -> None:
    assert faults_of("SELECT ${literal:none}", None) == []
    text = f"{MARKER}SELECT ${{a}};\nSELECT ${{ident:b}}\n-- migrate:down placeholders:true\n"
    assert [
        fault.partition(" ")[0]
        for fault in check_migration(read(f"{text}SELECT ${{literal:c}};"), {})
    ] == ["0001_it.sql:2:", "0001_it.sql:3:", "0001_it.sql:5:"]


@given(st.dictionaries(st.sampled_from("abc"), st.text(st.characters(exclude_categories=["Cs"]))))
def test_a_replaced_value_is_one_sql_token_whatever_it_contains(texts: dict[str, str]) -> None:
    values = {name: text.replace("\0", "") for name, text in texts.items()}
    tokens = "".join(f", ${{literal:{name}}}" for name in values)
    for sql in (f"SELECT 1{tokens}; SELECT 2", f"DO $$ SELECT 1{tokens} $$; SELECT 2"):
        sent = SubstitutedSQL(sql, values, is_unchanged=False)
        statements = split_statements(sent.sql)
        assert [each.text for each in statements[1:]] == ["SELECT 2"]
        assert sent.find_original_position(statements[1].start + 1) == sql.index("SELECT 2") + 1


def test_a_position_leads_to_the_placeholder_or_beside_it() -> None:
    sql = "a ${literal:quote} b ${ident:role} c"
    sent = SubstitutedSQL(sql, VALUES, is_unchanged=False)
    for text, at in (("a ", 0), ("s' b", 2), (" b ", 18), ("pp", 21), (" c", 34)):
        assert sent.find_original_position(sent.sql.index(text) + 1) == at + 1


def test_the_values_are_not_part_of_the_checksum() -> None:
    migration = read(f"{MARKER}SELECT ${{literal:x}};")
    plan = Manifest([migration]).make_plan([])
    assert plan.pending == (migration,)
    assert migration.up.sql == "SELECT ${literal:x};"


def test_a_stored_down_script_keeps_its_placeholders() -> None:
    for isolation in ("", "serializable"):
        script = Script("SELECT ${literal:x};", 7, isolation=isolation, has_placeholders=True)
        sql, line, transactional, idempotent = _down_values(script)
        assert sql is not None
        assert (
            parse_down_script(sql, line, transactional=transactional, idempotent=idempotent)
            == script
        )


# --- values


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("role=app", "is not a JSON object"),
        ('["secret"]', "is not a JSON object"),
        ('{"a b": "secret"}', "'a b' is not a name; write ASCII letters, digits and _"),
        ('{"a": 1, "b": "secret\\u0000"}', "write text without NUL as the value of a"),
        ({"a": "secret\ud800"}, "write text without NUL as the value of a"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused_without_its_values(
    source: Any, fault: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        parse_placeholders(source)
    assert fault in str(refused.value)
    assert "secret" not in str(refused.value)


def test_the_setting_is_a_json_object_or_a_dict() -> None:
    assert parse_placeholders('{"a": "b=c,d"}') == {"a": "b=c,d"}
    assert parse_placeholders("") == {}
    loaded = Settings.load({"LAMBDA_MIGRATE_PLACEHOLDERS": "{secret"})
    assert loaded.placeholders == "{secret", "it is parsed when a migration is pending"
    loaded = Settings.load({}, placeholders={"a": "secret"})
    assert parse_placeholders(loaded.placeholders) == {"a": "secret"}
    assert "secret" not in repr(loaded)
    with pytest.raises(ConfigurationError) as refused:
        Settings.check_arguments(placeholders={"a": "secret", "b": 1})
    assert "write a dict of names and values, all of them text" in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('role "my app" exists', 'role "${role}" exists'),
        ("near \"'it''s $1'\"", "near \"'${odd}'\""),
        ("near \"E'it''s \\0441'\"", "near \"E'${odd}'\""),
        ("it's $1 twice: it's $1", "${odd} twice: ${odd}"),
        ("an app", "an app"),
        ("Key (x)=(0123456 [...]", "Key (x)=(${long} [...]"),
        ("Key (x)=(012 [...]", "Key (x)=(012 [...]"),
    ],
)
def test_values_of_four_characters_or_more_are_hidden_in_messages(text: str, shown: str) -> None:
    values = {"role": "my app", "odd": "it's $1", "short": "app", "long": "0123456789"}
    assert redact_values(text, values) == shown
