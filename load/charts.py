"""The style that all pictures share, and how they are saved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

__all__ = ["BLUE", "GREEN", "ORANGE", "save", "style"]

BLUE, ORANGE, GREEN = "#4a90d9", "#d1812a", "#3d9a6c"
_TEXT, _FAINT = "#22303c", "#6b7480"

_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.axisbelow": True,
    "axes.edgecolor": "#8a96a3",
    "axes.grid": True,
    "axes.labelcolor": _FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "figure.facecolor": "white",
    "grid.color": "#e8eaed",
    "text.color": _TEXT,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "svg.fonttype": "none",
    "svg.hashsalt": "lambda-migrate",
}


@contextmanager
def style() -> Iterator[None]:
    """The common style."""
    with mpl.rc_context(_STYLE):
        yield


def save(figure: Figure, path: Path) -> None:
    """Write an SVG that is the same for the same figure."""
    figure.savefig(path, format="svg", metadata={"Date": None}, dpi=150)
