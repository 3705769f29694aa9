from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest

from tests.unit.engine.fakes import Fakes
from tests.unit.entrypoints.lines import Lines

OURS = "lambda_migrate.aws.telemetry"


@pytest.fixture
def fakes() -> Fakes:
    return Fakes()


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a function without settings."""
    for name in list(os.environ):
        if name.startswith(("LAMBDA_MIGRATE_", "POWERTOOLS_", "AWS_LAMBDA_", "DATABASE_URL")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Lines:
    """What is written to standard output from now on, by loggers that are made from now on."""
    return Lines(capsys)


@pytest.fixture(autouse=True)
def fresh_loggers() -> Iterator[None]:
    """Powertools keeps a logger for each service for as long as the process lives."""
    before = set(logging.Logger.manager.loggerDict) - {OURS}
    _drop(OURS)
    root = list(logging.root.handlers)
    yield
    for name in set(logging.Logger.manager.loggerDict) - before:
        _drop(name)
    logging.root.handlers[:] = root


def _drop(name: str) -> None:
    logging.Logger.manager.loggerDict.pop(name, None)
