"""Servers that the tests with real processes share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lambda_migrate.local.dynamodb import LocalDynamoDB
from lambda_migrate.local.postgresql import LocalPostgreSQL
from tests.stage import TABLE, Stage


@pytest.fixture(scope="session")
def stage_postgresql() -> Iterator[LocalPostgreSQL]:
    with LocalPostgreSQL(tcp_port=0) as server:
        yield server


@pytest.fixture(scope="session")
def stage_dynamodb() -> Iterator[LocalDynamoDB]:
    with LocalDynamoDB() as api:
        api.create_table(TABLE)
        yield api


@pytest.fixture
def stage(
    stage_postgresql: LocalPostgreSQL, stage_dynamodb: LocalDynamoDB, tmp_path: Path
) -> Stage:
    """A database and a target of its own, on the shared servers."""
    return Stage(stage_postgresql, stage_dynamodb, tmp_path)


@pytest.fixture
def own_stage(tmp_path: Path) -> Iterator[Stage]:
    """Servers of its own, for tests that stop them."""
    durable = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
    with LocalPostgreSQL(settings=durable) as server, LocalDynamoDB() as api:
        api.create_table(TABLE)
        yield Stage(server, api, tmp_path)


QUICK = ("tests/unit/", "tests/integration/postgresql/", "tests/integration/connection/")
OLDER = ("[pg14", "[pg15", "[pg16", "[pg17")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `make test-unit` runs: one process, at most one PostgreSQL server, no real time."""
    for item in items:
        if item.nodeid.startswith(QUICK) and not any(older in item.nodeid for older in OLDER):
            item.add_marker(pytest.mark.quick)
