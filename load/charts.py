"""The style that all pictures share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from matplotlib import style
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN = "#4a90d9", "#d1812a", "#3d9a6c"
_STYLE = {"font.size": 8, "svg.fonttype": "none", "svg.hashsalt": "lambda-migrate"}


@contextmanager
def open_figure(path: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure that is written as SVG; text stays text, and the same figure is the same file."""
    with style.context(["seaborn-v0_8-whitegrid", _STYLE]):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        figure.savefig(path, format="svg", metadata={"Date": None}, dpi=150)
