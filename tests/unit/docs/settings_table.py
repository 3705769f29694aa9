"""The table of settings on its page, written from `Settings`.

``python -m tests.unit.docs.settings_table`` writes it into the page.
"""

from __future__ import annotations

from lambda_migrate.settings import SETTINGS
from tests.unit.docs.pages import DOCS

PAGE = DOCS / "reference" / "settings.md"
HEAD = "| variable | type | default | meaning |\n|---|---|---|---|\n"


def make_table() -> str:
    """The table as it has to be on the page."""
    table = HEAD
    for each in SETTINGS.values():
        default = f"`{each.default_text}`" if each.default_text else "none"
        table += f"| `{each.variable}` | {each.type} | {default} | {each.description} |\n"
    return table


def table_on_page() -> str:
    """The table that is on the page."""
    rest = PAGE.read_text().partition("| variable |")[2]
    return "| variable |" + rest.partition("\n\n")[0] + "\n"


if __name__ == "__main__":
    PAGE.write_text(PAGE.read_text().replace(table_on_page(), make_table()))
