"""Files of environment variables, with the usual rules for quotes."""

from __future__ import annotations

from pathlib import Path

import pytest

from lambda_migrate.cli.env_file import load_env_files, parse_env_file
from lambda_migrate.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("A=1", "1"),
        ("A=", ""),
        ("  export A = x y  ", "x y"),
        ("A=x # comment", "x"),
        ("A=x#y", "x#y"),
        ("A= # comment", ""),
        ("A=it's", "it's"),
        ("A='x # y' # comment", "x # y"),
        (r"A='a\n$B'", r"a\n$B"),
        (r'A="a\n\"b\" \\ \$"', 'a\n"b" \\ $'),
        ('A="x\ny"', "x\ny"),
        ("A='x\ny'\nB=2", "x\ny"),
        ("A=postgresql://u:p@h/db?a=b", "postgresql://u:p@h/db?a=b"),
        ("A=1\r\nB=2\r\n", "1"),
        ("# first\n\nA=1\nA=2", "2"),
    ],
)
def test_a_value_is_read_without_its_quotes_and_comments(text: str, value: str) -> None:
    assert parse_env_file(text, path=".env")["A"] == value


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("A=1\nsecret", [".env:2: write NAME=value"]),
        ("1A=secret\n=x", [".env:1: write NAME", ".env:2: write NAME"]),
        ("A='x\ny'\nB=\"secret", [".env:3: the quote of B is not closed"]),
        ("A='x' secret\nB-C=1", [".env:1: remove what follows", ".env:2: write NAME"]),
        ("A=x\0secret", [".env:1: A contains a NUL"]),
    ],
)
def test_every_fault_names_file_and_line_and_no_value(text: str, faults: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_env_file(text, path=".env")
    assert len(caught.value.faults) == len(faults)
    for fault, start in zip(caught.value.faults, faults, strict=True):
        assert fault.startswith(start)
    assert "secret" not in str(caught.value)


def test_variables_that_are_set_win_and_the_first_file_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A", "set")
    monkeypatch.setenv("B", "")
    monkeypatch.setenv("C", "x")  # so that it is removed afterwards
    monkeypatch.delenv("C")
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"\xef\xbb\xbfA=file\nB=file\nC=one\n")
    two.write_text("C=two")
    import os

    rest = load_env_files(["--env-file", str(one), "up", f"--env-file={two}", "-q"])
    assert rest == ["up", "-q"]
    assert (os.environ["A"], os.environ["B"], os.environ["C"]) == ("set", "", "one")
    assert load_env_files(["up", "--env-file"]) == ["up", "--env-file"]
    monkeypatch.delenv("C")


@pytest.mark.parametrize("content", [None, b"A=\xff"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / ".env"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"--env-file .*\.env: cannot be read"):
        load_env_files([f"--env-file={path}"])
