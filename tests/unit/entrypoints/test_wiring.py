"""A runner has the parts that the settings name, and its output contains no secret."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from lambda_migrate import migrate_on_cold_start, wiring
from lambda_migrate.aws.telemetry import PowertoolsObserver
from lambda_migrate.clock import Deadline
from lambda_migrate.engine.flags import PAUSED, Flags
from lambda_migrate.engine.target import Policy
from lambda_migrate.errors import ConfigurationError, ManifestError, MigrateError
from lambda_migrate.events import CheckFailed, CheckSucceeded, null_observer
from lambda_migrate.lease.dynamodb import DynamoDBLeaseStore
from lambda_migrate.lease.memory import InMemoryLeaseStore
from lambda_migrate.outcome import Outcome
from lambda_migrate.postgresql.credentials import (
    IAMCredentials,
    SecretCredentials,
    URLCredentials,
)
from lambda_migrate.postgresql.database import PostgreSQLDatabase
from lambda_migrate.runner import MigrationRunner
from lambda_migrate.settings import Settings
from lambda_migrate.testing import FakeClock, RecordingObserver
from lambda_migrate.testing.scratch import ScratchDatabase, open_migrations
from tests.local_appconfig import LocalAppConfig
from tests.unit.engine.fakes import Fakes
from tests.unit.entrypoints.lines import Context, Lines

Environ = os._Environ[str]
SECRET = "hunter2-s3cr3t"
URL = f"postgresql://app:{SECRET}@127.0.0.1:1/shop?sslmode=disable"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A function's package with one migration."""
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations" / "0001_create.sql").write_text("-- migrate:up\nSELECT 1;\n")
    return tmp_path


@pytest.fixture
def environ(folder: Path) -> Iterator[Environ]:
    """The environment of a function; what a test changes in it is restored."""
    variables = {
        "AWS_LAMBDA_FUNCTION_NAME": "shop-api",
        "LAMBDA_MIGRATE_TABLE": "leases",
        "LAMBDA_MIGRATE_TARGET": "shop",
        "LAMBDA_MIGRATE_DATABASE_URL": URL,
        "LAMBDA_TASK_ROOT": str(folder),
    }
    with patch.dict(os.environ, variables):
        yield os.environ


def test_a_runner_is_created_without_network_io(
    environ: Environ,
) -> None:
    runner = MigrationRunner.from_settings()
    assert [migration.name for migration in runner.manifest] == ["0001_create"]
    target = runner.target
    assert (target.name, target.environment, target.policy) == ("shop", "", Policy())
    assert isinstance(target.store, DynamoDBLeaseStore)
    assert isinstance(target.database, PostgreSQLDatabase)
    assert isinstance(vars(target.observer)["inner"], PowertoolsObserver)  # guarded
    assert target.store.request_count == 0


@pytest.mark.parametrize("given", [{"LAMBDA_MIGRATE_ALLOW_EMPTY": "true"}, {}])
def test_a_package_without_its_migrations_fails_before_the_lease_table_is_read(
    environ: Environ, folder: Path, given: dict[str, str]
) -> None:
    (folder / "migrations" / "0001_create.sql").unlink()
    if given:
        environ.update(given)
        assert len(MigrationRunner.from_settings().manifest) == 0
        return
    with pytest.raises(ManifestError, match="found an empty folder"):
        MigrationRunner.from_settings()


def test_arguments_take_precedence_over_the_environment(environ: Environ) -> None:
    runner = MigrationRunner.from_settings(target="other", mode="require")
    assert (runner.target.name, runner.target.policy.mode) == ("other", "require")


def test_every_setting_that_a_policy_has_reaches_it() -> None:
    settings = Settings.load(
        {},
        mode="require",
        lease_seconds=31,
        wait_seconds=32,
        safety_margin_seconds=3,
        failure_pause_seconds=34,
        allow_out_of_order=True,
        allow_empty=True,
        ignore_other_history=True,
        on_lease_store_unavailable="check",
        on_flags_unavailable="ignore",
    )
    assert wiring.make_policy(settings) == Policy(
        mode="require",
        lease_seconds=31,
        wait_seconds=32,
        safety_margin_seconds=3,
        failure_pause_seconds=34,
        allow_out_of_order=True,
        allow_empty=True,
        ignore_other_history=True,
        check_database_if_store_unavailable=True,
        require_flags=False,
    )


def test_defaults_of_settings_and_of_policy_are_the_same() -> None:
    assert wiring.make_policy(Settings()) == Policy()


def test_placeholders_reach_the_database_of_a_function_and_of_the_pytest_plugin(
    environ: Environ, folder: Path
) -> None:
    environ["LAMBDA_MIGRATE_PLACEHOLDERS"] = '{"region": "eu"}'
    assert MigrationRunner.from_settings().target.database.placeholders == {"region": "eu"}
    own = MigrationRunner.from_settings(placeholders={"region": "us"})
    assert own.target.database.placeholders == {"region": "us"}
    _, target = open_migrations(
        ScratchDatabase(URL, "shop"), str(folder / "migrations"), schema="lambda_migrate"
    )
    assert target.database.placeholders == {"region": "eu"}


def test_without_a_profile_there_are_no_flags() -> None:
    assert wiring.make_flags(Settings()) is None


def test_the_flags_are_read_from_the_profile_in_the_settings_for_this_function(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rules = {
        "this function": {
            "when_match": True,
            "conditions": [
                {"action": "EQUALS", "key": key, "value": value}
                for key, value in (
                    ("target", "orders"),
                    ("environment", "staging"),
                    ("function", "orders-api"),
                )
            ],
        }
    }
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "orders-api")
    settings = Settings.load({}, flags="a/b/c", target="orders", environment="staging")
    with LocalAppConfig("a/b/c", {PAUSED: {"default": False, "rules": rules}}) as appconfig:
        monkeypatch.setenv(*next(iter(appconfig.extension().items())))
        flags = wiring.make_flags(settings)
        assert flags is not None
        assert appconfig.requests.total() == 0, "creating them reads nothing"
        assert [flags.read(Deadline.after(30)) for _ in range(2)] == [Flags(paused=True)] * 2
        assert appconfig.requests == {"extension": 1}


def test_without_a_table_the_lease_is_in_this_process() -> None:
    store = wiring.make_store(Settings.load({}, lease_seconds=33))
    assert isinstance(store, InMemoryLeaseStore)
    assert store.lease_seconds == 33


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({"database_url": URL}, URLCredentials),
        ({"database_url": "postgresql://app@db.example/x", "database_iam": True}, IAMCredentials),
        ({"database_secret": "shop/db"}, SecretCredentials),
        (
            {"database_secret": "shop/db", "database_url": "postgresql://app@db.example/x"},
            SecretCredentials,
        ),
    ],
)
def test_credentials_are_of_the_kind_that_the_settings_name(
    given: dict[str, Any], kind: type
) -> None:
    assert isinstance(wiring.make_credentials(Settings.load({}, **given)), kind)


def test_a_script_needs_no_table(environ: Environ) -> None:
    del environ["LAMBDA_MIGRATE_TABLE"], environ["AWS_LAMBDA_FUNCTION_NAME"]
    target = MigrationRunner.from_settings().target
    assert isinstance(target.store, InMemoryLeaseStore)
    assert not target.has_lease_table
    assert vars(target.observer) == {}, "off Lambda nothing is logged unless an observer is given"


def test_a_wrong_setting_of_a_script_names_the_argument(environ: Environ) -> None:
    with pytest.raises(ConfigurationError, match="did you mean target"):
        MigrationRunner.from_settings(tagret="x")  # type: ignore[call-arg]  # there is no such


@pytest.mark.parametrize("missing", ["LAMBDA_MIGRATE_TABLE", "LAMBDA_MIGRATE_DATABASE_URL"])
def test_a_function_needs_a_table_and_a_database(environ: Environ, missing: str) -> None:
    del environ[missing]
    with pytest.raises(ConfigurationError, match=missing):
        MigrationRunner.from_settings()


def test_missing_migration_files_are_reported(environ: Environ) -> None:
    environ["LAMBDA_MIGRATE_DIRECTORY"] = "elsewhere"
    with pytest.raises(ManifestError, match="elsewhere"):
        MigrationRunner.from_settings()


def test_an_absolute_directory_is_used_as_it_is(environ: Environ, folder: Path) -> None:
    environ |= {"LAMBDA_TASK_ROOT": "/nowhere"}
    environ |= {"LAMBDA_MIGRATE_DIRECTORY": str(folder / "migrations")}
    assert len(MigrationRunner.from_settings().manifest) == 1


def test_a_runner_reports_to_the_given_observer(
    environ: Environ, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes, observer = Fakes(), RecordingObserver()
    monkeypatch.setattr(wiring, "make_store", lambda *_, **__: fakes.table)
    monkeypatch.setattr(wiring, "make_database", lambda *_: fakes.database)
    runner = MigrationRunner.from_settings(observer=observer)
    assert runner.ensure() is Outcome.MIGRATED
    assert len(observer.events_of(CheckSucceeded)) == 1


# --- secrets


def test_no_secret_is_in_any_event_or_error_of_a_refused_connection(
    environ: Environ,
) -> None:
    clock, observer, fakes = FakeClock(), RecordingObserver(), Fakes()
    settings = Settings.load(environ)
    made = wiring.make_target(settings, observer=observer, clock=clock)
    target = made.replace(store=fakes.table)
    runner = MigrationRunner(wiring.make_manifest(settings, environ), target)
    with pytest.raises(MigrateError) as caught:
        runner.ensure(Deadline.after(10, clock))
    (failed,) = observer.events_of(CheckFailed)
    text = f"{caught.value!r} {caught.value} {asdict(failed)} {fakes.table.state} {settings}"
    assert "127.0.0.1" in text
    assert SECRET not in text
    assert SECRET not in repr(target)


@pytest.mark.parametrize(
    "broken",
    [
        {"LAMBDA_MIGRATE_DATABASE_URL": f"mysql://app:{SECRET}@h/x"},
        {"LAMBDA_MIGRATE_DATABASE_URL": f"postgresql://app:{SECRET}@h:{SECRET}/x"},
        {"LAMBDA_MIGRATE_DATABASE_URL": f"postgresql://app:{SECRET}@@h/x"},
        {"LAMBDA_MIGRATE_DATABASE_SECRET": "also/this"},
        {"LAMBDA_MIGRATE_MODE": "wrong"},
    ],
)
def test_no_secret_is_in_the_line_of_wrong_settings(
    lines: Lines,
    environ: Environ,
    broken: dict[str, str],
) -> None:
    environ.update(broken)

    @migrate_on_cold_start
    def handler(event: Any, context: Any) -> None: ...

    with pytest.raises(ConfigurationError) as caught:
        handler(None, Context())
    (line,), _ = lines.read()
    assert line["lambda_migrate"]["error"] == "ConfigurationError"
    assert SECRET not in lines.text
    assert SECRET not in str(caught.value)


def test_a_null_observer_forgets() -> None:
    null_observer.observe(CheckFailed(**dict.fromkeys(CheckFailed.__slots__, None)))  # type: ignore[arg-type]  # nothing is read
