"""The library writes the messages in the headings of the troubleshooting page."""

from __future__ import annotations

import ast
import re

import pytest

from tests.unit.docs.pages import DOCS, ROOT

PAGE = (DOCS / "troubleshooting.md").read_text()
HEADINGS = re.findall(r"^### (?!PostgreSQL:)(.*`.*)$", PAGE, re.M)
MESSAGES = [message for heading in HEADINGS for message in re.findall(r"`([^`]+)`", heading)]


def string_literals() -> list[str]:
    """Return all string literals of the library; NUL stands for an interpolated value."""
    found = []
    for path in sorted((ROOT / "lambda_migrate").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (
                    each.value if isinstance(each, ast.Constant) else "\0" for each in node.values
                )
                found.append("".join(str(each) for each in parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return string_literals()


@pytest.mark.parametrize("message", MESSAGES)
def test_every_message_is_one_that_the_library_writes(message: str, texts: list[str]) -> None:
    pieces = [piece.strip() for piece in message.split("...") if len(piece.strip()) > 3]
    assert pieces
    for piece in pieces:
        assert any(piece in text.replace("\n", " ") for text in texts), piece


def test_the_page_has_messages() -> None:
    assert len(MESSAGES) > 25
