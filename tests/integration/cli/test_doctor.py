"""`doctor` names each fault on real servers, and changes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from lambda_migrate.database_address import parse_url
from lambda_migrate.local.servers.pgbouncer import LocalPgBouncer
from tests.sandbox import COUNTERS, Sandbox

FILES = {"0001_counters": COUNTERS}


class Doctor:
    """Runs the command in a package's folder."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._folder = sandbox.code(FILES)
        self.variables = {
            **sandbox.dynamodb.variables(),
            **sandbox.variables(environment="staging"),
        }

    def run(self, *arguments: str, **changes: str) -> tuple[int, dict[str, Mapping[str, Any]]]:
        done = self._run("doctor", "--format", "json", *arguments, **changes)
        document = json.loads(done.stdout)
        return done.returncode, {each["check"]: each for each in document["checks"]}

    def run_command(self, *arguments: str, **changes: str) -> str:
        return self._run(*arguments, **changes).stdout

    def _run(self, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(filter(None, sys.path))
        return subprocess.run(
            [sys.executable, "-m", "lambda_migrate", *arguments],
            cwd=self._folder,
            env={**os.environ, "PYTHONPATH": path, **self.variables, **changes},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def change_file(self, name: str, text: str) -> None:
        (self._folder / "migrations" / f"{name}.sql").write_text(text)

    def url_of(self, role: str) -> str:
        """The URL of the database for a role without a password."""
        address = parse_url(self._sandbox.url)
        where = f"host={address.socket_dir}&port={address.port}"
        return f"postgresql://{role}@/{address.database}?{where}"


@pytest.fixture
def doctor(sandbox: Sandbox) -> Doctor:
    return Doctor(sandbox)


def statuses(checks: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    return {name: check["status"] for name, check in checks.items() if check["status"] != "ok"}


def test_a_new_database_is_ready_and_stays_untouched(sandbox: Sandbox, doctor: Doctor) -> None:
    code, checks = doctor.run()
    assert (code, statuses(checks)) == (0, {"role": "warning"})
    assert "postgres is a superuser" in checks["role"]["result"]
    assert "does not exist yet" in checks["schema"]["result"]
    assert sandbox.query("SELECT to_regnamespace('lambda_migrate')") == [[None]]
    assert sandbox.item().fence == 0
    assert doctor.run_command("up").startswith("applied")
    code, checks = doctor.run()
    assert code == 0
    assert "1 migration in lambda_migrate, the newest is 0001_counters" in str(checks["schema"])


def test_a_missing_setting_is_named_and_the_checks_that_need_it_are_skipped(doctor: Doctor) -> None:
    nothing = {"LAMBDA_MIGRATE_TABLE": "", "LAMBDA_MIGRATE_DATABASE_URL": "", "DATABASE_URL": ""}
    code, checks = doctor.run(**nothing)
    assert code == 1
    assert checks["settings"]["status"] == "failed"
    assert "no database is named" in checks["settings"]["result"]
    skipped = {name for name, status in statuses(checks).items() if status == "skipped"}
    assert skipped == set(checks) - {"settings", "files"}


@pytest.mark.parametrize(
    ("changes", "check", "result", "advice"),
    [
        ({"LAMBDA_MIGRATE_DIRECTORY": "nowhere"}, "files", "does not exist", "_DIRECTORY"),
        ({"LAMBDA_MIGRATE_TABLE": "nope"}, "lease table: read", "no table 'nope'", "table create"),
        (
            {"LAMBDA_MIGRATE_DATABASE_URL": "postgresql://app@127.0.0.1:1/shop"},
            "connection",
            "Connection refused",
            "security group",
        ),
        (
            {"AWS_ENDPOINT_URL_DYNAMODB": "http://127.0.0.1:1"},
            "lease table: read",
            "DynamoDB did not respond",
            "gateway endpoint",
        ),
    ],
)
def test_each_fault_is_named_with_advice_and_the_other_checks_continue(
    doctor: Doctor, changes: dict[str, str], check: str, result: str, advice: str
) -> None:
    code, checks = doctor.run(**changes)
    assert code == 1
    assert [name for name, each in statuses(checks).items() if each == "failed"] == [check]
    assert result in checks[check]["result"]
    assert advice in checks[check]["advice"]


@pytest.mark.parametrize(
    ("setup", "check", "result", "advice"),
    [
        ("", "role", "may not create the schema lambda_migrate", "GRANT CREATE ON DATABASE"),
        (
            "GRANT CREATE ON DATABASE {database} TO {role};"
            "ALTER ROLE {role} SET default_transaction_read_only = on",
            "role",
            "read-only by default",
            "default_transaction_read_only = off",
        ),
        (
            "GRANT CREATE ON DATABASE {database} TO {role}; CREATE SCHEMA lambda_migrate",
            "role",
            "may not use and create tables",
            "GRANT USAGE, CREATE ON SCHEMA lambda_migrate",
        ),
        (
            "GRANT CREATE ON DATABASE {database} TO {role};"
            "CREATE TABLE schema_migrations (version varchar(128) PRIMARY KEY);"
            "INSERT INTO schema_migrations VALUES ('0001');"
            "GRANT SELECT ON schema_migrations TO {role}",
            "schema",
            "dbmate has migrated this database",
            "baseline",
        ),
    ],
    ids=["no rights", "read-only", "foreign schema", "another tool"],
)
def test_the_roles_rights_and_the_databases_state_are_checked(
    sandbox: Sandbox, doctor: Doctor, setup: str, check: str, result: str, advice: str
) -> None:
    role = f"{sandbox.name}_app"
    sandbox.query(f"CREATE ROLE {role} LOGIN")
    for statement in filter(None, setup.split(";")):
        sandbox.query(statement.format(database=sandbox.name, role=role))
    code, checks = doctor.run(LAMBDA_MIGRATE_DATABASE_URL=doctor.url_of(role))
    assert (code, checks[check]["status"]) == (1, "failed")
    assert result in checks[check]["result"]
    assert advice in checks[check]["advice"]


def test_the_environment_of_the_database_is_compared(doctor: Doctor) -> None:
    doctor.run_command("up")
    code, checks = doctor.run(LAMBDA_MIGRATE_ENVIRONMENT="production")
    assert (code, checks["schema"]["status"]) == (1, "failed")
    assert "belongs to environment 'staging'" in checks["schema"]["result"]


def test_a_refused_login_is_not_a_fault_of_the_network(sandbox: Sandbox, doctor: Doctor) -> None:
    unknown_role = doctor.url_of(f"{sandbox.name}_unknown")
    _, checks = doctor.run(LAMBDA_MIGRATE_DATABASE_URL=unknown_role)
    assert checks["connection"]["status"] == "failed"
    assert "check database, user, password" in checks["connection"]["advice"]


def test_files_that_contradict_the_history_are_named(doctor: Doctor) -> None:
    doctor.run_command("up")
    doctor.change_file("0001_counters", "-- migrate:up\nSELECT 1;\n")
    code, checks = doctor.run()
    assert (code, checks["schema"]["status"]) == (1, "failed")
    assert "0001_counters" in checks["schema"]["result"]


def test_a_pooler_is_a_warning(sandbox: Sandbox, doctor: Doctor) -> None:
    with LocalPgBouncer(sandbox.postgresql) as pooler:
        code, checks = doctor.run(LAMBDA_MIGRATE_DATABASE_URL=pooler.url(sandbox.name))
    assert code == 0
    assert checks["pooler"]["status"] == "warning"
    assert "transaction:false" in checks["pooler"]["advice"]
