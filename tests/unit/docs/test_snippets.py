"""The code on the pages is valid."""

from __future__ import annotations

import ast
import functools
import importlib.util
import json
import re
import shlex
from contextlib import suppress
from typing import Any

import click
import pytest
import typer

from lambda_migrate.cli.app import app
from lambda_migrate.migrations.source import parse_migration
from lambda_migrate.migrations.sql.lint import check_migration
from tests.unit.docs.pages import PAGES, ROOT, CodeBlock, all_code_blocks

PYTHON = all_code_blocks("python")
SQL = [block for block in all_code_blocks("sql") if "-- migrate:" in block.text]
COMMANDS = [
    (block, line)
    for block in all_code_blocks("sh", "console", "bash")
    for line in re.sub(r"\\\n\s*", "", block.text).splitlines()
    if re.search(r"(^|[;&|$] *|exec )lambda-migrate ", line)
]


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_compiles(block: CodeBlock) -> None:
    compile(block.text, str(block), "exec")


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_every_import_from_the_library_exists(block: CodeBlock) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lambda_migrate"):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                if alias.name == "*":
                    continue
                assert hasattr(module, alias.name), f"{block}: {node.module}.{alias.name}"


@pytest.mark.parametrize("block", SQL, ids=str)
def test_a_migration_is_read_and_may_run(block: CodeBlock) -> None:
    name = block.title.rpartition("/")[2] or "0001_example.sql"
    migration = parse_migration(block.text.encode(), filename=name, path=str(block))
    assert check_migration(migration) == []


@pytest.mark.parametrize(
    ("block", "line"), COMMANDS, ids=[f"{block}: {line}" for block, line in COMMANDS]
)
def test_every_option_of_a_command_exists(block: CodeBlock, line: str) -> None:
    words = shlex.split(line[line.index("lambda-migrate ") :], comments=True)[1:]
    ends = [at for at, word in enumerate(words) if word in ("|", "||", "&&", ";", ">", "2>", "&")]
    with suppress(typer.Exit):  # --version and --help answer at once
        parse_arguments(words[: ends[0]] if ends else words)


@functools.cache
def program() -> Any:
    """Return the command line's root command."""
    return typer.main.get_command(app)


def parse_arguments(words: list[str]) -> None:
    """Parse the arguments of a command without running it.

    Raises:
        click.UsageError: It would not parse_arguments them.
    """
    command = program()
    context = command.make_context("lambda-migrate", list(words))
    while isinstance(command, click.Group) or hasattr(command, "commands"):
        rest = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)


@pytest.mark.parametrize("block", all_code_blocks("json"), ids=str)
def test_json_is_valid(block: CodeBlock) -> None:
    for line in [block.text] if not block.text.startswith('{"level') else block.text.split("\n\n"):
        json.loads(line)


def test_modules_that_the_pages_run_exist() -> None:
    pattern = re.compile(r"python3? -m ((?:lambda_migrate|load|tests)[\w.]*)")
    pages = {*PAGES, ROOT / "Makefile"}
    named = {name for page in pages for name in pattern.findall(page.read_text())}
    assert "lambda_migrate.local.servers.postgresql" in named
    assert [
        name for name in sorted(named) if importlib.util.find_spec(name.rstrip(".")) is None
    ] == []


def test_files_that_the_pages_name_exist() -> None:
    pattern = re.compile(r"`((?:tests|load|examples|lambda_migrate|docs)/[\w./-]+)`")
    pages = {block.page for block in all_code_blocks()} | {"README.md"}
    missing = [
        f"{page}: {path}"
        for page in sorted(pages)
        for path in pattern.findall((ROOT / page).read_text())
        if not (ROOT / path).exists()
    ]
    assert missing == []


def test_the_pages_have_code_to_check() -> None:
    assert all((PYTHON, SQL, COMMANDS))
