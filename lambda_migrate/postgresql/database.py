"""A PostgreSQL database: the real `Database`. It imports the driver when it first connects."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

from lambda_migrate.database_address import DEFAULT_SCHEMA, add_schema
from lambda_migrate.errors import ConfigurationError, DatabaseUnavailable
from lambda_migrate.randomness import system_random

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, TypeVar

    from lambda_migrate.clock import Deadline
    from lambda_migrate.migrations import HistoryRow
    from lambda_migrate.migrations.baseline import ToolHistory
    from lambda_migrate.migrations.requirement_check import RequirementInspection
    from lambda_migrate.migrations.requirements import Requirement
    from lambda_migrate.postgresql.connection import Connection
    from lambda_migrate.postgresql.dry_run import PostgreSQLDryRun
    from lambda_migrate.postgresql.fence import FencedConnection
    from lambda_migrate.postgresql.ports import DatabaseInspection, LeaseGrant, ToolCommand
    from lambda_migrate.postgresql.queries import Queries
    from lambda_migrate.postgresql.session import PostgreSQLSession
    from lambda_migrate.randomness import Random

    RunQuery = Callable[[str], list[list[Any]]]
    T = TypeVar("T")

__all__ = ["PostgreSQLDatabase"]

_READ_SECONDS = 30.0
"""The longest time for reading the history, even if the caller has more."""


class PostgreSQLDatabase:
    """`Database` that opens its connections through ``connect``.

    Args:
        address_text: See `Database`; the schema is appended unless it is the default one.
        connect: Opens a connection, given the application name and the seconds it may take.
        schema: The schema of the library's tables.
        lock_timeout_seconds: For each lock that a transactional migration requests.
        random: Random numbers, for jitter.
        placeholders: The values of placeholders in scripts; see `parse_placeholders`.
        mirror_scope: Of the tool that migrates it, if that is not this library; see `mirror`.
    """

    def __init__(
        self,
        address_text: str,
        connect: Callable[[str, float], Connection],
        *,
        schema: str = DEFAULT_SCHEMA,
        lock_timeout_seconds: float = 3.0,
        random: Random | None = None,
        placeholders: str | Mapping[str, str] = "",
        mirror_scope: str = "",
    ) -> None:
        self.address_text = add_schema(address_text, schema)
        self.connect = connect
        self.schema = schema
        self.lock_timeout_seconds = lock_timeout_seconds
        self.random = random
        self._placeholders = placeholders
        self._mirror_scope = mirror_scope

    @property
    def placeholders(self) -> Mapping[str, str]:
        """See `Database.placeholders`."""
        from lambda_migrate.migrations.sql.placeholders import parse_placeholders

        return parse_placeholders(self._placeholders)

    def inspect(self, deadline: Deadline) -> DatabaseInspection:
        """See `Database.inspect`."""
        from lambda_migrate.postgresql.fence import read_fence
        from lambda_migrate.postgresql.ports import DatabaseInspection
        from lambda_migrate.postgresql.queries import SchemaProbe
        from lambda_migrate.postgresql.session import parse_history_rows

        queries = self._make_queries()

        def inspect(run: RunQuery) -> DatabaseInspection:
            probe = SchemaProbe(*run(queries.probe())[0])
            fence = read_fence(run, queries, probe)
            if not (probe.has_fence and probe.has_history):
                return DatabaseInspection(is_replica=probe.is_replica)
            has_active_holder = bool(run(queries.find_holders()))
            history: Sequence[HistoryRow]
            if self._mirror_scope:
                from lambda_migrate.postgresql.mirror import read_revision_history
                from lambda_migrate.postgresql.mirror_queries import MirrorQueries

                mirror = MirrorQueries(self.schema, self._mirror_scope)
                history = read_revision_history(run, mirror)
            else:
                history = tuple(parse_history_rows(run(queries.read_history())))
            return DatabaseInspection(history, fence, has_active_holder, probe.is_replica)

        return self._read(inspect, deadline, description=f"the history in schema {self.schema!r}")

    def read_history(self, deadline: Deadline) -> list[HistoryRow]:
        """See `Database.read_history`."""
        return list(self.inspect(deadline).history)

    def add_revision_graph(
        self,
        history: Sequence[HistoryRow],
        deadline: Deadline,  # noqa: ARG002
        *,
        command: ToolCommand | None = None,  # noqa: ARG002
    ) -> Sequence[HistoryRow]:
        """See `Database.add_revision_graph`; this library knows its own files."""
        return history

    def read_tool_histories(self, deadline: Deadline) -> list[ToolHistory]:
        """See `Database.read_tool_histories`."""
        from lambda_migrate.postgresql.other_tools import read_tool_histories

        return self._read(read_tool_histories, deadline, description="the catalog")

    def inspect_requirements(
        self, requirements: Sequence[Requirement], deadline: Deadline
    ) -> RequirementInspection:
        """See `Database.inspect_requirements`."""
        from lambda_migrate.postgresql.other_tools import inspect_requirements

        return self._read(
            lambda run: inspect_requirements(run, requirements), deadline, description="the catalog"
        )

    def _read(self, read: Callable[[RunQuery], T], deadline: Deadline, *, description: str) -> T:
        """Run ``read`` on one short connection."""
        from lambda_migrate.postgresql.connection import (
            ConnectionFailed,
            ConnectionLost,
            PostgresError,
        )
        from lambda_migrate.postgresql.sql_fragments import ServerTimeouts

        limit = deadline.limited_to(_READ_SECONDS)
        try:
            connection = self.connect("lambda-migrate status", limit.remaining())
        except ConnectionFailed as failed:
            if failed.permanent:
                raise ConfigurationError(str(failed)) from failed
            raise DatabaseUnavailable(str(failed)) from failed
        timeouts = ServerTimeouts(
            lock=0,
            statement=max(1, round(limit.remaining() * 1000)),
            server_version=connection.server_version,
        )

        def run(query: str) -> list[list[Any]]:
            return connection.run(
                f"{timeouts.set_for_read_query()} {query}", timeout=limit.remaining()
            )

        try:
            return read(run)
        except ConnectionLost as lost:
            raise DatabaseUnavailable(f"the connection to PostgreSQL broke: {lost}") from lost
        except PostgresError as error:
            from lambda_migrate.postgresql.holder_connection import TRANSIENT_SQLSTATES

            unread = f"{description} cannot be read: {error.message} [{error.sqlstate}]"
            if error.sqlstate.startswith(TRANSIENT_SQLSTATES):
                raise DatabaseUnavailable(unread) from error
            raise ConfigurationError(unread) from error
        finally:
            connection.close()

    def open_session(
        self, grant: LeaseGrant, deadline: Deadline, *, terminate_holders: bool = True
    ) -> PostgreSQLSession:
        """See `Database.open_session`."""
        from lambda_migrate.postgresql.session import PostgreSQLSession

        connection = self._make_fenced_connection(grant)
        self._retry_until_connected(
            connection,
            lambda: connection.connect_and_take_fence(
                deadline, terminate_holders=terminate_holders
            ),
            deadline,
        )
        if self._mirror_scope:
            from lambda_migrate.postgresql.mirror import RevisionSession

            return RevisionSession(connection, deadline, self._mirror_scope)
        return PostgreSQLSession(connection, deadline)

    def begin_dry_run(self, grant: LeaseGrant, deadline: Deadline) -> PostgreSQLDryRun:
        """See `Database.begin_dry_run`."""
        from lambda_migrate.postgresql.dry_run import PostgreSQLDryRun

        connection = self._make_fenced_connection(grant)
        dry_run = PostgreSQLDryRun(
            connection, deadline, lock_timeout_seconds=self.lock_timeout_seconds
        )
        try:
            self._retry_until_connected(connection, lambda: dry_run.begin(deadline), deadline)
        except BaseException:
            dry_run.close()
            raise
        return dry_run

    def _make_queries(self) -> Queries:
        from lambda_migrate.postgresql.queries import Queries

        return Queries(self.schema, has_mirror=bool(self._mirror_scope))

    def _make_fenced_connection(self, grant: LeaseGrant) -> FencedConnection:
        from lambda_migrate.postgresql.fence import FencedConnection
        from lambda_migrate.postgresql.sql_fragments import application_name

        name = application_name(grant.target, grant.fence, self.schema)
        return FencedConnection(
            lambda seconds: self.connect(name, seconds),
            self._make_queries(),
            grant,
            random=self.random or system_random(),
            lock_timeout_seconds=self.lock_timeout_seconds,
            placeholders=self.placeholders,
        )

    def _retry_until_connected(
        self, connection: FencedConnection, connect: Callable[[], None], deadline: Deadline
    ) -> None:
        from lambda_migrate.postgresql.connection import ConnectionLost

        for attempt in count(1):
            try:
                connect()
                return
            except ConnectionLost as lost:
                # A successor may have terminated the session; the next attempt reports it.
                if deadline.is_over:
                    raise DatabaseUnavailable(
                        f"the connection to PostgreSQL broke: {lost}"
                    ) from lost
                connection.pause(attempt, deadline)
