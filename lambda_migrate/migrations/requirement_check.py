"""Whether another tool has applied what the setting ``ready_when`` requires.

It does no I/O: `postgresql.other_tools` reads the tools' tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lambda_migrate.migrations.baseline import APPLIED, FAILED, ROLLED_BACK
from lambda_migrate.migrations.version import parse_version

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lambda_migrate.migrations.baseline import ToolHistory, ToolHistoryEntry
    from lambda_migrate.migrations.requirements import Requirement

__all__ = ["RequirementInspection", "RequirementResult", "check_requirement"]

_TOOLS_THAT_INSERT_ROWS_FIRST = ("golang-migrate", "prisma", "sqlx")
"""These write the row before they run the migration: one that is not finished may be running."""

_FILE_SUFFIXES = ("sql", "js", "ts", "cjs", "mjs")
"""Knex, graphile-migrate and Sequelize store the names of files; the suffix may be left out."""


class RequirementResult(NamedTuple):
    """Whether one requirement is satisfied.

    Attributes:
        requirement: What is required.
        is_applied: Whether the tool has applied it.
        reason: Why not, for the end of a sentence; "" if it is applied.
        has_failed: Whether it failed, so that it does not become applied by waiting.
    """

    requirement: Requirement
    is_applied: bool
    reason: str = ""
    has_failed: bool = False


class RequirementInspection(NamedTuple):
    """What one reading of the tools' tables has shown.

    Attributes:
        results: One for each requirement.
        system_id: Cluster and database; without the cluster if the role may not read its id.
    """

    results: tuple[RequirementResult, ...]
    system_id: str

    @property
    def unmet(self) -> tuple[RequirementResult, ...]:
        """The requirements that are not satisfied."""
        return tuple(each for each in self.results if not each.is_applied)


def check_requirement(
    requirement: Requirement, tool_name: str, histories: Sequence[ToolHistory]
) -> RequirementResult:
    """Compare a requirement with the tool's history.

    Args:
        requirement: What is required.
        tool_name: The tool's own name, for messages.
        histories: The tool's history tables that fit the requirement, at most one.
    """
    if not histories:
        reason = f"there is no history table of {tool_name} in this database yet"
        return RequirementResult(requirement, False, reason)
    [history] = histories
    where = f"({history.table})"
    if history.unreadable_reason:
        return RequirementResult(
            requirement, False, f"the table of {tool_name} {where} {history.unreadable_reason}"
        )
    state = _find_state(requirement, history.entries)
    if state == APPLIED:
        return RequirementResult(requirement, True)
    if state == FAILED:
        if requirement.tool in _TOOLS_THAT_INSERT_ROWS_FIRST:
            reason = (
                f"{tool_name} has started it and not finished it {where}: it is running, or failed"
            )
            return RequirementResult(requirement, False, reason)
        return RequirementResult(requirement, False, f"it failed in {tool_name} {where}", True)
    if state == ROLLED_BACK:
        return RequirementResult(requirement, False, f"{tool_name} has rolled it back {where}")
    return RequirementResult(requirement, False, f"{tool_name} has not applied it {where}")


def _find_state(requirement: Requirement, entries: Sequence[ToolHistoryEntry]) -> str:
    """The state of the required version; "" if no entry is about it."""
    number = requirement.number
    version = parse_version(number) if number else None
    state = ""
    for entry in entries:
        if version is None:
            if requirement.version in _list_names(entry):
                state = entry.state
        elif entry.version == version:
            state = entry.state
        elif (
            entry.covers_earlier_versions and entry.version is not None and entry.version > version
        ):
            state = APPLIED
    return state


def _list_names(entry: ToolHistoryEntry) -> Iterator[str]:
    """The names by which a setting may refer to an entry."""
    yield entry.label
    yield entry.key
    stem, _, suffix = entry.key.rpartition(".")
    if suffix in _FILE_SUFFIXES:
        yield stem
