"""Placeholders on a real PostgreSQL: quoting, positions, what is stored and what is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lambda_migrate.engine.operations import Operations
from lambda_migrate.engine.target import Target
from lambda_migrate.errors import ConfigurationError, ManifestError, MigrationFailed
from lambda_migrate.migrations import read_manifest
from lambda_migrate.testing import InMemoryLeaseStore, RecordingObserver

from .empty_database import EmptyDatabase, soon

UP, DOWN = "-- migrate:up placeholders:true\n", "-- migrate:down placeholders:true\n"

HOSTILE = (
    "plain, with = and comma",
    'it\'s "quoted"; DROP TABLE notes; --',
    "'); DROP TABLE notes; --",
    "\\'); DROP TABLE notes; --",
    "back\\slash \\n \\",
    "$$; DROP TABLE notes; $$ $body$ $q$ $1",
    "/* */ two\nlines\r\nand\ttab ${literal:value}",
    "žluťoučký 🐘 \u2028 '",
    "'" * 10 + "\\" * 3 + '"' * 5,
)
TEXT = f"""{UP}INSERT INTO notes VALUES (${{literal:value}});
DO $body$ BEGIN
    EXECUTE $q$ INSERT INTO notes VALUES (${{literal:value}}) $q$;
    INSERT INTO notes VALUES (${{literal:value}});
END $body$;
CREATE TABLE ${{ident:value}} (${{ident:value}} text);
DO $body$ BEGIN INSERT INTO ${{ident:value}} VALUES (${{literal:value}}); END $body$;
{DOWN}DROP TABLE ${{ident:value}};
"""


class Project:
    """A folder of migrations, and a database with a table for notes."""

    def __init__(self, db: EmptyDatabase, folder: Path) -> None:
        self.db, self.folder = db, folder
        self.db.execute("CREATE TABLE notes (note text)")
        self.table, self.observer = InMemoryLeaseStore(), RecordingObserver()

    def write(self, **files: str) -> None:
        for name, text in files.items():
            (self.folder / f"{name}.sql").write_text(text)

    def operations(self, placeholders: Any) -> Operations:
        database = self.db.database(placeholders=placeholders)
        target = Target("shop", self.table, database, observer=self.observer)
        return Operations(read_manifest(self.folder), target)

    def up(self, **placeholders: str) -> tuple[str, ...]:
        return self.operations(placeholders).up(soon())

    def down(self, **placeholders: str) -> tuple[str, ...]:
        return self.operations(placeholders).down(soon(), steps=1)

    def fail(self, **placeholders: str) -> MigrationFailed:
        with pytest.raises(MigrationFailed) as failed:
            self.up(**placeholders)
        return failed.value

    def read_stored_text(self) -> str:
        """Whatever the library has stored or reported."""
        history = self.db.execute("SELECT h::text FROM lambda_migrate.history h")
        return f"{history}{self.table.state}{self.observer.events}"


@pytest.fixture
def project(db: EmptyDatabase, tmp_path: Path) -> Project:
    return Project(db, tmp_path)


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("standard", ["on", "off"])
def test_no_value_leaves_its_quotes(project: Project, value: str, standard: str) -> None:
    database = project.db.address.database
    project.db.execute(f'ALTER DATABASE "{database}" SET standard_conforming_strings = {standard}')
    project.write(**{"0001_it": TEXT})
    placeholders = json.dumps({"value": value})
    project.operations(placeholders).up(soon())
    assert project.db.column("SELECT note FROM notes") == [value] * 3
    (table,) = project.db.column(
        "SELECT relname FROM pg_class WHERE relnatts = 1 AND "
        "relkind = 'r' AND relnamespace = 'public'::regnamespace AND relname <> 'notes'"
    )
    assert table == value
    assert value not in project.read_stored_text()
    project.operations(placeholders).down(soon(), steps=1)
    assert project.db.versions() == []


def test_a_rollback_uses_the_value_of_its_own_time(project: Project) -> None:
    project.write(**{"0001_it": TEXT})
    project.up(value="first value")
    project.db.execute('ALTER TABLE "first value" RENAME TO "second value"')
    (row,) = project.db.history()
    assert row.down is not None
    assert row.down.sql == "DROP TABLE ${ident:value};\n"
    with pytest.raises(ConfigurationError, match=r"back:\n.*script\):10: .* has no value"):
        project.down()
    assert project.down(value="second value") == ("0001_it",)
    assert not project.db.has('"second value"')


def test_no_rollback_begins_without_a_value_for_a_later_one(project: Project) -> None:
    project.write(**{"0001_it": TEXT, "0002_plain": "-- migrate:up\n-- migrate:down\nSELECT 1;"})
    project.up(value="some value")
    with pytest.raises(ConfigurationError, match=r"0001_it .stored down script.:10: "):
        project.operations({}).down(soon(), to=0)
    assert project.db.versions() == [1, 2]


def test_a_missing_value_is_found_before_the_first_script(project: Project) -> None:
    project.write(
        **{"0001_plain": "-- migrate:up\nSELECT 1;\n", "0002_it": TEXT},
        R__grant=f"{UP}SELECT ${{literal:other}};",
        afterMigrate=f"{UP}SELECT ${{x}};",
    )
    with pytest.raises(ManifestError) as refused:
        project.up()
    places = [fault.partition(": ")[0].rpartition("/")[2] for fault in refused.value.faults]
    assert [places[0], places[-2], places[-1]] == [
        "0002_it.sql:2",
        "R__grant.sql:2",
        "afterMigrate.sql:2",
    ]
    assert len(places) == 9
    assert project.db.versions() == []
    with pytest.raises(ManifestError):
        project.operations({}).dry_run(soon())
    with pytest.raises(ConfigurationError, match="is not a JSON object"):
        project.operations("x=y").up(soon())


@pytest.mark.parametrize(
    ("sql", "place", "caret"),
    [
        ("SELECT ${literal:value},\n  nothing;", ":3:3", "  nothing;"),
        ("SELECT ${literal:value}, nothing;", ":2:26", "SELECT ${literal:value}, nothing;"),
        ("SELECT\n ${literal:value}::integer;", ":3:2", " ${literal:value}::integer;"),
        ("SELECT * FROM ${ident:value};", ":2:15", "SELECT * FROM ${ident:value};"),
        ("SELECT 1;\nDO $$ BEGIN RAISE '%', ${literal:value}; END $$", ":3", "DO $$ BEGIN"),
    ],
)
def test_an_error_points_into_the_file_and_shows_no_value(
    project: Project, sql: str, place: str, caret: str
) -> None:
    project.write(
        **{"0001_it": f"{UP}{sql}"}, beforeMigrate=f"{UP}SELECT ${{literal:value}} AS before;"
    )
    secret = "very 'secret' $value"
    failed = project.fail(value=secret)
    assert f"0001_it.sql{place}\n" in failed.detail
    assert caret in failed.detail
    dry_run = project.operations({"value": secret}).dry_run(soon())
    assert dry_run is not None
    assert f"0001_it.sql{place}\n" in str(getattr(dry_run.error, "detail", ""))
    shown = f"{failed} {failed.cause} {failed.detail} {dry_run} {project.read_stored_text()}"
    for cause in (failed.__cause__, failed.__context__):
        shown += f"{cause!r} {getattr(cause, 'error', None)!r}"
    assert "secret" not in shown
    assert "RAISE" not in sql or "${value}" in shown


def test_a_hook_has_placeholders_and_its_errors_point_into_its_file(project: Project) -> None:
    project.write(
        **{"0001_it": f"{UP}INSERT INTO notes VALUES (${{literal:value}});"},
        afterEachMigrate=f"{UP}INSERT INTO notes VALUES (${{literal:value}});\nSELECT nothing;",
    )
    assert "afterEachMigrate.sql:3:8\n" in project.fail(value="a 'longer' value").detail
    project.write(afterEachMigrate="-- migrate:up\nINSERT INTO notes VALUES ('${literal:value}');")
    project.up(value="a 'longer' value")
    assert project.db.column("SELECT note FROM notes") == [
        "a 'longer' value",
        "${literal:value}",
    ]


def test_notices_and_constraints_that_are_checked_last_show_no_value(project: Project) -> None:
    project.db.execute("CREATE TABLE keys (k text UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    project.write(
        **{
            "0001_it": f"{UP}DO $$ BEGIN RAISE NOTICE 'it is %', ${{literal:value}}; END $$;\n"
            "INSERT INTO keys VALUES (${literal:value}), (${literal:value});"
        }
    )
    failed = project.fail(value="top secret")
    dry_run = project.operations({"value": "top secret"}).dry_run(soon())
    shown = f"{failed.detail} {dry_run} {project.read_stored_text()}"
    assert "Key (k)=(${value}) already exists" in failed.detail
    assert "it is ${value}" in shown
    assert "secret" not in shown


def test_a_changed_value_changes_no_digest(project: Project) -> None:
    project.write(**{"0001_it": TEXT}, R__it=f"{UP}INSERT INTO notes VALUES (${{literal:value}});")
    assert project.up(value="first value") == ("0001_it", "R__it")
    assert project.up(value="second value") == ()
    assert project.up() == (), "nothing needs a value"
