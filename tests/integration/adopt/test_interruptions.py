"""An adoption that is killed at any point is completed by the next run, or undone."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from lambda_migrate.adopt.adoption import RECORD_FILENAME
from lambda_migrate.cli import main
from lambda_migrate.postgresql.fence import FencedConnection
from tests.sandbox import until

from .cases import GOOSE
from .frame import Project, make_database

MOMENTS = ("os.link", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "test.write")
"""Audit events of Python, and one of this test around each transaction of the library."""


def run_and_kill(project: Project, arguments: list[str], moment: int) -> bool:
    """Run a command in a fork that kills itself at that moment; whether it came so far."""
    child = os.fork()
    if child:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, -signal.SIGKILL)
        # Without a lease table, a holder that PostgreSQL has not missed yet counts as alive.
        until(lambda: not project.sandbox.holders(), what="PostgreSQL misses the killed process")
        return code != 0
    seen = 0

    def kill(event: str, _arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in MOMENTS:
            seen += 1
            if seen == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    write: Any = FencedConnection.write

    def write_observed(*arguments: Any) -> Any:
        sys.audit("test.write")
        rows = write(*arguments)
        sys.audit("test.write")
        return rows

    setattr(FencedConnection, "write", write_observed)  # noqa: B010 - in the fork only
    sys.addaudithook(kill)
    os._exit(main(arguments))


def test_whenever_it_is_killed_the_next_run_completes_it_and_undo_leaves_no_trace(
    project: Project,
) -> None:
    make_database(project, GOOSE)
    files, theirs = project.tree(), project.rows(GOOSE.table)
    names = sorted(name.removesuffix(".sql") for name in GOOSE.adopted)
    options = ["--yes", "--keep-theirs", "--directory", project.directory]
    adopt = ["adopt", *options, "--database-url", project.sandbox.url, "--quiet"]
    undo = ["adopt", "--undo", *adopt[1:2], *adopt[3:]]
    moment = 1
    while run_and_kill(project, adopt, moment):
        if moment % 2 or not (project.folder / project.directory / RECORD_FILENAME).exists():
            assert project.call("adopt", "--yes")[0] == 0, moment
            assert project.history() == names[:2], moment
            assert {*GOOSE.adopted} < {path.name for path in project.folder.rglob("*")}, moment
        assert not run_and_kill(project, undo, 1000), moment
        assert (project.tree(), project.history()) == (files, []), moment
        moment += 1
    assert moment > 10
    moment = 1
    while run_and_kill(project, undo, moment):
        if moment % 2 and (project.folder / project.directory / RECORD_FILENAME).exists():
            assert project.call("adopt", "--undo", "--yes")[0] == 0, moment
        assert project.call("adopt", "--yes")[0] == 0, moment
        assert project.history() == names[:2], moment
        moment += 1
    assert moment > 8
    assert (project.tree(), project.history()) == (files, [])
    assert project.rows(GOOSE.table) == theirs
