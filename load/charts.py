"""The style that all pictures share."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from matplotlib import style as mpl_style
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN = "#4a90d9", "#d1812a", "#3d9a6c"


def style() -> AbstractContextManager[None]:
    """The common style; text stays text, and the same figure is the same file."""
    own = {"font.size": 8, "svg.fonttype": "none", "svg.hashsalt": "lambda-migrate"}
    return mpl_style.context(["seaborn-v0_8-whitegrid", own])


def save(figure: Figure, path: Path) -> None:
    """Write an SVG."""
    figure.savefig(path, format="svg", metadata={"Date": None}, dpi=150)
