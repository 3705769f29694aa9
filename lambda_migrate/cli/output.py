"""Standard output and standard error that no command fails on: a closed pipe, a full disk, ASCII.

A migration that is running must not end because the reader of its progress has gone. What cannot be
written is dropped; an error other than a closed pipe is reported when the command has ended.
"""

from __future__ import annotations

import codecs
import os
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO, cast

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["OutputStream", "escape_unencodable_output", "is_encodable"]

_REPLACEMENTS = {"…": "...", "·": ".", "µ": "u", "✓": "*"}
"""For encodings that cannot represent what this program writes itself."""


def _replace(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)  # noqa: S101 - `encode` raises no other
    characters = error.object[error.start : error.end]
    shown = (
        _REPLACEMENTS.get(each) or each.encode("ascii", "backslashreplace").decode()
        for each in characters
    )
    return "".join(shown), error.end


_ERROR_HANDLER = "lambda_migrate.replace"
codecs.register_error(_ERROR_HANDLER, _replace)


class OutputStream:
    """A text stream whose writes do not fail.

    Args:
        stream: Where to write; None if the process was started without it.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.fault = ""
        """Why something could not be written, if it was not a closed pipe."""

    @property
    def encoding(self) -> str:
        """The encoding of the stream."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Write ``text``, with replacements for what the encoding cannot represent."""
        if self._stream is None:
            return len(text)
        try:
            self._stream.write(text.encode(self.encoding, _ERROR_HANDLER).decode(self.encoding))
        except OSError as error:
            self._discard_output(error)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        if self._stream is None:
            return
        try:
            self._stream.flush()
        except OSError as error:
            self._discard_output(error)

    def _discard_output(self, error: OSError) -> None:
        """Discard what is buffered and all that follows."""
        if not isinstance(error, BrokenPipeError):
            self.fault = error.strerror or type(error).__name__
        stream, self._stream = self._stream, None
        with suppress(OSError, ValueError, AttributeError):
            discard = os.open(os.devnull, os.O_WRONLY)
            os.dup2(discard, cast("TextIO", stream).fileno())  # else the interpreter fails to flush
            os.close(discard)

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        """The file descriptor."""
        if self._stream is None:
            raise OSError("the stream is closed")
        return self._stream.fileno()


def is_encodable(text: str, encoding: str) -> bool:
    """Whether ``encoding`` can represent ``text``."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def escape_unencodable_output() -> Iterator[OutputStream]:
    """Replace standard output and standard error for the block; yields standard output."""
    before = sys.stdout, sys.stderr
    out, err = map(OutputStream, before)
    sys.stdout, sys.stderr = cast("TextIO", out), cast("TextIO", err)
    try:
        yield out
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before
