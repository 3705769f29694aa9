"""The mirror of another tool's history is written under the fence, which a child shares."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.migrations.baseline import SyncedHistory
from lambda_migrate.migrations.revisions import (
    Revision,
    RevisionGraph,
    RevisionHistory,
    RevisionManifest,
)
from lambda_migrate.postgresql.mirror import RevisionSession
from lambda_migrate.postgresql.ports import LeaseGrant
from lambda_migrate.sources.database import ToolDatabase, ToolProject
from lambda_migrate.sources.fence_queries import FenceQueries, RevisionRow
from lambda_migrate.sources.protocol import ChildError, ChildRequest

from .empty_database import EmptyDatabase, migration, soon

CODE = RevisionGraph(
    revisions=(Revision("a1", (), "a1_orders"), Revision("b2", ("a1",), "b2_status")),
    heads=("b2",),
    steps=(),
    applied=("b2",),
    version_table=("public", "alembic_version"),
)


def read_history(db: EmptyDatabase) -> RevisionHistory:
    history = db.database(mirror_scope="alembic").inspect(soon()).history
    assert isinstance(history, RevisionHistory)
    return history


def make_queries(owner: str = "me", identity: str = "") -> FenceQueries:
    return FenceQueries(
        ChildRequest(
            *("alembic", "up", "/", {}, "alembic", "lambda_migrate"),
            fence=1,
            owner=owner,
            identity=identity,
            deadline_seconds=60.0,
        )
    )


def test_a_completion_stores_the_ancestry_and_old_code_stays_satisfied(db: EmptyDatabase) -> None:
    db.execute("CREATE TABLE alembic_version (version_num text)")
    db.execute("INSERT INTO alembic_version VALUES ('b2')")
    old, new = (RevisionManifest(each * 64, "alembic") for each in ("0", "1"))
    with db.holder(mirror_scope="alembic") as session:
        assert isinstance(session, RevisionSession)
        session.version_table = CODE.version_table
        history = session.read_history().with_revision_graph(CODE)
        session.record_satisfied(old, history)
        db.execute("UPDATE alembic_version SET version_num = 'c3'")
        newer = Revision("c3", ("b2",), "c3_total")
        code = replace(CODE, revisions=(*CODE.revisions, newer), heads=("c3",), applied=("c3",))
        session.record_satisfied(new, session.read_history().with_revision_graph(code))
        session.disconnect()
        assert session.read_history().satisfied_digests[1:] == (old.digest, new.digest)
    history = read_history(db)
    assert [row.name for row in history] == ["a1_orders", "b2_status", "c3_total"]
    plan = old.make_plan(history)
    assert plan.is_current
    assert [row.name for row in plan.ahead] == ["c3_total"]
    assert RevisionManifest("2" * 64, "alembic").make_plan(history).needs_revision_graph
    db.execute("UPDATE alembic_version SET version_num = 'a1'")
    assert old.make_plan(read_history(db)).needs_revision_graph  # rolled back by hand
    db.execute("UPDATE alembic_version SET version_num = 'unknown'")
    unknown = read_history(db).with_revision_graph(replace(CODE, applied=("unknown",)))
    divergences = old.make_plan(unknown).divergences
    assert [each.name for each in divergences] == ["unknown"]


def test_a_child_compares_the_fence_that_it_shares(db: EmptyDatabase) -> None:
    with db.holder(mirror_scope="alembic") as session:
        queries = make_queries(identity=session.identity)
        with db.connect() as child:
            row = child.run(f"BEGIN; {queries.lock_fence_for_share()}")[-1]
            queries.compare(row)
            [[timeout]] = child.run("SHOW statement_timeout")
            assert 0 < int(timeout.removesuffix("ms").removesuffix("s")) <= 60_000
            for fence, kind in (
                (make_queries("another", session.identity), "stale_fence"),
                (make_queries(identity="another"), "configuration"),
            ):
                with pytest.raises(ChildError) as caught:
                    fence.compare(row)
                assert caught.value.fields["kind"] == kind
            with pytest.raises(ChildError):
                queries.compare(None)


def test_rows_of_the_mirror_are_written_only_under_the_holders_own_fence(db: EmptyDatabase) -> None:
    with db.holder(mirror_scope="alembic") as session:
        assert isinstance(session, RevisionSession)
        mine, other = (make_queries(each, session.identity) for each in ("me", "another"))
        with db.connect() as child:
            started = RevisionRow("a'1", ("\\0",), 1, "a1", "started", ("x",))
            assert child.run(other.upsert_revision(started)) == []
            assert child.run(mine.upsert_revision(started)) == [[1]]
            child.run(mine.append_statement("a'1", "y", replaces="x"))
            assert child.run(mine.read_statements("a'1")) == [["{y}"]]
            history = session.read_history()
            assert [(row.name, row.is_in_doubt) for row in history] == [("a1", True)]
            child.run(mine.delete_if_nothing_done("a'1"))
            assert child.run(other.delete_revision("a'1")) == []
            assert child.run(mine.read_statements("a'1")) == [["{y}"]]
            assert child.run(mine.delete_revision("a'1")) == [[1]]
            assert child.run(mine.read_statements("a'1")) == []
            assert child.run(mine.find_fence()) == [[True]]
            assert child.run(mine.read_identity()) == [[session.identity]]
            assert child.run(mine.try_shared_advisory_lock(child.pid))[0][0] is True
            assert child.run(mine.try_shared_advisory_lock(0)) == [[False, None]]
            child.run(mine.upsert_revision(started))
            child.run("UPDATE lambda_migrate.revision SET started_at = '2026-01-01 09:00:00.12+09'")
            [row] = session.read_history()
            assert row.started_at == "2026-01-01T00:00:00.120Z"
        session.delete_revision("a'1")
        assert list(session.read_history()) == []


def test_a_holder_that_finds_the_code_satisfied_starts_no_child(db: EmptyDatabase) -> None:
    db.execute("CREATE TABLE alembic_version (version_num text)")
    db.execute("INSERT INTO alembic_version VALUES ('b2')")
    manifest = RevisionManifest("0" * 64, "alembic")
    with db.holder(mirror_scope="alembic") as session:
        assert isinstance(session, RevisionSession)
        session.version_table = CODE.version_table
        session.record_satisfied(manifest, session.read_history().with_revision_graph(CODE))
    project = ToolProject("alembic", "/no such folder, so no child can start", {}, "alembic")
    database = ToolDatabase(db.database(mirror_scope="alembic"), project)
    assert manifest.make_plan(database.read_history(soon())).is_current
    assert (database.tool, database.address_text) == ("alembic", db.address.text)
    with database.open_session(LeaseGrant("shop", 2, "another"), soon()) as holder:
        history = holder.read_history()
        assert manifest.make_plan(history).is_current
        holder.record_environment()
        with pytest.raises(ConfigurationError, match="b2 is not in doubt"):
            holder.resolve_revision("b2", is_applied=True)
        with pytest.raises(ConfigurationError, match="cannot start a process for alembic"):
            holder.add_revision_graph()
    with pytest.raises(ConfigurationError, match="cannot start a process for alembic"):
        project.read_modules(soon())


def test_another_tools_table_is_written_with_ours_until_the_option_is_removed(
    db: EmptyDatabase,
) -> None:
    db.execute("CREATE TABLE schema_migrations (version text PRIMARY KEY)")
    with db.holder() as session:
        kept = SyncedHistory("dbmate", ("public", "schema_migrations"), (("1", "0001", ""),))
        session.sync_tool_history(kept)
        session.apply(migration("SELECT 1"), "d", soon())
        assert db.column("SELECT version FROM schema_migrations") == ["0001"]
        session.sync_tool_history(None)
        session.apply(migration("SELECT 1", 2), "d", soon())
    assert db.column("SELECT version FROM schema_migrations") == ["0001"]
