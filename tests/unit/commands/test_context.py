"""Creating the context of a command keeps to the command's timeout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lambda_migrate.clock import Deadline
from lambda_migrate.commands.context import CommandContext
from lambda_migrate.database_address import parse_url
from lambda_migrate.lease.dynamodb import DynamoDBLeaseStore
from lambda_migrate.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_no_call_of_a_command_waits_for_credentials_past_its_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This includes the first read and reads of the lease alone, without a holder."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    (tmp_path / "0001_a.sql").write_text("-- migrate:up\nSELECT 1;\n")
    settings = Settings(
        target="orders",
        table="leases",
        database_url=parse_url("postgresql://app@localhost/orders"),
        directory=str(tmp_path),
    )
    context = CommandContext(settings, Deadline.after(5), {})
    for store in (context.store, context.operations.target.store):
        assert isinstance(store, DynamoDBLeaseStore)
        assert store.credentials_deadline is context.deadline
