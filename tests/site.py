"""``python -m tests.site``: build the documentation, and look at what was built.

Zensical checks the links in the sources. What it does not look at is checked on the built pages,
as a browser would meet them: links, pictures, and anchors that lead nowhere, pages that the
navigation leaves out, whatever would be fetched from elsewhere while reading.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[1]
# The page that a server shows for an address that does not exist, at whatever depth.
NOT_A_PAGE = "404.html"
# What a browser asks for by itself, and may not ask anybody else for.
FETCHED = {"audio", "embed", "iframe", "img", "object", "script", "source", "track", "video"}


@dataclass
class Page(HTMLParser):
    """What one page points at."""

    text: str
    links: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    navigation: list[str] = field(default_factory=list)
    _depth: int = 0

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note where this element points, and its id."""
        named = {name: value or "" for name, value in attrs}
        self.ids |= {named[key] for key in ("id", "name") if key in named}
        if tag == "nav" and (self._depth or "md-nav--primary" in named.get("class", "")):
            self._depth += 1
        if tag in FETCHED or tag == "link":
            self.fetched += [named[key] for key in ("src", "href", "data") if key in named]
        elif "href" in named:
            self.links.append(named["href"])
            if self._depth:
                self.navigation.append(named["href"])

    def handle_endtag(self, tag: str) -> None:
        """Leave the navigation again."""
        if tag == "nav" and self._depth:
            self._depth -= 1


def faults(site: Path) -> list[str]:
    """What a reader of the built site would stumble over, a line each."""
    site = site.resolve()
    pages = {path: Page(path.read_text()) for path in sorted(site.rglob("*.html"))}
    pages = {path: page for path, page in pages.items() if path.name != NOT_A_PAGE}
    found: list[str] = []
    for path, page in pages.items():
        name = path.relative_to(site)
        found += [f"{name}: fetches {url}" for url in page.fetched if _elsewhere(url)]
        local = [url for url in page.links + page.fetched if not _elsewhere(url)]
        found += [f"{name}: leads nowhere: {url}" for url in local if not _leads(path, url, pages)]
    home = site / "index.html"
    listed = {(site / urlsplit(url).path).resolve() for url in pages[home].navigation} | {home}
    hidden = [path.relative_to(site) for path in pages if path not in listed]
    return found + [f"{name}: not in the navigation" for name in hidden]


def _elsewhere(url: str) -> bool:
    parts = urlsplit(url)
    return bool(parts.netloc) or parts.scheme in ("http", "https", "mailto")


def _leads(path: Path, url: str, pages: dict[Path, Page]) -> bool:
    parts = urlsplit(url)
    if parts.scheme:
        return True
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if target.is_dir():
        target /= "index.html"
    if not target.exists():
        return False
    # A page sends its reader to its own top by an empty anchor.
    anchor = unquote(parts.fragment)
    return not anchor or target not in pages or anchor in pages[target].ids


def main(arguments: Sequence[str]) -> int:
    """Build into site/, strictly, and check it."""
    shutil.rmtree(ROOT / "site", ignore_errors=True)
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict", *arguments]
    if subprocess.run(command, cwd=ROOT).returncode:
        return 1
    found = faults(ROOT / "site")
    sys.stdout.write("\n".join(found or ["site/index.html"]) + "\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
