"""The docs agree with the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lambda_migrate import __version__
from tests.conftest import NOT_QUICK, QUICK
from tests.unit.docs.settings_table import make_table, table_on_page

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_settings_page_has_the_current_table() -> None:
    assert table_on_page() == make_table(), "run: python -m tests.unit.docs.settings_table"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), link


def test_the_build_reads_the_version() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    [pattern] = re.findall(r"^pattern = '(__version__.*)'$", project, re.M)
    versions = re.findall(pattern, (ROOT / "lambda_migrate/_version.py").read_text())
    assert versions == [__version__]


def test_contributing_lists_every_package_and_module() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text().partition("## Find your way")[2]
    listed = re.findall(r"`(\w+)/?`", table)
    library = [each for each in (ROOT / "lambda_migrate").iterdir() if each.name != "__init__.py"]
    names = {
        each.stem
        for each in library
        if each.suffix == ".py" or each.joinpath("__init__.py").exists()
    }
    assert names - {*listed} == set()


def test_the_reading_order_names_files_that_exist() -> None:
    order = re.findall(r"^\d\. (.*?):", (ROOT / "CONTRIBUTING.md").read_text(), re.M)
    files = [file for line in order for file in re.findall(r"`([\w/]+\.py)`", line)]
    assert len(files) > 15
    assert [file for file in files if not (ROOT / "lambda_migrate" / file).exists()] == []


@pytest.mark.parametrize("entry", [each for each in (*QUICK, *NOT_QUICK) if "::" in each])
def test_every_test_that_the_quick_lists_name_exists(entry: str) -> None:
    file, _, name = entry.partition("::")
    assert re.search(rf"\b{name}", (ROOT / file).read_text()), "correct it in tests/conftest.py"
