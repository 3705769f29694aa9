"""Drills: what is done with care. The service answers all the while."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import lambda_migrate
from lambda_migrate.local.runtime.function import InvocationResult, LocalFunction
from tests.drills.play import Play
from tests.drills.service import V1, V2, Deployments, admin, code, copy_database
from tests.stage import Stage

NEXT = "99.0.0"
"""The library's next version, as far as a deployment package is concerned."""


@contextmanager
def traffic(function: LocalFunction) -> Iterator[list[InvocationResult]]:
    """Callers of a version, one after the other; each must be answered."""
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
    assert [each.payload for each in answers if not served(each)] == []


def served(result: InvocationResult) -> bool:
    """Whether it was an order and no excuse."""
    return bool(result.ok and result.payload["statusCode"] == 200)


def test_a_rollout(stage: Stage) -> None:
    with ExitStack() as stack:
        deployments = Deployments(stack, stage)
        live = deployments.of(code(stage, V1))
        assert served(live.invoke())
        copy = copy_database(stage, f"{stage.name}_copy")
        new = code(stage, V2, reads="id, status")

        def deploy(_command: str) -> None:
            play.functions = [deployments.of(new)]
            assert all(map(served, play.functions[0].storm(5)))

        play = Play("rollout.md", stage, new, stand_ins={"sam": deploy}, COPY_DATABASE_URL=copy)
        with traffic(live):
            play.see()
            assert not play.is_over()
            play.do()
            assert play.is_over()
        play.finish()


def test_a_rollback_of_code(stage: Stage) -> None:
    with ExitStack() as stack:
        deployments = Deployments(stack, stage)
        old, new = code(stage, V1), code(stage, V2, reads="id, no_such_column")
        assert served(deployments.of(old).invoke())
        bad = deployments.of(new)
        assert not bad.invoke().ok

        def deploy(_command: str) -> None:
            play.functions = [deployments.of(old)]
            assert all(map(served, play.functions[0].storm(3)))

        play = Play("rollback-code.md", stage, old, stand_ins={"sam": deploy})
        play.functions = [bad]
        play.see()
        assert not play.is_over()
        play.do()
        assert play.is_over()
        play.finish()
        assert stage.history() == [(1, "applied"), (2, "applied")], "the schema stays"


@pytest.mark.parametrize("through", ["the database", "the admin function"])
def test_a_rollback_of_the_schema_with_code_still_running(stage: Stage, through: str) -> None:
    with ExitStack() as stack:
        deployments = Deployments(stack, stage)
        old, new = code(stage, V1), code(stage, V2, reads="id, status")
        live = deployments.of(old)
        assert served(live.invoke())
        newer = deployments.of(new)
        assert served(newer.invoke())
        function, variables = "", dict[str, str]()
        if through == "the admin function":
            function, reached = stack.enter_context(admin(stage, old))
            variables.update(reached)
        play = Play("rollback-schema.md", stage, old, function=function)
        play.variables.update(variables)
        with traffic(live):
            play.see()
            assert not play.is_over()
            play.do(by_hand={1: newer.end_idle})
            assert play.is_over()
            assert all(map(served, live.storm(3))), "the version before starts as well"
        play.finish()
        assert stage.history() == [(1, "applied")]


def test_upgrading_the_library(stage: Stage, tmp_path: Path) -> None:
    with ExitStack() as stack:
        deployments = Deployments(stack, stage)
        package = code(stage, V2, reads="id, status")
        live = deployments.of(package)
        assert served(live.invoke())
        upgraded = tmp_path / "upgraded"
        shutil.copytree(package, upgraded)
        with_library(upgraded, NEXT)

        def install(_command: str) -> None:
            play.variables["PYTHONPATH"] = str(upgraded)

        def deploy(_command: str) -> None:
            play.functions = [deployments.of(upgraded)]
            assert all(map(served, play.functions[0].storm(3)))

        play = Play("upgrading.md", stage, package, stand_ins={"pip": install, "sam": deploy})
        with traffic(live):
            play.see()
            assert not play.is_over()
            play.do()
            assert play.is_over()
        play.finish()
        assert applied_by(stage) == [lambda_migrate.__version__] * 2
        # What the new one writes, the old one reads: a later rollback of code stays possible.
        further = tmp_path / "further"
        shutil.copytree(upgraded, further)
        (further / "migrations" / "0003_note.sql").write_text(
            "-- migrate:up\nALTER TABLE orders ADD COLUMN note text;\n-- migrate:down\n"
        )
        assert served(deployments.of(further).invoke())
        assert applied_by(stage)[-1] == NEXT
        assert served(live.storm(1)[0])


def with_library(package: Path, version: str) -> None:
    """Put the library into a deployment package, as another version of itself."""
    shutil.copytree(
        Path(lambda_migrate.__file__).parent,
        package / "lambda_migrate",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    (package / "lambda_migrate" / "_version.py").write_text(f'__version__ = "{version}"\n')


def applied_by(stage: Stage) -> list[str]:
    """The library's version in each history row."""
    rows = stage.query("SELECT library_version FROM lambda_migrate.history ORDER BY version")
    return [version for (version,) in rows]
