"""What went wrong, as an exit code and as a document; and back from the document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lambda_migrate import errors
from lambda_migrate.commands.documents import iso
from lambda_migrate.commands.result import BUSY, FAILED, WRONG
from lambda_migrate.errors import ConfigurationError, LeaseHeld, MigrateError, MigrationFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["error_of", "exit_code_of", "failure_document"]


def exit_code_of(error: MigrateError) -> int:
    """The exit code for an error."""
    if isinstance(error, ConfigurationError):
        return WRONG
    return BUSY if isinstance(error, LeaseHeld) else FAILED


def failure_document(error: MigrateError) -> dict[str, Any]:
    """The value of ``error`` in the JSON answer."""
    document: dict[str, Any] = {
        "kind": type(error).__name__,
        "exit_code": exit_code_of(error),
        "message": error.summary if isinstance(error, MigrationFailed) else str(error),
        "retryable": error.retryable,
    }
    if isinstance(error, ConfigurationError):
        document["faults"] = list(error.faults)
    if isinstance(error, MigrationFailed):
        document |= {
            "migration": error.migration,
            "sqlstate": error.sqlstate,
            "cause": error.cause,
            "detail": error.detail,
            "attempts": error.attempts,
            "retry_at": None if error.retry_at_ms is None else iso(error.retry_at_ms),
        }
    return document


def error_of(document: Mapping[str, Any]) -> MigrateError:
    """The error that `failure_document` was made from, as far as a person is told of it.

    An unknown kind (of a newer library, or none of ours) becomes a plain `MigrateError`.
    """
    kind = getattr(errors, str(document.get("kind")), MigrateError)
    message = str(document.get("message", ""))
    if not (isinstance(kind, type) and issubclass(kind, MigrateError)):
        return MigrateError(message)
    if issubclass(kind, MigrationFailed):
        return kind(
            str(document.get("cause", message)),
            migration=str(document.get("migration", "")),
            sqlstate=str(document.get("sqlstate", "")),
            attempts=int(document.get("attempts", 1)),
            detail=str(document.get("detail", "")),
        )
    if issubclass(kind, ConfigurationError):
        faults = [str(fault) for fault in document.get("faults", [])] or [message]
        heading = message.partition("\n")[0] if "\n" in message or len(faults) > 1 else ""
        return kind(faults, heading=heading)
    return kind(message)
