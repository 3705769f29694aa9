"""What is shown on the pages can be used as it stands there."""

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
import yaml

from lambda_migrate.cli.app import app
from lambda_migrate.migrations.source import parse
from lambda_migrate.migrations.sql.lint import check
from tests.unit.docs.pages import PAGES, ROOT, Fence, all_fences

PYTHON = all_fences("python")
SQL = [fence for fence in all_fences("sql") if "-- migrate:" in fence.text]
COMMANDS = [
    (fence, line)
    for fence in all_fences("sh", "console", "bash")
    for line in re.sub(r"\\\n\s*", "", fence.text).splitlines()
    if re.search(r"(^|[;&|$] *|exec )lambda-migrate ", line)
]


@pytest.mark.parametrize("fence", PYTHON, ids=str)
def test_python_compiles(fence: Fence) -> None:
    compile(fence.text, str(fence), "exec")


@pytest.mark.parametrize("fence", PYTHON, ids=str)
def test_every_import_from_the_library_exists(fence: Fence) -> None:
    for node in ast.walk(ast.parse(fence.text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lambda_migrate"):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                assert hasattr(module, alias.name), f"{fence}: {node.module}.{alias.name}"


@pytest.mark.parametrize("fence", SQL, ids=str)
def test_a_migration_is_read_and_may_run(fence: Fence) -> None:
    name = fence.title.rpartition("/")[2] or "0001_example.sql"
    migration = parse(fence.text.encode(), filename=name, path=str(fence))
    assert check(migration) == []


@pytest.mark.parametrize(
    ("fence", "line"), COMMANDS, ids=[f"{fence}: {line}" for fence, line in COMMANDS]
)
def test_every_option_of_a_command_exists(fence: Fence, line: str) -> None:
    words = shlex.split(line[line.index("lambda-migrate ") :], comments=True)[1:]
    ends = [at for at, word in enumerate(words) if word in ("|", "||", "&&", ";", ">", "2>", "&")]
    with suppress(typer.Exit):  # --version and --help answer at once
        accept(words[: ends[0]] if ends else words)


@functools.cache
def program() -> Any:
    """The command line, made once for all commands."""
    return typer.main.get_command(app)


def accept(words: list[str]) -> None:
    """Let the command line read its arguments, without doing anything.

    Raises:
        click.UsageError: It would not accept them.
    """
    command = program()
    context = command.make_context("lambda-migrate", list(words))
    while isinstance(command, click.Group) or hasattr(command, "commands"):
        rest = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)


@pytest.mark.parametrize("fence", all_fences("yaml"), ids=str)
def test_yaml_is_valid(fence: Fence) -> None:
    assert yaml.load(fence.text, CloudFormation) is not None


class CloudFormation(yaml.SafeLoader):  # type: ignore[misc]  # yaml publishes no types
    """YAML with a template's short forms, whatever they are called."""


CloudFormation.add_multi_constructor("!", lambda _loader, suffix, node: (suffix, node.value))


@pytest.mark.parametrize("fence", all_fences("json"), ids=str)
def test_json_is_valid(fence: Fence) -> None:
    for line in [fence.text] if not fence.text.startswith('{"level') else fence.text.split("\n\n"):
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
    pages = {fence.page for fence in all_fences()} | {"README.md"}
    missing = [
        f"{page}: {path}"
        for page in sorted(pages)
        for path in pattern.findall((ROOT / page).read_text())
        if not (ROOT / path).exists()
    ]
    assert missing == []


def test_there_is_something_to_check() -> None:
    assert all((PYTHON, SQL, COMMANDS))
