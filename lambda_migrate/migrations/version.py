"""Versions: the numbers that order migrations.

A version is a number (``3``, ``20240101000000``) or numbers separated by dots (``1.2``). Both are
compared number by number, so ``2 < 10`` and ``1 < 1.2 < 1.10 < 2``. Leading zeros do not count, nor
do zeros at the end of a dotted version: ``0003`` is ``3``, and ``1.0`` is ``1``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lambda_migrate.manifest_digest import (
    format_components,
    is_repeatable_name,
    parse_components,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Self

__all__ = [
    "DottedVersion",
    "RepeatableVersion",
    "RevisionVersion",
    "Version",
    "parse_command_version",
    "parse_history_version",
    "parse_version",
    "parse_version_or_name",
]


class DottedVersion(str):
    """A version of several numbers, such as ``1.2``; compares with others and with integers.

    `parse_version` makes them. As text it is the form that the history and messages contain.
    """

    __slots__ = ()

    def __lt__(self, other: object, /) -> bool:
        return _components_of(self) < _components_of(other)

    def __le__(self, other: object, /) -> bool:
        return _components_of(self) <= _components_of(other)

    def __gt__(self, other: object, /) -> bool:
        return _components_of(self) > _components_of(other)

    def __ge__(self, other: object, /) -> bool:
        return _components_of(self) >= _components_of(other)


class RepeatableVersion(DottedVersion):
    """What a repeatable migration has in place of a version; it follows every version.

    A migration has its name, ``R__orders_view``. The history has a row for each application:
    ``R__orders_view:4:17`` was applied with fencing token 17 by code whose last version was 4.
    """

    __slots__ = ()

    @classmethod
    def of_row(cls, name: str, last_version: Version, fence: int) -> Self:
        """The version of the history row of one application."""
        return cls(f"{name}:{last_version}:{fence}")

    @property
    def name(self) -> str:
        """The migration's name."""
        return self.partition(":")[0]

    @property
    def last_version(self) -> Version:
        """The last version of the code that applied it; -1 if the code had none."""
        text = self.split(":")[1]
        return -1 if text == "-1" else parse_version(text)


Version = int | DottedVersion
"""A migration's version: ``3`` as a number, ``1.2`` as text that compares number by number."""


def parse_version(text: str) -> Version:
    """Parse a version as users and the history write it.

    Raises:
        ValueError: It is not a number, or numbers separated by dots.
    """
    components = parse_components(text)
    return components[0] if len(components) == 1 else DottedVersion(format_components(components))


def parse_version_or_name(text: str) -> Version:
    """Parse what a user writes for a migration: a version, or a repeatable migration's name.

    Raises:
        ValueError: It is neither.
    """
    return RepeatableVersion(text) if is_repeatable_name(text) else parse_version(text)


class RevisionVersion(DottedVersion):
    """The id of another tool's revision, where SQL migrations have a version.

    It follows every number. `parse_command_version` and `revisions` make them.

    Attributes:
        position: Its place in the order of its code, which orders ids.
    """

    __slots__ = ("position",)

    position: int

    def __new__(cls, revision_id: str, position: int = 0) -> RevisionVersion:
        """Create it from the id and its place."""
        version = super().__new__(cls, revision_id)
        version.position = position
        return version

    @property
    def _key(self) -> tuple[int, str]:
        return (self.position, str(self))

    def __lt__(self, other: object, /) -> bool:
        return isinstance(other, RevisionVersion) and self._key < other._key

    def __le__(self, other: object, /) -> bool:
        return isinstance(other, RevisionVersion) and self._key <= other._key

    def __gt__(self, other: object, /) -> bool:
        return not isinstance(other, RevisionVersion) or self._key > other._key

    def __ge__(self, other: object, /) -> bool:
        return not isinstance(other, RevisionVersion) or self._key >= other._key


def parse_command_version(text: str, environ: Mapping[str, str]) -> Version:
    """Parse what a user writes for a migration; with another source than SQL files, a revision.

    Args:
        text: What was written.
        environ: The process environment, which names the source.

    Raises:
        ValueError: It is neither a version nor a repeatable migration's name.
    """
    if environ.get("LAMBDA_MIGRATE_SOURCE", "").strip().lower() in ("", "sql"):
        return parse_version_or_name(text)
    return RevisionVersion(text)


def parse_history_version(text: str) -> Version:
    """Parse a version as the history contains it.

    Raises:
        ValueError: Another source of migrations wrote it.
    """
    return RepeatableVersion(text) if text.startswith("R") else parse_version(text)


def _components_of(version: object) -> tuple[float | str, ...]:
    if isinstance(version, RepeatableVersion):
        return (math.inf, str(version))
    return (version,) if isinstance(version, int) else parse_components(str(version))
