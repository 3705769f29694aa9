"""Calls of boto3 for one item, each within a time limit; loaded where the fast client declines.

- The retries of the SDK are off: no deadline can bound them. The caller's loop retries instead.
- The timeouts of the SDK bound neither name resolution nor a credentials provider (STS, a process),
  so each of its calls runs in a thread with a time limit. A call that was given up may still be
  sent once the name is resolved. It then has the effect of any delayed request: its condition names
  its own owner and fencing token.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lambda_migrate.clock import (
    CALL_TIMEOUT_SECONDS,
    CONNECT_TIMEOUT_SECONDS,
    READ_TIMEOUT_SECONDS,
    CallTimeout,
    run_with_timeout,
)
from lambda_migrate.errors import ConfigurationError, LeaseStoreUnavailable
from lambda_migrate.lease.dynamodb_call import (
    ServerClock,
)
from lambda_migrate.lease.dynamodb_errors import (
    EXPIRED_CREDENTIALS_CODES,
    RequestDetails,
    translate_error,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from lambda_migrate.clock import Deadline

__all__ = ["Boto3ItemClient", "make_client"]


def make_client(
    region: str | None = None,
    *,
    reload_variables: bool = False,
    credentials_timeout: float | None = None,
) -> Any:
    """Create a DynamoDB client without retries and with short timeouts; imports boto3.

    Args:
        region: Region; by default the one that boto3 finds.
        reload_variables: Read environment and profile again, instead of using the default session
            of boto3.
        credentials_timeout: How many seconds the credentials provider may take; None: see
            `_credentials_timeout`.

    Raises:
        ConfigurationError: No region is configured, or the endpoint's URL is invalid.
        LeaseStoreUnavailable: The credentials provider does not respond.
    """
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    config = Config(
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        read_timeout=READ_TIMEOUT_SECONDS,
        retries={"mode": "standard", "total_max_attempts": 1},
        tcp_keepalive=True,
    )
    timeout = _credentials_timeout() if credentials_timeout is None else credentials_timeout
    try:
        session = (None if reload_variables else boto3.DEFAULT_SESSION) or boto3.Session()
        run_with_timeout(timeout, session.get_credentials)
        return session.client("dynamodb", region_name=region, config=config)
    except CallTimeout:
        raise LeaseStoreUnavailable(_credentials_timeout_message(timeout)) from None
    except (BotoCoreError, ValueError) as error:  # ValueError: AWS_ENDPOINT_URL is not a URL
        from lambda_migrate.aws_errors import describe_sdk_error

        reason = describe_sdk_error(error)
        raise ConfigurationError(f"cannot create a DynamoDB client: {reason}") from error


def _credentials_timeout(deadline: Deadline | None = None) -> float:
    """How long a credentials provider may take; outside Lambda a user may have to sign in."""
    if deadline is not None:
        return max(CALL_TIMEOUT_SECONDS, min(60.0, deadline.remaining()))
    return CALL_TIMEOUT_SECONDS if "AWS_LAMBDA_FUNCTION_NAME" in os.environ else 60.0


def _credentials_timeout_message(seconds: float) -> str:
    return (
        f"no AWS credentials within {seconds:.1f} s: their provider (STS, SSO, a container, or a "
        "process of the profile) did not respond; in a VPC without a NAT gateway, create an "
        "interface endpoint for STS"
    )


class Boto3ItemClient:
    """One item of a DynamoDB table, reached with boto3.

    Args:
        table: Name or ARN of the table.
        target: Partition key of the item.
        client: Creates the boto3 client when it is first needed; by default `make_client`.
        server_clock: Set by each response.
    """

    def __init__(
        self,
        table: str,
        target: str,
        *,
        client: Callable[[], Any] | None,
        server_clock: ServerClock,
    ) -> None:
        self.request_count = 0
        self._table = table
        self._target = target
        self._create_client = client
        self._server_clock = server_clock
        self._credentials_deadline: Deadline | None = None
        self._client: Any = None

    def close(self) -> None:
        """Close the client's connections. Idempotent."""
        if self._client is not None:
            self._client.close()

    def call(
        self, operation: str, arguments: Mapping[str, Any], credentials_deadline: Deadline | None
    ) -> Any:
        """Call a method of the client.

        Args:
            operation: ``get_item`` or ``update_item``.
            arguments: Besides the table and the key.
            credentials_deadline: When waiting for credentials ends.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        self._credentials_deadline = credentials_deadline
        if self._client is None:
            self._client = self._new_client()
        key = {"target": {"S": self._target}}
        request = {"TableName": self._table, "Key": key, **arguments}
        try:
            try:
                return self._send(operation, request)
            except ClientError as error:
                if not self._replace_credentials(error):
                    raise
                return self._send(operation, request)
        except ClientError as error:
            # Not chained: AWS may quote the signed request with its session token.
            raise self._response_error(operation, error) from None
        except BotoCoreError as error:
            raise self._connection_error(error) from error

    def _send(self, operation: str, request: Mapping[str, Any]) -> Any:
        """Fetch credentials if needed, then send one request; each within its own time limit."""
        client = self._client
        credentials = _credentials_of(client)
        if _can_refresh(credentials) and credentials.refresh_needed():
            seconds = _credentials_timeout(self._credentials_deadline)
            try:
                run_with_timeout(seconds, credentials.get_frozen_credentials)
            except CallTimeout:
                raise LeaseStoreUnavailable(_credentials_timeout_message(seconds)) from None
        self.request_count += 1
        try:
            response = run_with_timeout(
                CALL_TIMEOUT_SECONDS, lambda: getattr(client, operation)(**request)
            )
        except CallTimeout:
            raise LeaseStoreUnavailable(
                f"DynamoDB did not respond for table {self._table!r} within "
                f"{CALL_TIMEOUT_SECONDS:.1f} s, including name resolution"
            ) from None
        self._update_server_clock(response)
        return response

    def _update_server_clock(self, response: Any) -> None:
        headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        self._server_clock.update(headers.get("date", ""))

    def _replace_credentials(self, error: Any) -> bool:
        """Create another client if there are other credentials than the expired ones.

        boto3 refreshes what it can refresh, but reads environment and profile only once. During a
        long migration they may have been renewed.

        Returns:
            Whether there are.
        """
        if error.response.get("Error", {}).get("Code") not in EXPIRED_CREDENTIALS_CODES:
            return False
        try:
            new_client = self._new_client(reload_variables=True)
        except (ConfigurationError, LeaseStoreUnavailable):
            return False
        if _credentials_key(new_client) == _credentials_key(self._client):
            return False
        self._client = new_client
        return True

    def _new_client(self, *, reload_variables: bool = False) -> Any:
        if self._create_client is not None:
            return self._create_client()
        return make_client(
            reload_variables=reload_variables,
            credentials_timeout=_credentials_timeout(self._credentials_deadline),
        )

    def _response_error(self, operation: str, error: Any) -> Exception:
        self._update_server_clock(error.response)
        context = RequestDetails(
            operation,
            self._table,
            self._target,
            region=str(self._client.meta.region_name),
            clock_offset_ms=self._server_clock.offset_ms,
            can_refresh_credentials=_can_refresh(_credentials_of(self._client)),
        )
        return translate_error(error, context)

    def _connection_error(self, error: Exception) -> Exception:
        from lambda_migrate.aws_errors import is_configuration_error

        if is_configuration_error(error):
            return ConfigurationError(f"DynamoDB, table {self._table!r}: {error}")
        return LeaseStoreUnavailable(
            f"DynamoDB did not respond for table {self._table!r}: {type(error).__name__}: {error}"
        )


def _credentials_of(client: Any) -> Any:
    """The credentials of a client; None if it has none, or is not a boto3 client."""
    return getattr(getattr(client, "_request_signer", None), "_credentials", None)


def _can_refresh(credentials: Any) -> bool:
    return hasattr(credentials, "refresh_needed")


def _credentials_key(client: Any) -> object:
    """Access key and session token, to compare."""
    credentials = _credentials_of(client)
    if credentials is None:
        return None
    if _can_refresh(credentials):
        return client  # another client fetches its own
    return (credentials.access_key, credentials.token)
