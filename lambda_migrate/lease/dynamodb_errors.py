"""Error responses of DynamoDB: which may succeed later, and what the others mean to users."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lambda_migrate.errors import ConfigurationError, LeaseStoreUnavailable
from lambda_migrate.lease.dynamodb_call import ConditionFailed

if TYPE_CHECKING:
    from typing import Any


__all__ = [
    "EXPIRED_CREDENTIALS_CODES",
    "RETRYABLE_CODES",
    "RequestDetails",
    "describe_retryable",
    "translate_error",
]

RETRYABLE_CODES = frozenset(
    {
        "InternalServerError",
        "ItemCollectionSizeLimitExceededException",
        "ProvisionedThroughputExceededException",
        "ReplicatedWriteConflictException",
        "RequestLimitExceeded",
        "RequestTimeout",
        "RequestTimeoutException",
        "ResourceInUseException",
        "ServiceUnavailable",
        "ThrottlingException",
        "Throttling",
        "TransactionConflictException",
        "TransactionInProgressException",
        "LimitExceededException",
    }
)
"""Error codes after which the same call may succeed later, as after every 5xx. DynamoDB's developer
guide marks them "OK to retry" ("Error handling with DynamoDB"), or their cause ends by itself, such
as a write of another Region to the item or a table that is being updated."""

_ACCESS_DENIED_CODES = frozenset({"AccessDeniedException", "AccessDenied", "NotAuthorized"})

_EXPIRED_TOKEN_CODES = frozenset({"ExpiredToken", "ExpiredTokenException"})

EXPIRED_CREDENTIALS_CODES = _EXPIRED_TOKEN_CODES | {
    "InvalidClientTokenId",
    "UnrecognizedClientException",
}
"""Codes for credentials that may have been replaced: the old key may be deleted by then."""

_INVALID_CREDENTIALS_CODES = frozenset(
    {
        "IncompleteSignature",
        "IncompleteSignatureException",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "UnrecognizedClientException",
    }
)


class RequestDetails(NamedTuple):
    """What the messages of `translate_error` name.

    Attributes:
        operation: Method of the boto3 client: ``get_item`` or ``update_item``.
        table: Name or ARN of the table.
        target: Partition key of the item.
        region: Region of the client.
        clock_offset_ms: See `ServerClock.offset_ms`.
        can_refresh_credentials: Whether boto3 refreshes the credentials by itself.
    """

    operation: str
    table: str
    target: str
    region: str
    clock_offset_ms: int
    can_refresh_credentials: bool


def translate_error(error: Any, request: RequestDetails) -> Exception:
    """Our error for an error response; its message contains names, never credentials.

    Args:
        error: A ``ClientError`` of botocore.
        request: The request.
    """
    response: dict[str, Any] = error.response
    code = str(response.get("Error", {}).get("Code", ""))
    message = str(response.get("Error", {}).get("Message", "")).partition("\n")[0]
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    table = repr(request.table)
    if code == "ConditionalCheckFailedException":
        return ConditionFailed(response.get("Item"))
    if code in RETRYABLE_CODES or status >= 500:
        return LeaseStoreUnavailable(
            f"DynamoDB, table {table}: {describe_retryable(code, message)}"
        )
    if error.operation_name not in ("GetItem", "UpdateItem"):
        return ConfigurationError(
            f"no AWS credentials for table {table}: {error.operation_name} was refused: "
            f"{code}: {message}"
        )
    if _is_clock_error(code, message):
        return LeaseStoreUnavailable(
            f"DynamoDB refused the signature for table {table}: {code}: "
            f"{_describe_clock(request.clock_offset_ms)}; correct this machine's clock"
        )
    if code == "ResourceNotFoundException":
        return ConfigurationError(_describe_missing_table(request))
    if code in _ACCESS_DENIED_CODES:
        return ConfigurationError(_describe_missing_permission(request, message))
    if code in EXPIRED_CREDENTIALS_CODES | _INVALID_CREDENTIALS_CODES:
        return _credentials_error(code, message, request)
    reason = f"{code or f'HTTP {status}'}: {message}" if message else code or f"HTTP {status}"
    advice = (
        "; the table needs the partition key `target` of type S and no sort key, see "
        "`lambda-migrate table create --cloudformation`"
    )
    return ConfigurationError(
        f"DynamoDB refused {request.operation} on table {table}: {reason}"
        f"{advice if code == 'ValidationException' else ''}"
    )


def describe_retryable(code: str, message: str) -> str:
    """A refusal that ends by itself; only the first line, as what follows may quote the request."""
    text = f"{code} {message.partition(chr(10))[0]}"
    if code == "ReplicatedWriteConflictException":
        text += (
            "; the item was written in another Region at the same time: try again, and give each "
            "Region a lease table of its own"
        )
    return text


def _is_clock_error(code: str, message: str) -> bool:
    """Whether a signature was refused for its time: clocks differ, or the request was delayed."""
    return code in ("RequestExpired", "RequestTimeTooSkewed") or (
        code == "InvalidSignatureException"
        and message.startswith(("Signature expired", "Signature not yet current"))
    )


def _credentials_error(code: str, message: str, request: RequestDetails) -> Exception:
    refused = f"DynamoDB does not accept the credentials used for table {request.table!r}: {code}"
    if code not in _EXPIRED_TOKEN_CODES:
        return ConfigurationError(f"{refused}; sign in again, or correct them")
    if request.can_refresh_credentials:
        return LeaseStoreUnavailable(f"{refused}: {message}; they are being refreshed")
    return ConfigurationError(
        f"{refused}: {message}; sign in again, with credentials that outlive the "
        "migration or that can be refreshed (a profile with sso_session or role_arn)"
    )


def _describe_clock(offset_ms: int) -> str:
    if not offset_ms:
        return "this machine's clock differs from DynamoDB's"
    direction = "behind" if offset_ms > 0 else "ahead of"
    return f"this machine's clock is {abs(offset_ms) / 1000:.0f} s {direction} DynamoDB's"


def _describe_missing_table(request: RequestDetails) -> str:
    name = request.table.rpartition("/")[2]  # a new table has no ARN yet
    return (
        f"DynamoDB has no table {request.table!r} in {request.region}; create it with "
        f"`lambda-migrate table create --table {name}` or the CloudFormation snippet of "
        "`lambda-migrate table create --cloudformation`, or correct LAMBDA_MIGRATE_TABLE"
    )


def _describe_missing_permission(request: RequestDetails, message: str) -> str:
    from lambda_migrate.aws_errors import explain_refusal, find_partition

    actions = {"get_item": "dynamodb:GetItem", "update_item": "dynamodb:UpdateItem"}
    refused = f"{actions[request.operation]} on table {request.table!r} is not allowed ({message})"
    both = "dynamodb:GetItem and dynamodb:UpdateItem"
    advice = explain_refusal(message, permission=both, resource="table")
    if advice:
        return f"{refused}; {advice}"
    arn_prefix = f"arn:{find_partition(request.region)}:dynamodb:{request.region}:<account>"
    resource = (
        request.table if request.table.startswith("arn:") else f"{arn_prefix}:table/{request.table}"
    )
    return (
        f"{refused}; add to the function's role:\n"
        '  {"Effect": "Allow", "Action": ["dynamodb:GetItem", "dynamodb:UpdateItem"],\n'
        f'   "Resource": "{resource}",\n'
        '   "Condition": {"ForAllValues:StringEquals": {"dynamodb:LeadingKeys": '
        f'["{request.target}"]}}}}}}'
    )
