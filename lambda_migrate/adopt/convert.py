"""Turns another tool's migration into a file of this library, with its scripts as they are.

What changes in a script is only what would keep it from running: a BEGIN or COMMIT inside it, and a
line that looks like a marker. A script that PostgreSQL cannot run in a transaction gets
``transaction:false``.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lambda_migrate.errors import ConfigurationError, ManifestError
from lambda_migrate.manifest_digest import (
    find_version,
    is_repeatable_name,
    normalise_text,
    parse_components,
)
from lambda_migrate.migrations.source import FORBIDDEN_IN_NAME, POSSIBLE_MARKER, parse_migration
from lambda_migrate.migrations.sql.lint import (
    check_migration,
    find_non_transactional_command,
    is_transaction_control,
    list_statements,
    remove_transaction_block,
)
from lambda_migrate.migrations.sql.tokens import split_statements

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lambda_migrate.adopt.files import SourceMigration, SourceScript
    from lambda_migrate.migrations import Migration
    from lambda_migrate.migrations.sql.tokens import Statement

__all__ = ["ConvertedFile", "convert_migrations"]


@dataclass(frozen=True, slots=True)
class ConvertedFile:
    """A migration file of this library that another tool's migration became.

    Attributes:
        source_migration: The other tool's migration.
        filename: ``0003_add_status.sql``.
        content: What it contains.
        changes: What differs from the other tool's scripts and name, one sentence each.
        faults: What must be edited before it can run on a new database, one sentence each.
    """

    source_migration: SourceMigration
    filename: str
    content: bytes
    changes: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()

    def parse(self) -> Migration:
        """The migration that the file contains."""
        return parse_migration(self.content, filename=self.filename, path=self.filename)


def convert_migrations(
    migrations: Sequence[SourceMigration], tool_table: str, placeholder: str = ""
) -> tuple[ConvertedFile, ...]:
    """Convert migrations.

    Args:
        migrations: In the order in which their tool applies them.
        tool_table: The tool's history table.
        placeholder: What the tool replaces in scripts, as a regular expression.

    Raises:
        ConfigurationError: A file cannot be parsed.
    """
    taken: set[str] = set()
    converted = []
    for source, filename in zip(migrations, _choose_filenames(migrations), strict=True):
        if filename.lower() in taken:
            raise ConfigurationError(
                f"{source.path}: {filename} would be written twice; rename one of the two files"
            )
        taken.add(filename.lower())
        converted.append(_add_faults(_convert(source, filename), tool_table, placeholder))
    return tuple(converted)


def _convert(source: SourceMigration, filename: str) -> ConvertedFile:
    changes = []
    if filename != f"{source.name}.sql":
        changes.append(f"renamed from {source.name} to {filename.removesuffix('.sql')}")
    if source.verbatim is not None:
        verbatim = ConvertedFile(source, filename, source.verbatim, tuple(changes))
        with suppress(ManifestError):  # the tool is less strict, for example about a second marker
            verbatim.parse()
            return verbatim
    up, up_changes = _convert_script(source.up, "up", is_repeatable=is_repeatable_name(filename))
    text, changes = up, changes + up_changes
    if source.down is not None:
        down, down_changes = _convert_script(source.down, "down")
        text += ("" if text.endswith("\n") else "\n") + down
        changes += [f"down script: {each}" for each in down_changes]
    return ConvertedFile(source, filename, text.encode(), tuple(changes))


def _add_faults(converted: ConvertedFile, tool_table: str, placeholder: str) -> ConvertedFile:
    """Parse the result, as a start would."""
    path = converted.source_migration.path
    try:
        migration = converted.parse()
    except ManifestError as error:
        raise ConfigurationError(
            [f"{path}: {fault.partition(': ')[2]}" for fault in error.faults],
            heading=f"{path} cannot be converted:",
        ) from error
    faults = [
        *check_migration(migration),
        *_find_tool_table(migration, tool_table),
        *(_find_placeholders(migration, placeholder) if placeholder else ()),
    ]
    return replace(converted, faults=tuple(faults))


def _find_tool_table(migration: Migration, tool_table: str) -> Iterator[str]:
    """Statements about the tool's own table, which a new database does not have."""
    for each in split_statements(migration.up.sql):
        if re.search(rf"\b{re.escape(tool_table)}\b", each.text):
            yield (
                f"{migration.path}:{migration.up.line + each.line - 1}: it names {tool_table}, "
                "which a new database does not have; remove the statement"
            )


def _find_placeholders(migration: Migration, placeholder: str) -> Iterator[str]:
    for at, line in enumerate(migration.up.sql.splitlines(), migration.up.line):
        if match := re.search(placeholder, line):
            yield (
                f"{migration.path}:{at}: the tool replaces {match[0]}; write its value, or a "
                "placeholder of lambda-migrate"
            )


# --- names and versions


def _choose_filenames(migrations: Sequence[SourceMigration]) -> Iterator[str]:
    """Keep each name whose version follows the one before; number the others after that one.

    Other tools allow two migrations of one version, names without a number, and another order.
    """
    last: tuple[int, ...] = (-1,)
    for source in migrations:
        usable = FORBIDDEN_IN_NAME.sub("_", source.name)
        usable = "".join(each if each.isprintable() else "_" for each in usable)
        name = usable.strip() or "migration"
        if is_repeatable_name(name):
            yield f"{name}.sql"
            continue
        version = find_version(f"{name}.sql")
        components = (-1,) if version is None else parse_components(version)
        if components <= last:
            head = last if last > (-1,) else (0,)
            components = (*head, 1) if len(head) == 1 else (*head[:-1], head[-1] + 1)
            name = f"{'.'.join(map(str, components))}_{name}"
        last = components
        yield f"{name}.sql"


# --- scripts


def _convert_script(
    script: SourceScript, direction: str, *, is_repeatable: bool = False
) -> tuple[str, list[str]]:
    """The script under its marker, and what was changed."""
    sql, changes = script.sql, list[str]()
    if POSSIBLE_MARKER.search(normalise_text(sql)):
        sql = POSSIBLE_MARKER.sub(lambda match: match[0].replace("--", "-- was:", 1), sql)
        changes.append("a comment that looked like a marker now begins with `was:`")
    statements = split_statements(sql)
    transactional, reason = _choose_transaction_mode(script, statements)
    if not transactional and statements:
        changes.append(f"marked transaction:false, because {reason}")
    runs_as_written = (
        remove_transaction_block(sql) != sql
        if transactional
        else len(list_statements(sql)) < len(statements)
    )
    controls = [each for each in statements if is_transaction_control(each)]
    if controls and not runs_as_written:
        sql = _comment_out(sql, controls)
        together = "runs in one transaction" if transactional else "commits each statement"
        changes.append(
            f"{_join_unique(controls)} inside the script became a comment: the migration {together}"
        )
    if is_repeatable and transactional:
        return sql, changes
    option = "" if transactional or not statements else " transaction:false"
    return f"-- migrate:{direction}{option}\n{sql}", changes


def _choose_transaction_mode(
    script: SourceScript, statements: Sequence[Statement]
) -> tuple[bool, str]:
    """Whether the script runs in a transaction, and why not."""
    if not script.transactional:
        return False, "the tool runs it outside a transaction"
    for each in statements:
        if command := find_non_transactional_command(each):
            return False, f"{command} cannot run in a transaction"
    for at, each in enumerate(statements):
        adds_value = each.keywords[:2] == ("ALTER", "TYPE") and "VALUE" in each.keywords
        later = statements[at + 1 :]
        if adds_value and any(map(is_transaction_control, later[:-1])):
            return False, "it commits a new enum value before it uses it"
    return True, ""


def _comment_out(sql: str, statements: Sequence[Statement]) -> str:
    """Turn statements into comments; lines stay where they are."""
    for each in reversed(statements):
        end = each.start + len(each.text)
        semicolon = re.compile(r"[ \t]*;").match(sql, end)
        end = semicolon.end() if semicolon else end
        text = re.sub(r"\s+", " ", sql[each.start : end])
        lines = "\n" * sql.count("\n", each.start, end)
        sql = f"{sql[: each.start]}/* {text} */{lines}{sql[end:]}"
    return sql


def _join_unique(statements: Sequence[Statement]) -> str:
    return " and ".join(dict.fromkeys(each.keywords[0] for each in statements))
