"""The tables of options and of exit codes on the command line's page, written from the code.

``python -m tests.unit.docs.command_tables`` writes them into the page.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from lambda_migrate.cli.app import COMMON_OPTIONS, HELP
from lambda_migrate.cli.help import CommandHelp
from lambda_migrate.commands.registry import COMMANDS, Option
from lambda_migrate.commands.result import EXIT_CODES
from tests.unit.docs.pages import DOCS

PAGE = DOCS / "reference" / "command-line.md"

WITH_TOOLS = {
    "plan": "without statements, so not `--sql`; `--to` takes a revision, or `app.name`",
    "doctor": "also starts the tool, which loads the project and connects",
    "up": "`--to` takes a revision, or `app.name`",
    "down": "`--to` takes a revision or `base`, `app.name` or `app.zero`; not `--only`",
    "baseline": "refused: `alembic stamp`, `manage.py migrate --fake`",
    "adopt": "refused: nothing has to be adopted",
    "repair": "only what is in doubt; not `--as edited`, and `--force` changes nothing",
}
"""What a command does otherwise with the migrations of Alembic and Django."""


def make_sections() -> dict[str, str]:
    """The table of each section that has one, by the section's title."""
    sections = {
        "Common options": _make_option_table(COMMON_OPTIONS.values()),
        "Exit codes": _make_table("code", ((str(code), text) for code, text in EXIT_CODES.items())),
    }
    sections["With Alembic and Django"] = _make_table(
        "command", ((f"`{each}`", WITH_TOOLS.get(each, "as with SQL files")) for each in COMMANDS)
    )
    for name, command in HELP.items():
        if isinstance(command, CommandHelp):
            sections[f"`{name}`"] = _make_option_table(command.options)
    return sections


def _make_option_table(options: Iterable[Option]) -> str:
    rows = [
        (", ".join(f"`{flag}`" for flag in option.flags), option.full_help.replace("[", "\\["))
        for option in options
        if not option.is_positional
    ]
    return _make_table("option", rows) if rows else ""


def _make_table(title: str, rows: Iterable[tuple[str, str]]) -> str:
    head = f"| {title} | |\n|---|---|\n"
    return head + "".join(f"| {name} | {text} |\n" for name, text in rows)


def read_sections(text: str) -> dict[str, str]:
    """The text below each heading of the second level, by its title."""
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def read_table(section: str) -> str:
    """The first table of a section; "" if it has none of these."""
    found = re.search(r"^\| (?:option|code|command) \|(?:.*\n)(?:\|.*\n)+", section, re.MULTILINE)
    return found[0] if found else ""


if __name__ == "__main__":
    page = PAGE.read_text()
    for title, section in read_sections(page).items():
        table = read_table(section)
        if table:
            page = page.replace(section, section.replace(table, make_sections()[title]))
    PAGE.write_text(page)
