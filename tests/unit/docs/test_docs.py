"""What the docs say of the code is true."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from lambda_migrate.settings import Settings

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_every_setting_is_documented_with_its_default() -> None:
    page = (ROOT / "docs" / "reference" / "settings.md").read_text()
    rows = dict(re.findall(r"^\| `LAMBDA_MIGRATE_(\w+)` \| (.*?) \|", page, re.MULTILINE))
    for field in fields(Settings):
        stated = rows.pop(field.name.upper())
        default = f"{field.default:g}" if isinstance(field.default, float) else str(field.default)
        if default:
            assert stated == f"`{default.lower() if default in ('True', 'False') else default}`"
    assert rows == {}, "no setting is documented that does not exist"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), link
