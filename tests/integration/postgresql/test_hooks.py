"""Hooks run in the transactions of their migrations, and commit or fail with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lambda_migrate.engine.operations import Operations
from lambda_migrate.engine.target import Target
from lambda_migrate.errors import LeaseLost, ManifestError, MigrationFailed
from lambda_migrate.manifest_digest import read_digest
from lambda_migrate.migrations import Manifest, read_manifest
from lambda_migrate.testing import InMemoryLeaseStore

from .empty_database import EmptyDatabase, Running, soon, until
from .proxy import Proxy, connect_through

NOTE = "INSERT INTO notes (note) VALUES ('{0}');"
FILES = {
    "0001_notes": "-- migrate:up\nSELECT 1;\n-- migrate:down\nSELECT 1;\n",
    "0002_a": "-- migrate:up\n" + NOTE.format("a") + "\n-- migrate:down\nSELECT 1;\n",
    "R__view": NOTE.format("view"),
    "beforeMigrate": NOTE.format("before"),
    "afterEachMigrate": "-- migrate:up\n" + NOTE.format("each"),
    "afterMigrate": NOTE.format("after") + " -- the last statement",
}


class Project:
    """A folder of migrations, and a database with a table for notes."""

    def __init__(self, db: EmptyDatabase, folder: Path) -> None:
        self.db, self.folder = db, folder
        self.db.execute("CREATE TABLE notes (id serial, note text)")
        self.table = InMemoryLeaseStore()
        self.write(**FILES)

    def write(self, **files: str) -> None:
        for name, text in files.items():
            (self.folder / f"{name}.sql").write_text(text)

    @property
    def manifest(self) -> Manifest:
        return read_manifest(self.folder)

    def operations(self, **changes: object) -> Operations:
        target = Target("shop", self.table, self.db.database(**changes))
        return Operations(self.manifest, target)

    def up(self) -> tuple[str, ...]:
        return self.operations().up(soon())

    def notes(self) -> list[str]:
        found = self.db.column("SELECT note FROM notes ORDER BY id")
        self.db.execute("TRUNCATE notes")
        return found


@pytest.fixture
def project(db: EmptyDatabase, tmp_path: Path) -> Project:
    return Project(db, tmp_path)


def test_they_run_around_a_run_and_after_each_migration(project: Project) -> None:
    assert project.up() == ("0001_notes", "0002_a", "R__view")
    assert project.notes() == ["before", "each", "a", "each", "view", "each", "after"]
    assert [row.name for row in project.db.history() if "M" in row.name] == []


def test_they_run_neither_without_a_migration_nor_in_a_rollback(project: Project) -> None:
    project.up()
    project.notes()
    assert project.up() == ()
    project.write(afterMigrate=NOTE.format("changed"))
    assert project.up() == (), "they are not part of the digest"
    project.operations().down(soon(), steps=1)
    assert project.notes() == []
    project.up()
    assert project.notes() == ["before", "a", "each", "view", "each", "changed"]


def test_they_are_in_neither_digest(project: Project) -> None:
    digest = project.manifest.digest
    assert read_digest(str(project.folder)) == digest
    for name in ("beforeMigrate", "afterEachMigrate", "afterMigrate"):
        (project.folder / f"{name}.sql").unlink()
    assert read_digest(str(project.folder)) == project.manifest.digest == digest


@pytest.mark.parametrize(
    ("hook", "applied"),
    [("beforeMigrate", []), ("afterEachMigrate", []), ("afterMigrate", ["1", "2"])],
)
def test_a_failing_hook_rolls_back_its_migration_and_is_named(
    project: Project, hook: str, applied: list[str]
) -> None:
    project.write(**{hook: f"-- for the readers\n{NOTE.format('x')}\nSELECT 1,\n  nothing;"})
    with pytest.raises(MigrationFailed) as failed:
        project.up()
    assert f'column "nothing" does not exist [42703]\n  {project.folder}/{hook}.sql:4:3' in str(
        failed.value.detail
    )
    assert [str(version) for version in project.db.versions()] == applied
    project.notes()
    project.write(**{hook: NOTE.format("x")})
    project.up()
    assert project.notes()[-1] == ("x" if hook == "afterMigrate" else "after")


@pytest.mark.parametrize(
    ("hook", "text", "place"),
    [
        ("afterEachMigrate", "SELECT 1;\nSELECT 1/0;", "afterEachMigrate.sql:2"),
        ("afterEachMigrate", "SELECT 1;\nSELECT 1 +", "afterEachMigrate.sql:2:11"),
        ("beforeMigrate", "SELECT 1;\nSELECT 1 +", "beforeMigrate.sql:2:11"),
        ("0001_notes", "-- migrate:up\nSELECT 2;\nSELECT 1/0", "0001_notes.sql:3"),
        ("afterEachMigrate", "DO $$BEGIN RAISE 'no'; END$$", "afterEachMigrate.sql:1"),
    ],
)
def test_an_error_is_reported_at_its_place_in_its_own_file(
    project: Project, hook: str, text: str, place: str
) -> None:
    project.write(**{hook: text})
    with pytest.raises(MigrationFailed) as failed:
        project.up()
    assert f"{project.folder}/{place}\n" in str(failed.value.detail)
    dry_run = project.operations().dry_run(soon())
    assert dry_run is not None
    assert isinstance(dry_run.error, MigrationFailed)
    assert f"{project.folder}/{place}\n" in str(dry_run.error.detail)


def test_a_dry_run_runs_them_and_keeps_nothing(project: Project) -> None:
    result = project.operations().dry_run(soon())
    assert result is not None
    assert result.outcome == "passed"
    assert project.notes() == []


def test_each_begins_as_the_sessions_role_with_its_search_path(project: Project) -> None:
    name = f"reader_{project.db.address.database}"[:60].lower()
    project.db.execute(f"CREATE ROLE {name}; CREATE SCHEMA other")
    project.write(
        **{"0001_notes": f"-- migrate:up\nSET search_path = other; SET ROLE {name};"},
        afterEachMigrate="INSERT INTO notes (note) VALUES (current_user || current_schema)",
    )
    try:
        project.up()
        assert project.notes()[1] == "postgrespublic"
    finally:
        project.db.execute(f"DROP ROLE {name}")


def test_a_migration_outside_a_transaction_has_no_hooks(project: Project) -> None:
    index = "-- migrate:up transaction:false\nCREATE INDEX CONCURRENTLY {0} ON notes (note);"
    project.write(**{"0001_notes": index.format("one"), "0003_last": index.format("two")})
    (project.folder / "R__view.sql").unlink()
    assert project.up() == ("0001_notes", "0002_a", "0003_last")
    assert project.notes() == ["before", "a", "each", "after"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("COMMIT;", "afterMigrate.sql:1: COMMIT would take the migration out"),
        ("-- migrate:up transaction:false\nVACUUM", "only a versioned migration can run outside"),
        ("-- migrate:up\nSELECT 1;\n-- migrate:down\nSELECT 1;", "has a down script"),
    ],
)
def test_an_invalid_hook_is_refused_before_anything_runs(
    project: Project, text: str, fault: str
) -> None:
    project.write(afterMigrate=text)
    with pytest.raises(ManifestError, match=fault):
        project.up()
    assert project.notes() == []


def test_a_fault_of_a_hook_is_reported_once(project: Project) -> None:
    project.write(afterEachMigrate="COMMIT;")
    with pytest.raises(ManifestError) as refused:
        project.up()
    assert len(refused.value.faults) == 1


@pytest.mark.parametrize("deliver", [True, False], ids=["answer lost", "commit lost"])
def test_a_commit_in_doubt_runs_them_once(project: Project, deliver: bool) -> None:
    needle = project.manifest.make_plan([]).pending[0].checksum.encode()
    with Proxy(project.db.address, needle=needle, deliver=deliver) as proxy:
        project.operations(**connect_through(proxy)).up(soon())
        assert proxy.cuts == 1
    assert project.notes() == ["before", "each", "a", "each", "view", "each", "after"]


def test_a_holder_taken_over_during_a_hook_commits_nothing(project: Project) -> None:
    project.write(afterEachMigrate=NOTE.format("slow") + " SELECT pg_sleep(60) /* slow */;")
    plan = project.manifest.make_plan([])
    with project.db.holder(7) as session:
        slow = Running(lambda: session.apply(plan.pending[0], "d", soon()))
        until(lambda: project.db.is_running("pg_sleep"))
        with project.db.holder(8, "successor"):
            assert isinstance(slow.outcome(), LeaseLost)
    assert (project.notes(), project.db.versions()) == ([], [])
