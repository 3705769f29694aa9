"""The page on the package index: README.md and links, from the metadata that a build writes."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from markdown_it import MarkdownIt

from lambda_migrate import __version__
from tests.unit.docs.pages import ROOT


@pytest.fixture(scope="module")
def metadata() -> dict[str, Any]:
    """The metadata of a wheel built from this checkout."""
    command = [sys.executable, "-m", "hatchling", "metadata"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_every_link_and_picture_is_an_absolute_address(metadata: dict[str, Any]) -> None:
    assert metadata["readme"]["content-type"] == "text/markdown"
    blocks = MarkdownIt().parse(metadata["readme"]["text"])
    parts = [part for block in blocks for part in block.children or []]
    assert {part.type for part in parts}.isdisjoint({"html_inline", "html_block"})
    links = [str(part.attrs["href"]) for part in parts if part.type == "link_open"]
    pictures = [str(part.attrs["src"]) for part in parts if part.type == "image"]
    home = metadata["urls"]["Homepage"]
    assert f"{home}/blob/v{__version__}/docs/quickstart.md" in links
    assert f"{home}/raw/v{__version__}/docs/images/demo.svg" in pictures
    assert [each for each in links + pictures if not each.startswith(("https:", "http:"))] == []


def test_the_project_links_name_one_repository(metadata: dict[str, Any]) -> None:
    urls = metadata["urls"]
    assert {*urls} == {"Homepage", "Documentation", "Source", "Changelog", "Issues"}
    assert [each for each in urls.values() if not each.startswith(urls["Homepage"])] == []
