"""Texts that an attacker may choose: terminal escapes, and syntax of SQL, formats and shells."""

from __future__ import annotations

import re

CONTROL_CHARACTERS = {
    "escape": "\x1b[2J\x1b[31mred",
    "one-byte escape": "\x9b2Jgone",
    "title": "\x1b]0;title\x07",
    "link": "\x1b]8;;http://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "carriage return": "harmless\rerror: all is lost",
    "line end": "harmless\nerror: all is lost",
    "separator": "harmless\u2028error: all is lost",
    "backspaces": "abc\b\b\b",
    "right to left": "\u202egnp.exe",
    "isolate": "\u2066abc\u2069",
    "zero width": "ad\u200bmin",
    "tag": "x\U000e0041",
    "delete": "a\x7fb",
}
"""What a terminal obeys, or a reader does not see."""

SQL = {
    "quote": "o'reilly",
    "double quote": 'a"b',
    "end of a name": '"; DROP TABLE victim; --',
    "end of a literal": "'; DROP TABLE victim; --",
    "backslash": "a\\",
    "backslash and quote": "\\'; DROP TABLE victim; --",
    "dollar quote": "$$; DROP TABLE victim; --$$",
    "parameters": "%s %(x)s ${x} :x $1 {0} {x}",
    "comment": "/* a -- b",
    "emoji": "\U0001f418 \u00df\u6f22",
    "dots": "a.b.c",
    "spaces": " a  b ",
    "markup": "[red]a[/red][link=http://evil.example]b[/link]",
    "path": "../../etc/passwd",
    "keyword": "select",
}
"""What is printable, and means something to PostgreSQL, to Python's formats or to a shell."""

_STYLES = re.compile(r"\x1b\[[0-9;]*m|\x1b\[\?25[hl]|\x1b\[2K|\x1b\[1A")


def find_control_characters(written: str, *, keep: str = "\n") -> str:
    """What a terminal would obey in ``written``, our own colours left out."""
    return "".join(c for c in _STYLES.sub("", written) if not c.isprintable() and c not in keep)
