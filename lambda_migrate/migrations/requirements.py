"""What other migration tools must have applied before the code serves: the setting ``ready_when``.

A requirement is ``TOOL:VERSION``, for example ``prisma:20260101_add_status``, or
``TOOL@SCHEMA.TABLE:VERSION`` where the tool's table is not found by its default name. There are no
migration files: the digest names the requirements themselves. Every cold start with this setting
loads this module; `requirement_check` compares the requirements with the tools' tables.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "NO_FILES",
    "Requirement",
    "Requirements",
    "parse_requirements",
]

NO_FILES = (
    "LAMBDA_MIGRATE_READY_WHEN is set, so another tool migrates this database and lambda-migrate "
    "has no migration files for it: migrate with that tool; `lambda-migrate status` shows whether "
    "the required versions are applied"
)

_NUMBERED = r"V?([0-9]+)(?:[_-].*)?"
_WHOLE_NAME = ""
_TOOLS = {
    # Tools that store a number. A file name is accepted too; the group is the number.
    "dbmate": _NUMBERED,
    "diesel": r"([0-9][0-9-]*)(?:_.*)?",
    "ecto": _NUMBERED,
    "flyway": r"V?([0-9]+(?:[._][0-9]+)*)(?:__.*)?",
    "golang-migrate": _NUMBERED,
    "goose": _NUMBERED,
    "rails": _NUMBERED,
    "refinery": _NUMBERED,
    "sqlx": _NUMBERED,
    "tern": _NUMBERED,
    # Tools that store a name.
    **dict.fromkeys(
        (
            "alembic",
            "db-migrate",
            "django",
            "drizzle",
            "ef-core",
            "graphile-migrate",
            "knex",
            "laravel",
            "liquibase",
            "node-pg-migrate",
            "prisma",
            "sequelize",
            "sqitch",
            "typeorm",
            "yoyo",
        ),
        _WHOLE_NAME,
    ),
}
_REQUIREMENT = r"([^@:]+)(?:@([^.:\s]+)(?:\.([^:\s]+))?)?:\s*(\S.*)"


class Requirement(NamedTuple):
    """A version that a tool must have applied.

    Attributes:
        tool: As in the setting, for example ``golang-migrate``.
        version: As written: a number, or the migration's name.
        schema: Of the tool's table; "" for the only one that is found.
        table: Its name; "" for the tool's default.
    """

    tool: str
    version: str
    schema: str = ""
    table: str = ""

    def __str__(self) -> str:
        place = f"@{self.schema}" if self.schema else ""
        place += f".{self.table}" if self.table else ""
        return f"{self.tool}{place}:{self.version}"

    @property
    def number(self) -> str:
        """The version's number; "" if the tool stores names."""
        match = re.fullmatch(_TOOLS[self.tool], self.version)
        if match is None or not match.groups():
            return ""
        return match[1].replace("-", "").replace("_", ".")


class Requirements:
    """The requirements of one code version; all of them have to be satisfied.

    Attributes:
        entries: In the order of the setting.
        digest: Names them, as a manifest's digest names its migrations: 64 hexadecimal digits.
    """

    __slots__ = ("digest", "entries")

    def __init__(self, requirements: Sequence[Requirement]) -> None:
        self.entries = tuple(requirements)
        texts = "\n".join(sorted(set(map(str, requirements))))
        self.digest = sha256(f"lambda-migrate ready_when v1\n{texts}".encode()).hexdigest()

    def __str__(self) -> str:
        return ", ".join(map(str, self.entries))

    def __repr__(self) -> str:
        return f"Requirements({self})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Requirements) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


def parse_requirements(text: str) -> Requirements:
    """Read the setting: requirements, with commas between them.

    Raises:
        ValueError: It cannot be used; the message is what to write instead.
    """
    return Requirements([_parse_requirement(each.strip()) for each in text.split(",")])


def _parse_requirement(text: str) -> Requirement:
    match = re.fullmatch(_REQUIREMENT, text)
    if match is None:
        raise ValueError(
            f"{text!r} is not TOOL:VERSION, for example prisma:20260101_add_status (or "
            "TOOL@SCHEMA:VERSION, TOOL@SCHEMA.TABLE:VERSION for a table of another schema or name)"
        )
    name, schema, table, version = match.groups("")
    tool = name.strip().lower().replace(" ", "-")
    if tool not in _TOOLS:
        raise ValueError(
            f"{name!r} is not a tool whose history lambda-migrate can read: write one of "
            f"{', '.join(sorted(_TOOLS))}"
        )
    requirement = Requirement(tool, version, schema, table)
    if _TOOLS[tool] and not requirement.number:
        raise ValueError(
            f"{tool} stores numbers, and {version!r} does not begin with one: write the number, "
            "or the name of a versioned migration's file"
        )
    return requirement
