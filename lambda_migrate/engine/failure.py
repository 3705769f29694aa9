"""What is stored in the lease table for a failed attempt, and for how long others pause."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lambda_migrate.errors import ManifestError, MigrateError, MigrationFailed
from lambda_migrate.lease.decision import MAX_FAILURE_PAUSE_MS
from lambda_migrate.lease.progress import Failure

if TYPE_CHECKING:
    from lambda_migrate.lease.record import LeaseState
    from lambda_migrate.migrations import Manifest

__all__ = ["make_failure", "shorten_cause"]

_MAX_CAUSE_LENGTH = 300
"""The item stays far below the 4 KB that half a read unit pays for."""


def make_failure(
    state: LeaseState,
    error: MigrateError,
    *,
    manifest: Manifest,
    address: str,
    pause_seconds: float,
    now_ms: int,
) -> Failure:
    """Describe a failed attempt; the pause doubles with each failure of the same manifest.

    Args:
        state: The item as last read.
        error: Why the attempt failed.
        manifest: What was to be applied.
        address: Of the database.
        pause_seconds: After the first failure.
        now_ms: Wall clock, milliseconds since the epoch.
    """
    address = "" if _is_caused_by_migrations(error) else address
    key = (manifest.digest, address)
    before = next((f for f in state.failures if (f.digest, f.address) == key), None)
    attempts = max(0, before.attempts) + 1 if before is not None else 1
    pause_ms = min(MAX_FAILURE_PAUSE_MS, round(pause_seconds * 1000) * 2 ** min(attempts - 1, 20))
    failed = error if isinstance(error, MigrationFailed) else MigrationFailed(str(error))
    available_ms = failed.available_ms
    if available_ms is not None and before is not None:
        # What was too short then is too short now.
        available_ms = max(available_ms, before.available_ms or 0)
    named = (migration for migration in manifest if migration.name == failed.migration)
    return Failure(
        digest=manifest.digest,
        migration=failed.migration,
        version=next((str(migration.version) for migration in named), ""),
        sqlstate=failed.sqlstate,
        cause=shorten_cause(failed.cause),
        attempts=attempts,
        at_ms=now_ms,
        retry_at_ms=now_ms + pause_ms,
        available_ms=available_ms,
        is_process_killed=failed.is_process_killed,
        address=address,
    )


def shorten_cause(cause: str) -> str:
    """A cause on one line, of the length that is stored."""
    return " ".join(cause.split())[:_MAX_CAUSE_LENGTH]


def _is_caused_by_migrations(error: MigrateError) -> bool:
    """Whether it fails at every address; a password or a network belongs to one address."""
    return isinstance(error, ManifestError) or (
        isinstance(error, MigrationFailed) and bool(error.migration)
    )
