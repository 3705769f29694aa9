"""The pages of the documentation, and the blocks of code on them."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "examples/orders/README.md", *sorted(DOCS.rglob("*.md"))]

_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<text>.*?)^ *```$", re.M | re.S)
_TITLE = re.compile(r'title="([^"]*)"')


@dataclass(frozen=True)
class Fence:
    """A block of code.

    Attributes:
        page: Where it stands, relative to the repository.
        line: Its first line.
        language: ``python``, ``sql``, ``sh``, ...; "" if it names none.
        title: What the page calls it: a file's path, mostly; "" without one.
        text: What stands in it.
    """

    page: str
    line: int
    language: str
    title: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def fences(page: Path, *languages: str) -> Iterator[Fence]:
    """The blocks of a page, all or those of these languages."""
    text = page.read_text()
    for match in _FENCE.finditer(text):
        info = match["info"]
        title = _TITLE.search(info)
        fence = Fence(
            page=str(page.relative_to(ROOT)),
            line=text.count("\n", 0, match.start()) + 2,
            language=info.split()[0] if info.split() else "",
            title=title[1] if title else "",
            text=textwrap.dedent(match["text"]),
        )
        if not languages or fence.language in languages:
            yield fence


def all_fences(*languages: str) -> list[Fence]:
    """The blocks of all pages."""
    return [fence for page in PAGES for fence in fences(page, *languages)]


def section(text: str, heading: str) -> str:
    """What stands below a heading, up to the next one of any level."""
    match = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", text, re.M | re.S)
    assert match is not None, f"no heading {heading}"
    return match[1]


def rows(text: str) -> list[list[str]]:
    """The cells of a table's rows, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [
        [each.strip() for each in re.split(r"(?<!\\)\|", line.strip().strip("|"))] for line in lines
    ]
    body = [index for index, row in enumerate(cells) if set("".join(row)) <= set("-: ")]
    heads = {index - 1 for index in body} | set(body)
    return [row for index, row in enumerate(cells) if index not in heads]
