"""Settings: where they are read, which source takes precedence, and every fault in one error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lambda_migrate.database_address import parse_url
from lambda_migrate.errors import ConfigurationError
from lambda_migrate.migrations.requirements import parse_requirements
from lambda_migrate.settings import SETTINGS, Settings
from lambda_migrate.settings_arguments import SettingsArguments

URL = "postgresql://app:hunter2@db.example/orders"

SAMPLES: dict[str, tuple[str, object]] = {
    "table": ("leases", "leases"),
    "target": ("orders", "orders"),
    "environment": ("staging", "staging"),
    "directory": ("db/migrations", "db/migrations"),
    "source": ("Django", "django"),
    "source_setup": ("app.db:alembic_config", "app.db:alembic_config"),
    "alembic_config": ("db/alembic.ini", "db/alembic.ini"),
    "alembic_section": ("orders", "orders"),
    "alembic_revision": ("orders@head", "orders@head"),
    "alembic_version_table": ("tenant.alembic_version", "tenant.alembic_version"),
    "django_manifest": ("folders.json", "folders.json"),
    "django_database": ("reports", "reports"),
    "django_try_atomic": ("no", False),
    "allow_empty": ("on", True),
    "mode": ("require", "require"),
    "ready_when": ("prisma:1_add, rails:7", parse_requirements("prisma:1_add,rails:7")),
    "lease_seconds": ("30.5", 30.5),
    "wait_seconds": ("0", 0.0),
    "safety_margin_seconds": ("1", 1.0),
    "schema": ("Müll", "Müll"),
    "database_url": (URL, parse_url(URL)),
    "database_secret": ("arn:x", "arn:x"),
    "database_iam": ("false", False),
    "sslmode": ("verify-ca", "verify-ca"),
    "sslrootcert": ("/opt/ca.pem", "/opt/ca.pem"),
    "allow_out_of_order": ("TRUE", True),
    "ignore_other_history": ("yes", True),
    "placeholders": ('{"region": "eu"}', '{"region": "eu"}'),
    "failure_pause_seconds": ("5", 5.0),
    "lock_timeout_seconds": ("0.5", 0.5),
    "on_lease_store_unavailable": ("check", "check"),
    "flags": ("orders/staging/lambda-migrate", "orders/staging/lambda-migrate"),
    "on_flags_unavailable": ("IGNORE", "ignore"),
    "init": ("when-long", "when-long"),
}
"""Of each setting a text, and what it means."""


def variable(name: str) -> str:
    return f"LAMBDA_MIGRATE_{name.upper()}"


def faults_of(environ: dict[str, str], **arguments: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as error:
        Settings.load(environ, **arguments)
    return error.value.faults


def test_every_setting_has_a_sample_here() -> None:
    assert set(SAMPLES) == set(SETTINGS)


def test_without_values_the_defaults_apply() -> None:
    assert Settings.load({}) == Settings()
    assert Settings.load({"HOME": "/", "PGHOST": "elsewhere"}) == Settings()


@pytest.mark.parametrize("name", SAMPLES)
def test_each_setting_is_read_from_its_variable_and_from_its_argument(name: str) -> None:
    text, value = SAMPLES[name]

    others = {"LAMBDA_MIGRATE_MODE": "require"} if name == "ready_when" else {}
    assert getattr(Settings.load({**others, variable(name): text}), name) == value
    assert getattr(Settings.load(others, **{name: text}), name) == value
    assert getattr(Settings.load({**others, variable(name): f" {text}\n"}), name) == value


@pytest.mark.parametrize("name", SAMPLES)
def test_an_empty_variable_counts_as_absent(name: str) -> None:
    assert Settings.load({variable(name): " "}) == Settings()
    assert Settings.load({}, **{name: None}) == Settings()


def test_arguments_take_precedence_over_variables() -> None:
    environ = {variable("target"): "a", variable("wait_seconds"): "1"}

    settings = Settings.load(environ, target="b")

    assert (settings.target, settings.wait_seconds) == ("b", 1.0)


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("lease_seconds", 7, 7.0),
        ("wait_seconds", 2.5, 2.5),
        ("allow_out_of_order", True, True),
        ("directory", Path("x/y"), "x/y"),
    ],
)
def test_arguments_may_have_their_own_types(name: str, value: object, read: object) -> None:
    assert getattr(Settings.load({}, **{name: value}), name) == read


@pytest.mark.parametrize(
    ("name", "text", "reported"),
    [
        *[("lease_seconds", text, "from 5 to 900") for text in ("4.9", "901", "x", "nan", "inf")],
        *[("wait_seconds", text, "0 or more") for text in ("-1", "nan", "inf", "1s", "1e999")],
        ("safety_margin_seconds", "-0.1", "0 or more"),
        ("failure_pause_seconds", "-inf", "0 or more"),
        ("lock_timeout_seconds", "0", "0.001 or more"),
        ("mode", "false", 'in YAML with quotes: "off"'),
        ("mode", "migrat", "migrate, require, off"),
        ("on_lease_store_unavailable", "retry", "fail, check"),
        ("flags", "orders/staging", "application/environment/profile"),
        ("flags", "a/b/c/d", "application/environment/profile"),
        ("flags", "a//c", "application/environment/profile"),
        ("flags", f"a/b/{'x' * 129}", "application/environment/profile"),
        ("on_flags_unavailable", "off", "fail, ignore"),
        ("init", "always", "never, when-long"),
        ("allow_out_of_order", "maybe", "true or false"),
        ("database_iam", "iam", "true or false"),
        ("schema", "x" * 64, "1 to 63 bytes"),
        ("schema", "ż" * 32, "1 to 63 bytes"),
        ("schema", "a\0b", "without NUL"),
        ("schema", "PG_mine", "pg_"),
        ("target", "x" * 2049, "1 to 2048 bytes"),
        ("database_url", "mysql://h/db", "postgresql://"),
        ("sslmode", "verify", "verify-ca"),
        ("ready_when", "1_add", "TOOL:VERSION"),
        ("ready_when", "prisam:1_add", "prisma"),
    ],
)
def test_a_bad_text_is_refused_with_its_variable_and_what_to_write(
    name: str, text: str, reported: str
) -> None:
    [by_variable] = faults_of({variable(name): text})
    [by_argument] = faults_of({}, **{name: text})

    for fault in (by_variable, by_argument):
        assert variable(name) in fault
        assert name in fault
        assert reported in fault


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lease_seconds", True),
        ("lease_seconds", 10**400),
        ("wait_seconds", [1]),
        ("table", 5),
        ("mode", False),
        ("allow_out_of_order", 1),
        ("directory", 5),
        ("directory", ""),
        ("target", ""),
        ("schema", ""),
        ("database_url", 5),
    ],
)
def test_an_argument_of_another_type_is_refused(name: str, value: object) -> None:
    [fault] = faults_of({}, **{name: value})

    assert fault.startswith(f"{name} (or {variable(name)})")


def test_every_fault_is_reported_at_once() -> None:
    environ = {
        variable("lease_seconds"): "1",
        variable("mode"): "sometimes",
        variable("lees_seconds"): "20",
        variable("database_url"): "postgresql://u:hunter2@h:x/db",
    }

    faults = faults_of(environ, tabel="x")

    assert len(faults) == 5
    assert "hunter2" not in str(faults)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("LAMBDA_MIGRATE_LEES_SECONDS", "did you mean LAMBDA_MIGRATE_LEASE_SECONDS?"),
        ("LAMBDA_MIGRATE_DATABASE", "did you mean LAMBDA_MIGRATE_DATABASE_URL?"),
        ("LAMBDA_MIGRATE_ZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZ", "valid names: "),
    ],
)
def test_an_unknown_variable_is_a_fault(name: str, meant: str) -> None:
    [fault] = faults_of({name: ""})

    assert name in fault
    assert meant in fault


def test_an_unknown_argument_is_a_fault() -> None:
    [fault] = faults_of({}, tabel="x")

    assert fault == "lambda-migrate has no argument tabel: did you mean table?"


@pytest.mark.parametrize(
    "name", ["LAMBDA_MIGRATE_TEST_DATABASE_URL", "LAMBDA_MIGRATE_ENGINES", "LAMBDA_MIGRATION"]
)
def test_variables_of_tests_and_of_others_are_ignored(name: str) -> None:
    assert Settings.load({name: "x"}) == Settings()


# -- the database -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "arguments", "url"),
    [
        ({"DATABASE_URL": "postgresql://a@h/db"}, {}, "postgresql://a@h/db"),
        (
            {"DATABASE_URL": "not one", variable("database_url"): "postgresql://b@h/db"},
            {},
            "postgresql://b@h/db",
        ),
        (
            {"DATABASE_URL": "not one"},
            {"database_url": "postgresql://c@h/db"},
            "postgresql://c@h/db",
        ),
        ({"DATABASE_URL": "not one", variable("database_secret"): "arn:x"}, {}, ""),
        ({"DATABASE_URL": "not one"}, {"database_secret": "arn:x"}, ""),
    ],
)
def test_the_applications_own_database_url_is_the_last_resort(
    environ: dict[str, str], arguments: dict[str, str], url: str
) -> None:
    assert Settings.load(environ, **arguments).database_url == (parse_url(url) if url else None)


LIBPQ = {"PGHOST": "pg", "PGUSER": "a", "PGPASSWORD": "hunter2", "PGDATABASE": "db"}


@pytest.mark.parametrize(
    ("environ", "arguments", "url"),
    [
        (LIBPQ, {}, "postgresql://a:hunter2@pg/db"),
        (
            {**LIBPQ, "DATABASE_URL": "postgresql://b@h/x", "PGPORT": "6543"},
            {},
            "postgresql://b:hunter2@h:6543/x",
        ),
        (LIBPQ, {"database_url": "postgresql://b:p@h:1/x"}, "postgresql://b:p@h:1/x"),
        (LIBPQ, {"database_secret": "arn:x"}, ""),
        (
            LIBPQ,
            {"database_secret": "arn:x", "database_url": "postgresql://h"},
            "postgresql://h/db",
        ),
        (
            LIBPQ,
            {"database_iam": "true", "database_url": "postgresql:///x"},
            "postgresql://a@pg/x",
        ),
        (LIBPQ, {"database_iam": "true"}, "postgresql://a@pg/db"),
        ({"PGHOST": "pg"}, {}, ""),
        ({"PGUSER": "a", "PGDATABASE": "db", "PGSERVICE": "s"}, {}, ""),
    ],
)
def test_libpqs_variables_count_without_url_and_secret_or_fill_in_the_url(
    environ: dict[str, str], arguments: dict[str, str], url: str
) -> None:
    settings = Settings.load(environ, **arguments)
    assert settings.database_url == (parse_url(url) if url else None)


def test_a_service_file_is_refused_rather_than_ignored() -> None:
    with pytest.raises(ConfigurationError, match="PGSERVICE: service files are not read"):
        Settings.load({**LIBPQ, "PGSERVICE": "shop"})


@pytest.mark.parametrize(
    ("arguments", "reported"),
    [
        ({"database_iam": True, "database_secret": "arn:x"}, "two ways to log in"),
        ({"database_iam": True}, "needs LAMBDA_MIGRATE_DATABASE_URL"),
        ({"database_iam": True, "database_url": URL}, "holds a password"),
        ({"database_secret": "arn:x", "database_url": URL}, "holds a password"),
        ({"database_url": "postgresql://h/db"}, "names no user"),
        ({"database_iam": True, "database_url": "postgresql://h/db"}, "names no user"),
        ({"database_iam": True, "database_url": "postgresql://u@/db?host=/run"}, "Unix socket"),
        (
            {"database_iam": True, "database_url": "postgresql://u@h/db?sslmode=prefer"},
            "needs TLS",
        ),
        (
            {"database_iam": True, "database_url": "postgresql://u@h/db", "sslmode": "disable"},
            "needs TLS",
        ),
        ({"sslmode": "require", "sslrootcert": "system"}, "too weak"),
        ({"database_url": URL, "sslmode": "allow", "sslrootcert": "system"}, "too weak"),
        ({"lease_seconds": 6, "safety_margin_seconds": 3}, "more than twice"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    arguments: dict[str, object], reported: str
) -> None:
    faults = faults_of({}, **arguments)

    assert any(reported in fault for fault in faults)
    assert "hunter2" not in str(faults)


def test_a_url_beside_a_secret_names_the_host() -> None:
    settings = Settings.load({}, database_secret="arn:x", database_url="postgresql://h/db")

    assert settings.address is not None
    assert settings.address.text == "h:5432/db"


def test_sslmode_and_root_certificate_take_precedence_over_the_url() -> None:
    settings = Settings.load(
        {}, database_url=URL + "?sslmode=require&sslrootcert=/a", sslmode="verify-ca"
    )

    assert settings.address is not None
    assert (settings.address.effective_sslmode, settings.address.sslrootcert) == ("verify-ca", "/a")


@pytest.mark.parametrize(("host", "mode"), [("localhost", "require"), ("h", "verify-full")])
def test_iam_requires_tls_on_loopback_as_well(host: str, mode: str) -> None:
    settings = Settings.load({}, database_iam=True, database_url=f"postgresql://u@{host}/db")

    assert settings.address is not None
    assert settings.address.effective_sslmode == mode


def test_without_a_url_there_is_no_address() -> None:
    assert Settings.load({}, database_secret="arn:x").address is None


def test_all_missing_required_settings_are_reported_at_once() -> None:
    with pytest.raises(ConfigurationError) as error:
        Settings().require_configured(table=True, database=True)

    assert [fault.split()[0] for fault in error.value.faults] == [variable("table"), "no"]


def test_present_required_settings_pass() -> None:
    settings = Settings.load({}, table="t", database_secret="arn:x")

    assert settings.require_configured(table=True, database=True) is settings
    assert Settings().require_configured() == Settings()


def test_settings_are_not_assigned_but_copied() -> None:
    settings = Settings.load({}, table="t")

    with pytest.raises(AttributeError, match="table cannot be assigned"):
        settings.table = "other"  # type: ignore[misc]  # mypy refuses it, too
    with pytest.raises(TypeError, match="no setting tabel"):
        Settings(tabel="t")
    assert settings.replace(target="x") == Settings.load({}, table="t", target="x")
    assert settings.replace(target="x") != settings


def test_a_function_that_waits_for_another_tool_neither_migrates_nor_has_files() -> None:
    [fault] = faults_of({"LAMBDA_MIGRATE_READY_WHEN": "prisma:1_add"})
    assert "needs LAMBDA_MIGRATE_MODE=require" in fault
    [fault] = faults_of({}, ready_when="prisma:1_add", mode="require", directory="migrations")
    assert "LAMBDA_MIGRATE_DIRECTORY (argument directory): keep directory" in fault
    [fault] = faults_of({}, ready_when="alembic:ae1027a6", mode="require", source="alembic")
    assert "LAMBDA_MIGRATE_SOURCE (argument source): keep source" in fault
    assert Settings.load({}, ready_when="prisma:1_add", mode="off").mode == "off"


def test_no_text_of_the_settings_holds_a_password() -> None:
    settings = Settings.load({}, database_url=URL)

    assert "hunter2" not in f"{settings} {settings!r} {settings.address}"


def test_settings_load_nothing_heavy() -> None:
    heavy = "boto3 botocore pg8000 aws_lambda_powertools tenacity ssl urllib difflib re inspect"
    code = (
        "import sys, dataclasses, typing; before = set(sys.modules)\n"
        "from lambda_migrate.settings import Settings\n"
        "Settings.load({'DATABASE_URL': 'postgresql://a:b@c/d'})\n"
        f"print(*({set(heavy.split())} & (set(sys.modules) - before)))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)

    assert done.stdout.split() == []


def test_every_setting_is_an_argument_in_order() -> None:
    assert list(SettingsArguments.__annotations__) == list(SETTINGS)


def test_settings_of_sql_files_are_refused_for_another_source() -> None:
    (fault,) = faults_of({"LAMBDA_MIGRATE_SOURCE": "alembic", "LAMBDA_MIGRATE_DIRECTORY": "db"})
    assert fault.startswith("LAMBDA_MIGRATE_DIRECTORY (argument directory) has no meaning for")
    (fault,) = faults_of({}, source_setup="app/db.py")
    assert fault.endswith("write module:callable, for example app.migrations:alembic_config")
