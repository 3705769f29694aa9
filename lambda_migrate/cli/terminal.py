"""The terminal: results to standard output; progress, notes and questions around them."""

from __future__ import annotations

import json
import re
import sys
from enum import Enum
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.segment import Segment
from rich.text import Text

from lambda_migrate.cli.output import is_encodable
from lambda_migrate.errors import TEXT_WHITESPACE, ConfigurationError, escape_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import ConsoleOptions, RenderableType

__all__ = ["Format", "Terminal", "format_json"]

_TRUNCATED_TEXT = re.compile("[^\n]{2}…")
"""Where a text was cut to the width; three dots take the place of two more characters."""

_UNLIMITED_WIDTH = 10_000
"""Columns of a file or a pipe, so that its lines are not wrapped."""


class Format(str, Enum):
    """Output formats."""

    TABLE = "table"
    JSON = "json"


class Terminal:
    """Standard output for the result, standard error for notes and questions.

    Args:
        output_format: ``json`` writes one document to standard output and nothing else.
        is_quiet: Whether to write no progress.
    """

    def __init__(self, output_format: Format = Format.TABLE, *, is_quiet: bool = False) -> None:
        self.output_format = output_format
        self.is_quiet = is_quiet
        self.out = _make_console(stderr=False)
        self.err = _make_console(stderr=True)

    @property
    def is_json(self) -> bool:
        """Whether results are written as JSON."""
        return self.output_format is Format.JSON

    @property
    def width(self) -> int:
        """Columns of standard output."""
        return self.out.width

    def show_result(self, document: dict[str, Any], *renderables: RenderableType) -> None:
        """Write a result: ``document`` as JSON, or ``renderables`` as text."""
        if self.is_json:
            self.out.file.write(format_json(document, encoding=self.out.encoding))
            return
        for each in renderables:
            _write(self.out, each)

    def show_progress(self, text: str | Text) -> None:
        """Write a line of progress; nothing with ``--format json`` or ``--quiet``."""
        if not (self.is_json or self.is_quiet):
            _write(self.out, text)

    def notify(self, *renderables: RenderableType) -> None:
        """Write a note to standard error."""
        for each in renderables:
            _write(self.err, each)

    def confirm(
        self,
        question: str,
        *,
        yes: bool,
        renderable: RenderableType = "",
        required_word: str = "",
        option: str = "",
    ) -> bool:
        """Ask for confirmation.

        Args:
            question: The question, to be answered with y or n.
            yes: Whether ``--yes`` was given.
            renderable: What the command is about to do.
            required_word: What to type instead of y; ``yes`` does not answer then.
            option: The option that answers in advance.

        Raises:
            ConfigurationError: There is no terminal to ask on.
        """
        if yes and not required_word:
            return True
        self.notify(renderable)
        if not (sys.stdin is not None and sys.stdin.isatty() and self.err.is_terminal):
            missing = f"--{option.replace('_', '-')} as well" if required_word else "--yes"
            raise ConfigurationError(
                "this command asks for confirmation, and there is no terminal: check what it "
                f"would do, then pass {missing}"
            )
        hint = f" [type {escape_text(required_word)} to continue] " if required_word else " [y/N] "
        self.err.print(Text.assemble((escape_text(question), "bold"), hint), end="")
        reply = sys.stdin.readline().strip()
        return reply == required_word if required_word else reply.lower() in ("y", "yes")


def format_json(document: dict[str, Any], *, encoding: str = "utf-8") -> str:
    """Format ``document`` as readable JSON; escape what is invisible or not in ``encoding``."""

    def is_plain(text: str) -> bool:
        return text.isprintable() and is_encodable(text, encoding)

    def escape(line: str) -> str:
        return "".join(c if is_plain(c) else json.dumps(c)[1:-1] for c in line)

    lines = json.dumps(document, indent=2, ensure_ascii=False).split("\n")
    return "".join(f"{line if is_plain(line) else escape(line)}\n" for line in lines)


class _Escaped:
    """Renders a value with the control sequences in its texts escaped.

    Names, owners and causes come from files, from the server and from the lease table, and may
    contain control sequences. Styles are applied after that, so they are not affected.
    """

    def __init__(self, renderable: RenderableType) -> None:
        self._renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for segment in console.render(self._renderable, options):
            if segment.control:
                yield segment
            else:
                text = escape_text(segment.text, kept_characters=TEXT_WHITESPACE)
                if not is_encodable("…", console.encoding):
                    text = _TRUNCATED_TEXT.sub("...", text)
                yield Segment(text, segment.style)


def _make_console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, markup=False, highlight=False, emoji=False, soft_wrap=False)
    if not console.is_terminal:
        console.width = _UNLIMITED_WIDTH
    return console


def _write(console: Console, renderable: RenderableType) -> None:
    renderable = _Escaped(renderable)
    if console.is_terminal:
        console.print(renderable)
        return
    with console.capture() as captured:
        console.print(renderable)
    # Tables pad their last column with spaces.
    text = "".join(line.rstrip() + "\n" for line in captured.get().splitlines())
    console.file.write(text)
    console.file.flush()
