"""How a measured process passes its figures on, among everything else that it writes."""

from __future__ import annotations

import json
import sys
from typing import Any

__all__ = ["print_figures", "read_figures"]

_PREFIX = "BENCH "


def print_figures(figures: Any) -> None:
    """Write figures as one line."""
    sys.stdout.write(f"\n{_PREFIX}{json.dumps(figures)}\n")


def read_figures(output: str) -> Any:
    """The figures in what a process has written.

    Raises:
        ValueError: There are none.
    """
    for line in output.splitlines():
        if line.startswith(_PREFIX):
            return json.loads(line.removeprefix(_PREFIX))
    raise ValueError(f"a measured process printed no figures:\n{output}")
