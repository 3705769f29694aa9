"""The conclusions of `doctor`; what it reads is tested on real servers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lambda_migrate.clock import Deadline
from lambda_migrate.commands.context import CommandContext
from lambda_migrate.commands.doctor import doctor
from lambda_migrate.errors import ConfigurationError, LeaseStoreUnavailable, MigrateError
from lambda_migrate.lease.dynamodb import DynamoDBLeaseStore
from lambda_migrate.lease.record import LeaseState
from lambda_migrate.migrations.baseline import ToolHistory, ToolHistoryEntry
from lambda_migrate.postgresql import connection_check
from lambda_migrate.postgresql.connection_check import ConnectionReport
from lambda_migrate.settings import Settings
from lambda_migrate.testing import InMemoryDatabase

REPORT = ConnectionReport(
    is_encrypted=True,
    is_pooled=False,
    server_version="18.1",
    user="app",
    role="app",
    is_superuser=False,
    may_create_schema=True,
    has_schema=False,
    may_use_schema=False,
    may_create_in_schema=False,
    is_read_only=False,
    is_replica=False,
    connections=3,
    max_connections=100,
    server="0 1",
)
URL = "postgresql://app@127.0.0.1:1/orders"


def check(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    report: ConnectionReport = REPORT,
    **settings: Any,
) -> dict[str, tuple[str, str, str]]:
    """Status, result and advice of each check."""
    (folder / "0001_a.sql").write_text("-- migrate:up\nSELECT 1;\n")
    loaded = Settings.load({}, **{"directory": str(folder), "database_url": URL, **settings})
    monkeypatch.setattr(connection_check, "check_connection", lambda *_: report)
    document = doctor(CommandContext(loaded, Deadline.after(5), {})).document
    return {
        each["check"]: (each["status"], each["result"], each["advice"])
        for each in document["checks"]
    }


@pytest.mark.parametrize(
    ("changes", "settings", "name", "status", "text"),
    [
        ({}, {}, "role", "ok", "app may migrate"),
        ({"role": "owner"}, {}, "role", "ok", "app, acting as owner may migrate"),
        ({}, {"mode": "require"}, "role", "ok", "mode require does not migrate"),
        ({"is_replica": True}, {}, "role", "failed", "read replica"),
        ({"is_read_only": True}, {}, "role", "failed", "default_transaction_read_only = off"),
        ({"may_create_schema": False}, {}, "role", "failed", "GRANT CREATE ON DATABASE"),
        ({"has_schema": True}, {}, "role", "failed", "GRANT USAGE, CREATE ON SCHEMA"),
        ({"is_superuser": True}, {}, "role", "warning", "app is a superuser"),
        ({}, {}, "TLS", "warning", "sslmode=prefer does not verify"),
        ({}, {"sslmode": "verify-full"}, "TLS", "ok", "host name are verified"),
        ({"is_encrypted": False}, {}, "TLS", "ok", "not used for a local address"),
        (
            {"is_encrypted": False},
            {"database_url": "postgresql://app@db.example.com/orders?sslmode=prefer"},
            "TLS",
            "warning",
            "the connection is in plaintext",
        ),
        ({"is_pooled": True}, {}, "pooler", "warning", "transaction:false"),
        ({}, {}, "pooler", "ok", "direct connection"),
        ({"connections": 90}, {}, "connections", "warning", "90 of 100 are in use"),
        ({}, {}, "connections", "ok", "3 of 100 are in use"),
        ({}, {}, "settings", "warning", "no lease table"),
        ({}, {"mode": "off"}, "settings", "warning", "mode off"),
        ({}, {}, "clock", "skipped", "no lease table is set"),
        ({}, {}, "files", "ok", "1 in"),
        ({}, {}, "schema", "failed", "Connection refused"),
    ],
)
def test_each_check_names_what_it_found(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    settings: dict[str, Any],
    name: str,
    status: str,
    text: str,
) -> None:
    found = check(tmp_path, monkeypatch, replace(REPORT, **changes), **settings)[name]
    assert found[0] == status
    assert text in f"{found[1]}; {found[2]}"


@pytest.mark.parametrize(
    ("mode", "error", "found"),
    [
        (
            "require",
            ConfigurationError("dynamodb:UpdateItem is denied"),
            ("warning", "not permitted"),
        ),
        ("require", LeaseStoreUnavailable("throttled"), ("warning", "throttled")),
        ("migrate", LeaseStoreUnavailable("throttled"), ("failed", "throttled")),
    ],
)
def test_only_a_refused_write_is_called_not_permitted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    error: MigrateError,
    found: tuple[str, str],
) -> None:
    def update(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setattr(DynamoDBLeaseStore, "read", lambda *_, **__: LeaseState())
    monkeypatch.setattr(DynamoDBLeaseStore, "update", update)
    checks = check(tmp_path, monkeypatch, table="leases", mode=mode)
    assert checks["lease table: write"][:2] == found


@pytest.mark.parametrize(
    ("is_comparable", "command"), [(True, "baseline"), (False, "baseline VERSION")]
)
def test_a_tool_that_has_migrated_is_named_with_the_command_that_accepts_its_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_comparable: bool, command: str
) -> None:
    database = InMemoryDatabase()
    entries = (ToolHistoryEntry("0001", version=1),)
    database.other_histories = [ToolHistory("x", "public.x", entries, is_comparable=is_comparable)]
    monkeypatch.setattr("lambda_migrate.wiring.make_postgresql_database", lambda _: database)
    status, _, advice = check(tmp_path, monkeypatch)["schema"]
    assert status == "failed"
    assert f"run `lambda-migrate {command}`, so that" in advice
    assert "set LAMBDA_MIGRATE_IGNORE_OTHER_HISTORY=true" in advice
