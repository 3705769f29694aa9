"""The statements of the tables `revision` and `satisfied`, for one tool in one schema."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lambda_migrate._version import __version__
from lambda_migrate.migrations.revisions import LOG_ID_SEPARATOR
from lambda_migrate.postgresql.sql_fragments import (
    EQUALS,
    SAFE_SEARCH_PATH,
    format_iso_timestamp,
    quote_identifier,
    quote_literal,
    quote_text_array,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lambda_migrate.migrations.revisions import RevisionHistory

__all__ = ["MirrorQueries"]

_MAX_SATISFIED = 199
"""How many manifests are kept: with the empty one, as many as the lease table lists."""

_REVISION_ID = f"split_part(id, {quote_literal(LOG_ID_SEPARATOR)}, 1)"
"""The revision of a row: the id without what distinguishes a further log."""


class MirrorQueries:
    """The statements for one tool's rows in one schema.

    Args:
        schema: The library's schema.
        scope: The tool, and what distinguishes its version table from another one of the same tool.
    """

    def __init__(self, schema: str, scope: str) -> None:
        self.scope = scope
        self._revision = f"{quote_identifier(schema)}.revision"
        self._satisfied = f"{quote_identifier(schema)}.satisfied"
        self._in_scope = f"scope {EQUALS} {quote_literal(scope)}"

    def read_revisions(self) -> str:
        """Every row as JSON."""
        times = ", ".join(
            f"'{each}', {format_iso_timestamp(each)}" for each in ("started_at", "applied_at")
        )
        return (
            f"{SAFE_SEARCH_PATH} SELECT (to_jsonb(r) || jsonb_build_object({times}))::text"
            f" FROM {self._revision} r"
            f" WHERE {self._in_scope}"
        )

    def read_satisfied(self) -> str:
        """Every row as JSON, the oldest first."""
        return (
            f"{SAFE_SEARCH_PATH} SELECT to_jsonb(s)::text FROM {self._satisfied} s"
            f" WHERE {self._in_scope} ORDER BY at, digest"
        )

    def find_version_table(self, version_table: tuple[str, str]) -> str:
        """Schema and name of the tool's table, as its own role finds it; no row without one."""
        schema, table = version_table
        name = f"{quote_identifier(schema)}." * bool(schema) + quote_identifier(table)
        return (
            "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c"
            " JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace"
            f" WHERE c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass({quote_literal(name)})"
        )

    def read_version_table(self, schema: str, table: str) -> str:
        """The ids in the tool's table."""
        column = "version_num" if self.scope == "alembic" else "concat(app, '.', name)"
        return (
            f"{SAFE_SEARCH_PATH} SELECT {column}"
            f" FROM {quote_identifier(schema)}.{quote_identifier(table)}"
        )

    def delete_revision(self, revision_id: str) -> str:
        """Delete a revision's row, and those of its further connections (``ID #2``)."""
        return (
            f"DELETE FROM {self._revision} WHERE {self._in_scope}"
            f" AND {quote_literal(revision_id)} IN (id, {_REVISION_ID})"
        )

    def record_satisfied(self, digest: str, history: RevisionHistory) -> Iterator[str]:
        """Statements that store the ancestry of the code, and that its digest is satisfied.

        Rows of revisions that the tool itself rolled back are removed, and those of further
        connections of revisions that are applied now.
        """
        graph = history.revision_graph
        if graph is None:
            return
        yield from self._upsert_ancestry(history)
        applied = quote_text_array(sorted(history.applied))
        yield (
            f"DELETE FROM {self._revision} WHERE {self._in_scope} AND CASE state"
            f" WHEN 'applied' THEN id <> ALL ({applied})"
            f" ELSE {_REVISION_ID} = ANY ({applied}) END"
        )
        heads = [*graph.heads]
        if history.lists_every_revision:  # what a squash replaces is applied, and no ancestor
            needed = history.find_ancestors(heads)
            heads += [each.id for each in graph.revisions if each.id in history.applied - needed]
        values = ", ".join(
            (
                quote_literal(self.scope),
                quote_literal(digest),
                quote_text_array(heads),
                quote_text_array(graph.version_table),
                "pg_catalog.clock_timestamp()",
            )
        )
        yield (
            f"INSERT INTO {self._satisfied} (scope, digest, heads, version_table, at)"
            f" VALUES ({values}) ON CONFLICT (scope, digest) DO UPDATE"
            " SET heads = excluded.heads, version_table = excluded.version_table, at = excluded.at"
        )
        yield (
            f"DELETE FROM {self._satisfied} WHERE {self._in_scope} AND digest IN (SELECT digest"
            f" FROM {self._satisfied} WHERE {self._in_scope} ORDER BY at DESC"
            f" OFFSET {_MAX_SATISFIED})"
        )

    def _upsert_ancestry(self, history: RevisionHistory) -> Iterator[str]:
        assert history.revision_graph is not None  # noqa: S101 - `record_satisfied` has checked it
        rows = [
            f"({quote_literal(self.scope)}, {quote_literal(revision.id)},"
            f" {quote_text_array(revision.parents)}, {position}, {quote_literal(revision.name)},"
            f" 'applied', 0, '', {quote_literal(__version__)})"
            for position, revision in enumerate(history.revision_graph.revisions, 1)
            if revision.id in history.applied
        ]
        if rows:
            yield (
                f"INSERT INTO {self._revision} AS r (scope, id, parents, position, name, state,"
                f" fence, owner, library_version) VALUES {', '.join(rows)}"
                " ON CONFLICT (scope, id) DO UPDATE SET parents = excluded.parents,"
                " position = excluded.position, name = excluded.name, state = 'applied',"
                " statements = '{}'"
            )
