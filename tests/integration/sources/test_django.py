"""Django's own migrations in a child process under the fence."""

from __future__ import annotations

import itertools
import json
import re
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lambda_migrate.local.servers.postgresql import LocalPostgreSQL
from lambda_migrate.sources import django_files
from lambda_migrate.sources.django_statements import DjangoRerunKind, classify_django_statements
from tests.integration.sources.django_projects import (
    INITIAL,
    STATUS,
    WITH_AUTH,
    Child,
    DjangoProject,
    migrate,
    migration,
)

MakeProject = Callable[..., DjangoProject]

_numbers = itertools.count(1)

CONCURRENT_INDEX = migration(
    "AddIndexConcurrently('order', models.Index(fields=['status'], name='by_status')),"
    "migrations.RunSQL('CREATE TABLE audit (id int)', 'DROP TABLE audit')",
    after="0002_status",
    head="from django.contrib.postgres.operations import AddIndexConcurrently",
    atomic=False,
)

BACKFILL = """
import os
from django.db import connection

def fill(apps, editor):
    customer = apps.get_model("shop", "Customer")
    for name in ("a", "b"):
        try:
            customer.objects.create(name=name)
        except Exception:
            pass  # as projects do
"""


@pytest.fixture
def make_project(shared_postgresql: LocalPostgreSQL, tmp_path: Path) -> MakeProject:
    def make(migrations: dict[str, str] | None = None, **options: Any) -> DjangoProject:
        if migrations is not None:
            migrations = {"0001_initial": INITIAL, "0002_status": STATUS, **migrations}
        name = f"django_{next(_numbers)}"
        return DjangoProject(tmp_path / name, shared_postgresql, name, migrations, **options)

    return make


def until(condition: Callable[[], Any]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.02)


def blocked(project: DjangoProject, text: str) -> Callable[[], Any]:
    """Whether a backend waits in a statement with this text."""
    return lambda: project.query(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND state = 'active'"
        f" AND pid <> pg_backend_pid() AND query ILIKE '%{text}%'"
    )


def no_other_session(project: DjangoProject) -> Callable[[], Any]:
    """Whether the backends of killed processes have ended."""
    return lambda: (
        not project.query(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name LIKE 'lambda-migrate:test%'"
        )
    )


@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        ('SELECT COUNT(*) FROM "shop_order" WHERE "id" IN (%s)', DjangoRerunKind.READ),
        ("SELECT lock_everything()", DjangoRerunKind.ROWS),
        ("SET CONSTRAINTS a IMMEDIATE; ALTER TABLE b ADD c int", DjangoRerunKind.SCHEMA),
        ('SAVEPOINT "s1"', DjangoRerunKind.SESSION),
        ("ROLLBACK TO SAVEPOINT s1", DjangoRerunKind.SESSION),
        ("CREATE TABLE a (id int); INSERT INTO a VALUES (1)", DjangoRerunKind.ROWS),
        ("DROP INDEX CONCURRENTLY IF EXISTS a", DjangoRerunKind.NON_TRANSACTIONAL),
        ("ALTER TYPE a ADD VALUE 'b'", DjangoRerunKind.SCHEMA),
        ("DO $$ BEGIN UPDATE a SET b = 1; COMMIT; END $$", DjangoRerunKind.NON_TRANSACTIONAL),
        ("DO $$ BEGIN UPDATE a SET b = 1; END $$", DjangoRerunKind.ROWS),
        ("COMMIT; ALTER TYPE a ADD VALUE 'b'; BEGIN", DjangoRerunKind.CONTROL),
    ],
)
def test_sql_is_of_the_strongest_kind_of_its_statements(sql: str, kind: DjangoRerunKind) -> None:
    assert classify_django_statements(sql) is kind


def test_all_migrations_and_permissions_exist_before_the_run_is_complete(
    make_project: MakeProject,
) -> None:
    project = make_project(settings=WITH_AUTH)
    planned = re.findall(r"^(\w+\.\w+)$", project.manage("migrate", "--plan"), re.M)
    plan = Child(project, "describe", token=0)
    plan.process.wait(timeout=30)
    steps = plan.read()["steps"]
    assert [step["id"] for step in steps] == planned
    assert steps[-1]["path"] == "shop/migrations/0002_status.py"

    done = migrate(project)

    assert done["event"] == "done", done
    assert set(planned) == set(done["applied"])
    assert project.applied() == ["0001_initial", "0002_status"]
    assert project.mirror() == {"shop.0001_initial": "applied", "shop.0002_status": "applied"}
    assert project.query("SELECT count(*) FROM auth_permission WHERE codename LIKE '%order'") == [
        [4]
    ]
    assert "No migrations to apply" in project.manage("migrate")


def test_a_kill_at_the_record_rolls_back_a_migration_with_deferred_sql(
    make_project: MakeProject,
) -> None:
    project = make_project()
    assert migrate(project, to="shop.0001_initial")["event"] == "done"
    project.query(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NEW; END $$"
    )
    project.query(
        "CREATE TRIGGER wait BEFORE INSERT ON django_migrations FOR EACH ROW"
        " WHEN (NEW.name = '0002_status') EXECUTE FUNCTION wait()"
    )
    with project.session() as session:
        session.run("SELECT pg_advisory_lock(7)")
        child = Child(project, identity=project.take_over())
        child.run_until("shop.0002_status")
        child.answer(True)
        until(blocked(project, 'INSERT INTO "django_migrations"'))
        child.kill()
    until(no_other_session(project))
    assert project.applied() == ["0001_initial"]
    assert project.columns("shop_order") == ["id", "customer_id"]

    assert migrate(project, token=2)["event"] == "done"
    assert project.applied() == ["0001_initial", "0002_status"]


def test_a_concurrent_index_killed_inside_is_built_again(make_project: MakeProject) -> None:
    project = make_project({"0003_index": CONCURRENT_INDEX})
    assert migrate(project, to="shop.0002_status")["event"] == "done"
    with project.session() as session:
        session.run("BEGIN ISOLATION LEVEL REPEATABLE READ")
        session.run("SELECT count(*) FROM shop_order")
        session.run("LOCK shop_order IN ROW EXCLUSIVE MODE")
        child = Child(project, identity=project.take_over(2), token=2)
        child.run_until("shop.0003_index")
        child.answer(True)
        until(blocked(project, "CREATE INDEX CONCURRENTLY"))
        child.kill()
        until(no_other_session(project))
    assert project.mirror()["shop.0003_index"] == "started"
    assert project.applied()[-1] == "0002_status"

    assert migrate(project, token=3)["event"] == "done"
    assert project.applied()[-1] == "0003_index"
    assert project.mirror()["shop.0003_index"] == "applied"
    valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'by_status'::regclass"
    assert project.query(valid) == [[True]]

    done = migrate(project, "down", token=4, steps=1)
    assert done["event"] == "done", done
    assert "shop.0003_index" not in project.mirror()
    assert project.applied()[-1] == "0002_status"
    assert project.query("SELECT to_regclass('by_status')::text") == [[None]]


@pytest.mark.parametrize("is_tried", [True, False])
def test_rows_committed_in_parts_need_a_person(make_project: MakeProject, is_tried: bool) -> None:
    """Tried in a transaction, the same migration has no parts."""
    fails = (
        BACKFILL
        + "    if os.environ.get('FAIL'):\n        connection.cursor().execute('SELECT 1/0')\n"
    )
    project = make_project(
        {
            "0003_fill": migration(
                "migrations.RunPython(fill)", after="0002_status", head=fails, atomic=False
            )
        }
    )
    options = {"django_try_atomic": is_tried}
    project.variables["FAIL"] = "1"
    failed = migrate(project, options=options)
    assert (failed["kind"], failed["id"]) == ("migration", "shop.0003_fill"), failed
    assert (failed["sqlstate"], failed["path"]) == ("22012", "shop/migrations/0003_fill.py")
    assert failed["line"] == fails.count("\n") + 1
    assert failed["is_partly_committed"] is not is_tried
    del project.variables["FAIL"]

    again = migrate(project, token=2, options=options)

    count = project.query("SELECT count(*) FROM shop_customer")
    assert count == [[2]]
    if is_tried:
        assert again["event"] == "done", again
    else:
        assert again["kind"] == "repair", again
        assert (
            "`manage.py migrate --fake shop 0003_fill`, then run `lambda-migrate repair "
            "shop.0003_fill --as applied`"
        ) in again["message"]


def test_a_stale_holder_can_commit_nothing(make_project: MakeProject) -> None:
    swallow = (
        "def write(apps, editor):\n"
        "    try:\n"
        "        apps.get_model('shop', 'Customer').objects.create(name='stale')\n"
        "    except Exception:\n"
        "        pass\n"
    )
    project = make_project(
        {"0003_write": migration("migrations.RunPython(write)", after="0002_status", head=swallow)}
    )
    identity = project.take_over()
    child = Child(project, identity=identity)
    child.run_until("shop.0003_write")
    project.take_over(2)
    child.answer(True)
    failed = child.run_until()
    assert (failed["event"], failed["kind"], failed["token"]) == ("failed", "stale_fence", 2)
    assert project.applied()[-1] == "0002_status"
    assert project.query("SELECT count(*) FROM shop_customer") == [[0]]

    wrong = Child(project, identity="another", token=2).run_until()
    assert wrong["kind"] == "configuration"
    assert "a different database" in wrong["message"]


def test_a_stop_before_a_step_leaves_the_ones_before_it(make_project: MakeProject) -> None:
    project = make_project()
    child = Child(project, identity=project.take_over())
    child.run_until("shop.0002_status")
    child.answer(False)
    done = child.run_until()
    assert done["event"] == "done"
    assert "shop.0001_initial" in done["applied"]
    assert "shop.0002_status" not in done["applied"]


def test_a_connection_lost_at_the_history_table_is_not_a_failure_of_a_migration(
    make_project: MakeProject,
) -> None:
    project = make_project()
    identity = project.take_over()
    project.query(
        "CREATE FUNCTION end_session() RETURNS event_trigger LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); END'"
    )
    project.query(
        "CREATE EVENT TRIGGER lost ON ddl_command_start WHEN TAG IN ('CREATE TABLE')"
        " EXECUTE FUNCTION end_session()"
    )
    failed = Child(project, identity=identity).run_until()
    assert failed["kind"] == "unavailable", failed
    assert "cannot create the table django_migrations" in failed["message"]
    project.query("DROP EVENT TRIGGER lost")
    assert migrate(project, token=2)["event"] == "done"


def test_a_manual_run_of_the_tool_in_between_is_taken_into_account(
    make_project: MakeProject,
) -> None:
    project = make_project()
    assert migrate(project, to="shop.0001_initial")["event"] == "done"
    project.manage("migrate", "shop")
    child = Child(project, identity=project.take_over(2), token=2)
    done = child.run_until()
    assert done["event"] == "done"
    assert [event for event in child.events if event["event"] == "start"] == []
    project.manage("migrate", "shop", "0001")
    assert migrate(project, token=3)["event"] == "done"
    assert project.applied() == ["0001_initial", "0002_status"]


DURABLE = """
from django.db import transaction

def fill(apps, schema_editor):
    with transaction.atomic(durable=True):
        apps.get_model("shop", "Order").objects.update(status="paid")
"""
"""It refuses the transaction in which a migration that is not atomic is tried first."""


def test_a_migration_that_was_reversed_by_hand_is_applied_again(make_project: MakeProject) -> None:
    operation = "migrations.RunPython(fill, fill)"
    project = make_project(
        {"0003_fill": migration(operation, after="0002_status", head=DURABLE, atomic=False)}
    )
    assert migrate(project)["event"] == "done"
    project.manage("migrate", "shop", "0002")
    assert migrate(project, token=2)["event"] == "done"
    assert project.applied()[-1] == "0003_fill"
    assert migrate(project, "down", token=3, steps=1)["event"] == "done"
    assert project.applied()[-1] == "0002_status"


def test_a_squash_records_what_it_replaces(make_project: MakeProject) -> None:
    project = make_project()
    squashed = INITIAL.replace(
        "initial = True",
        "initial = True\n    replaces = [('shop', '0001_initial'), ('shop', '0002_status')]",
    ).replace(
        "    ]\n",
        "        migrations.AddField('order', 'status',"
        " models.CharField(max_length=20, default='placed', db_index=True)),\n    ]\n",
    )
    project.write("shop/migrations/0001_squashed.py", squashed)
    project.write(
        "shop/migrations/0003_later.py", migration("migrations.RunSQL('', '')", after="0002_status")
    )

    done = migrate(project)

    assert done["event"] == "done", done
    names = ["0001_initial", "0001_squashed", "0002_status"]
    assert sorted(project.applied()) == [*names, "0003_later"]
    assert project.mirror() == {f"shop.{name}": "applied" for name in [*names, "0003_later"]}
    assert "No migrations to apply" in project.manage("migrate")
    down = migrate(project, "down", token=2, steps=1)
    assert down["event"] == "done", down
    assert sorted(project.applied()) == names, "the squash was recorded last, and is needed first"
    down = migrate(project, "down", token=3, to="shop.zero")
    assert down["event"] == "done", down
    assert (project.applied(), project.mirror()) == ([], {})


def test_a_commit_inside_a_migration_leaves_its_row_in_doubt(make_project: MakeProject) -> None:
    """It works in plain Django, so it has to work here; a kill after it needs a person."""
    own_commit = migration(
        "migrations.RunSQL('CREATE TABLE one (id int)'),"
        "migrations.RunSQL('COMMIT; SELECT pg_advisory_xact_lock_shared(8)'),"
        "migrations.RunSQL('CREATE TABLE two (id int)')",
        after="0002_status",
    )
    project = make_project({"0003_commit": own_commit})
    with project.session() as session:
        session.run("SELECT pg_advisory_lock(8)")
        child = Child(project, identity=project.take_over())
        child.run_until("shop.0003_commit")
        child.answer(True)
        until(blocked(project, "COMMIT; SELECT"))
        child.kill()
    until(no_other_session(project))
    assert project.mirror()["shop.0003_commit"] == "started"
    assert migrate(project, token=2)["kind"] == "repair"

    project.query("DROP TABLE one")
    project.query("DELETE FROM lambda_migrate.revision WHERE state = 'started'")
    assert migrate(project, token=3)["event"] == "done"
    assert project.applied()[-1] == "0003_commit"
    assert project.mirror()["shop.0003_commit"] == "applied"


def test_a_backend_without_transactions_continues_after_a_kill(make_project: MakeProject) -> None:
    """As that of django-pg-zero-downtime-migrations, which commits each statement by itself."""
    waiting = migration(
        "migrations.RunSQL('CREATE TABLE one (id int)'),"
        "migrations.RunSQL('SELECT pg_advisory_xact_lock_shared(8)')",
        after="0002_status",
    )
    project = make_project({"0003_wait": waiting})
    project.write("mysite/backend/__init__.py", "")
    project.write(
        "mysite/backend/base.py",
        "from django.db.backends.postgresql import base\n"
        "class Editor(base.DatabaseWrapper.SchemaEditorClass):\n"
        "    def __init__(self, connection, collect_sql=False, atomic=True):\n"
        "        super().__init__(connection, collect_sql, atomic=False)\n"
        "class DatabaseWrapper(base.DatabaseWrapper):\n"
        "    SchemaEditorClass = Editor\n",
    )
    settings = project.root / "mysite/settings.py"
    settings.write_text(settings.read_text() + "DATABASES['default']['ENGINE'] = 'mysite.backend'")
    with project.session() as session:
        session.run("SELECT pg_advisory_lock(8)")
        child = Child(project, identity=project.take_over())
        child.run_until("shop.0003_wait")
        child.answer(True)
        until(blocked(project, "SELECT pg_advisory_xact"))
        child.kill()
    until(no_other_session(project))

    assert migrate(project, token=2)["event"] == "done"

    assert project.applied()[-1] == "0003_wait"
    assert set(project.mirror().values()) == {"applied"}


def test_settings_and_alter_table_in_one_string_are_fenced(make_project: MakeProject) -> None:
    """Outside a transaction it is no read, although it begins like a setting."""
    several = migration(
        "migrations.RunSQL('SET CONSTRAINTS ALL IMMEDIATE; ALTER TABLE shop_order ADD note text')",
        after="0002_status",
        atomic=False,
    )
    project = make_project({"0003_several": several})
    identity = project.take_over()
    child = Child(project, identity=identity, options={"django_try_atomic": False})
    child.run_until("shop.0003_several")
    project.take_over(2)
    child.answer(True)
    assert child.run_until()["kind"] == "stale_fence"
    assert "note" not in project.columns("shop_order")
    assert migrate(project, token=3, options={"django_try_atomic": False})["event"] == "done"
    assert "note" in project.columns("shop_order")


def test_each_database_is_migrated_by_its_own_target(make_project: MakeProject) -> None:
    project = make_project(
        {
            "0003_both": migration(
                "migrations.RunPython(write)",
                after="0002_status",
                head=(
                    "def write(apps, editor):\n"
                    "    if editor.connection.alias == 'default':\n"
                    "        editor.connection.cursor().execute('SELECT 1')\n"
                    "        customer = apps.get_model('shop', 'Customer')\n"
                    "        customer.objects.using('other').create(name='from default')\n"
                ),
            )
        },
        settings=(
            'DATABASES["other"] = {**DATABASES["default"], "CONN_MAX_AGE": None,'
            ' "NAME": url.path.lstrip("/") + "_other"}\n'
        ),
    )
    project.server.create_database(f"{project.name}_other")
    other = DjangoProject.at(project, f"{project.name}_other")
    options = {"django_database": "other"}
    assert migrate(other, options=options)["event"] == "done"
    assert other.applied()[-1] == "0003_both"
    assert migrate(project)["event"] == "done"
    assert other.query("SELECT name FROM shop_customer") == [["from default"]]
    until(no_other_session(other))


def test_the_manifest_names_each_folder_and_must_be_current(make_project: MakeProject) -> None:
    project = make_project(
        settings=WITH_AUTH + 'MIGRATION_MODULES = {"shop": "mysite.shop_migrations"}\n'
    )
    moved = project.root / "mysite" / "shop_migrations"
    (project.root / "shop" / "migrations").rename(moved)
    child = Child(project, "manifest", token=0)
    modules = child.run_until()["modules"]
    assert modules == {
        "auth": "django.contrib.auth.migrations",
        "contenttypes": "django.contrib.contenttypes.migrations",
        "shop": "mysite.shop_migrations",
    }
    root = str(project.root)
    django_files.write_manifest("manifest.json", modules, root=root)
    options = {"django_manifest": "manifest.json", "django_database": "default"}
    assert migrate(project, options=options)["event"] == "done"
    before = django_files.read_digest(root, options)
    (moved / "0002_status.py").write_bytes(
        (moved / "0002_status.py").read_bytes().replace(b"\n", b"\r\n")
    )
    assert django_files.read_digest(root, options) == before
    (moved / "data.sql").write_text("SELECT 1")
    assert django_files.read_digest(root, options) != before

    wrong = {**modules, "gone": "gone.migrations"}
    del wrong["auth"]
    (project.root / "manifest.json").write_text(json.dumps({"modules": wrong}))
    failed = migrate(project, token=2, options=options)
    assert failed["kind"] == "manifest"
    assert "django.contrib.auth.migrations (app auth) is missing" in failed["message"]
    assert "gone.migrations (app gone)" in failed["message"]


def test_a_target_never_reverses_the_direction(make_project: MakeProject) -> None:
    """Django's own command goes forwards or backwards to whatever is named."""
    project = make_project()
    assert migrate(project)["event"] == "done"
    assert migrate(project, token=2, to="shop.0001_initial")["event"] == "done"
    assert project.applied() == ["0001_initial", "0002_status"]
    assert migrate(project, "down", token=3, to="shop.0001_initial")["event"] == "done"
    assert project.applied() == ["0001_initial"]
    for token, (target, text) in enumerate(
        {
            "shop.0002_status": "it is not applied, so nothing above it can be rolled back",
            "shop.0009": "there is no such migration",
            "shop": "write a migration as app.name",
            "nonesuch.zero": "apps with migrations: shop",
        }.items(),
        start=4,
    ):
        failed = migrate(project, "down", token=token, to=target)
        assert (failed["event"], failed["kind"]) == ("failed", "configuration"), failed
        assert failed["message"].startswith(f"--to {target}: ")
        assert text in failed["message"]
    assert project.applied() == ["0001_initial"]


def test_migrations_in_an_archive_are_refused(make_project: MakeProject) -> None:
    """Django runs them, but the digest would not see them change."""
    project = make_project(
        settings="import sys\nsys.path.append('apps.zip')\nINSTALLED_APPS += ['zipped']\n"
    )
    with zipfile.ZipFile(project.root / "apps.zip", "w") as archive:
        for name in ("__init__", "models", "migrations/__init__", "migrations/0001_initial"):
            archive.writestr(f"zipped/{name}.py", INITIAL if "0001" in name else "")
    for refused in (Child(project, "manifest", token=0).run_until(), migrate(project)):
        assert refused["kind"] == "manifest", refused
        assert "migrations of app zipped are in no folder" in refused["message"]


@pytest.mark.parametrize("is_atomic", [True, False])
def test_a_migration_may_close_its_connection_outside_a_transaction(
    make_project: MakeProject, is_atomic: bool
) -> None:
    close = (
        "from django.db import connection\n"
        "def close(apps, editor):\n"
        "    customer = apps.get_model('shop', 'Customer')\n"
        "    for name in ('a', 'b'):\n"
        "        customer.objects.create(name=name)\n"
        "        connection.close()\n"
    )
    project = make_project(
        {
            "0003_close": migration(
                "migrations.RunPython(close)", after="0002_status", head=close, atomic=is_atomic
            )
        }
    )
    result = migrate(project)
    count = project.query("SELECT count(*) FROM shop_customer")
    if is_atomic:
        assert result["message"].startswith("it closes its connection inside its transaction")
        assert count == [[0]]
    else:
        assert result["event"] == "done", result
        assert count == [[2]]


def test_a_migration_that_would_apply_another_inside_it_is_refused(
    make_project: MakeProject,
) -> None:
    """The command that runs it has that other one in its plan, too, and would apply it again."""
    nested = (
        "from django.core.management import call_command\n"
        "def run(apps, editor):\n"
        "    try:\n"
        "        call_command('migrate', 'shop', '0003', verbosity=0)\n"
        "    except Exception:\n"
        "        pass\n"
    )
    project = make_project(
        {
            "0004_nested": migration(
                "migrations.RunPython(run)", after="0002_status", head=nested, atomic=False
            ),
            "0003_more": migration("migrations.RunSQL('SELECT 1')", after="0002_status"),
            "0005_merge": migration("", after="0004_nested").replace(
                "[('shop', '0004_nested')]", "[('shop', '0003_more'), ('shop', '0004_nested')]"
            ),
        }
    )
    failed = migrate(project)
    assert "which would apply shop.0003_more inside it" in failed["message"], failed
    assert project.applied() == ["0001_initial", "0002_status"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "DJANGO_SETTINGS_MODULE is not set"),
        (
            "mysite.prod",
            "DJANGO_SETTINGS_MODULE=mysite.prod cannot be loaded: No module named 'mysite.prod'",
        ),
    ],
)
def test_settings_that_cannot_be_loaded_are_named(
    make_project: MakeProject, name: str, message: str
) -> None:
    project = make_project()
    project.variables["DJANGO_SETTINGS_MODULE"] = name
    failed = Child(project, "manifest", token=0).run_until()
    assert failed["kind"] == "configuration"
    assert failed["message"].startswith(message), failed
    assert failed["path"] == ""


def test_a_database_without_autocommit_is_refused(make_project: MakeProject) -> None:
    """Django runs every migration on it, and commits none of them."""
    project = make_project(settings="DATABASES['default']['AUTOCOMMIT'] = False\n")
    failed = migrate(project)
    assert failed["kind"] == "configuration"
    assert "has AUTOCOMMIT=False" in failed["message"]


def test_a_manifest_names_a_migration_that_cannot_be_loaded(make_project: MakeProject) -> None:
    project = make_project({"0003_nothing": "x = 1\n"})
    failed = Child(project, "manifest", token=0).run_until()
    assert (failed["kind"], failed["detail"]) == ("manifest", "")
    assert "Migration 0003_nothing in app shop has no Migration class" in failed["message"]


def test_a_plan_is_refused_where_the_command_is(make_project: MakeProject) -> None:
    project = make_project({"0002_other": migration("", after="0001_initial")})
    describe = Child(project, "describe", token=0).run_until()
    assert (describe["kind"], describe["message"]) == (
        "manifest",
        "app shop has several last migrations (0002_other, 0002_status): join them with "
        "`manage.py makemigrations --merge`",
    )
    (project.root / "shop/migrations/0002_other.py").unlink()
    assert migrate(project)["event"] == "done"
    project.query("DELETE FROM django_migrations WHERE name = '0001_initial'")
    describe = Child(project, "describe", token=0).run_until()
    assert describe["kind"] == "manifest"
    assert "shop.0002_status is applied before its dependency" in describe["message"]


def test_several_statements_that_postgresql_refuses_as_one_leave_nothing(
    make_project: MakeProject,
) -> None:
    statements = ["CREATE TABLE audit (id int)", "CREATE INDEX CONCURRENTLY by_id ON audit (id)"]
    written = [
        migration(f"migrations.RunSQL({form!r})", after="0002_status", atomic=False)
        for form in ("; ".join(statements), statements)
    ]
    project = make_project({"0003_audit": written[0]})
    failed = migrate(project)
    assert (failed["sqlstate"], failed["is_partly_committed"]) == ("25001", False), failed
    assert "shop.0003_audit" not in project.mirror()
    project.write("shop/migrations/0003_audit.py", written[1])
    assert migrate(project, token=2)["event"] == "done"
