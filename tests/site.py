"""``python -m tests.site``: build the documentation, and check the built pages.

Zensical checks the links in the sources. This module checks the rest on the built pages: broken
links, pictures and anchors, pages outside the navigation, and resources that a browser would fetch
from other servers.
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
# A server shows this page for an address that does not exist, at any depth.
NOT_A_PAGE = "404.html"
BUILT = """\
site/index.html
to search the pages, serve them: python3 -m http.server --directory site"""
# Elements that make a browser fetch something, which must be local.
FETCHED = {"audio", "embed", "iframe", "img", "object", "script", "source", "track", "video"}


@dataclass
class Page(HTMLParser):
    """Links, fetched resources and anchors of one page."""

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
        """Record the links and the id of this element."""
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
        """Track the end of the navigation."""
        if tag == "nav" and self._depth:
            self._depth -= 1


def faults(site: Path) -> list[str]:
    """Return one line for each fault of the built site."""
    site = site.resolve()
    pages = {path: Page(path.read_text()) for path in sorted(site.rglob("*.html"))}
    pages = {path: page for path, page in pages.items() if path.name != NOT_A_PAGE}
    found: list[str] = []
    for path, page in pages.items():
        name = path.relative_to(site)
        found += [f"{name}: fetches {url}" for url in page.fetched if _is_external(url)]
        local = [url for url in page.links + page.fetched if not _is_external(url)]
        found += [
            f"{name}: leads nowhere: {url}" for url in local if not _is_valid_link(path, url, pages)
        ]
    home = site / "index.html"
    listed = {(site / urlsplit(url).path).resolve() for url in pages[home].navigation} | {home}
    hidden = [path.relative_to(site) for path in pages if path not in listed]
    return found + [f"{name}: not in the navigation" for name in hidden]


def _is_external(url: str) -> bool:
    parts = urlsplit(url)
    return bool(parts.netloc) or parts.scheme in ("http", "https", "mailto")


def _is_valid_link(path: Path, url: str, pages: dict[Path, Page]) -> bool:
    parts = urlsplit(url)
    if parts.scheme:
        return True
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if target.is_dir():
        target /= "index.html"
    if not target.exists():
        return False
    # An empty anchor is the top of the page.
    anchor = unquote(parts.fragment)
    return not anchor or target not in pages or anchor in pages[target].ids


def main(arguments: Sequence[str]) -> int:
    """Build into site/ with strict checks, and check the result."""
    shutil.rmtree(ROOT / "site", ignore_errors=True)
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict", *arguments]
    if subprocess.run(command, cwd=ROOT).returncode:
        return 1
    found = faults(ROOT / "site")
    sys.stdout.write("\n".join(found or [BUILT]) + "\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
