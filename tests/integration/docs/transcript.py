"""Turn a page into a shell script, run it, and compare its output with the page."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.unit.docs.pages import ROOT, code_blocks

# Commands that set up an environment, which the tests have already.
SET_UP = ("python3 -m venv", "pip install", ". .venv/bin/activate")

SECONDS = 240


def make_script(page: Path, *, before: str = "") -> str:
    """Write the files of the page and run its ``sh`` blocks, in order.

    Blocks of ``bash`` are for the reader's own repository, and do not run.

    Args:
        page: The page.
        before: The text of the block at which to stop, if not at the end.
    """
    parts = ["set -eu"]
    for block in code_blocks(page):
        if block.text == before:
            break
        if block.title:
            name = shlex.quote(block.title)
            folder = shlex.quote(str(Path(block.title).parent))
            parts.append(
                f"mkdir -p {folder}\ncat > {name} <<'END OF FILE'\n{block.text}END OF FILE"
            )
        elif block.language == "sh":
            lines = [each for each in block.text.splitlines() if not each.startswith(SET_UP)]
            parts.append("\n".join(lines))
    return "\n".join(parts) + "\n"


def run(page: Path, folder: Path, environment: Mapping[str, str], *, after: str = "") -> str:
    """Run a page, and return its output.

    Args:
        page: The page.
        folder: Where to run it.
        environment: Variables to add.
        after: A script to run after the page, in the same shell.

    Raises:
        AssertionError: A command failed, or hung.
    """
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    variables["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{variables['PATH']}"
    log = folder / "output.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            ["bash", "-c", make_script(page) + after],
            cwd=folder,
            env={**variables, "COLUMNS": "200", "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            code = -1
        finally:
            terminate_group(process.pid)
    text = log.read_text()
    assert code == 0, f"{page.name} ended with {code}:\n{text}"
    return text


def terminate_group(leader: int) -> None:
    """Terminate what the page left running in the background."""
    try:
        os.killpg(leader, signal.SIGTERM)
    except ProcessLookupError:
        return


def expected_lines(page: Path) -> list[str]:
    """Return the output lines on the page, in order."""
    return [line for block in code_blocks(page, "text") for line in normalize(block.text)]


def normalize(text: str) -> list[str]:
    """Return the lines without values that differ between runs: processes, times, folders."""
    text = re.sub(r"\d+(  schema (?:was migrated by another|is up to date))", r"<n>\1", text)
    text = re.sub(r"/tmp/[\w./-]+|\[?/\S*lm-pg-\w+", "<folder>", text)
    text = re.sub(r"digest \w+", "digest", text)
    text = re.sub(
        r"\d{4}-\d\d-\d\d \d\d:\d\d|\d+(\.\d+)? ?m?s\b|function/\d+|fence \d+", "<n>", text
    )
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]
