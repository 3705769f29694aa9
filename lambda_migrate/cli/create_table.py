"""The DynamoDB table of leases: made once for each account and region."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lambda_migrate.errors import ConfigurationError, LeaseStoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SNIPPET", "create", "make_client", "resource"]

_CONNECT_SECONDS = 5
_READ_SECONDS = 20
_KEY = [{"AttributeName": "target", "KeyType": "HASH"}]
_ATTRIBUTES = [{"AttributeName": "target", "AttributeType": "S"}]
_BACKUPS_TRIES = 20

SNIPPET = """\
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
"""For a template's ``Resources``, with a place for the table's name."""


def resource(table: str) -> dict[str, Any]:
    """The same as a value, for a template in JSON."""
    named = {"TableName": table} if table else {}
    return {
        "LeaseTable": {
            "Type": "AWS::DynamoDB::Table",
            "DeletionPolicy": "Retain",
            "UpdateReplacePolicy": "Retain",
            "Properties": {
                **named,
                "BillingMode": "PAY_PER_REQUEST",
                "AttributeDefinitions": _ATTRIBUTES,
                "KeySchema": _KEY,
                "PointInTimeRecoverySpecification": {"PointInTimeRecoveryEnabled": True},
            },
        }
    }


def make_client() -> Any:
    """A DynamoDB client for a person, who waits longer than a starting function does.

    Raises:
        ConfigurationError: No region is configured, or the endpoint's URL cannot be read.
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
    except (BotoCoreError, ValueError) as error:  # ValueError: AWS_ENDPOINT_URL is no URL
        raise ConfigurationError(f"no DynamoDB client: {error}") from error


def create(client: Any, table: str, *, sleep: Callable[[float], None]) -> bool:
    """Make the table, on demand and with point-in-time recovery, and wait until it can be used.

    Args:
        client: Of DynamoDB.
        table: Its name.
        sleep: Lets time pass between two looks.

    Returns:
        False if it was there already, with the right key.

    Raises:
        ConfigurationError: It is there with another key, or AWS refuses.
        LeaseStoreUnavailable: DynamoDB did not answer.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    if ":" in table:
        raise ConfigurationError(f"{table}: a table is made by its name, not by its ARN")
    try:
        made = _make(client, table)
        client.get_waiter("table_exists").wait(TableName=table, WaiterConfig={"Delay": 1})
        _require_key(client.describe_table(TableName=table)["Table"], table)
        if made:
            _switch_backups_on(client, table, sleep=sleep)
    except ClientError as error:
        answer = error.response["Error"]
        raise ConfigurationError(
            f"DynamoDB refused {error.operation_name} on table {table!r}: {answer['Code']}: "
            f"{answer['Message']}; it takes dynamodb:CreateTable, DescribeTable and "
            "UpdateContinuousBackups"
        ) from error
    except BotoCoreError as error:
        raise _unreachable(table, error) from error
    return made


def _make(client: Any, table: str) -> bool:
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
        return False  # somebody else made it a moment ago
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
            f"table {table!r} is there, but its key is {found}; leases need the partition key "
            "target (S) and no sort key: choose another name"
        )


def _switch_backups_on(client: Any, table: str, *, sleep: Callable[[float], None]) -> None:
    """A table that was made a moment ago may not be ready for it yet."""
    unavailable = client.exceptions.ContinuousBackupsUnavailableException
    for attempt in range(_BACKUPS_TRIES):
        try:
            client.update_continuous_backups(
                TableName=table,
                PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True},
            )
        except unavailable:
            if attempt == _BACKUPS_TRIES - 1:
                raise
            sleep(1.0)
        else:
            return


def _unreachable(table: str, error: Exception) -> Exception:
    from botocore import exceptions

    configured = (
        exceptions.NoCredentialsError,
        exceptions.PartialCredentialsError,
        exceptions.CredentialRetrievalError,
        exceptions.NoRegionError,
        exceptions.ParamValidationError,
    )
    if isinstance(error, configured):
        return ConfigurationError(f"DynamoDB, table {table!r}: {error}")
    return LeaseStoreUnavailable(
        f"DynamoDB did not answer for table {table!r}: {type(error).__name__}: {error}"
    )
