"""Charts by matplotlib: the style that all share, and the few kinds that reports need."""

from __future__ import annotations

import io
import re
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure

from load.html import Html

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["counts", "cumulative", "histogram", "img", "new_axes", "save", "style", "svg"]

INK, FAINT, GRID = "#22303c", "#6b7480", "#e8eaed"
BLUE, ORANGE, GREEN = "#4a90d9", "#d1812a", "#3d9a6c"

_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.axisbelow": True,
    "axes.edgecolor": "#8a96a3",
    "axes.grid": True,
    "axes.labelcolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "figure.facecolor": "white",
    "grid.color": GRID,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "svg.fonttype": "none",
    "svg.hashsalt": "lambda-migrate",
}

_STYLE_ATTRIBUTE = re.compile(r' style="([^"]*)"')


@contextmanager
def style(**overrides: Any) -> Iterator[None]:
    """The common style; overrides are matplotlib's names with ``_`` for the dot."""
    changed: dict[Any, Any] = {name.replace("_", ".", 1): v for name, v in overrides.items()}
    with mpl.rc_context(_STYLE | changed):
        yield


def new_axes(width: float, height: float, **labels: str) -> tuple[Figure, Axes]:
    """A figure of one chart, in inches; labels are ``title``, ``xlabel``, ``ylabel``."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.set(**labels)
    return figure, axes


def save(figure: Figure, path: Path) -> None:
    """Write an SVG that is the same for the same figure, at about half of matplotlib's size."""
    text = "\n".join(line.strip() for line in str(svg(figure)).splitlines())
    repeated = [style for style, n in Counter(_STYLE_ATTRIBUTE.findall(text)).items() if n > 3]
    rules = ""
    for number, each in enumerate(repeated):
        text = text.replace(f' style="{each}"', f' class="s{number}"')
        rules += f".s{number}{{{each}}}"
    path.write_text(text.replace("<defs>", f"<style>{rules}</style>\n<defs>", 1) + "\n")


def svg(figure: Figure) -> Html:
    """The figure as an element of a page."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None}, dpi=150)
    return Html(text.getvalue().partition("<svg")[2].join(("<svg", "")))


def img(figure: Figure, description: str) -> Html:
    """The figure as pixels, where there are hundreds on a page."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=100)
    encoded = b64encode(data.getvalue()).decode()
    return Html(f'<img alt="{description}" src="data:image/png;base64,{encoded}">')


def histogram(values: Sequence[float], *, title: str, unit: str) -> Html:
    """How the values are spread, in 30 bins of the same width."""
    with style():
        figure, axes = new_axes(4.6, 2.4, title=title, xlabel=unit)
        axes.hist(values, bins=30, color=BLUE)
        return svg(figure)


def counts(values: Sequence[int], *, title: str, unit: str) -> Html:
    """How often each whole number comes."""
    with style():
        figure, axes = new_axes(4.6, 2.4, title=title, xlabel=unit)
        found = Counter(values)
        axes.bar(list(found), list(found.values()), color=BLUE)
        axes.set_xlim(min(found) - 0.6, max(*found, min(found) + 7) + 0.6)
        return svg(figure)


def cumulative(
    values: Sequence[float], marks: Mapping[str, float], *, title: str, unit: str
) -> Html:
    """Which share of the values is at most so high; ``marks`` are pointed out by their names."""
    with style():
        figure, axes = new_axes(4.6, 2.4, title=title, xlabel=unit)
        axes.ecdf(values, color=GREEN)
        for place, (name, value) in enumerate(marks.items()):
            axes.axvline(value, color=ORANGE, linestyle=":")
            height = 0.5 - 0.14 * place
            axes.text(value, height, f" {name} {value:.3g}", color=ORANGE)
        axes.set_xlim(left=0)
        return svg(figure)
