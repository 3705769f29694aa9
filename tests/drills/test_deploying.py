"""Drills of planned operations, with traffic on the service."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import lambda_migrate
from lambda_migrate.local.runtime.function import InvocationResult, LocalFunction
from tests.drills.drill import Drill
from tests.drills.service import V1, V2, Deployments, admin, code, copy_database
from tests.sandbox import Sandbox

NEXT = "99.0.0"
"""Version number of the upgraded library."""


@contextmanager
def traffic(function: LocalFunction) -> Iterator[list[InvocationResult]]:
    """Call the function until the block ends; every call must succeed."""
    answers: list[InvocationResult] = []
    over = threading.Event()

    def call() -> None:
        while not over.wait(0.05):
            answers.append(function.invoke())

    callers = threading.Thread(target=call)
    callers.start()
    try:
        yield answers
    finally:
        over.set()
        callers.join()
    assert answers
    assert [each.payload for each in answers if not is_order(each)] == []


def is_order(result: InvocationResult) -> bool:
    """Whether the response is an order, not an error."""
    return bool(result.ok and result.payload["statusCode"] == 200)


def test_a_rollout(sandbox: Sandbox) -> None:
    with ExitStack() as stack:
        deployments = Deployments(stack, sandbox)
        live = deployments.deploy(code(sandbox, V1), environment="production")
        assert is_order(live.invoke())
        copy = copy_database(sandbox, f"{sandbox.name}_copy")
        new = code(sandbox, V2, reads="id, status")

        def deploy() -> None:
            drill.functions = [deployments.deploy(new, environment="production")]
            assert all(map(is_order, drill.functions[0].storm(5)))

        fence = sandbox.item().fence

        def check_dry_run() -> None:
            assert sandbox.item().fence == fence, "production's cold starts waited for the copy"

        drill = Drill(
            "rollout.md",
            sandbox,
            new,
            deploy=deploy,
            COPY_DATABASE_URL=copy,
            LAMBDA_MIGRATE_ENVIRONMENT="production",
        )
        with traffic(live):
            drill.check_symptoms()
            assert not drill.is_over()
            drill.run_steps(manual_steps={3: check_dry_run})
            assert drill.is_over()
        drill.require_all_blocks_ran()


def test_a_rollback_of_code(sandbox: Sandbox) -> None:
    with ExitStack() as stack:
        deployments = Deployments(stack, sandbox)
        old, new = code(sandbox, V1), code(sandbox, V2, reads="id, no_such_column")
        assert is_order(deployments.deploy(old).invoke())
        bad = deployments.deploy(new)
        assert not bad.invoke().ok

        def deploy() -> None:
            drill.functions = [deployments.deploy(old)]
            assert all(map(is_order, drill.functions[0].storm(3)))

        drill = Drill("rollback-code.md", sandbox, new, previous=old, deploy=deploy)
        drill.functions = [bad]
        drill.check_symptoms()
        assert not drill.is_over()
        drill.run_steps()
        assert drill.is_over()
        drill.require_all_blocks_ran()
        assert sandbox.history() == [(1, "applied"), (2, "applied")], "the schema stays"


@pytest.mark.parametrize("through", ["the database", "the admin function"])
def test_a_rollback_of_the_schema_while_code_runs(sandbox: Sandbox, through: str) -> None:
    with ExitStack() as stack:
        deployments = Deployments(stack, sandbox)
        old, new = code(sandbox, V1), code(sandbox, V2, reads="id, status")
        live = deployments.deploy(old)
        assert is_order(live.invoke())
        newer = deployments.deploy(new)
        assert is_order(newer.invoke())
        function, variables = "", dict[str, str]()
        if through == "the admin function":
            function, reached = stack.enter_context(admin(sandbox, old))
            variables.update(reached)
        drill = Drill("rollback-schema.md", sandbox, old, function=function)
        drill.variables.update(variables)
        with traffic(live):
            drill.check_symptoms()
            assert not drill.is_over()
            drill.run_steps(manual_steps={1: newer.end_idle})
            assert drill.is_over()
            assert all(map(is_order, live.storm(3))), "the previous version can start"
        drill.require_all_blocks_ran()
        assert sandbox.history() == [(1, "applied")]


def test_upgrading_the_library(sandbox: Sandbox, tmp_path: Path) -> None:
    with ExitStack() as stack:
        deployments = Deployments(stack, sandbox)
        package = code(sandbox, V2, reads="id, status")
        live = deployments.deploy(package)
        assert is_order(live.invoke())
        upgraded = tmp_path / "upgraded"
        shutil.copytree(package, upgraded)
        with_library(upgraded, NEXT)

        def install(_command: str) -> None:
            drill.variables["PYTHONPATH"] = str(upgraded)

        def deploy() -> None:
            drill.functions = [deployments.deploy(upgraded)]
            assert all(map(is_order, drill.functions[0].storm(3)))

        drill = Drill(
            "upgrading.md", sandbox, package, deploy=deploy, replacements={"pip": install}
        )
        with traffic(live):
            drill.check_symptoms()
            assert not drill.is_over()
            drill.run_steps()
            assert drill.is_over()
        drill.require_all_blocks_ran()
        assert applied_by(sandbox) == [lambda_migrate.__version__] * 2
        # The old version can read what the new one writes, so the code can be rolled back later.
        further = tmp_path / "further"
        shutil.copytree(upgraded, further)
        (further / "migrations" / "0003_note.sql").write_text(
            "-- migrate:up\nALTER TABLE orders ADD COLUMN note text;\n-- migrate:down\n"
        )
        assert is_order(deployments.deploy(further).invoke())
        assert applied_by(sandbox)[-1] == NEXT
        assert is_order(live.storm(1)[0])


def with_library(package: Path, version: str) -> None:
    """Copy the library into a deployment package, with another version number."""
    shutil.copytree(
        Path(lambda_migrate.__file__).parent,
        package / "lambda_migrate",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    (package / "lambda_migrate" / "_version.py").write_text(f'__version__ = "{version}"\n')


def applied_by(sandbox: Sandbox) -> list[str]:
    """The library's version in each history row."""
    rows = sandbox.query("SELECT library_version FROM lambda_migrate.history ORDER BY version")
    return [version for (version,) in rows]
