"""Managed instances: an unusable file causes another check, and never fails an invocation."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lambda_migrate import managed_instances
from lambda_migrate.clock import Deadline
from lambda_migrate.outcome import Outcome
from lambda_migrate.runner import MigrationRunner
from tests.unit.engine.fakes import Fakes, manifest


class CountingRunner(MigrationRunner):
    """Is ready at once, and counts the checks."""

    def __init__(self) -> None:
        super().__init__(manifest(1), Fakes().target())
        self.checks = 0

    def ensure(self, deadline: Deadline | None = None, *, request_id: str = "") -> Outcome:
        self.checks += 1
        return Outcome.UP_TO_DATE


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def count_checks(times: int = 2) -> int:
    runner = CountingRunner()
    for _ in range(times):
        assert managed_instances.ensure_once(runner, Deadline.after(30)) is Outcome.UP_TO_DATE
    return runner.checks


@pytest.fixture
def full_disk() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_second_process_trusts_the_file(folder: Path) -> None:
    assert count_checks() == 1


@pytest.mark.usefixtures("folder", "full_disk")
def test_on_a_full_disk_each_process_checks() -> None:
    assert count_checks() == 2


@pytest.mark.parametrize(
    "replace", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/etc/hostname")]
)
def test_a_path_that_is_not_a_regular_file_is_not_used(
    folder: Path, replace: Callable[[Path], Any]
) -> None:
    count_checks(1)
    (file,) = folder.iterdir()
    file.unlink()
    replace(file)
    assert count_checks() == 2


def test_where_files_cannot_be_locked_the_result_still_counts(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert count_checks() == 1
