"""The mirror of another tool's version table: reading it, and what a completion writes.

A migration's own row is written by the child process, in the transaction of the migration; see
`sources.fence_queries`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lambda_migrate.migrations.history import HistoryRow, RowState
from lambda_migrate.migrations.revisions import (
    MirrorRow,
    RevisionHistory,
    SatisfiedDigest,
)
from lambda_migrate.migrations.version import RevisionVersion
from lambda_migrate.postgresql.mirror_queries import MirrorQueries
from lambda_migrate.postgresql.session import PostgreSQLSession
from lambda_migrate.postgresql.sql_fragments import application_name

if TYPE_CHECKING:
    from lambda_migrate.clock import Deadline
    from lambda_migrate.errors import LeaseLost
    from lambda_migrate.migrations import Manifest
    from lambda_migrate.postgresql.fence import FencedConnection

__all__ = ["RevisionSession", "read_revision_history"]

RunQuery = Callable[[str], list[list[Any]]]


def read_revision_history(
    run: RunQuery,
    queries: MirrorQueries,
    *,
    version_table: tuple[str, str] | None = None,
) -> RevisionHistory:
    """Read the mirror and the version table.

    Args:
        run: Runs a query outside a transaction.
        queries: The statements.
        version_table: The tool's table, if the tool has named it; by default as it was seen last.
    """
    mirror = [_parse_revision(json.loads(row[0])) for row in run(queries.read_revisions())]
    satisfied = [
        SatisfiedDigest(fields["digest"], fields["heads"], tuple(fields["version_table"]))
        for fields in (json.loads(row[0]) for row in run(queries.read_satisfied()))
    ]
    if version_table is None and satisfied:
        version_table = satisfied[-1].version_table
    return RevisionHistory(
        mirror,
        satisfied=satisfied,
        current_ids=None if version_table is None else _read_ids(run, queries, version_table),
        lists_every_revision=queries.scope != "alembic",
    )


def _read_ids(run: RunQuery, queries: MirrorQueries, version_table: tuple[str, str]) -> list[str]:
    found = run(queries.find_version_table(version_table))
    return [row[0] for row in run(queries.read_version_table(*found[0]))] if found else []


def _parse_revision(fields: dict[str, Any]) -> MirrorRow:
    row = HistoryRow(
        version=RevisionVersion(fields["id"], fields["position"]),
        name=fields["name"],
        checksum="",
        digest="",
        state=RowState(fields["state"]),
        started_at=fields["started_at"] or "",
        applied_at=fields["applied_at"],
        duration_ms=fields["duration_ms"],
        fence=fields["fence"],
        owner=fields["owner"],
        baseline=fields["owner"] == "",
        completed_statements=len(fields["statements"]),
    )
    return MirrorRow(row, fields["parents"], fields["statements"])


class RevisionSession(PostgreSQLSession):
    """A holder's session on a database that another tool migrates in a child process.

    Args:
        connection: The connection.
        deadline: For calls without a deadline of their own.
        scope: See `MirrorQueries`.
    """

    def __init__(self, connection: FencedConnection, deadline: Deadline, scope: str) -> None:
        super().__init__(connection, deadline)
        self.version_table: tuple[str, str] | None = None
        """The tool's table, once the tool has named it."""
        grant, schema = connection.grant, connection.queries.schema
        self.application_name = application_name(grant.target, grant.fence, schema)
        """Of every connection of this holder."""
        self._mirror = MirrorQueries(schema, scope)

    def read_history(self) -> RevisionHistory:
        """Read the mirror and the version table; connects again if necessary."""

        def run(sql: str) -> list[list[Any]]:
            return self._connection.read(sql, self._deadline)

        history: RevisionHistory = self._run_bookkeeping(
            lambda: read_revision_history(run, self._mirror, version_table=self.version_table)
        )
        return history

    def record_satisfied(self, manifest: Manifest, history: RevisionHistory) -> None:
        """Record that the database satisfies ``manifest``, and the ancestry of its code."""
        statements = list(self._mirror.record_satisfied(manifest.digest, history))
        if statements:
            self._write("; ".join(statements))

    def delete_revision(self, revision_id: str) -> None:
        """Delete what the mirror has about an interrupted revision."""
        self._write(self._mirror.delete_revision(revision_id))

    def disconnect(self) -> None:
        """Close the connection while the tool runs; the next call connects again."""
        self._connection.release_advisory_lock(self._deadline)
        self._connection.close()

    def pause(self, attempt: int, deadline: Deadline) -> None:
        """Sleep before another attempt, with jitter."""
        self._connection.pause(attempt, deadline)

    def make_lease_lost_error(self) -> LeaseLost:
        """The error of a holder whose fencing token was superseded."""
        return self._connection.make_lease_lost_error()

    def _require_known_rows_unchanged(self, deadline: Deadline) -> None:
        """The version table is the tool's: this holder is not its only writer."""
