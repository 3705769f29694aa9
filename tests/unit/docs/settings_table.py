"""The table of settings on its page, written from `Settings`.

``python -m tests.unit.docs.settings_table`` writes it into the page.
"""

from __future__ import annotations

from lambda_migrate.settings import describe_settings
from tests.unit.docs.pages import DOCS

PAGE = DOCS / "reference" / "settings.md"
HEAD = "| variable | type | default | meaning |\n|---|---|---|---|\n"


def make_table() -> str:
    """The table as it has to be on the page."""
    rows = [
        f"| `{each.variable}` | {each.type} | {f'`{each.default}`' if each.default else 'none'} "
        f"| {each.description} |\n"
        for each in describe_settings().values()
    ]
    return HEAD + "".join(rows)


def table_on_page() -> str:
    """The table that is on the page."""
    rest = PAGE.read_text().partition("| variable |")[2]
    return "| variable |" + rest.partition("\n\n")[0] + "\n"


if __name__ == "__main__":
    PAGE.write_text(PAGE.read_text().replace(table_on_page(), make_table()))
