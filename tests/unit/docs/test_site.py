"""The checks of the built site find broken links, external resources and hidden pages."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.site import faults

NAVIGATION = """<nav class="md-nav md-nav--primary"><a href="index.html">Home</a>
<nav class="md-nav"><a href="how/to.html">How to</a></nav></nav>"""
HOME = NAVIGATION + '<h1 id="top">Home</h1><a href="https://www.postgresql.org/">PostgreSQL</a>'
HOW_TO = '<h1 id="top">How to</h1><a href="#top">up</a><a href="../index.html#top">home</a>'


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "how").mkdir()
    (tmp_path / "index.html").write_text(HOME)
    (tmp_path / "how" / "to.html").write_text(HOW_TO)
    (tmp_path / "404.html").write_text('<a href="/nowhere.html">lost</a>')
    return tmp_path


def add(page: Path, html: str) -> None:
    page.write_text(page.read_text() + html)


def test_a_correct_site_has_no_faults(site: Path) -> None:
    assert faults(site) == []


@pytest.mark.parametrize(
    ("html", "fault"),
    [
        ('<a href="gone.html">', "leads nowhere: gone.html"),
        ('<a href="../index.html#gone">', "leads nowhere: ../index.html#gone"),
        ('<a href="#gone">', "leads nowhere: #gone"),
        ('<img src="../gone.svg">', "leads nowhere: ../gone.svg"),
        ('<script src="https://cdn.example/x.js"></script>', "fetches https://cdn.example/x.js"),
        ('<link href="//fonts.example/f.css">', "fetches //fonts.example/f.css"),
    ],
)
def test_a_fault_is_reported_with_its_page(site: Path, html: str, fault: str) -> None:
    add(site / "how" / "to.html", html)
    assert faults(site) == [f"how/to.html: {fault}"]


def test_a_linked_page_outside_the_navigation_is_a_fault(site: Path) -> None:
    (site / "hidden.html").write_text("")
    add(site / "index.html", '<a href="hidden.html">')
    assert faults(site) == ["hidden.html: not in the navigation"]
