"""Pictures of the documentation are small enough for a reader on a slow connection."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.docs.pages import DOCS

MAX_BYTES = 100 * 1024
PICTURES = sorted(path for path in (DOCS / "images").iterdir())


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.name)
def test_a_picture_is_at_most_100_kb(picture: Path) -> None:
    assert picture.stat().st_size <= MAX_BYTES


def test_every_picture_is_on_a_page() -> None:
    pages = [DOCS.parent / "README.md", *DOCS.rglob("*.md")]
    text = "".join(page.read_text() for page in pages)
    assert [path.name for path in PICTURES if f"images/{path.name})" not in text] == []
