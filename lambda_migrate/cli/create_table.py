"""Creates the DynamoDB lease table, once for each account and region."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lambda_migrate.aws_errors import (
    describe_sdk_error,
    explain_refusal,
    is_configuration_error,
)
from lambda_migrate.errors import ConfigurationError, LeaseStoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CLOUDFORMATION_SNIPPET", "build_resource", "create_table", "make_client"]

_CONNECT_SECONDS = 5
_READ_SECONDS = 20
_KEY = [{"AttributeName": "target", "KeyType": "HASH"}]
_ATTRIBUTES = [{"AttributeName": "target", "AttributeType": "S"}]
_RECOVERY_ATTEMPTS = 20

CLOUDFORMATION_SNIPPET = """\
  LeaseTable:
    Type: AWS::DynamoDB::Table
    DeletionPolicy: Retain
    UpdateReplacePolicy: Retain
    Properties:{name}
      BillingMode: PAY_PER_REQUEST
      AttributeDefinitions:
        - AttributeName: target
          AttributeType: S
      KeySchema:
        - AttributeName: target
          KeyType: HASH
      PointInTimeRecoverySpecification:
        PointInTimeRecoveryEnabled: true
"""
"""For a template's ``Resources``; ``{name}`` is replaced by the line with the table's name."""


def build_resource(table: str) -> dict[str, Any]:
    """Build the same resource for a template in JSON."""
    name = {"TableName": table} if table else {}
    return {
        "LeaseTable": {
            "Type": "AWS::DynamoDB::Table",
            "DeletionPolicy": "Retain",
            "UpdateReplacePolicy": "Retain",
            "Properties": {
                **name,
                "BillingMode": "PAY_PER_REQUEST",
                "AttributeDefinitions": _ATTRIBUTES,
                "KeySchema": _KEY,
                "PointInTimeRecoverySpecification": {"PointInTimeRecoveryEnabled": True},
            },
        }
    }


def make_client() -> Any:
    """Create a DynamoDB client with longer timeouts than those of a cold start.

    Raises:
        ConfigurationError: No region is configured, or the endpoint's URL is invalid.
    """
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    config = Config(
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": 4},
    )
    try:
        return boto3.client("dynamodb", config=config)
    except (BotoCoreError, ValueError) as error:  # ValueError: AWS_ENDPOINT_URL is not a URL
        reason = describe_sdk_error(error)
        raise ConfigurationError(f"cannot create a DynamoDB client: {reason}") from error


def create_table(client: Any, table: str, *, sleep: Callable[[float], None]) -> bool:
    """Create the table, on demand and with point-in-time recovery, and wait until it is active.

    Args:
        client: A boto3 client for DynamoDB.
        table: The table's name.
        sleep: Waits between two attempts.

    Returns:
        False if it existed already, with the right key.

    Raises:
        ConfigurationError: It exists with another key, or AWS refuses.
        LeaseStoreUnavailable: DynamoDB did not respond.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    if ":" in table:
        raise ConfigurationError(f"{table} is an ARN: write the name of the table to create")
    try:
        is_new = _create_if_missing(client, table)
        client.get_waiter("table_exists").wait(TableName=table, WaiterConfig={"Delay": 1})
        _require_key(client.describe_table(TableName=table)["Table"], table)
        if is_new:
            _enable_point_in_time_recovery(client, table, sleep=sleep)
    except ClientError as error:
        refusal = error.response["Error"]
        permission = f"dynamodb:{error.operation_name}"
        advice = explain_refusal(refusal["Message"], permission=permission, resource="table")
        needed = "the command needs dynamodb:CreateTable, DescribeTable and UpdateContinuousBackups"
        raise ConfigurationError(
            f"DynamoDB refused {error.operation_name} on table {table!r}: {refusal['Code']}: "
            f"{refusal['Message']}; {advice or needed}"
        ) from error
    except BotoCoreError as error:
        raise _convert_botocore_error(table, error) from error
    return is_new


def _create_if_missing(client: Any, table: str) -> bool:
    try:
        client.describe_table(TableName=table)
    except client.exceptions.ResourceNotFoundException:
        pass
    else:
        return False
    try:
        client.create_table(
            TableName=table,
            KeySchema=_KEY,
            AttributeDefinitions=_ATTRIBUTES,
            BillingMode="PAY_PER_REQUEST",
        )
    except client.exceptions.ResourceInUseException:
        return False  # another process has just created it
    return True


def _require_key(description: dict[str, Any], table: str) -> None:
    types = {
        each["AttributeName"]: each["AttributeType"]
        for each in description.get("AttributeDefinitions", ())
    }
    key = [
        (each["AttributeName"], each["KeyType"], types.get(each["AttributeName"]))
        for each in description["KeySchema"]
    ]
    if key != [("target", "HASH", "S")]:
        found = ", ".join(f"{name} ({kind}, {form})" for name, kind, form in key)
        raise ConfigurationError(
            f"table {table!r} exists, but its key is {found}; the lease table needs the partition "
            "key target (S) and no sort key: choose another name"
        )


def _enable_point_in_time_recovery(
    client: Any, table: str, *, sleep: Callable[[float], None]
) -> None:
    """Enable point-in-time recovery; a new table may not accept it immediately."""
    unavailable = client.exceptions.ContinuousBackupsUnavailableException
    for attempt in range(_RECOVERY_ATTEMPTS):
        try:
            client.update_continuous_backups(
                TableName=table,
                PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True},
            )
        except unavailable:
            if attempt == _RECOVERY_ATTEMPTS - 1:
                raise
            sleep(1.0)
        else:
            return


def _convert_botocore_error(table: str, error: Exception) -> Exception:
    if is_configuration_error(error):
        return ConfigurationError(f"DynamoDB, table {table!r}: {describe_sdk_error(error)}")
    return LeaseStoreUnavailable(
        f"DynamoDB did not respond for table {table!r}: {type(error).__name__}: {error}"
    )
