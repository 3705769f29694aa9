"""The command line's output to closed pipes, full disks and ASCII terminals."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest
from rich.text import Text

from lambda_migrate.cli import main
from lambda_migrate.cli.output import OutputStream
from lambda_migrate.cli.terminal import Terminal

PROGRAM = (sys.executable, "-m", "lambda_migrate")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAMBDA_MIGRATE_DIRECTORY", str(tmp_path))
    return tmp_path


def run_new(*, stdout: int | IO[str], encoding: str = "utf-8") -> tuple[int, str]:
    """Run ``new größe --format json``; return the exit code and what it wrote to standard error."""
    done = subprocess.run(
        [*PROGRAM, "new", "größe", "--format", "json"],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        check=False,
    )
    return done.returncode, done.stderr


def test_a_command_outlives_the_reader_of_its_output(folder: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    assert run_new(stdout=writer) == (0, "")
    os.close(writer)
    assert len(list(folder.iterdir())) == 1


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_after_the_command_has_ended(folder: Path) -> None:
    with Path("/dev/full").open("w") as full:
        code, err = run_new(stdout=full)
    message = "error: cannot write to standard output: No space left on device\n"
    assert (code, err) == (1, message)
    assert len(list(folder.iterdir())) == 1


@pytest.mark.slow
def test_json_is_valid_where_the_encoding_is_ascii(folder: Path) -> None:
    with (folder / "out").open("w+") as out:
        assert run_new(stdout=out, encoding="ascii") == (0, "")
        out.seek(0)
        text = out.read()
    assert text.isascii()
    assert json.loads(text)["name"].endswith("größe")


@pytest.mark.parametrize("name", ["stdout", "stderr", "stdin"])
def test_a_missing_stream_causes_no_error(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"sys.{name}", None)
    assert main(["new", "first"]) == 0
    assert len(list(folder.iterdir())) == 1


def test_what_an_encoding_cannot_represent_is_replaced(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w", encoding="latin-1") as file:
        OutputStream(file).write("größe … → 3 µs\n")
    assert (tmp_path / "out").read_bytes() == b"gr\xf6\xdfe ... \\u2192 3 \xb5s\n"


def test_a_text_that_is_cut_ends_in_three_dots_where_the_encoding_is_ascii(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding="ascii"))
    terminal = Terminal()
    terminal.out.width = 20
    terminal.show_progress(
        Text("CREATE TABLE orders (id bigint)", "", overflow="ellipsis", no_wrap=True)
    )
    assert written.getvalue() == b"CREATE TABLE orde...\n"
