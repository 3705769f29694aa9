"""The plan of another tool's revisions, from its version table and the mirror."""

from __future__ import annotations

from collections.abc import Sequence

from lambda_migrate.manifest_digest import EMPTY_DIGEST
from lambda_migrate.migrations import HistoryRow, RowState
from lambda_migrate.migrations.revisions import (
    MirrorRow,
    Revision,
    RevisionGraph,
    RevisionHistory,
    RevisionManifest,
    SatisfiedDigest,
)
from lambda_migrate.migrations.version import RevisionVersion

TABLE = ("public", "alembic_version")
OLD = RevisionManifest("aa" * 32, "alembic")
NEW = RevisionManifest("bb" * 32, "alembic")
SATISFIED = (
    SatisfiedDigest(OLD.digest, ["b"], TABLE),
    SatisfiedDigest(NEW.digest, ["c"], TABLE),
)


def mirror_row(name: str, position: int, parents: Sequence[str], state: str) -> MirrorRow:
    version = RevisionVersion(name, position)
    return MirrorRow(HistoryRow(version, name, "", "", RowState(state)), parents)


def history(*current: str, rows: Sequence[str] = "abc", state: str = "applied") -> RevisionHistory:
    """A mirror of a chain of revisions, and the version table."""
    mirror = [
        mirror_row(name, position, rows[position - 2 : position - 1], state)
        for position, name in enumerate(rows, 1)
    ]
    return RevisionHistory(mirror, satisfied=SATISFIED, current_ids=current)


def make_graph(code: str, *current: str) -> RevisionGraph:
    """What the tool says about a chain of revisions."""
    revisions = [Revision(name, code[i - 1 : i] if i else "") for i, name in enumerate(code)]
    return RevisionGraph(revisions, [code[-1]], (), current, TABLE)


def test_without_the_tool_the_mirror_decides() -> None:
    assert NEW.make_plan(history("c")).is_current
    older = OLD.make_plan(history("c"))
    assert (older.is_current, [row.name for row in older.ahead]) == (True, ["c"])
    behind = NEW.make_plan(history("b"))
    assert (behind.is_current, behind.needs_revision_graph) == (False, True)
    assert NEW.make_plan(history("x")).needs_revision_graph
    assert RevisionManifest("cc" * 32, "alembic").make_plan(history("c")).needs_revision_graph


def test_revisions_are_pending_ahead_or_unknown_as_the_tool_reports() -> None:
    manifest = RevisionManifest("cc" * 32, "alembic")
    plan = manifest.make_plan(history("b").with_revision_graph(make_graph("abcd", "b")))
    assert [migration.name for migration in plan.pending] == ["c", "d"]
    plan = manifest.make_plan(history("c").with_revision_graph(make_graph("ab", "c")))
    assert (plan.is_current, [row.name for row in plan.ahead]) == (True, ["c"])
    plan = manifest.make_plan(history("c").with_revision_graph(make_graph("ab", "x")))
    assert [each.name for each in plan.divergences] == ["x"]


def test_digests_are_satisfied_only_while_all_that_they_need_is_applied() -> None:
    assert history("c").satisfied_digests == (EMPTY_DIGEST, OLD.digest, NEW.digest)
    assert history("b").satisfied_digests == (EMPTY_DIGEST, OLD.digest)
    assert history("c").without({"b"}).satisfied_digests == (EMPTY_DIGEST,)
    assert history("c", rows="ab").satisfied_digests == (EMPTY_DIGEST,)


def test_the_version_table_decides_about_a_row_in_doubt() -> None:
    assert not any(row.is_in_doubt for row in history("c", state="started"))
    in_doubt = history("b", state="started")
    assert [row.name for row in in_doubt if row.is_in_doubt] == ["c"]


def test_a_revision_of_which_a_part_is_committed_is_named_and_stays_pending() -> None:
    found = history("b", rows=["a", "b", "c", "c #2"], state="started")
    unknown = RevisionManifest("cc" * 32, "alembic")
    assert [row.name for row in unknown.make_plan(found).interrupted] == ["c"]
    plan = unknown.make_plan(found.with_revision_graph(make_graph("abcd", "b")))
    assert [row.name for row in plan.interrupted] == ["c"]
    assert [migration.name for migration in plan.pending] == ["c", "d"]
    plan = unknown.make_plan(found.with_revision_graph(make_graph("ab", "b")))
    assert (plan.interrupted, plan.is_current) == ((), True), "only newer code needs it"


def test_a_table_that_lists_every_revision_has_no_implied_ancestors() -> None:
    listed = RevisionHistory(
        history("c").mirror.values(),
        satisfied=SATISFIED,
        current_ids=["b", "c"],
        lists_every_revision=True,
    )
    assert listed.satisfied_digests == (EMPTY_DIGEST,)
