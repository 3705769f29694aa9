"""A fault of an Alembic or Django project is one sentence that names its place."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lambda_migrate.database_address import parse_url
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL
from lambda_migrate.sources.protocol import ChildRequest
from tests.contract.sources import AlembicService, DjangoService
from tests.integration.sources.alembic_project import ENV, AlembicProject, revision
from tests.integration.sources.django_projects import INITIAL, DjangoProject, migrate, migration
from tests.sandbox import Sandbox

ALEMBIC = {
    "one id twice": ("versions/copy.py", revision("r1", ""), "Revision r1 is present more than"),
    "no such parent": ("versions/r2.py", revision("r2", "", after="gone"), "; deploy its file, or"),
    "no such dependency": (
        "versions/r2.py",
        revision("r2", "", after="r1", extra="depends_on = 'gone'"),
        "there is no revision gone, which depends_on names: deploy its file",
    ),
    "a cycle": (
        "versions/r2.py",
        revision("r2", "", after="r2"),
        "in revisions (r2): correct down_revision",
    ),
    "no id": ("versions/r2.py", "x = 1\n", "from filename r2.py"),
    "syntax": ("versions/r2.py", "\ndef (\n", "SyntaxError: invalid syntax @2"),
    "exit": ("env.py", "import sys; sys.exit('no')\n", "it called sys.exit('no') @1"),
    "value": ("env.py", "\n\nint('a\\nb')\n", "ValueError: invalid literal"),
    "import": ("env.py", "import nonesuch\n", "No module named 'nonesuch'; install it"),
}


@pytest.mark.parametrize("name", ALEMBIC)
def test_a_fault_of_an_alembic_environment_is_one_sentence(
    project: AlembicProject, name: str
) -> None:
    path, text, expected = ALEMBIC[name]
    expected, _, line = expected.partition(" @")
    project.add(revision("r1", ""))
    project.write({f"migrations/{path}": text})
    failed = project.run()
    assert failed["event"] == "failed"
    assert expected in failed["message"]
    assert "\n" not in failed["message"]
    assert not failed["detail"]
    assert failed["path"] in ("", f"migrations/{path}")
    assert not line or (failed["path"], failed["line"]) == (f"migrations/{path}", int(line))
    assert project.heads() == []


SECOND = "shop/migrations/0002_second.py"
DJANGO = {
    "settings": ("mysite/settings.py", "import nonesuch\n", "No module named 'nonesuch' @1"),
    "syntax": (SECOND, "\ndef (\n", "SyntaxError: invalid syntax @2"),
    "import": (SECOND, "import nonesuch\n", "No module named 'nonesuch'; install it @1"),
    "no class": (SECOND, "x = 1\n", "Migration 0002_second in app shop has no Migration class"),
    "no such parent": (
        SECOND,
        migration("", after="0009_gone"),
        "('shop', '0009_gone'); deploy the file",
    ),
    "a cycle": (
        SECOND,
        migration("", after="0002_second"),
        "depend on each other: shop.0002_second; remove one",
    ),
    "too early": (
        "shop/__init__.py",
        "from django.contrib.auth.models import User\n",
        "AppRegistryNotReady: Apps aren't loaded yet; import models inside functions @1",
    ),
    "twice": (
        "mysite/settings.py",
        "SECRET_KEY = 'x'\nINSTALLED_APPS = ['shop', 'shop']\n",
        "Application labels aren't unique, duplicates: shop",
    ),
}


@pytest.mark.parametrize("name", DJANGO)
def test_a_fault_of_a_django_project_is_one_sentence(
    shared_postgresql: LocalPostgreSQL, tmp_path: Path, name: str
) -> None:
    path, text, expected = DJANGO[name]
    expected, _, line = expected.partition(" @")
    migrations = {"0001_initial": INITIAL}
    database = f"wrong_{[*DJANGO].index(name)}"
    project = DjangoProject(tmp_path, shared_postgresql, database, migrations)
    project.write(path, text)
    failed = migrate(project)
    assert failed["kind"] in ("manifest", "configuration"), failed
    assert expected in failed["message"]
    assert "\n" not in failed["message"]
    assert (failed["path"], failed["line"]) == ((path, int(line)) if line else ("", None))
    tables = project.query("SELECT to_regclass('shop_order')::text")
    assert tables == [[None]]


def test_a_django_project_with_nothing_to_migrate_is_refused(
    shared_postgresql: LocalPostgreSQL, tmp_path: Path
) -> None:
    """A packaging error: every database would be up to date with it."""
    project = DjangoProject(tmp_path, shared_postgresql, "wrong_empty", {"0001_initial": INITIAL})
    (tmp_path / "shop/migrations/0001_initial.py").unlink()
    failed = migrate(project)
    assert failed["kind"] == "manifest"
    assert "the project has no migrations: deploy them with the code" in failed["message"]
    assert migrate(project, token=2, options={"allow_empty": True})["event"] == "done"


def test_a_settings_module_that_does_not_exist_is_named(
    shared_postgresql: LocalPostgreSQL, tmp_path: Path
) -> None:
    project = DjangoProject(tmp_path, shared_postgresql, "wrong_settings")
    project.variables["DJANGO_SETTINGS_MODULE"] = "nowhere.settings"
    failed = migrate(project)
    assert failed["kind"] == "configuration"
    assert failed["message"].startswith(
        "DJANGO_SETTINGS_MODULE=nowhere.settings cannot be loaded: No module"
    )


@pytest.mark.parametrize("tool", ["alembic", "django"])
def test_a_tool_that_is_not_installed_is_named_with_its_extra(tool: str, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {tool!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from lambda_migrate.sources.child import main\n"
        "main()\n"
    )
    request = ChildRequest(tool, "describe", str(tmp_path), {}, tool, "lambda_migrate")
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(request.to_line())
        process.stdin.flush()
        failed = json.loads(process.stdout.readline())
    assert failed["kind"] == "configuration"
    assert failed["message"] == (
        f"{tool} is not installed where the migrations run: add lambda-migrate[{tool}] to the "
        "package"
    )


def test_doctor_starts_the_tool_and_reports_what_it_refuses(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    service = DjangoService(sandbox, tmp_path)
    service.add(1)
    assert "loads the project: 1 pending" in service.command("doctor")
    with (tmp_path / "mysite" / "settings.py").open("a") as settings:
        settings.write("INSTALLED_APPS += ['django.contrib.contenttypes']\n")
    findings = " ".join(service.command("doctor").split())
    assert "failed tool" in findings
    assert "run `lambda-migrate manifest` whenever INSTALLED_APPS" in findings
    assert service.effects() == []


def test_doctor_names_both_databases_if_they_differ(sandbox: Sandbox, tmp_path: Path) -> None:
    service = AlembicService(sandbox, tmp_path)
    service.add(1)
    env = tmp_path / "migrations" / "env.py"
    other = "os.environ['URL'].rpartition('/')[0] + '/postgres'"
    env.write_text(env.read_text().replace('os.environ["URL"]', other))
    findings = " ".join(service.command("doctor").split())
    address = parse_url(service.url)
    assert f"env.py connects to 127.0.0.1:{address.port}/postgres" in findings
    assert f"lambda-migrate to {address.text}" in findings
    assert "failed tool" in findings


def test_a_migration_that_ends_its_process_is_rolled_back(sandbox: Sandbox, tmp_path: Path) -> None:
    service = DjangoService(sandbox, tmp_path)
    service.add(1)
    text = service.path(1).read_text()
    head = "import os\n\n\ndef leave(apps, editor):\n    os._exit(0)\n\n\n"
    service.path(1).write_text(head + text.replace("[migr", "[migrations.RunPython(leave), migr"))
    outcome = service.command("up")
    assert "Applying" not in outcome  # a line of ours for each step, and none of Django's
    assert "ended with exit status 0 (does it call os._exit()?)" in outcome
    assert service.effects() == []


def test_what_the_tool_prints_blocks_nothing(sandbox: Sandbox, tmp_path: Path) -> None:
    """Neither its size nor bytes that are no text."""
    service = AlembicService(sandbox, tmp_path)
    service.add(1)
    prints = "import os\nfor _ in range(50_000):\n    print('x' * 99)\nos.write(2, b'\\xff\\n')\n"
    (service.root / "migrations" / "env.py").write_text(prints + ENV)
    assert "applied 1 migration" in service.command("up")
    assert service.effects() == [1]
