"""Read the pages of the documentation, and their code blocks."""

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
class CodeBlock:
    """A block of code.

    Attributes:
        page: Path of the page in the repository.
        line: Its first line.
        language: ``python``, ``sql``, ``sh``, ...; "" without one.
        title: Title on the page, usually a file's path; "" without one.
        text: The code.
    """

    page: str
    line: int
    language: str
    title: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def code_blocks(page: Path, *languages: str) -> Iterator[CodeBlock]:
    """Yield the code blocks of a page, all or those of these languages."""
    text = page.read_text()
    for match in _FENCE.finditer(text):
        info = match["info"]
        title = _TITLE.search(info)
        block = CodeBlock(
            page=str(page.relative_to(ROOT)),
            line=text.count("\n", 0, match.start()) + 2,
            language=info.split()[0] if info.split() else "",
            title=title[1] if title else "",
            text=textwrap.dedent(match["text"]),
        )
        if not languages or block.language in languages:
            yield block


def all_code_blocks(*languages: str) -> list[CodeBlock]:
    """Return the code blocks of all pages."""
    return [block for page in PAGES for block in code_blocks(page, *languages)]


def section(text: str, heading: str) -> str:
    """Return the text below a heading, up to the next heading of any level."""
    match = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", text, re.M | re.S)
    assert match is not None, f"no heading {heading}"
    return match[1]


def rows(text: str) -> list[list[str]]:
    """Return the cells of a table's rows, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [
        [each.strip() for each in re.split(r"(?<!\\)\|", line.strip().strip("|"))] for line in lines
    ]
    body = [index for index, row in enumerate(cells) if set("".join(row)) <= set("-: ")]
    heads = {index - 1 for index in body} | set(body)
    return [row for index, row in enumerate(cells) if index not in heads]
