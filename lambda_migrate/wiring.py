"""Creates the parts of a target from the settings.

Nothing here does network I/O. boto3, pg8000 and Powertools are imported by the parts that use them,
on first use; the parts are imported when they are created, because most cold starts need none of
them (see `FirstRead`).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lambda_migrate.clock import SYSTEM_CLOCK

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lambda_migrate.clock import Clock, Deadline
    from lambda_migrate.engine.flags import Flags, FlagSource
    from lambda_migrate.engine.target import Policy, Target
    from lambda_migrate.errors import MigrateError
    from lambda_migrate.lease.first_read import FirstRead
    from lambda_migrate.lease.store import LeaseStore
    from lambda_migrate.migrations import Manifest
    from lambda_migrate.observers import Observer
    from lambda_migrate.postgresql.connection import Connection
    from lambda_migrate.postgresql.credentials import Credentials
    from lambda_migrate.postgresql.database import PostgreSQLDatabase
    from lambda_migrate.postgresql.ports import Database
    from lambda_migrate.settings import Settings
    from lambda_migrate.sources.database import ToolProject

__all__ = [
    "default_observer",
    "make_connect",
    "make_database",
    "make_flags",
    "make_manifest",
    "make_postgresql_database",
    "make_store",
    "make_target",
    "make_tool_project",
    "read_tool_digest",
    "report_check_failure",
]


def make_manifest(settings: Settings, environ: Mapping[str, str]) -> Manifest:
    """Read the migrations; a relative directory is relative to the function's code."""
    if settings.source != "sql":
        from lambda_migrate.migrations.revisions import RevisionManifest

        return RevisionManifest(read_tool_digest(settings, environ), settings.source)
    from lambda_migrate.migrations.source import read_manifest

    return read_manifest(
        settings.directory,
        relative_to=environ.get("LAMBDA_TASK_ROOT"),
        allow_empty=settings.allow_empty,
    )


def read_tool_digest(settings: Settings, environ: Mapping[str, str]) -> str:
    """Read the digest of another tool's files, without that tool."""
    from importlib import import_module

    files = import_module(f"lambda_migrate.sources.{settings.source}_files")
    digest: str = files.read_digest(_code_root(environ), settings.tool_options)
    return digest


def _code_root(environ: Mapping[str, str]) -> str:
    return environ.get("LAMBDA_TASK_ROOT") or os.getcwd()  # noqa: PTH109 - importing pathlib takes 10 ms


def make_target(
    settings: Settings,
    *,
    observer: Observer,
    clock: Clock = SYSTEM_CLOCK,
    first_read: FirstRead | None = None,
) -> Target:
    """Create the target: the database with its item in the lease table."""
    from lambda_migrate.engine.target import Target

    return Target(
        name=settings.target,
        store=make_store(settings, clock=clock, first_read=first_read),
        database=make_database(settings),
        environment=settings.environment,
        policy=make_policy(settings),
        clock=clock,
        observer=observer,
        flags=make_flags(settings, clock=clock),
        has_lease_table=bool(settings.table),
    )


def make_flags(settings: Settings, *, clock: Clock = SYSTEM_CLOCK) -> FlagSource | None:
    """Create the source of the feature flags, if the settings name one."""
    return _DeferredFlags(settings, clock) if settings.flags else None


class _DeferredFlags:
    """Creates the real source on first use, which most processes never need."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._source: FlagSource | None = None

    def read(self, deadline: Deadline) -> Flags:
        """See `FlagSource.read`."""
        if self._source is None:
            from lambda_migrate.aws.appconfig import AppConfigFlags

            self._source = AppConfigFlags(
                self._settings.flags,
                {
                    "target": self._settings.target,
                    "environment": self._settings.environment,
                    "function": os.environ.get("AWS_LAMBDA_FUNCTION_NAME") or "cli",
                },
                port=os.environ.get("AWS_APPCONFIG_EXTENSION_HTTP_PORT", "").strip(),
                clock=self._clock,
            )
        return self._source.read(deadline)


def make_store(
    settings: Settings, *, clock: Clock = SYSTEM_CLOCK, first_read: FirstRead | None = None
) -> LeaseStore:
    """Create the client of the lease table; without a table, a lease in this process's memory.

    Args:
        settings: The settings.
        clock: Time.
        first_read: What was read before, if anything; its client is used.
    """
    if not settings.table:
        from lambda_migrate.lease.memory import InMemoryLeaseStore

        return InMemoryLeaseStore(lease_seconds=settings.lease_seconds, clock=clock)
    from lambda_migrate.lease.dynamodb import DynamoDBLeaseStore
    from lambda_migrate.lease.fast_client import FastClient

    client = FastClient(os.environ, clock=clock) if first_read is None else first_read.client
    return DynamoDBLeaseStore(
        settings.table,
        settings.target,
        fast_client=client,
        first_read=first_read,
        lease_seconds=settings.lease_seconds,
        clock=clock,
    )


def make_database(settings: Settings) -> Database:
    """Create the database of the settings, or of the tool that migrates it."""
    if settings.source == "sql":
        return make_postgresql_database(settings)
    from lambda_migrate.sources.database import ToolDatabase

    return ToolDatabase(make_postgresql_database(settings), make_tool_project(settings))


def make_tool_project(settings: Settings) -> ToolProject:
    """The project of the tool that `Settings.source` names."""
    from lambda_migrate.sources.database import ToolProject

    scope = f"django:{settings.django_database}" if settings.source == "django" else "alembic"
    return ToolProject(settings.source, _code_root(os.environ), settings.tool_options, scope)


def make_postgresql_database(settings: Settings) -> PostgreSQLDatabase:
    """Create the database of the settings, without the tool that migrates it."""
    from lambda_migrate.postgresql.database import PostgreSQLDatabase

    return PostgreSQLDatabase(
        address_text=settings.require_configured(database=True).address_text_without_schema,
        connect=make_connect(settings),
        schema=settings.schema,
        lock_timeout_seconds=settings.lock_timeout_seconds,
        placeholders=settings.placeholders,
        mirror_scope="" if settings.source == "sql" else make_tool_project(settings).scope,
    )


def make_connect(settings: Settings) -> Callable[[str, float], Connection]:
    """Return a function that opens connections; all of them share the credentials."""
    cached: list[Credentials] = []

    def connect(application_name: str, seconds: float) -> Connection:
        from lambda_migrate.postgresql.credentials import open_connection

        if not cached:
            cached.append(make_credentials(settings))
        return open_connection(cached[0], application_name, seconds)

    return connect


def make_credentials(settings: Settings) -> Credentials:
    """Create the credentials: a URL, a secret or an IAM token."""
    from lambda_migrate.postgresql.credentials import (
        IAMCredentials,
        SecretCredentials,
        URLCredentials,
    )

    address = settings.require_configured(database=True).address
    if settings.database_secret:
        return SecretCredentials(
            settings.database_secret,
            address=address,
            sslmode=settings.sslmode,
            sslrootcert=settings.sslrootcert,
        )
    assert address is not None  # noqa: S101 - `require_configured` has made sure of one of the two
    return IAMCredentials(address) if settings.database_iam else URLCredentials(address)


def make_policy(settings: Settings) -> Policy:
    """Create the policy of the settings."""
    from lambda_migrate.engine.target import Policy

    return Policy(
        mode=settings.mode,
        lease_seconds=settings.lease_seconds,
        wait_seconds=settings.wait_seconds,
        safety_margin_seconds=settings.safety_margin_seconds,
        failure_pause_seconds=settings.failure_pause_seconds,
        allow_out_of_order=settings.allow_out_of_order,
        allow_empty=settings.allow_empty,
        ignore_other_history=settings.ignore_other_history,
        check_database_if_store_unavailable=settings.on_lease_store_unavailable == "check",
        require_flags=settings.on_flags_unavailable == "fail",
    )


def default_observer() -> Observer:
    """Powertools' Logger and Metrics, imported with the first event."""
    from lambda_migrate.aws.telemetry import PowertoolsObserver

    return PowertoolsObserver()


def report_check_failure(error: MigrateError, *, target_name: str = "") -> None:
    """Report a check that failed before there was a runner, to the default observer.

    Args:
        error: Why it failed.
        target_name: The setting, if it was an argument; by default the environment variable.
    """
    from lambda_migrate.events import CheckFailed, catch_observer_errors

    catch_observer_errors(default_observer()).observe(
        CheckFailed(
            target=target_name or os.environ.get("LAMBDA_MIGRATE_TARGET") or "default",
            digest="",
            error=type(error).__name__,
            message=str(error),
            retryable=error.retryable,
            migration="",
            sqlstate="",
            attempts=0,
            retry_at_ms=None,
            seconds=0.0,
            waited_seconds=0.0,
            lease_calls=0,
            applied=(),
            fence=0,
            owner="",
        )
    )
