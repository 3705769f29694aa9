"""Fixtures of the contract tests: each port in memory and on the real service."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest

from lambda_migrate.local.servers.dynamodb import (
    AmazonDynamoDBLocal,
    DynamoDBEndpoint,
    LocalDynamoDB,
)
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL
from tests.contract.databases import (
    DatabaseUnderTest,
    InMemoryUnderTest,
    PostgreSQLUnderTest,
    Server,
)
from tests.contract.leases import DynamoDBTables, LeaseTableUnderTest, MemoryTables

EXTERNAL_DATABASE = "LAMBDA_MIGRATE_TEST_DATABASE_URL"
DYNAMODB = "LAMBDA_MIGRATE_TEST_DYNAMODB"


@pytest.fixture(scope="session")
def dynamodb() -> Iterator[DynamoDBEndpoint]:
    """Moto with its writes serialised, unless the environment names another or a running one."""
    chosen = os.environ.get(DYNAMODB, "")
    assert chosen in ("", "moto", "dynamodb-local"), f"{DYNAMODB} is moto or dynamodb-local"
    running_api = os.environ.get("AWS_ENDPOINT_URL_DYNAMODB")
    engine = DynamoDBEndpoint(running_api) if running_api else LocalDynamoDB()
    with AmazonDynamoDBLocal() if chosen == "dynamodb-local" else engine as running:
        yield running


@pytest.fixture(scope="session")
def tables(dynamodb: DynamoDBEndpoint) -> DynamoDBTables:
    return DynamoDBTables(dynamodb, dynamodb.create_table(f"leases-{uuid4().hex[:8]}"))


@pytest.fixture(scope="session")
def fast_client_tables(dynamodb: DynamoDBEndpoint) -> DynamoDBTables:
    """Tables whose stores use the fast client."""
    return DynamoDBTables(
        dynamodb, dynamodb.create_table(f"fast-{uuid4().hex[:8]}"), uses_fast_client=True
    )


@pytest.fixture(params=["memory", "dynamodb", "dynamodb, fast client"])
def leases(request: pytest.FixtureRequest) -> Iterator[LeaseTableUnderTest]:
    """A target of its own for the test."""
    if request.param == "memory":
        yield LeaseTableUnderTest(MemoryTables())
        return
    fixture = "tables" if request.param == "dynamodb" else "fast_client_tables"
    table = LeaseTableUnderTest(request.getfixturevalue(fixture))
    yield table
    table.store.close()


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A PostgreSQL of our own, unless the environment names another one."""
    external = os.environ.get(EXTERNAL_DATABASE)
    if external:
        yield Server(external)
        return
    with LocalPostgreSQL() as own:
        yield Server(own.url())


@pytest.fixture
def fresh_database(server: Server) -> Iterator[PostgreSQLUnderTest]:
    with server.fresh_database() as db:
        yield db


@pytest.fixture(params=["memory", "postgresql"])
def db(request: pytest.FixtureRequest) -> DatabaseUnderTest:
    """A database of its own for the test."""
    make: dict[str, Callable[[], DatabaseUnderTest]] = {
        "memory": InMemoryUnderTest,
        "postgresql": lambda: request.getfixturevalue("fresh_database"),
    }
    return make[request.param]()
