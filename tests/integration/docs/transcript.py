"""A page's files and commands as one shell script, and what the page says that they print."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.unit.docs.pages import ROOT, fences

# What makes an environment that the tests have already.
SET_UP = ("python3 -m venv", "pip install", ". .venv/bin/activate")

SECONDS = 240


def script_of(page: Path) -> str:
    """Files are written where the page shows them, blocks of ``sh`` run where they stand.

    What is for a reader's own repository stands in a block of ``bash``, and is not run.
    """
    parts = ["set -eu"]
    for fence in fences(page):
        if fence.title:
            name = shlex.quote(fence.title)
            folder = shlex.quote(str(Path(fence.title).parent))
            parts.append(
                f"mkdir -p {folder}\ncat > {name} <<'END OF FILE'\n{fence.text}END OF FILE"
            )
        elif fence.language == "sh":
            lines = [each for each in fence.text.splitlines() if not each.startswith(SET_UP)]
            parts.append("\n".join(lines))
    return "\n".join(parts) + "\n"


def run(page: Path, folder: Path, environment: Mapping[str, str]) -> str:
    """Run a page; returns all that it printed.

    Raises:
        AssertionError: A command failed, or hung.
    """
    variables = {**os.environ, **environment, "PYTHONPATH": str(ROOT)}
    variables["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{variables['PATH']}"
    log = folder / "output.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            ["bash", "-c", script_of(page)],
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
            end_group(process.pid)
    text = log.read_text()
    assert code == 0, f"{page.name} ended with {code}:\n{text}"
    return text


def end_group(leader: int) -> None:
    """Whatever the page left running in the background."""
    try:
        os.killpg(leader, signal.SIGTERM)
    except ProcessLookupError:
        return


def promised(page: Path) -> list[str]:
    """The lines that the page says are printed, in its order."""
    return [line for fence in fences(page, "text") for line in plain(fence.text)]


def plain(text: str) -> list[str]:
    """Lines without what differs from run to run: processes, times, folders, who came late."""
    text = re.sub(r"\d+(  schema (?:was migrated by another|is up to date))", r"<n>\1", text)
    text = re.sub(r"/tmp/[\w./-]+|\[?/\S*lm-pg-\w+", "<folder>", text)
    text = re.sub(r"digest \w+", "digest", text)
    text = re.sub(
        r"\d{4}-\d\d-\d\d \d\d:\d\d|\d+(\.\d+)? ?m?s\b|function/\d+|fence \d+", "<n>", text
    )
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]
