"""The user's code in the child process: its setup function, and its place in an error."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lambda_migrate.sources.protocol import ChildError
from lambda_migrate.sources.user_code import (
    describe_error,
    find_location,
    make_relative,
    open_setup,
)

SETUP = """
from contextlib import contextmanager

@contextmanager
def configure():
    yield "config"

def fail():
    raise ValueError("no  config\\nhere")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module of the user."""
    (tmp_path / "users_setup.py").write_text(SETUP)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "users_setup", raising=False)
    return tmp_path


def test_the_setup_function_is_optional(folder: Path) -> None:
    with open_setup("") as nothing, open_setup("users_setup:configure") as config:
        assert (nothing, config) == (None, "config")


@pytest.mark.parametrize("name", ["users_setup", "users_setup:missing", "missing:configure"])
def test_a_setup_function_that_cannot_be_loaded_is_named(folder: Path, name: str) -> None:
    with pytest.raises(ChildError, match=f"LAMBDA_MIGRATE_SOURCE_SETUP={name} cannot be loaded"):
        open_setup(name)


def test_an_error_is_described_with_the_last_line_of_the_users_code(folder: Path) -> None:
    with pytest.raises(ValueError, match="config") as caught:
        open_setup("users_setup:fail")
    assert find_location(caught.value, root=str(folder)) == ("users_setup.py", 9)
    assert find_location(caught.value, root=str(folder / "elsewhere")) == ("", None)
    assert describe_error(caught.value) == "ValueError: no config here"
    assert describe_error(SystemExit(3)) == "it called sys.exit(3)"


def test_a_syntax_error_is_in_its_file(folder: Path) -> None:
    with pytest.raises(SyntaxError) as caught:
        compile("x = 1\ny = (", str(folder / "users_setup.py"), "exec")
    assert find_location(caught.value, root=str(folder)) == ("users_setup.py", 2)
    assert make_relative("/elsewhere/env.py", str(folder)) == "/elsewhere/env.py"
