"""Versions: the numbers that order migrations.

A version is a number (``3``, ``20240101000000``) or numbers separated by dots (``1.2``). Both are
compared number by number, so ``2 < 10`` and ``1 < 1.2 < 1.10 < 2``. Leading zeros do not count, nor
do zeros at the end of a dotted version: ``0003`` is ``3``, and ``1.0`` is ``1``.
"""

from __future__ import annotations

from lambda_migrate.migrations.digest import format_components, parse_components

__all__ = ["DottedVersion", "Version", "parse_version"]


class DottedVersion(str):
    """A version of several numbers, such as ``1.2``; compares with others and with integers.

    `parse_version` makes them. As text it is the form that the history and messages contain.
    """

    __slots__ = ()

    def __lt__(self, other: object, /) -> bool:
        return parse_components(self) < _components_of(other)

    def __le__(self, other: object, /) -> bool:
        return parse_components(self) <= _components_of(other)

    def __gt__(self, other: object, /) -> bool:
        return parse_components(self) > _components_of(other)

    def __ge__(self, other: object, /) -> bool:
        return parse_components(self) >= _components_of(other)


Version = int | DottedVersion


def parse_version(text: str) -> Version:
    """Parse a version as users and the history write it.

    Raises:
        ValueError: It is not a number, or numbers separated by dots.
    """
    components = parse_components(text)
    return components[0] if len(components) == 1 else DottedVersion(format_components(components))


def _components_of(version: object) -> tuple[int, ...]:
    return (version,) if isinstance(version, int) else parse_components(str(version))
