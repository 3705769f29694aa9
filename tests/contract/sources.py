"""One service whose migrations come from SQL files, from Alembic or from Django."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.integration.sources import alembic_project, django_projects
from tests.sandbox import ROOT, TABLE, Sandbox, until

RUNNER = """
import sys
from lambda_migrate import MigrationRunner
from lambda_migrate.clock import Deadline
try:
    print(MigrationRunner.from_settings().ensure(Deadline.after(float(sys.argv[1]))).name)
except Exception as error:
    print(type(error).__name__, error)
"""

SLOW = "SELECT CASE WHEN nextval('attempts') = 1 THEN pg_sleep(600) END"
"""A statement that sleeps in its first attempt only."""

SECONDS = 60.0


class ServiceProcess:
    """A process of the service."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def outcome(self) -> str:
        """What it prints at its end: the outcome, or the error."""
        output, _ = self.process.communicate(timeout=SECONDS)
        return output.strip()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process and its child."""
        for pid in (self.process.pid, *self.children()):
            os.kill(pid, number)

    def children(self) -> list[int]:
        """The processes that it has started."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]


class Service:
    """A service with a database of its own."""

    source = "sql"

    def __init__(self, sandbox: Sandbox, root: Path) -> None:
        self.sandbox = sandbox
        self.root = root
        self.url = sandbox.postgresql.tcp_url(sandbox.name)
        sandbox.query("CREATE TABLE effect (step int)")
        sandbox.query("CREATE SEQUENCE attempts")
        self.prepare()

    def prepare(self) -> None:
        """Write what is there before the first step."""
        (self.root / "migrations").mkdir()

    def add(self, number: int, *statements: str) -> None:
        """Add a step that inserts its number; the statements run before that."""
        insert = f"INSERT INTO effect VALUES ({number})"
        self.write_step(number, [*statements, insert], f"DELETE FROM effect WHERE step = {number}")

    def write_step(self, number: int, up: list[str], down: str) -> None:
        """Write the file of a step."""
        text = f"-- migrate:up\n{';'.join(up)};\n-- migrate:down\n{down};\n"
        self.path(number).write_text(text)

    def path(self, number: int) -> Path:
        """The file of a step."""
        return self.root / "migrations" / f"{number:04}_step.sql"

    def variables(self, **settings: str) -> dict[str, str]:
        """The environment variables of its processes."""
        values = {"database_url": self.url, "source": self.source, "failure_pause_seconds": "300"}
        return {
            **os.environ,
            **self.sandbox.dynamodb.variables(),
            **self.sandbox.variables(**(values | settings)),
            "PYTHONPATH": os.pathsep.join((str(ROOT), *filter(None, sys.path))),
            "LAMBDA_TASK_ROOT": str(self.root),
        }

    def start(self, *, seconds: float = SECONDS, **settings: str) -> ServiceProcess:
        """Start a process that makes the database satisfy its code."""
        return ServiceProcess(
            subprocess.Popen(
                [sys.executable, "-c", RUNNER, str(seconds)],
                cwd=self.root,
                env=self.variables(**settings),
                stdout=subprocess.PIPE,
                text=True,
            )
        )

    def run(self, *, seconds: float = SECONDS, **settings: str) -> str:
        """`start`, and wait for the end."""
        return self.start(seconds=seconds, **settings).outcome()

    def start_in_slow_step(self, number: int, *, seconds: float = SECONDS) -> ServiceProcess:
        """Start a process, and wait until it is inside a step that sleeps."""
        self.add(number, SLOW)
        started = self.start(seconds=seconds)
        until(self.is_sleeping, what="the step does not sleep")
        return started

    def lose_lease(self) -> None:
        """Give the lease to another owner, which does not touch PostgreSQL."""
        self.sandbox.dynamodb.client().update_item(
            TableName=TABLE,
            Key={"target": {"S": self.sandbox.name}},
            UpdateExpression="SET #owner = :other ADD fence :one",
            ExpressionAttributeNames={"#owner": "owner"},
            ExpressionAttributeValues={":other": {"S": "other"}, ":one": {"N": "1"}},
        )

    def is_sleeping(self) -> bool:
        """Whether a step sleeps."""
        rows = self.sandbox.query(
            "SELECT FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep%'"
            " AND datname = current_database() AND pid <> pg_backend_pid()"
        )
        return bool(rows)

    def command(self, *arguments: str) -> str:
        """Run a command of lambda-migrate."""
        result = subprocess.run(
            [sys.executable, "-m", "lambda_migrate", *arguments],
            cwd=self.root,
            env=self.variables(),
            capture_output=True,
            text=True,
            check=False,
        )
        return result.stdout + result.stderr

    def effects(self) -> list[int]:
        """The steps that took effect, each as often as it did."""
        return [step for (step,) in self.sandbox.query("SELECT step FROM effect ORDER BY step")]


class AlembicService(Service):
    """A service with an Alembic environment."""

    source = "alembic"

    def prepare(self) -> None:
        (self.root / "migrations" / "versions").mkdir(parents=True)
        (self.root / "alembic.ini").write_text(alembic_project.INI)
        (self.root / "migrations" / "env.py").write_text(alembic_project.ENV)

    def write_step(self, number: int, up: list[str], down: str) -> None:
        text = alembic_project.revision(
            f"r{number}",
            "\n".join(f"op.execute({statement!r})" for statement in up),
            f"op.execute({down!r})",
            after=f"r{number - 1}" if number > 1 else "",
        )
        self.path(number).write_text(text)

    def add_parts(self, number: int, *statements: str) -> None:
        """Add a step that commits each statement by itself."""
        lines = [f"    op.execute({statement!r})" for statement in statements]
        block = "\n".join(["with op.get_context().autocommit_block():", *lines])
        text = alembic_project.revision(f"r{number}", block, after=f"r{number - 1}")
        self.path(number).write_text(text)

    def path(self, number: int) -> Path:
        return self.root / "migrations" / "versions" / f"r{number}_step.py"

    def id(self, number: int) -> str:
        """The tool's id of a step."""
        return f"r{number}"

    def name(self, number: int) -> str:
        """What messages call a step."""
        return f"r{number}_step"

    def variables(self, **settings: str) -> dict[str, str]:
        url = self.url.replace("postgresql:", "postgresql+psycopg:")
        return {**super().variables(**settings), "URL": url}

    def run_tool(self) -> None:
        """Migrate by hand, with the tool alone."""
        self._run([sys.executable, "-m", "alembic", "upgrade", "head"])

    def _run(self, command: list[str]) -> None:
        subprocess.run(command, cwd=self.root, env=self.variables(), check=True)


class DjangoService(AlembicService):
    """A service with a Django project."""

    source = "django"

    def prepare(self) -> None:
        for path, text in {
            "mysite/__init__.py": "",
            "mysite/settings.py": django_projects.SETTINGS,
            "shop/__init__.py": "",
            "shop/migrations/__init__.py": "",
            "lambda_migrate_manifest.json": '{"modules": {"shop": "shop.migrations"}}',
            "manage.py": "from django.core.management import execute_from_command_line\n"
            "import sys\nexecute_from_command_line(sys.argv)\n",
        }.items():
            file = self.root / path
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)

    def write_step(self, number: int, up: list[str], down: str) -> None:
        dependencies = [("shop", f"{number - 1:04}_step")] if number > 1 else []
        self.path(number).write_text(
            "from django.db import migrations\n\n"
            "class Migration(migrations.Migration):\n"
            f"    dependencies = {dependencies!r}\n"
            f"    operations = [migrations.RunSQL({';'.join(up)!r}, {down!r})]\n"
        )

    def add_parts(self, number: int, *statements: str) -> None:
        operations = ", ".join(f"migrations.RunSQL({statement!r})" for statement in statements)
        self.path(number).write_text(
            "from django.db import migrations\n\n"
            "class Migration(migrations.Migration):\n"
            "    atomic = False\n"
            f"    dependencies = [('shop', '{number - 1:04}_step')]\n"
            f"    operations = [{operations}]\n"
        )

    def path(self, number: int) -> Path:
        return self.root / "shop" / "migrations" / f"{number:04}_step.py"

    def id(self, number: int) -> str:
        return self.name(number)

    def name(self, number: int) -> str:
        return f"shop.{number:04}_step"

    def variables(self, **settings: str) -> dict[str, str]:
        settings = {"django_try_atomic": "false", **settings}
        return {**super().variables(**settings), "DJANGO_SETTINGS_MODULE": "mysite.settings"}

    def run_tool(self) -> None:
        self._run([sys.executable, "manage.py", "migrate"])


SERVICES = {each.source: each for each in (Service, AlembicService, DjangoService)}
