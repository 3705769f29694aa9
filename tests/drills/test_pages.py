"""Every runbook has the same parts, and a drill."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.drills.drill import END_SECTION
from tests.drills.page import FOLDER, SKELETON, Page

RUNBOOKS = sorted(path.name for path in FOLDER.glob("*.md") if path.name != "index.md")
DRILLS = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))


@pytest.mark.parametrize("name", RUNBOOKS)
def test_a_runbook_has_a_drill(name: str) -> None:
    assert f'"{name}"' in DRILLS


@pytest.mark.parametrize("name", [name for name in RUNBOOKS if name != "alarms.md"])
def test_every_runbook_has_the_same_sections(name: str) -> None:
    page = Page.read(name)
    parts = tuple(dict.fromkeys(section.partition(":")[0] for section in page.sections))
    assert parts == SKELETON
    assert page.of("What you see")
    ends = [section for section in page.sections if section.startswith(END_SECTION)]
    assert all(page.of(section) for section in ends)


@pytest.mark.parametrize("name", RUNBOOKS)
def test_the_index_names_every_runbook(name: str) -> None:
    assert f"]({name})" in (FOLDER / "index.md").read_text()
