"""The public names of `lambda_migrate`, and what importing it loads."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import lambda_migrate
from lambda_migrate import errors

HEAVY = (
    "asyncio",
    "aws_lambda_powertools",
    "boto3",
    "botocore",
    "email",
    "http",
    "logging",
    "moto",
    "pathlib",
    "pg8000",
    "rich",
    "ssl",
    "tenacity",
    "typer",
    "urllib",
)

DECORATED = """
from lambda_migrate import migrate_on_cold_start

@migrate_on_cold_start
def handler(event, context):
    return event
"""

WIRED = """
import os
os.environ["LAMBDA_MIGRATE_TABLE"] = "leases"
os.environ["LAMBDA_MIGRATE_DATABASE_URL"] = "postgresql://app:x@db.example:5432/shop"
from lambda_migrate import wiring
from lambda_migrate.migrations.deferred import DeferredManifest
from lambda_migrate.runner import MigrationRunner
wiring.make_manifest = lambda *_: DeferredManifest("d", list)
MigrationRunner.from_settings()
"""


def loaded(code: str) -> list[str]:
    """What of `HEAVY` a fresh process has loaded after ``code``, beyond what Python itself has."""
    script = (
        f"import sys\nbefore = set(sys.modules)\n{code}\n"
        "import json\nprint(json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    return [name for name in json.loads(done.stdout) if name.partition(".")[0] in HEAVY]


@pytest.mark.parametrize("code", [DECORATED, WIRED], ids=["decorated", "wired"])
def test_nothing_heavy_is_imported_before_it_is_needed(code: str) -> None:
    assert loaded(code) == []


def test_importing_the_package_loads_the_decorator_and_nothing_else() -> None:
    code = "import lambda_migrate, sys, json\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    ours = [name for name in json.loads(done.stdout) if name.startswith("lambda_migrate")]
    assert ours == [
        "lambda_migrate",
        "lambda_migrate.decorator",
        "lambda_migrate.guard",
    ]


def test_the_public_names_are_these_and_sorted() -> None:
    assert lambda_migrate.__all__ == sorted(lambda_migrate.__all__)
    assert lambda_migrate.__all__ == [
        "Clock",
        "Database",
        "Deadline",
        "Divergence",
        "Event",
        "FlagSource",
        "Flags",
        "HistoryRow",
        "Hook",
        "LeaseStore",
        "Manifest",
        "Migration",
        "MigrationRunner",
        "Observer",
        "Outcome",
        "Plan",
        "Policy",
        "Random",
        "Script",
        "Settings",
        "Target",
        "Version",
        "__version__",
        "errors",
        "migrate_on_cold_start",
        "read_manifest",
        "service_unavailable",
    ]


@pytest.mark.parametrize("name", lambda_migrate.__all__)
def test_each_public_name_is_there_documented_and_shown(name: str) -> None:
    value = getattr(lambda_migrate, name)
    assert inspect.getdoc(value)
    assert name in dir(lambda_migrate)


@pytest.mark.parametrize("name", ["errors", *lambda_migrate._MODULES])
def test_a_name_is_imported_on_first_use(name: str) -> None:
    assert lambda_migrate.__getattr__(name) is getattr(lambda_migrate, name)


def test_dir_lists_names_that_are_not_imported_yet() -> None:
    code = "import lambda_migrate; print(*dir(lambda_migrate))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert set(lambda_migrate.__all__) <= set(done.stdout.split())


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'migrate'"):
        lambda_migrate.migrate  # noqa: B018 - asking for it is the point


def test_what_type_checkers_see_is_what_is_loaded_later() -> None:
    source = Path(lambda_migrate.__file__).read_text(encoding="utf-8")
    blocks = [node for node in ast.parse(source).body if isinstance(node, ast.If)]
    imports = [node for node in blocks[0].body if isinstance(node, ast.ImportFrom)]
    seen = {alias.name: node.module for node in imports for alias in node.names}
    assert seen.pop("errors") == "lambda_migrate"
    assert seen == lambda_migrate._MODULES


def test_every_error_is_public_documented_and_in_the_tree() -> None:
    classes = [
        value
        for value in vars(errors).values()
        if inspect.isclass(value) and value.__module__ == errors.__name__
    ]
    assert sorted(each.__name__ for each in classes) == errors.__all__
    assert all(issubclass(each, errors.MigrateError) and each.__doc__ for each in classes)
    assert all(each.__name__ in (errors.__doc__ or "") for each in classes)


@pytest.mark.parametrize("name", errors.__all__)
def test_only_not_ready_errors_are_retryable(name: str) -> None:
    kind = getattr(errors, name)
    assert kind.retryable is issubclass(kind, errors.NotReady)
