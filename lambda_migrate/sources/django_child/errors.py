"""Errors of Django and drivers, translated for the parent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from django.core.exceptions import AppRegistryNotReady, ImproperlyConfigured
from django.core.management import CommandError
from django.db import Error, InterfaceError, NotSupportedError, OperationalError
from django.db.migrations.exceptions import (
    AmbiguityError,
    BadMigrationError,
    CircularDependencyError,
    InconsistentMigrationHistory,
    InvalidBasesError,
    MigrationSchemaMissing,
    NodeNotFoundError,
)
from django.db.transaction import TransactionManagementError

from lambda_migrate.sources.protocol import ChildError, make_import_error
from lambda_migrate.sources.user_code import describe_error, find_location

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from lambda_migrate.sources.django_child.current_step import CurrentStep

__all__ = ["ACTIVE_TRANSACTION", "find_message", "find_sqlstate", "is_refusal", "translate_error"]

ACTIVE_TRANSACTION = "25001"
_REFUSALS = (ACTIVE_TRANSACTION, "25P02", "2D000", "55006", "55P04")
"""SQLSTATEs of what works only outside a transaction: a concurrent build, statements after a caught
error, a procedure that commits, ALTER TABLE after changed rows, a new value of an enumerated type.
"""

_CLOSED_IN_TRANSACTION = (
    "it closes its connection inside its transaction: remove the call, or set `atomic = False` in "
    "the migration"
)

_GRAPH_ADVICE = {
    AmbiguityError: "write its whole name",
    BadMigrationError: "correct the file, or move it out of the folder of migrations",
    CircularDependencyError: "remove one of the dependencies",
    InconsistentMigrationHistory: "if the database has its changes, insert its row into "
    "django_migrations; otherwise delete the row of the other one",
    InvalidBasesError: "add the app of the base model to the migration's dependencies",
    NodeNotFoundError: "deploy the file of that migration, or correct the dependencies",
}
_GRAPH_ERRORS = tuple(_GRAPH_ADVICE)

_NOT_READY_ADVICE = "import models inside functions, or in modules that are loaded after the apps"


def translate_error(
    error: Exception, step: CurrentStep | None, *, path: str, root: str
) -> ChildError:
    """The error of a project or of a migration.

    Args:
        error: What was raised.
        step: The migration that was running.
        path: Its file; "" if unknown.
        root: The folder of the code.
    """
    file = (Path(root) / path).resolve()
    if path:  # no line if an operation of Django's own failed
        _, line = find_location(error, lambda each: each == file, root=root)
    else:  # for example a receiver of post_migrate
        path, line = find_location(error, root=root)
    step_id = step.id if step is not None else ""
    if isinstance(error, ImportError):
        return make_import_error(error, step_id=step_id, path=path, line=line)
    message = find_message(error)
    if isinstance(error, MigrationSchemaMissing) and isinstance(error.__context__, Error):
        error = error.__context__  # Django drops what PostgreSQL, or the driver, reported
        message = f"cannot create the table django_migrations: {find_message(error)}"
    sqlstate = find_sqlstate(error)
    is_closed = step is not None and step.connection.closed_in_transaction
    return ChildError(
        _CLOSED_IN_TRANSACTION if is_closed else message,
        kind="migration" if is_closed else _find_kind(error, sqlstate),
        step_id=step_id,
        sqlstate=sqlstate,
        detail="\n".join(_list_server_fields(error)),
        path=path,
        line=line,
        is_partly_committed=step is not None and step.is_partly_committed,
    )


def _find_kind(error: Exception, sqlstate: str) -> str:
    if isinstance(error, (*_GRAPH_ERRORS, SyntaxError)):
        return "manifest"
    if isinstance(error, (AppRegistryNotReady, ImproperlyConfigured)):
        return "configuration"
    is_database_error = isinstance(error, (OperationalError, InterfaceError))
    if is_database_error and (not sqlstate or sqlstate.startswith(("08", "57P"))):
        return "unavailable"
    return "migration"


def is_refusal(error: BaseException, connection: BaseDatabaseWrapper) -> bool:
    """Whether a migration failed because it ran in a transaction, over this connection."""
    if connection.closed_in_transaction:
        return True
    if isinstance(error, (NotSupportedError, TransactionManagementError)):
        return True
    if isinstance(error, RuntimeError) and "durable" in str(error):
        return True
    return find_sqlstate(error) in _REFUSALS


def _find_driver_error(error: BaseException) -> BaseException | None:
    found: BaseException | None = error
    while found is not None and not hasattr(found, "diag"):
        found = found.__cause__
    return found


def find_sqlstate(error: BaseException) -> str:
    """PostgreSQL's code of an error; "" if it has none."""
    found = _find_driver_error(error)
    return str(getattr(found, "sqlstate", None) or getattr(found, "pgcode", None) or "")


def _list_server_fields(error: BaseException) -> list[str]:
    diagnosis = getattr(_find_driver_error(error), "diag", None)
    fields = [
        (name, getattr(diagnosis, f"message_{name}", None)) for name in ("detail", "hint")
    ] + [("where", getattr(diagnosis, "context", None))]
    return [f"  {name}: {' '.join(text.split())}" for name, text in fields if text]


def find_message(error: BaseException) -> str:
    """What happened, on one line."""
    text = str(error).strip() or type(error).__name__
    diagnosis = getattr(_find_driver_error(error), "diag", None)
    primary = getattr(diagnosis, "message_primary", None)
    if primary:
        return str(primary)
    if isinstance(error, CircularDependencyError):
        text = f"these migrations depend on each other: {text}"
    if isinstance(error, _GRAPH_ERRORS):
        return f"{text.splitlines()[0].rstrip('.')}; {_GRAPH_ADVICE[type(error)]}"
    if isinstance(error, AppRegistryNotReady):
        return f"{describe_error(error).rstrip('.')}; {_NOT_READY_ADVICE}"
    if isinstance(error, (Error, CommandError)):
        return text.splitlines()[0]
    return describe_error(error)
