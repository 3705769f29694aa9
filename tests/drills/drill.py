"""Run the commands and queries of a runbook, in order, on a system that a test has broken."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pg8000.native

from lambda_migrate.local.runtime.function import LocalFunction
from tests.drills.page import FOR_READING, Block, Page
from tests.sandbox import Sandbox, until

SECONDS = 90
"""Time limit for one command; drills end much earlier."""

AWS = Path(__file__).with_name("aws.py")

END_SECTION = "How to know that it is over"

_EXIT = re.compile(r"\s+# exits with (\d+)$")
_VARIABLE = re.compile(r"(?<!:):(\w+)")


class Drill:
    """One drill of one page.

    Args:
        name: File name of the page.
        sandbox: The system that was broken.
        code: Folder of the deployed version, in which the commands run.
        previous: Folder of the previous version, which ``git checkout PREVIOUS`` changes to.
        deploy: Called instead of ``sam deploy``, if ``sam build`` ran before it.
        replacements: Program -> function that is called instead, for other programs.
        documents: Receives the ``json`` blocks of the steps.
        function: Run ``lambda-migrate`` through this admin function, without its settings.
        variables: Environment variables beside the function's settings.
    """

    def __init__(
        self,
        name: str,
        sandbox: Sandbox,
        code: Path,
        *,
        previous: Path | None = None,
        deploy: Callable[[], object] | None = None,
        replacements: Mapping[str, Callable[[str], None]] | None = None,
        documents: Callable[[Mapping[str, Any]], None] | None = None,
        function: str = "",
        **variables: str,
    ) -> None:
        self.page = Page.read(name)
        self.sandbox = sandbox
        self.code = code
        self.functions: list[LocalFunction] = []
        """Functions whose logs are searched."""
        self.database = sandbox.name
        """Database in which SQL runs."""
        self._previous = previous
        self._deploy = deploy
        self._built: Path | None = None
        self._replacements = dict(replacements or {})
        self._documents = documents
        self.variables = variables
        self._function = function
        self._ran: set[Block] = set()
        self._answer = ""
        self._row: dict[str, Any] = {}

    # --- the page's sections

    def check_symptoms(self, section: str = "What you see") -> None:
        """Run the commands that show the fault, and require the output on the page."""
        for block in self.page.of(section):
            if block.language == "json":
                self._require_logged(block)
            else:
                self._run(block)

    def run_steps(
        self,
        section: str = "Steps",
        *,
        manual_steps: Mapping[int, Callable[[], object]] | None = None,
    ) -> None:
        """Run the steps.

        Args:
            section: Section of the page.
            manual_steps: Number of a step -> what it asks a person to do before its commands.
        """
        waiting = dict(manual_steps or {})
        for block in self.page.of(section):
            for step in [step for step in waiting if step <= block.step]:
                waiting.pop(step)()
            if block.language == "json":
                assert self._documents is not None, f"{block}: no test receives this document"
                self._documents(json.loads(block.text))
                self._ran.add(block)
            else:
                self._run(block)
        for act in waiting.values():
            act()

    def is_over(self, case: str = "") -> bool:
        """Whether every block of the last section succeeds: exit code 0, or no row.

        Args:
            case: What follows the colon in the section's heading, if there are several.
        """
        section = f"{END_SECTION}: {case}" if case else END_SECTION
        results = [self._is_block_over(block) for block in self.page.of(section)]  # run every block
        return all(results)

    def wait_until_over(self) -> None:
        """Repeat the checks of the last section until they succeed."""
        until(self.is_over, what=f"{self.page.name}: {END_SECTION}")

    def require_all_blocks_ran(self, *others: Drill) -> None:
        """Fail if neither this drill nor ``others`` ran a block of the page."""
        self._ran = self._ran.union(*(other._ran for other in others))
        left = [
            str(block)
            for block in self.page.blocks
            if block not in self._ran and block.language not in FOR_READING
        ]
        assert not left, f"no drill runs {', '.join(left)}"

    # --- one block

    def _run(self, block: Block) -> None:
        if block.language == "sh":
            self._answer = ""
            for command, code in self._commands(block.text):
                self._run_command(command, code, block)
        elif block.language == "sql":
            self._run_query(block.text)
        elif block.language == "text":
            assert _pattern(block.text).search(_collapse_spaces(self._answer)), (
                f"{block} expects\n{block.text}\n\nbut the output was:\n{self._answer}"
            )
        else:
            assert block.language in FOR_READING, f"{block}: unknown language {block.language!r}"
        self._ran.add(block)

    def _is_block_over(self, block: Block) -> bool:
        self._ran.add(block)
        if block.language == "sql":
            return not self._run_query(block.text)
        if block.language == "json":
            return self._was_logged(block)
        if block.language == "text":
            return _pattern(block.text).search(_collapse_spaces(self._answer)) is not None
        self._answer = ""
        return all(self._execute(line) == code for line, code in self._commands(block.text))

    def _run_command(self, command: str, code: int, block: Block) -> None:
        program = command.split()[0]
        if program in ("git", "sam"):
            self._run_deployment(command, block)
            return
        if program in self._replacements:
            self._replacements[program](command)
            return
        ended = self._execute(command)
        assert ended == code, f"{block}: `{command}` exited with {ended}:\n{self._answer}"

    def _run_deployment(self, command: str, block: Block) -> None:
        """Imitate git and sam: `sam deploy` deploys what `sam build` built last."""
        if command == "git checkout PREVIOUS":
            assert self._previous is not None, f"{block}: the drill has no previous version"
            self.code = self._previous
        elif command == "sam build":
            self._built = self.code
        else:
            assert command.startswith("sam deploy "), f"{block}: no drill can run {command}"
            assert self._built == self.code, f"{block}: deploys what was built before, the fault"
            assert self._deploy is not None, f"{block}: the drill deploys nothing"
            self._deploy()
            self._built = None

    def _commands(self, text: str) -> Sequence[tuple[str, int]]:
        """Command and expected exit code of each line; a script that uses ``aws`` is one."""
        return [(text, 0)] if "$(aws " in text else _commands(text)

    def _execute(self, command: str) -> int:
        assert re.match(r"lambda-migrate |\w+=\$\(aws ", command), f"{command}: no drill can run it"
        done = subprocess.run(
            ["/bin/sh", "-euc", self._add_function(command)],
            env=self.command_variables(),
            cwd=self.code,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        self._answer += done.stdout + done.stderr
        return done.returncode

    def _add_function(self, command: str) -> str:
        if not self._function:
            return command
        return command.replace("lambda-migrate ", f"lambda-migrate --function {self._function} ")

    def command_variables(self) -> dict[str, str]:
        """Environment variables of the commands: the function's settings."""
        path = os.pathsep.join(
            [str(self._make_bin()), str(Path(sys.executable).parent), os.defpath]
        )
        return {
            "PATH": path,
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "HOME": str(self.sandbox.root),
            "COLUMNS": "200",
            "NO_COLOR": "1",
            **({} if self._function else self.sandbox.variables()),
            **self.sandbox.dynamodb.variables(access_key="operator"),
            **self.variables,
        }

    def _make_bin(self) -> Path:
        """Folder with our ``aws``, which takes precedence over an installed one."""
        folder = self.sandbox.root / "bin"
        folder.mkdir(exist_ok=True)
        aws = folder / "aws"
        aws.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{AWS}" "$@"\n')
        aws.chmod(0o755)
        return folder

    def _run_query(self, sql: str) -> list[dict[str, Any]]:
        named = {name: self._row[name] for name in _VARIABLE.findall(sql) if name in self._row}
        with _connected(self.sandbox, self.database) as connection:
            rows = connection.run(sql.rstrip().rstrip(";"), **named) or []
            names = [column["name"] for column in connection.columns or []]
        found = [dict(zip(names, row, strict=True)) for row in rows]
        self._row = found[0] if found else self._row
        self._answer = "\n".join(" | ".join(map(str, row)) for row in rows)
        return found

    # --- log lines

    def _require_logged(self, block: Block) -> None:
        self._ran.add(block)
        until(lambda: self._was_logged(block), what=f"{block} is in a log", seconds=20)

    def _was_logged(self, block: Block) -> bool:
        wanted = json.loads(block.text)
        return any(_contains(line, wanted) for line in self.log_lines())

    def log_lines(self) -> Iterator[Mapping[str, Any]]:
        """Structured log lines of all functions."""
        for function in self.functions:
            for view in function.environments():
                for line in function.logs(view.environment_id).splitlines():
                    if line.startswith("{"):
                        yield json.loads(line)


def _contains(logged: Any, wanted: Any) -> bool:
    """Whether ``logged`` has all keys and values of ``wanted``."""
    if isinstance(wanted, dict):
        return isinstance(logged, dict) and all(
            key in logged and _contains(logged[key], value) for key, value in wanted.items()
        )
    if isinstance(wanted, str) and isinstance(logged, str):
        return _pattern(wanted).fullmatch(_collapse_spaces(logged)) is not None
    return bool(logged == wanted)


def _commands(text: str) -> Sequence[tuple[str, int]]:
    """Command and expected exit code of each line."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        expected = _EXIT.search(line)
        command = _EXIT.sub("", line).partition(" # ")[0].strip()
        if command and not command.startswith("#"):
            found.append((command, int(expected[1]) if expected else 0))
    return found


def _collapse_spaces(text: str) -> str:
    return " ".join(text.split())


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(re.escape(_collapse_spaces(text)).replace(re.escape("..."), ".*?"), re.DOTALL)


@contextmanager
def _connected(sandbox: Sandbox, database: str) -> Iterator[pg8000.native.Connection]:
    connection = pg8000.native.Connection(
        "postgres",
        database=database,
        unix_sock=str(sandbox.postgresql.socket),
        application_name="psql",
    )
    try:
        yield connection
    finally:
        connection.close()
