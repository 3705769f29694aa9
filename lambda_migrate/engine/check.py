"""One check: the first reading of the item, and the event that reports the result.

Most cold starts find the schema ready and need nothing else, so this module imports next to
nothing. `cold_start` continues from a reading that does not show a ready schema.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lambda_migrate.check_events import CheckSucceeded
from lambda_migrate.clock import Deadline
from lambda_migrate.errors import LeaseStoreUnavailable, MigrateError, MigrationFailed
from lambda_migrate.lease.dynamodb_call import set_credentials_deadline
from lambda_migrate.lease.first_read import make_owner
from lambda_migrate.lease.record import LeaseState
from lambda_migrate.manifest_digest import require_migrations

if TYPE_CHECKING:
    from typing import Any

    from lambda_migrate.engine.target import Target
    from lambda_migrate.events import CheckFailed
    from lambda_migrate.lease.first_read import FirstRead
    from lambda_migrate.migrations import Manifest
    from lambda_migrate.migrations.deferred import DeferredManifest
    from lambda_migrate.migrations.requirements import Requirements
    from lambda_migrate.outcome import Outcome

__all__ = ["DEFAULT_DEADLINE_SECONDS", "Check"]

DEFAULT_DEADLINE_SECONDS = 900.0
"""Lambda's longest timeout, for callers without a deadline."""


class Check:
    """One check: its first reading, and what the event at its end reports.

    Args:
        manifest: The migrations that this code ships, or what other tools must have applied.
        target: The database with its item, and how to behave.
        invocation_deadline: The invocation's end; None if there is none.
        request_id: The invocation's id, for the history.
        first_read: The reading that ``target.store`` returns first, if the check began with it.

    Attributes:
        owner: This instance, in the lease table.
        deadline: When the check has to end.
        waited_seconds: How long it has waited for other instances.
        fence: The fencing token under which it migrates; 0 if it does not.
        applied: Names of the migrations that it has applied.
    """

    def __init__(
        self,
        manifest: Manifest | DeferredManifest | Requirements,
        target: Target,
        invocation_deadline: Deadline | None,
        *,
        request_id: str,
        first_read: FirstRead | None = None,
    ) -> None:
        self.manifest = manifest
        self.target = target
        self.request_id = request_id
        self.owner = make_owner()
        self.deadline = (
            invocation_deadline.shortened_by(target.policy.safety_margin_seconds)
            if invocation_deadline is not None
            else Deadline.after(DEFAULT_DEADLINE_SECONDS, target.clock)
        )
        self.waited_seconds = 0.0
        self.fence = 0
        self.applied: list[str] = []
        self._started = target.clock.monotonic()
        self._calls_before = target.store.request_count
        if first_read is not None:
            self._started = first_read.started
            self._calls_before = 0

    def read(self) -> LeaseState | LeaseStoreUnavailable:
        """The item, or why it could not be read.

        Raises:
            ManifestError: There are no migrations, and ``allow_empty`` is not set.
            ConfigurationError: A setting, a permission or the table is wrong.
        """
        require_migrations(self.manifest.digest, allow_empty=self.target.policy.allow_empty)
        set_credentials_deadline(self.target.store, self.deadline)
        try:
            return self.target.store.read(consistent=True)
        except LeaseStoreUnavailable as error:
            return error

    def is_ready(self, reading: LeaseState | LeaseStoreUnavailable) -> bool:
        """Whether the reading shows that the database satisfies the manifest."""
        return (
            self.target.has_lease_table  # without one, only the database itself knows
            and isinstance(reading, LeaseState)
            and reading.is_ready(self.manifest.digest, self.target.database.address_text)
        )

    def succeeded_event(self, outcome: Outcome) -> CheckSucceeded:
        """The event of a check after which the function may serve."""
        return CheckSucceeded(outcome=outcome.value, **self._event_fields())

    def failed_event(self, error: Exception) -> CheckFailed:
        """The event of a check after which it may not."""
        from lambda_migrate.events import CheckFailed

        failed = error if isinstance(error, MigrationFailed) else MigrationFailed("", attempts=0)
        # Other libraries' errors may contain secrets; Python shows them where they surface.
        message = str(error) if isinstance(error, MigrateError) else "an unexpected error"
        return CheckFailed(
            error=type(error).__name__,
            message=failed.summary or message,
            retryable=isinstance(error, MigrateError) and error.retryable,
            migration=failed.migration,
            sqlstate=failed.sqlstate,
            attempts=failed.attempts,
            retry_at_ms=failed.retry_at_ms,
            **self._event_fields(),
        )

    def _event_fields(self) -> dict[str, Any]:
        return {
            "target": self.target.name,
            "digest": self.manifest.digest,
            "seconds": self.target.clock.monotonic() - self._started,
            "waited_seconds": self.waited_seconds,
            "lease_calls": self.target.store.request_count - self._calls_before,
            "applied": tuple(self.applied),
            "fence": self.fence,
            "owner": self.owner,
        }
