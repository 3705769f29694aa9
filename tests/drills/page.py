"""Read a runbook: its sections, and the fenced blocks in them.

====================  ==========================================================================
```` ```sh ````       commands, one for each line; ``# exits with 3`` at its end if it is not 0
```` ```sql ````      one statement; ``:pid`` is the column ``pid`` of the previous result
```` ```text ````     output of the block before it; ``...`` stands for any text
```` ```json ````     a log line of the function, or a part of it
```` ```yaml ````     not run; the same for ```` ```python ````
====================  ==========================================================================
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "docs" / "runbooks"

FOR_READING = {"yaml", "python"}

SKELETON = (
    "When",
    "What you see",
    "Steps",
    "How to know that it is over",
    "What not to do",
)

_HEADING = re.compile(r"^##\s+(.*?)(?:\s*\{.*\})?\s*$")
_STEP = re.compile(r"^(\d+)\.\s")
_FENCE = re.compile(r"^(\s*)```(\w*)\s*$")


@dataclass(frozen=True)
class Block:
    """A fenced block; ``step`` is the number of its list item, or 0."""

    page: str
    section: str
    language: str
    text: str
    line: int
    step: int

    def __str__(self) -> str:
        return f"{self.page}:{self.line} ({self.section})"


@dataclass(frozen=True)
class Page:
    """A page and its blocks, in order."""

    name: str
    sections: tuple[str, ...]
    blocks: tuple[Block, ...]

    @classmethod
    def read(cls, name: str) -> Page:
        """Read one of docs/runbooks."""
        sections: list[str] = []
        blocks: list[Block] = []
        fence: tuple[str, int] | None = None
        inside: list[str] = []
        step = 0
        for number, line in enumerate((FOLDER / name).read_text().splitlines(), 1):
            if fence is not None:
                if line.strip() == "```":
                    text = textwrap.dedent("\n".join(inside))
                    blocks.append(Block(name, sections[-1], fence[0], text, fence[1], step))
                    fence, inside = None, []
                else:
                    inside.append(line)
            elif opened := _FENCE.match(line):
                fence = (opened[2], number)
            elif heading := _HEADING.match(line):
                sections.append(heading[1])
                step = 0
            elif numbered := _STEP.match(line):
                step = int(numbered[1])
        assert fence is None, f"{name}: a block is not closed"
        return cls(name, tuple(sections), tuple(blocks))

    def of(self, section: str) -> Sequence[Block]:
        """The blocks of a section."""
        assert section in self.sections, f"{self.name} has no section {section!r}"
        return [block for block in self.blocks if block.section == section]
