"""Explains why a folder contains no migrations, and recognizes the folders of other tools."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

from lambda_migrate.errors import escape_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from importlib.abc import Traversable

__all__ = ["ADOPTION_GUIDE", "SOURCE_TOOLS", "explain_missing_migrations", "guess_tool"]

ADOPTION_GUIDE = '"Adopt an existing database" in the documentation'

SOURCE_TOOLS = ("Alembic", "Django")
"""Tools whose migrations run as they are: ``LAMBDA_MIGRATE_SOURCE`` names them in lower case."""

_MAX_DEPTH = 2
"""Levels of subfolders to search; every layout is recognizable within them."""

_MAX_ENTRIES = 2000
"""The limit of entries, because a wrong directory may be the root of a disk."""

_TOOL_LAYOUTS = tuple(
    (tool, re.compile(pattern))
    for tool, pattern in (
        ("Prisma", r"(?:.*/)?\d+_[^/]*/migration\.sql"),
        ("diesel", r"(?:.*/)?[^/]+/up\.sql"),
        ("sqitch", r"(?:.*/)?(?:sqitch\.plan|deploy/.+\.sql)"),
        ("drizzle", r"(?:.*/)?meta/_journal\.json"),
        ("Flyway", r"(?:.*/)?[VUB]\d[\d._]*__.+\.sql"),
        ("golang-migrate or sqlx", r"(?:.*/)?\d+_.+\.(?:up|down)\.sql"),
        ("Liquibase", r"(?:.*/)?[\w.-]*change-?log[\w.-]*\.(?:xml|ya?ml|json)"),
        ("Alembic", r"(?:.*/)?(?:script\.py\.mako|versions/[^/]+\.py)"),
        ("Django", r"(?:.*/)?\d{4}_\w+\.py"),
        ("Rails", r"(?:.*/)?\d+_\w+\.rb"),
        ("Ecto", r"(?:.*/)?\d+_\w+\.exs"),
        ("Knex, TypeORM or node-pg-migrate", r"(?:.*/)?\d{8,}[_-].+\.[cm]?[jt]s"),
    )
)
"""Paths below the folder that identify a tool; the first that fits counts."""


def guess_tool(paths: Iterable[str]) -> str:
    """The tool whose layout these paths have; "" if it is unknown."""
    found = list(paths)
    return next((tool for tool, sign in _TOOL_LAYOUTS if any(map(sign.fullmatch, found))), "")


def explain_missing_migrations(location: str, folder: Traversable, *, in_package: bool) -> str:
    """One sentence for a folder without migrations.

    Args:
        location: The folder's name for the message.
        folder: The folder.
        in_package: Whether it is part of a Python package.
    """
    paths: list[str] = []
    with suppress(OSError):  # unreadable subfolders do not matter here
        paths += islice(_paths(folder, depth=_MAX_DEPTH), _MAX_ENTRIES)
    tool = guess_tool(paths)
    looks = f"; this looks like {'an' if tool[:1] in 'AE' else 'a'} {tool} layout" if tool else ""
    return (
        f"there are no migrations in {escape_text(location)}: lambda-migrate "
        f"looks for <version>_<name>.sql directly in it, and found {_describe_contents(paths)}"
        f"{looks}. "
        f"{_advice(paths, tool=tool, in_package=in_package)} A service that starts without "
        "migrations sets LAMBDA_MIGRATE_ALLOW_EMPTY=true"
    )


def _paths(folder: Traversable, *, depth: int, prefix: str = "") -> Iterator[str]:
    for entry in sorted(folder.iterdir(), key=lambda each: each.name):
        if entry.name.startswith(".") or entry.name == "__pycache__":
            continue
        if depth and entry.is_dir():
            yield from _paths(entry, depth=depth - 1, prefix=f"{prefix}{entry.name}/")
        else:
            yield prefix + entry.name


def _describe_contents(paths: Sequence[str]) -> str:
    if not paths:
        return "an empty folder"
    below = {path.rpartition("/")[0] for path in paths if path.endswith(".sql") and "/" in path}
    if below:
        return (
            "1 folder that contains .sql files"
            if len(below) == 1
            else (f"{len(below)} folders that contain .sql files")
        )
    first = ", ".join(escape_text(path) for path in paths[:3])
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return f"no .sql file, but {first}{more}"


def _advice(paths: Sequence[str], *, tool: str, in_package: bool) -> str:
    if tool in SOURCE_TOOLS:
        return f"Run them in place with LAMBDA_MIGRATE_SOURCE={tool.lower()}."
    if tool:
        return f"Convert the files first: `lambda-migrate adopt`; see {ADOPTION_GUIDE}."
    if any(path.endswith(".sql") for path in paths):
        return "Move the files into it, or correct LAMBDA_MIGRATE_DIRECTORY."
    if in_package or any(path.endswith(".py") for path in paths):
        return (
            "If *.sql files were left out when the package was built, include them (setuptools: "
            '[tool.setuptools.package-data] "*" = ["*.sql"]), and build it again.'
        )
    return (
        "Correct LAMBDA_MIGRATE_DIRECTORY, include the files in the deployment package, or write "
        "the first one with `lambda-migrate new NAME`."
    )
