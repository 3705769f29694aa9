"""The user's code in the child process: its setup function, and its part in an error."""

from __future__ import annotations

import importlib
import traceback
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lambda_migrate.sources.protocol import ChildError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

__all__ = ["describe_error", "find_location", "make_relative", "open_setup"]


def open_setup(name: str) -> AbstractContextManager[Any]:
    """The context manager ``module:callable``; one that does nothing if there is no name.

    Raises:
        ChildError: It cannot be loaded.
    """
    if not name:
        return nullcontext()
    module, _, attribute = name.partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ChildError(
            f"LAMBDA_MIGRATE_SOURCE_SETUP={name} cannot be loaded: {error}", kind="configuration"
        ) from error
    manager: AbstractContextManager[Any] = function()
    return manager


def make_relative(path: str | Path, root: str) -> str:
    """A path as messages show it: relative to the folder of the code if it is in there."""
    path, folder = Path(path).resolve(), Path(root).resolve()
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def find_location(
    error: BaseException, is_own: Callable[[Path], bool] | None = None, *, root: str
) -> tuple[str, int | None]:
    """The last line of the user's code that an error came through: path and line.

    Args:
        error: The error.
        is_own: Whether a file is the user's; by default, all in the folder of the code are.
        root: The folder of the code.
    """
    folder = Path(root).resolve()

    def is_in_root(path: Path) -> bool:
        return path.is_relative_to(folder) and "site-packages" not in path.parts

    is_own = is_own or is_in_root
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:  # its file is not a frame yet
        frames.append((error.filename, error.lineno))
    for name, line in reversed(frames):
        if not name.startswith("<") and is_own(Path(name).resolve()):
            return make_relative(name, root), line
    return "", None


def describe_error(error: BaseException) -> str:
    """An error of the user's code, on one line and without its place."""
    if isinstance(error, SystemExit):
        return f"it called sys.exit({error.code!r})"
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return " ".join(f"{type(error).__name__}: {text}".split()).rstrip(":")
