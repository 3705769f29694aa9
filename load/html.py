"""HTML for the pages that storms, staging and chaos write: one style, tables, no framework."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

__all__ = [
    "Html",
    "bar",
    "document",
    "list_of",
    "mark",
    "paragraph",
    "section",
    "table",
    "verdicts",
]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #23282f; background: #fff; max-width: 1040px;
       margin: 0 auto; padding: 24px 16px 64px; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 36px 0 4px; }
h3 { font-size: 15px; margin: 20px 0 4px; } a { color: #2f5f9e; }
.faint { color: #6b7480; } small { color: #6b7480; font-weight: 400; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; display: block;
        overflow-x: auto; }
td, th { padding: 4px 14px 4px 0; text-align: left; vertical-align: top; }
th { font-weight: 500; color: #6b7480; font-size: 13px; }
tr + tr td { border-top: 1px solid #e3e6ea; }
td.number { text-align: right; white-space: nowrap; }
code, pre { font-size: 13px; background: #f3f4f6; white-space: pre-wrap; }
.passed { color: #1f7a5c; } .failed { color: #fff; background: #b3261e; padding: 0 6px; }
.not-measured { color: #6b7480; }
.go, .no-go { color: #fff; border-radius: 8px; padding: 14px 24px; font-size: 18px; }
.go { background: #1f7a5c; } .no-go { background: #b3261e; } .word { font-size: 40px; }
.bar { display: inline-block; height: 10px; min-width: 2px; background: #a9b8cc; }
svg, img { max-width: 100%; height: auto; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(440px, 1fr)); gap: 12px; }
"""


class Html(str):
    """Text that is HTML already, and so is not escaped again."""

    __slots__ = ()


def _escape(value: Any) -> str:
    if isinstance(value, Html):
        return value
    return "" if value is None else escape(str(value))


def document(title: str, parts: Iterable[str]) -> str:
    """A whole page."""
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n{body}\n"
        "</body></html>\n"
    )


def section(heading: str, *parts: str, lead: str = "") -> Html:
    """A heading with what belongs to it."""
    intro = paragraph(lead, kind="faint") if lead else ""
    return Html(f"<h2>{escape(heading)}</h2>\n{intro}" + "\n".join(parts))


def paragraph(text: Any, *, kind: str = "") -> Html:
    """A paragraph; ``kind`` is a class of the style."""
    return Html(f'<p class="{kind}">{_escape(text)}</p>')


def list_of(items: Iterable[Any]) -> Html:
    """A list, one item a line."""
    return Html("<ul>" + "".join(f"<li>{_escape(item)}</li>" for item in items) + "</ul>")


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]]) -> Html:
    """A table; numbers, and texts that begin with a digit, are aligned to the right."""
    titles = "".join(f"<th>{_escape(title)}</th>" for title in head)
    lines = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
    return Html(f"<table>{f'<tr>{titles}</tr>' if head else ''}{lines}</table>")


def _cell(value: Any) -> str:
    text = _escape(value)
    is_number = not isinstance(value, Html) and text[:1].isdigit() and len(text) < 24
    return f'<td class="number">{text}</td>' if is_number else f"<td>{text}</td>"


def bar(share: float, *, width: int = 120) -> Html:
    """A horizontal bar of this share of the width."""
    return Html(f'<span class="bar" style="width:{width * share:.0f}px"></span>')


def mark(state: str) -> Html:
    """``passed``, ``failed`` or ``not measured`` in its colour."""
    return Html(f'<span class="{state.replace(" ", "-")}">{escape(state)}</span>')


def verdicts(found: Iterable[Any]) -> Html:
    """A table of things with ``state``, ``what`` and ``found``."""
    return table((), ((mark(one.state), one.what, Html(escape(one.found))) for one in found))
