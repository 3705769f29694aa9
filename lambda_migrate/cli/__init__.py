"""The command line: ``lambda-migrate``, or ``python -m lambda_migrate``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

_EXTRA = frozenset({"click", "rich", "typer"})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Without the program's name. Default: those of the process.

    Returns:
        The exit code; see ``docs/reference/command-line.md``.
    """
    try:
        from lambda_migrate.cli.run import run
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] not in _EXTRA:
            raise
        sys.stderr.write(
            f"lambda-migrate's command line needs {missing.name}, which is not installed: "
            "pip install 'lambda-migrate[cli]' (in a clone: pip install '.[cli]')\n"
        )
        return 2
    return run(sys.argv[1:] if arguments is None else arguments)
