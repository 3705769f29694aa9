"""A Django project as a service: cold starts on the local Lambda, and the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from lambda_migrate.local.runtime.function import LocalFunction
from tests.integration.sources.django_projects import (
    INITIAL,
    STATUS,
    WITH_AUTH,
    DjangoProject,
    migration,
)
from tests.sandbox import Sandbox

HANDLER = """
import sys
from lambda_migrate import migrate_on_cold_start

@migrate_on_cold_start
def handler(event, context):
    return {"imported": [name for name in ("django", "pg8000", "psycopg") if name in sys.modules]}
"""

SLOW = migration("migrations.RunSQL('SELECT pg_sleep(1)', '')", after="0002_status")


class Service(DjangoProject):
    """A project with a target in the lease table."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        migrations = {"0001_initial": INITIAL, "0002_status": STATUS, "0003_slow": SLOW}
        name = f"{sandbox.name}_django"
        super().__init__(
            sandbox.root / name, sandbox.postgresql, name, migrations, settings=WITH_AUTH
        )
        self.write("app.py", HANDLER)
        self.variables = {
            **sandbox.variables(source="django", database_url=self.url),
            "DJANGO_SETTINGS_MODULE": "mysite.settings",
        }

    def run(self, *arguments: str) -> tuple[int, Any]:
        """Run a command; its exit code and its document."""
        done = subprocess.run(
            [sys.executable, "-m", "lambda_migrate", *arguments, "--format", "json"],
            cwd=self.root,
            env={**os.environ, **self.variables, "LAMBDA_MIGRATE_TABLE": ""},
            capture_output=True,
            text=True,
        )
        return done.returncode, json.loads(done.stdout or done.stderr.splitlines()[-1])

    def invoke(self, count: int) -> list[Any]:
        """Invoke so many new environments at once."""
        with LocalFunction(code=self.root, variables=self.variables, timeout=60.0) as function:
            results = [function.submit() for _ in range(count)]
            return [each.result().payload for each in results]


@pytest.fixture
def service(sandbox: Sandbox) -> Service:
    return Service(sandbox)


def test_cold_starts_migrate_once_and_later_ones_import_nothing(service: Service) -> None:
    code, document = service.run("manifest")
    assert (code, sorted(document["modules"])) == (0, ["auth", "contenttypes", "shop"])

    first = service.invoke(4)

    assert sorted(first, key=str) == [{"imported": ["pg8000"]}] + [{"imported": []}] * 3
    assert service.applied() == ["0001_initial", "0002_status", "0003_slow"]
    assert set(service.mirror().values()) == {"applied"}
    assert service.invoke(2) == [{"imported": []}] * 2, "they opened no connection"


def test_each_command_works_in_a_django_project(service: Service) -> None:
    assert service.run("manifest")[0] == 0
    code, document = service.run("status", "--exit-code")
    assert code == 3, document
    code, planned = service.run("plan")
    assert code == 0
    assert "shop.0003_slow" in json.dumps(planned)
    assert service.run("up")[0] == 0
    assert service.run("status", "--exit-code")[0] == 0
    assert service.run("verify")[0] == 0
    assert service.run("down", "--steps", "1", "--yes")[0] == 0
    assert service.applied() == ["0001_initial", "0002_status"]
    service.write(
        "shop/migrations/0003_slow.py",
        migration("migrations.RunSQL('SELECT 1/0')", after="0002_status"),
    )
    code, failed = service.run("up")
    assert code == 1
    assert "division by zero" in json.dumps(failed)
    assert "shop/migrations/0003_slow.py" in json.dumps(failed)


def test_what_follows_the_migrations_runs_again_until_it_succeeds(service: Service) -> None:
    """A handler of post_migrate that fails, or is killed, is no reason to forget it."""
    service.write(
        "shop/apps.py",
        "import os\n"
        "from django.apps import AppConfig\n"
        "from django.db.models.signals import post_migrate\n"
        "def create_customer(**_):\n"
        "    if 'FAIL' in os.environ:\n"
        "        raise ValueError('no customer')\n"
        "    from shop.models import Customer\n"
        "    Customer.objects.get_or_create(name='first')\n"
        "class ShopConfig(AppConfig):\n"
        "    name = 'shop'\n"
        "    def ready(self):\n"
        "        post_migrate.connect(create_customer, sender=self)\n",
    )
    assert service.run("manifest")[0] == 0
    service.variables["FAIL"] = "1"
    for _ in range(3):
        code, failed = service.run("up")
        assert (code, "no customer" in json.dumps(failed)) == (1, True), failed
        assert "shop/apps.py:6" in json.dumps(failed)
    del service.variables["FAIL"]

    assert service.run("up")[0] == 0

    assert service.query("SELECT name FROM shop_customer") == [["first"]]


def test_what_a_squash_replaces_is_applied_and_not_ahead(service: Service) -> None:
    service.write(
        "shop/migrations/0001_squashed.py",
        INITIAL.replace("initial = True", "replaces = [('shop', '0001_initial')]"),
    )
    assert service.run("manifest")[0] == 0
    assert service.run("up")[0] == 0

    for again in range(2):
        code, document = service.run("status")
        assert code == 0
        states = {row["name"]: row["state"] for row in document["migrations"]}
        assert (again, states["shop.0001_initial"]) == (again, "applied"), states


def test_a_command_that_migrates_several_schemas_runs_each_migration_in_each(
    service: Service,
) -> None:
    """As the command of django-tenants does; the plan is that of the first schema."""
    service.write("shop/management/__init__.py", "")
    service.write("shop/management/commands/__init__.py", "")
    service.write(
        "shop/management/commands/migrate.py",
        "from django.core.management.commands import migrate\n"
        "from django.db import connection\n"
        "class Command(migrate.Command):\n"
        "    def handle(self, *arguments, **options):\n"
        "        with connection.cursor() as cursor:\n"
        "            for schema in ('public', 'tenant_1'):\n"
        "                cursor.execute(f'SET search_path = {schema}')\n"
        "                super().handle(*arguments, **options)\n"
        "            cursor.execute('SET search_path = public')\n",
    )
    fails_in_tenant = (
        "SELECT CASE current_schema() WHEN 'public' THEN 1"
        " ELSE 1 / (SELECT count(*) FROM public.shop_customer) END"
    )
    service.write(
        "shop/migrations/0003_slow.py",
        migration(
            "AddIndexConcurrently('order', models.Index(fields=['status'], name='by_status')),"
            f" migrations.RunSQL({fails_in_tenant!r}, '')",
            after="0002_status",
            head="from django.contrib.postgres.operations import AddIndexConcurrently\n",
            atomic=False,
        ),
    )
    service.query("CREATE SCHEMA tenant_1")
    assert service.run("manifest")[0] == 0

    code, failed = service.run("up")
    assert code == 1
    assert "shop.0003_slow in schema tenant_1 failed: division by zero" in json.dumps(failed)
    assert service.applied()[-1] == "0003_slow"
    in_doubt = [each for each, state in service.mirror().items() if state != "applied"]
    assert in_doubt == ["shop.0003_slow #tenant_1"]

    service.query("INSERT INTO public.shop_customer (name) VALUES ('first')")
    assert service.run("up")[0] == 0
    counts = "SELECT (SELECT count(*) FROM {0}.django_migrations)::int, count(*)::int FROM"
    counts += " pg_indexes WHERE schemaname = '{0}' AND indexname = 'by_status'"
    in_public = service.query(counts.format("public"))
    assert service.query(counts.format("tenant_1")) == in_public
    assert set(service.mirror()) == {f"shop.{each}" for each in service.applied()}

    assert service.run("down", "--steps", "1", "--yes")[0] == 0
    assert service.query(counts.format("tenant_1")) == [[in_public[0][0] - 1, 0]]
