"""A migration's script and its hooks, as one script for one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lambda_migrate.migrations.sql.lint import remove_transaction_block
from lambda_migrate.migrations.sql.placeholders import SubstitutedSQL
from lambda_migrate.migrations.sql.tokens import split_statements

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lambda_migrate.migrations import Migration, Script
    from lambda_migrate.postgresql.connection import PostgresError

__all__ = ["CombinedScript", "ScriptPart"]

_SEPARATOR = "\n;RESET SESSION AUTHORIZATION; RESET ROLE; RESET search_path;\n"
"""Each script begins as the role and with the search path that the session has, whatever the one
before it set. Time limits stay as they are."""

_SEPARATOR_STATEMENTS = 3


class ScriptPart(NamedTuple):
    """One script of several, and the file that it is from."""

    script: Script
    path: str


class CombinedScript:
    """Several scripts that run one after the other in one transaction.

    Args:
        parts: In the order in which they run.
        placeholders: The values of their placeholders.
    """

    def __init__(self, *parts: ScriptPart, placeholders: Mapping[str, str]) -> None:
        self._parts = parts
        self._substituted = [_substitute(part.script, placeholders) for part in parts]
        self.sql = _SEPARATOR.join(each.sql for each in self._substituted)

    @classmethod
    def of_migration(cls, migration: Migration, placeholders: Mapping[str, str]) -> CombinedScript:
        """The up script of a migration, with its hooks before and after it."""
        before, after = (
            [ScriptPart(hook.script, hook.path) for hook in hooks]
            for hooks in (migration.before, migration.after)
        )
        own = ScriptPart(migration.up, migration.path or migration.name)
        return cls(*before, own, *after, placeholders=placeholders)

    @property
    def isolation(self) -> str:
        """The isolation level of the transaction, which a hook does not choose."""
        return next((part.script.isolation for part in self._parts if part.script.isolation), "")

    def locate(
        self, error: PostgresError, completed_statements: int | None
    ) -> tuple[ScriptPart, int | None]:
        """Find the part that failed; changes the error's position to one in that part.

        Args:
            error: The server's error; its position is in the combined script.
            completed_statements: How many statements of the combined script had finished.

        Returns:
            The part, and how many of its own statements had finished.
        """
        start, left = 0, completed_statements or 0
        for part, substituted in zip(self._parts, self._substituted, strict=True):
            text = substituted.sql
            count = len(split_statements(text))
            is_last = part is self._parts[-1]
            if error.position is not None:
                # The separator's semicolon is where an incomplete last statement is noticed.
                if is_last or error.position <= start + len(text) + 2:
                    position = min(error.position - start, len(text) + 1)
                    error.position = substituted.find_original_position(position)
                    break
            elif is_last or left < count:
                break
            start += len(text) + len(_SEPARATOR)
            left -= count + _SEPARATOR_STATEMENTS
        return part, None if completed_statements is None else max(0, left)


def _substitute(script: Script, placeholders: Mapping[str, str]) -> SubstitutedSQL:
    sql = remove_transaction_block(script.sql)
    return SubstitutedSQL(sql, placeholders, is_unchanged=not script.has_placeholders)
