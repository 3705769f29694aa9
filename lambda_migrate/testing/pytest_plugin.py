"""Fixtures for tests of migrations, and of code that needs a migrated database.

pytest finds this module by itself once lambda-migrate is installed. It loads no driver and no
client of AWS until a test uses a fixture.

The databases are on a PostgreSQL server that starts with the first test that needs one (the extra
``local``), or on the one that ``LAMBDA_MIGRATE_TEST_SERVER`` or the option
``lambda_migrate_server`` names. With pytest-xdist each worker has its own databases.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from lambda_migrate.local import InvocationResult
    from lambda_migrate.migrations import Manifest
    from lambda_migrate.testing.scratch import ScratchDatabase, ScratchServer

_SERVER_VARIABLE = "LAMBDA_MIGRATE_TEST_SERVER"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the plugin's options to pytest's configuration file."""
    parser.addini(
        "lambda_migrate_directory",
        "Folder of the migrations, relative to this file's; by default LAMBDA_MIGRATE_DIRECTORY, "
        "or migrations.",
    )
    parser.addini(
        "lambda_migrate_server",
        "libpq URL of a PostgreSQL server whose role may create databases. By default a private "
        f"server is started. The variable {_SERVER_VARIABLE} takes precedence.",
    )
    parser.addini(
        "lambda_migrate_base",
        "Commit or branch whose migrations may be applied already, such as origin/main: they must "
        "not change, and new ones must follow them.",
    )
    parser.addini(
        "lambda_migrate_handlers",
        "What decorated handlers and middlewares do in tests: off (default) calls them without a "
        "check, on checks as in production. LAMBDA_MIGRATE_MODE takes precedence.",
        default="off",
    )
    parser.addini(
        "lambda_migrate_lossy",
        "Names of migrations whose rollback may lose rows.",
        type="linelist",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Let unit tests call handlers without a database; see ``lambda_migrate_handlers``."""
    value = config.getini("lambda_migrate_handlers")
    if value not in ("off", "on"):
        raise pytest.UsageError(f"lambda_migrate_handlers is {value!r}: write off or on")
    if value == "off" and not os.environ.get("LAMBDA_MIGRATE_MODE"):
        os.environ["LAMBDA_MIGRATE_MODE"] = "off"


@dataclass(frozen=True)
class MigrationOptions:
    """The plugin's options.

    Attributes:
        directory: Where the migrations are: a folder, or what else
            ``LAMBDA_MIGRATE_DIRECTORY`` may name.
        schema: The schema of the library's own tables.
        server: The URL of an existing server; "" to start one.
        base_ref: See the option ``lambda_migrate_base``.
        lossy_migrations: See the option ``lambda_migrate_lossy``.
    """

    directory: str
    schema: str
    server: str
    base_ref: str
    lossy_migrations: tuple[str, ...]

    def read_manifest(self) -> Manifest:
        """Read the migration files.

        Raises:
            ManifestError: They cannot be used.
        """
        from lambda_migrate.migrations.source import read_manifest

        return read_manifest(self.directory)


@pytest.fixture(scope="session")
def lambda_migrate_options(pytestconfig: pytest.Config) -> MigrationOptions:
    """The plugin's options; override it to compute them."""
    environ = os.environ
    option = pytestconfig.getini("lambda_migrate_directory")
    directory = option or environ.get("LAMBDA_MIGRATE_DIRECTORY") or "migrations"
    if not directory.startswith("package:"):
        directory = str(_project(pytestconfig) / directory)
    return MigrationOptions(
        directory=directory,
        schema=environ.get("LAMBDA_MIGRATE_SCHEMA") or "lambda_migrate",
        server=environ.get(_SERVER_VARIABLE) or pytestconfig.getini("lambda_migrate_server"),
        base_ref=pytestconfig.getini("lambda_migrate_base"),
        lossy_migrations=tuple(pytestconfig.getini("lambda_migrate_lossy")),
    )


def _project(config: pytest.Config) -> Path:
    """The folder of pytest's configuration file; without one, the current folder."""
    return config.rootpath if config.inipath else config.invocation_params.dir


@pytest.fixture(scope="session")
def lambda_migrate_server(lambda_migrate_options: MigrationOptions) -> Iterator[ScratchServer]:
    """The PostgreSQL server of the session: creates and drops databases."""
    from lambda_migrate.errors import ConfigurationError
    from lambda_migrate.testing.scratch import ScratchServer

    if lambda_migrate_options.server:
        yield ScratchServer(lambda_migrate_options.server)
        return
    from lambda_migrate.local import LocalPostgreSQL

    server = LocalPostgreSQL()
    try:
        server.start()
    except ConfigurationError as error:
        message = f"{error}, or set {_SERVER_VARIABLE} to a server's URL"
        raise pytest.fail.Exception(message, pytrace=False) from None
    try:
        yield ScratchServer(server.url())
    finally:
        server.close()


@pytest.fixture
def lambda_migrate_empty_database(
    lambda_migrate_server: ScratchServer,
) -> Iterator[ScratchDatabase]:
    """A new, empty database."""
    yield from _create_and_drop(lambda_migrate_server)


@pytest.fixture(scope="session")
def lambda_migrate_template(
    lambda_migrate_server: ScratchServer, lambda_migrate_options: MigrationOptions
) -> Iterator[ScratchDatabase]:
    """The migrated database that `migrated_database` copies; nothing may connect to it."""
    from lambda_migrate import Deadline
    from lambda_migrate.engine.operations import Operations
    from lambda_migrate.errors import MigrateError
    from lambda_migrate.testing.scratch import open_migrations

    template = lambda_migrate_server.create()
    try:
        try:
            options = lambda_migrate_options
            manifest, target = open_migrations(template, options.directory, schema=options.schema)
            Operations(manifest, target).up(Deadline.after(_MIGRATION_SECONDS))
        except MigrateError as error:
            raise pytest.fail.Exception(str(error), pytrace=False) from None
        lambda_migrate_server.make_template(template)
        yield template
    finally:
        lambda_migrate_server.drop(template)


_MIGRATION_SECONDS = 900.0


@pytest.fixture
def scratch_database(lambda_migrate_empty_database: ScratchDatabase) -> ScratchDatabase:
    """A new, empty database for this test alone."""
    return lambda_migrate_empty_database


@pytest.fixture
def migrated_database(
    lambda_migrate_server: ScratchServer, lambda_migrate_template: ScratchDatabase
) -> Iterator[ScratchDatabase]:
    """A new database with all migrations applied, for this test alone.

    They are applied once in a session; each test gets a copy.
    """
    yield from _create_and_drop(lambda_migrate_server, lambda_migrate_template)


def _create_and_drop(
    server: ScratchServer, template: ScratchDatabase | None = None
) -> Iterator[ScratchDatabase]:
    database = server.create(template=template)
    try:
        yield database
    finally:
        server.drop(database)


@pytest.fixture(scope="session")
def lambda_migrate_data() -> Mapping[str, str]:
    """Rows for ``test_migrations_keep_data``: SQL by the migration after which it runs.

    Override it: ``{"0001_create_orders": "INSERT INTO orders ..."}``. Without it the check looks
    only at rows that the migrations themselves write.
    """
    return {}


@pytest.fixture(scope="session")
def lambda_migrate_dynamodb() -> Iterator[Any]:
    """A DynamoDB API with a lease table, shared by the storms of the session."""
    from lambda_migrate.local import LocalDynamoDB

    with LocalDynamoDB() as dynamodb:
        dynamodb.create_table(_TABLE)
        yield dynamodb


_TABLE = "leases"


@pytest.fixture
def cold_start_storm(
    pytestconfig: pytest.Config,
    lambda_migrate_options: MigrationOptions,
    lambda_migrate_dynamodb: Any,
) -> Callable[..., list[InvocationResult]]:
    """Start many environments of your function together, each in a Lambda runtime of its own.

    ::

        results = cold_start_storm(20, "app.handler", database=scratch_database)
        assert all(result.ok for result in results)

    Args of the function that it returns: the number of environments, the handler, ``database`` (a
    `ScratchDatabase`), ``code`` (the handler's folder, by default that of pytest's
    configuration file), ``event``, ``variables`` (further environment variables) and ``timeout``
    in seconds.
    """

    def run_storm(
        n: int,
        handler: str = "app.handler",
        *,
        database: ScratchDatabase,
        code: Path | None = None,
        event: Any = None,
        variables: Mapping[str, str] | None = None,
        timeout: float = 60.0,
    ) -> list[InvocationResult]:
        from lambda_migrate.local import LocalFunction

        all_variables = {
            **lambda_migrate_dynamodb.variables(),
            "LAMBDA_MIGRATE_MODE": "migrate",
            "LAMBDA_MIGRATE_TABLE": _TABLE,
            "LAMBDA_MIGRATE_TARGET": f"storm-{uuid4()}",
            "LAMBDA_MIGRATE_DATABASE_URL": database.url,
            "LAMBDA_MIGRATE_DIRECTORY": lambda_migrate_options.directory,
            **(variables or {}),
        }
        folder = code or _project(pytestconfig)
        with LocalFunction(handler, code=folder, variables=all_variables, timeout=timeout) as local:
            return local.storm(n, event)

    return run_storm
