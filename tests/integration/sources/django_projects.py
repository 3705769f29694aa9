"""Django projects in a temporary folder, and child processes that migrate them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any

import pg8000.native

from lambda_migrate.local.servers.postgresql import LocalPostgreSQL
from lambda_migrate.postgresql.queries import Queries
from lambda_migrate.postgresql.sql_fragments import ServerTimeouts
from lambda_migrate.sources.process import START_CHILD
from lambda_migrate.sources.protocol import ChildRequest

WITH_AUTH = 'INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "shop"]\n'

SETTINGS = """
import os
from urllib.parse import unquote, urlsplit

url = urlsplit(os.environ["LAMBDA_MIGRATE_DATABASE_URL"])
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": url.path.lstrip("/"),
        "USER": unquote(url.username or ""),
        "PASSWORD": unquote(url.password or ""),
        "HOST": url.hostname,
        "PORT": url.port,
        "OPTIONS": {},
    }
}
INSTALLED_APPS = ["shop"]
SECRET_KEY = "test"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
"""

MODELS = """
from django.db import models

class Customer(models.Model):
    name = models.CharField(max_length=50)

class Order(models.Model):
    customer = models.ForeignKey(Customer, on_delete=models.CASCADE)
    status = models.CharField(max_length=20, default="placed")
"""

INITIAL = """
from django.db import migrations, models

class Migration(migrations.Migration):
    initial = True
    operations = [
        migrations.CreateModel("Customer", [
            ("id", models.BigAutoField(primary_key=True)),
            ("name", models.CharField(max_length=50)),
        ]),
        migrations.CreateModel("Order", [
            ("id", models.BigAutoField(primary_key=True)),
            ("customer", models.ForeignKey("shop.customer", on_delete=models.CASCADE)),
        ]),
    ]
"""


def migration(operations: str, *, after: str, head: str = "", **attributes: Any) -> str:
    """The text of a migration of the app ``shop``."""
    lines = "".join(f"    {name} = {value!r}\n" for name, value in attributes.items())
    return (
        f"from django.db import migrations, models\n{head}\n"
        f"class Migration(migrations.Migration):\n"
        f"    dependencies = [('shop', {after!r})]\n{lines}"
        f"    operations = [{operations}]\n"
    )


STATUS = migration(
    "migrations.AddField('order', 'status',"
    " models.CharField(max_length=20, default='placed', db_index=True))",
    after="0001_initial",
)


class DjangoProject:
    """A project with the app ``shop`` and a database of its own."""

    def __init__(
        self,
        root: Path,
        server: LocalPostgreSQL,
        name: str,
        migrations: Mapping[str, str] | None = None,
        *,
        settings: str = "",
    ) -> None:
        self.root = root
        self.server = server
        self.name = name
        self.variables: dict[str, str] = {}
        server.create_database(name)
        self.url = server.tcp_url(name)
        self.write("mysite/__init__.py", "")
        self.write("mysite/settings.py", SETTINGS + settings)
        self.write("shop/__init__.py", "")
        self.write("shop/models.py", MODELS)
        self.write("shop/migrations/__init__.py", "")
        self.write(
            "manage.py",
            "import sys\nfrom django.core.management import execute_from_command_line\n"
            "execute_from_command_line(sys.argv)\n",
        )
        for stem, text in (migrations or {"0001_initial": INITIAL, "0002_status": STATUS}).items():
            self.write(f"shop/migrations/{stem}.py", text)

    @classmethod
    def at(cls, project: DjangoProject, name: str) -> DjangoProject:
        """The same project, to look at another of its databases."""
        other = copy(project)
        other.name = name
        return other

    def write(self, path: str, text: str) -> None:
        """Write a file of the project."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def query(self, sql: str) -> list[list[Any]]:
        """Rows of one statement."""
        return self.server.execute(sql, database=self.name)

    def columns(self, table: str) -> list[str]:
        """The names of a table's columns."""
        rows = self.query(
            "SELECT column_name::text FROM information_schema.columns"
            f" WHERE table_name = '{table}' ORDER BY ordinal_position"
        )
        return [name for (name,) in rows]

    @contextmanager
    def session(self) -> Iterator[Any]:
        """A session of another client."""
        connection = pg8000.native.Connection(
            "postgres", database=self.name, unix_sock=str(self.server.socket)
        )
        try:
            yield connection
        finally:
            connection.close()

    def applied(self, app: str = "shop") -> list[str]:
        """The names in Django's own table, in the order in which they were recorded."""
        rows = self.query(f"SELECT name FROM django_migrations WHERE app = '{app}' ORDER BY id")
        return [name for (name,) in rows]

    def mirror(self, app: str = "shop") -> dict[str, str]:
        """Id and state of each row of our table."""
        rows = self.query(
            "SELECT id, state FROM lambda_migrate.revision"
            f" WHERE id LIKE '{app}.%' ORDER BY position, id"
        )
        return dict(rows)

    def environ(self) -> dict[str, str]:
        """The environment of its processes."""
        return {
            **os.environ,
            "LAMBDA_MIGRATE_DATABASE_URL": self.url,
            "DJANGO_SETTINGS_MODULE": "mysite.settings",
            **self.variables,
        }

    def manage(self, *arguments: str) -> str:
        """Run ``manage.py``; returns what it prints."""
        return subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=self.root,
            env=self.environ(),
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    def take_over(self, token: int = 1) -> str:
        """Create our tables, and set the token in the fence; returns the database's identity."""
        timeouts = ServerTimeouts(lock=0, statement=10_000, server_version=150000)
        create = Queries("lambda_migrate", has_mirror=True).create_tables(
            timeouts, create_schema=True
        )
        self.query(create)
        rows = self.query(
            f"UPDATE lambda_migrate.fence SET token = {token}, owner = 'owner {token}'"
            " RETURNING identity::text"
        )
        return str(rows[-1][0])


class Child:
    """A child process, spoken to as the parent does."""

    def __init__(
        self, project: DjangoProject, command: str = "up", *, token: int = 1, **fields: Any
    ) -> None:
        options = {
            "django_database": "default",
            "django_manifest": "lambda_migrate_manifest.json",
            "django_try_atomic": True,
            "source_setup": "",
            **fields.pop("options", {}),
        }
        started = {}
        if not command.startswith("describe") and command != "manifest":
            rows = project.query(
                "SELECT id, array_to_json(statements)::text FROM lambda_migrate.revision"
                " WHERE state <> 'applied'"
            )
            started = {step_id: json.loads(statements) for step_id, statements in rows}
        request = ChildRequest(
            tool="django",
            command=command,
            root=str(project.root),
            options=options,
            scope=f"django:{options['django_database']}",
            schema="lambda_migrate",
            fence=token,
            owner=f"owner {token}",
            application_name=f"lambda-migrate:test:{token}",
            started=started,
            **{"deadline_seconds": 60.0, **fields},
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", START_CHILD],
            cwd=project.root,
            env=project.environ(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.events: list[dict[str, Any]] = []
        assert self.process.stdin
        self.process.stdin.write(request.to_line())
        self.process.stdin.flush()

    def read(self) -> dict[str, Any]:
        """The next event; {} at the end."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        event = json.loads(line) if line else {}
        self.events.append(event)
        return event

    def run_until(self, step_id: str = "") -> dict[str, Any]:
        """Answer every step until ``step_id`` starts, which is not answered, or until the end."""
        while event := self.read():
            if event["event"] == "start":
                if event["id"] == step_id:
                    return event
                self.answer(True)
            elif event["event"] in ("done", "failed", "manifest"):
                self.process.wait(timeout=20)
                return event
        self.process.wait(timeout=20)
        return self.events[-2]

    def answer(self, is_continued: bool) -> None:
        """Answer the start of a step."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"continue": is_continued}).encode() + b"\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """End the process, and wait."""
        self.process.kill()
        self.process.wait(timeout=20)


def migrate(project: DjangoProject, command: str = "up", **fields: Any) -> dict[str, Any]:
    """Take over, run one command to its end; returns the last event."""
    identity = project.take_over(fields.get("token", 1))
    return Child(project, command, identity=identity, **fields).run_until()
