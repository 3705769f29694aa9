"""Where answers, notes and questions go."""

from __future__ import annotations

import json
import sys
from enum import Enum
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.segment import Segment
from rich.text import Text

from lambda_migrate.errors import TEXT_WHITESPACE, ConfigurationError, escape_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import ConsoleOptions, RenderableType

__all__ = ["Format", "Terminal", "written"]

_UNBOUNDED = 10_000
"""Columns where nobody looks: a file or a pipe gets its lines whole."""


class Format(str, Enum):
    """How answers are written."""

    TABLE = "table"
    JSON = "json"


class Terminal:
    """Standard output for the answer, standard error for everything else.

    Args:
        form: ``json`` writes one document to standard output and nothing else.
    """

    def __init__(self, form: Format = Format.TABLE) -> None:
        self.form = form
        self.out = _console(stderr=False)
        self.err = _console(stderr=True)

    @property
    def is_json(self) -> bool:
        """Whether a program reads the answer."""
        return self.form is Format.JSON

    @property
    def width(self) -> int:
        """Columns of the answer."""
        return self.out.width

    def answer(self, document: dict[str, Any], *shown: RenderableType) -> None:
        """Write the answer: ``document`` as JSON, or ``shown`` for a person."""
        if self.is_json:
            self.out.file.write(written(document))
            return
        for each in shown:
            _write(self.out, each)

    def say(self, text: str | Text) -> None:
        """A line for a person on the way to the answer."""
        if not self.is_json:
            _write(self.out, text)

    def note(self, *shown: RenderableType) -> None:
        """Something to know that is not the answer."""
        for each in shown:
            _write(self.err, each)

    def confirm(
        self,
        question: str,
        *,
        yes: bool,
        shown: RenderableType = "",
        word: str = "",
        flag: str = "",
    ) -> bool:
        """Ask before something is destroyed.

        Args:
            question: To be answered with y or n.
            yes: It was answered on the command line.
            shown: What is about to happen.
            word: To be typed in place of y; then ``yes`` is no answer.
            flag: The option that is one.

        Raises:
            ConfigurationError: Nobody is there to be asked.
        """
        if yes and not word:
            return True
        self.note(shown)
        if not (sys.stdin.isatty() and self.err.is_terminal):
            option = f"--{flag.replace('_', '-')} as well" if word else "--yes"
            raise ConfigurationError(
                "this asks before it goes on, and there is no terminal to ask on: look at what "
                f"it would do, then say {option}"
            )
        wanted = f" [type {escape_text(word)} to go on] " if word else " [y/N] "
        self.err.print(Text.assemble((escape_text(question), "bold"), wanted), end="")
        said = sys.stdin.readline().strip()
        return said == word if word else said.lower() in ("y", "yes")


def written(document: dict[str, Any]) -> str:
    """``document`` as JSON for a person's eye as well: what is invisible stands by its number."""
    lines = json.dumps(document, indent=2, ensure_ascii=False).split("\n")
    return "".join(f"{line if line.isprintable() else _escaped(line)}\n" for line in lines)


def _escaped(line: str) -> str:
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)


class _Legible:
    """Shows what others wrote and keeps a terminal from obeying it.

    Names, owners and causes come from files, from the server and from the lease table. Styles are
    ours and no part of any text, so whatever is left in a text to be obeyed is not ours.
    """

    def __init__(self, shown: RenderableType) -> None:
        self._shown = shown

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for segment in console.render(self._shown, options):
            if segment.control:
                yield segment
            else:
                yield Segment(escape_text(segment.text, keep=TEXT_WHITESPACE), segment.style)


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, markup=False, highlight=False, emoji=False, soft_wrap=False)
    if not console.is_terminal:
        console.width = _UNBOUNDED
    return console


def _write(console: Console, shown: RenderableType) -> None:
    shown = _Legible(shown)
    if console.is_terminal:
        console.print(shown)
        return
    with console.capture() as captured:
        console.print(shown)
    # Tables fill their last column up, which nobody wants in a file.
    text = "".join(line.rstrip() + "\n" for line in captured.get().splitlines())
    console.file.write(text)
    console.file.flush()
