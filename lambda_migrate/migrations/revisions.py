"""Migrations of another tool: revisions that name their parents, instead of numbered files.

The tool's version table decides what is applied. Alembic lists its heads there, so that a revision
is applied if it is one of them or an ancestor of one; Django lists every migration. The mirror in
PostgreSQL has the ancestry, also of revisions that this code does not have, and for each digest
that the database has satisfied the heads which that code needs. From these a holder decides whether
its code is current before it loads the tool. Only the tool itself, in a child process, can say what
is pending: it loads the graph of the code's revisions, which is added to the history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, overload

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.manifest_digest import EMPTY_DIGEST, chain_digest
from lambda_migrate.migrations.history import HistoryRow, RowState
from lambda_migrate.migrations.manifest import Manifest
from lambda_migrate.migrations.migration import Migration, Script
from lambda_migrate.migrations.plan import Divergence, Plan
from lambda_migrate.migrations.version import RevisionVersion

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from collections.abc import Set as AbstractSet

    from lambda_migrate.migrations.version import Version

__all__ = [
    "LOG_ID_SEPARATOR",
    "PARTLY_COMMITTED_ADVICE",
    "MirrorRow",
    "Revision",
    "RevisionGraph",
    "RevisionHistory",
    "RevisionManifest",
    "SatisfiedDigest",
    "make_sql_only_error",
]

LOG_ID_SEPARATOR = " #"
"""In the id of a row with a further log of a revision: before the number of the connection
(Alembic), or before the schema in which the step repeats a migration of the plan (Django)."""

PARTLY_COMMITTED_ADVICE = (
    "a part of it is committed: `lambda-migrate up` continues after it (`down`, if it was being "
    "rolled back); if you complete or reverse it by hand, record that with `lambda-migrate repair`"
)
"""What to do about an interrupted migration of another tool."""


class Revision(NamedTuple):
    """A revision of the code, or a step of a plan.

    Attributes:
        id: As the version table has it.
        parents: Ids that it depends on directly.
        name: What messages show.
        path: Its file; "" if unknown.
    """

    id: str
    parents: Sequence[str] = ()
    name: str = ""
    path: str = ""


@dataclass(frozen=True, slots=True)
class RevisionGraph:
    """The revisions of the code and the state of the database, as the tool has loaded them.

    Attributes:
        revisions: Every revision of the code, parents first.
        heads: The ids that the code needs.
        steps: What the command would run, in order.
        applied: The ids in the version table.
        version_table: Its schema and name.
        server: `SERVER_KEY` of the database and its address, as the tool's own connection has them.
    """

    revisions: Sequence[Revision]
    heads: Sequence[str]
    steps: Sequence[Revision]
    applied: Sequence[str]
    version_table: tuple[str, str]
    server: Sequence[str] = ()


class SatisfiedDigest(NamedTuple):
    """A manifest that the database has satisfied.

    Attributes:
        digest: Of the manifest.
        heads: The ids that its code needs.
        version_table: Schema and name of the tool's table.
    """

    digest: str
    heads: Sequence[str]
    version_table: tuple[str, str]


_LAST_POSITION = 2**31
"""Of a revision that neither the mirror nor the graph has."""


class MirrorRow(NamedTuple):
    """A row of the mirror.

    Attributes:
        row: As a history row; its version is a `RevisionVersion`.
        parents: Ids that the revision depends on directly.
        statements: Hashes of the statements that are committed, while it is in doubt.
    """

    row: HistoryRow
    parents: Sequence[str] = ()
    statements: Sequence[str] = ()


class RevisionHistory(Sequence[HistoryRow]):
    """The applied revisions, in order, and those in doubt.

    Args:
        mirror: The mirror's rows.
        satisfied: The manifests that the mirror has, in the order in which they were recorded.
        current_ids: The ids in the version table; None if that table is not known yet.
        lists_every_revision: Whether the version table lists ancestors as well, as Django's does.
        revision_graph: What the tool has loaded; None if it was not started.

    Attributes:
        applied: The ids of all applied revisions.
    """

    def __init__(
        self,
        mirror: Iterable[MirrorRow] = (),
        *,
        satisfied: Sequence[SatisfiedDigest] = (),
        current_ids: Iterable[str] | None = None,
        lists_every_revision: bool = False,
        revision_graph: RevisionGraph | None = None,
    ) -> None:
        self.mirror = {str(each.row.version): each for each in mirror}
        self.satisfied = satisfied
        self.current_ids = None if current_ids is None else frozenset(current_ids)
        self.lists_every_revision = lists_every_revision
        self.revision_graph = revision_graph
        revisions = revision_graph.revisions if revision_graph is not None else ()
        self._parents: dict[str, Sequence[str]] = {
            **{each: row.parents for each, row in self.mirror.items()},
            **{revision.id: revision.parents for revision in revisions},
        }
        current = self.current_ids or frozenset[str]()
        self.applied = current if lists_every_revision else self.find_ancestors(current)
        positions = {revision.id: position for position, revision in enumerate(revisions, 1)}
        names = {revision.id: revision.name for revision in revisions}
        rows = [self._make_row(each, positions, names) for each in self.applied]
        rows += [
            each.row
            for revision_id, each in self.mirror.items()
            if each.row.is_in_doubt and revision_id not in self.applied
        ]
        self._rows = tuple(sorted(rows, key=lambda row: row.version))

    def _make_row(
        self, revision_id: str, positions: Mapping[str, int], names: Mapping[str, str]
    ) -> HistoryRow:
        """The row of an applied revision; the version table decides that it is applied."""
        mirrored = self.mirror.get(revision_id)
        if mirrored is None:
            version = RevisionVersion(revision_id, positions.get(revision_id, _LAST_POSITION))
            name = names.get(revision_id) or revision_id
            return HistoryRow(version, name, checksum="", digest="", baseline=True)
        row = mirrored.row
        if revision_id in positions:
            row = replace(row, version=RevisionVersion(revision_id, positions[revision_id]))
        return replace(row, state=RowState.APPLIED) if row.state is RowState.STARTED else row

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> HistoryRow: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[HistoryRow]: ...

    def __getitem__(self, index: int | slice) -> HistoryRow | Sequence[HistoryRow]:
        return self._rows[index]

    def with_revision_graph(self, graph: RevisionGraph) -> RevisionHistory:
        """The same, with the graph, and the ids that the tool read from the version table."""
        return RevisionHistory(
            self.mirror.values(),
            satisfied=self.satisfied,
            current_ids=graph.applied,
            lists_every_revision=self.lists_every_revision,
            revision_graph=graph,
        )

    def find_ancestors(self, ids: Iterable[str]) -> frozenset[str]:
        """These ids and all their known ancestors."""
        found: set[str] = set()
        pending = list(ids)
        while pending:
            revision_id = pending.pop()
            if revision_id not in found:
                found.add(revision_id)
                pending += self._parents.get(revision_id, ())
        return frozenset(found)

    def find_heads(self, digest: str) -> Sequence[str] | None:
        """The ids that the code with this digest needs; None if only the tool knows."""
        return next((each.heads for each in self.satisfied if each.digest == digest), None)

    def is_known(self, revision_id: str) -> bool:
        """Whether the code or the mirror has this revision."""
        return revision_id in self._parents

    @property
    def version_table(self) -> tuple[str, str] | None:
        """Schema and name of the tool's table, as it was seen last."""
        if self.revision_graph is not None:
            return self.revision_graph.version_table
        return self.satisfied[-1].version_table if self.satisfied else None

    @property
    def satisfied_digests(self) -> tuple[str, ...]:
        """The manifests of the mirror that the database satisfies, the shortest first."""
        needed = {each.digest: self.find_ancestors(each.heads) for each in self.satisfied}
        digests = [
            digest
            for digest, ids in needed.items()
            if ids <= self.applied and all(map(self.is_known, ids))
        ]
        return (EMPTY_DIGEST, *sorted(digests, key=lambda digest: len(needed[digest])))

    def without(self, ids: AbstractSet[str]) -> RevisionHistory:
        """The history as it is once these revisions, and all that need them, are rolled back."""
        remaining = [each for each in self.applied if not ids & self.find_ancestors([each])]
        return RevisionHistory(
            self.mirror.values(),
            satisfied=self.satisfied,
            current_ids=remaining,
            lists_every_revision=self.lists_every_revision,
            revision_graph=self.revision_graph,
        )


class RevisionManifest(Manifest):
    """What a code version ships, of which only the digest is known without the tool.

    Args:
        digest: Of the files.
        tool: ``alembic`` or ``django``.
        last_revision: Up to which revision; "" for what the settings name.
    """

    __slots__ = ("_digest", "last_revision", "tool")

    def __init__(self, digest: str, tool: str, last_revision: str = "") -> None:
        super().__init__()
        self._digest = digest
        self.tool = tool
        self.last_revision = last_revision

    @property
    def digest(self) -> str:
        """The name of this manifest."""
        return self._digest

    @property
    def version(self) -> Version:
        """A version above every number, so that a limit by number holds all of it back."""
        return RevisionVersion(self._digest)

    def digest_at(self, version: Version) -> str:  # noqa: ARG002 - revisions have no chain
        """The digest."""
        return self._digest

    def up_to(self, version: Version) -> Manifest:
        """The part that ends with a revision; no revision is below a number."""
        if not isinstance(version, RevisionVersion):
            return Manifest()
        digest = chain_digest(self._digest, version, "")
        return RevisionManifest(digest, self.tool, last_revision=str(version))

    def find_faults(self, pending: Sequence[Migration], placeholders: object) -> list[str]:  # noqa: ARG002
        """The tool checks its own files."""
        return []

    def make_plan(
        self,
        history: Sequence[HistoryRow],
        *,
        allow_out_of_order: bool = False,  # noqa: ARG002 - a graph has its own order
    ) -> Plan:
        """Compare the code with the history; see `Plan.needs_revision_graph`."""
        if not isinstance(history, RevisionHistory):
            history = RevisionHistory()
        graph = history.revision_graph
        if graph is None:
            heads = history.find_heads(self._digest)
        elif self.last_revision:  # a part, whose end may be relative: "+1"
            heads = [step.id for step in graph.steps]
        else:
            heads = graph.heads
        unfinished = [row for row in history if str(row.version) not in history.applied]
        started = [row for row in unfinished if LOG_ID_SEPARATOR not in str(row.version)]
        if heads is None:
            applied = tuple(row for row in history if row not in unfinished)
            return Plan(applied=applied, partly_applied=tuple(started), needs_revision_graph=True)
        needed = history.find_ancestors(heads)
        missing = needed - history.applied
        current = frozenset[str]() if history.lists_every_revision else history.current_ids
        unknown = [each for each in sorted(current or ()) if not history.is_known(each)]
        if graph is None:
            pending: tuple[Migration, ...] = ()
            code = needed
        else:
            pending = tuple(_make_migrations(graph, missing))
            code = frozenset(revision.id for revision in graph.revisions)
        rows = [row for row in history if str(row.version) in history.applied]
        return Plan(
            pending=pending,
            applied=tuple(row for row in rows if str(row.version) in code),
            ahead=tuple(row for row in rows if str(row.version) not in code),
            in_doubt=tuple(row for row in rows if row.is_in_doubt),
            partly_applied=tuple(row for row in started if str(row.version) in missing),
            divergences=tuple(map(_make_unknown_divergence, unknown)) if graph else (),
            needs_revision_graph=graph is None
            and bool(missing or unknown or not all(map(history.is_known, needed))),
        )


def make_sql_only_error(tool: str, operation: str, advice: str) -> ConfigurationError:
    """The error of an operation that has no meaning for another tool's migrations.

    Args:
        tool: The tool.
        operation: What was asked for.
        advice: What to do instead.
    """
    return ConfigurationError(
        f"{operation} works on SQL files only, and LAMBDA_MIGRATE_SOURCE is {tool}: {advice}"
    )


def _make_migrations(graph: RevisionGraph, missing: AbstractSet[str]) -> Iterator[Migration]:
    """The steps that are still missing, as pending migrations."""
    positions = {revision.id: position for position, revision in enumerate(graph.revisions, 1)}
    steps = [step for step in graph.steps if step.id in missing] or [
        revision for revision in graph.revisions if revision.id in missing
    ]
    for step in steps:
        yield Migration(
            version=RevisionVersion(step.id, positions.get(step.id, 0)),
            name=step.name or step.id,
            up=Script(""),
            down=None,
            checksum="",
            path=step.path,
        )


def _make_unknown_divergence(revision_id: str) -> Divergence:
    return Divergence(
        "missing",
        RevisionVersion(revision_id),
        revision_id,
        "the version table names it, and neither this code nor the history has it: deploy the code "
        "that has it, or roll back to a revision of this code with the tool itself",
    )
