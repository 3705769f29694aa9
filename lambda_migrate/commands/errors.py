"""Errors as exit codes and JSON documents, and back from documents to errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lambda_migrate import errors
from lambda_migrate.commands.documents import format_iso
from lambda_migrate.commands.result import EXIT_BUSY, EXIT_FAILED, EXIT_USAGE_ERROR
from lambda_migrate.errors import ConfigurationError, LeaseHeld, MigrateError, MigrationFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["build_error_document", "get_exit_code", "parse_error_document"]


def get_exit_code(error: MigrateError) -> int:
    """Return the exit code for an error."""
    if isinstance(error, ConfigurationError):
        return EXIT_USAGE_ERROR
    return EXIT_BUSY if isinstance(error, LeaseHeld) else EXIT_FAILED


def build_error_document(error: MigrateError) -> dict[str, Any]:
    """Build the value of ``error`` in a JSON result."""
    document: dict[str, Any] = {
        "kind": type(error).__name__,
        "exit_code": get_exit_code(error),
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
            "is_timeout": error.is_timeout,
            "is_partly_committed": error.is_partly_committed,
            "retry_at": None if error.retry_at_ms is None else format_iso(error.retry_at_ms),
        }
    return document


def parse_error_document(document: Mapping[str, Any]) -> MigrateError:
    """Recreate an error from `build_error_document`, as far as it is needed to render it.

    An unknown kind, for example of another library version, becomes a plain `MigrateError`.
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
            is_timeout=document.get("is_timeout") is True,
            is_partly_committed=document.get("is_partly_committed") is True,
        )
    if issubclass(kind, ConfigurationError):
        faults = [str(fault) for fault in document.get("faults", [])] or [message]
        heading = message.partition("\n")[0] if "\n" in message or len(faults) > 1 else ""
        return kind(faults, heading=heading)
    return kind(message)
