"""What a verb works on: one target with its settings and migration files."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from lambda_migrate.clock import SYSTEM_CLOCK
from lambda_migrate.commands.prompt import Unattended
from lambda_migrate.events import null_observer
from lambda_migrate.lease.dynamodb_errors import set_credentials_deadline

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lambda_migrate.clock import Clock, Deadline
    from lambda_migrate.commands.prompt import Attendant
    from lambda_migrate.engine.operations import Operations
    from lambda_migrate.events import Observer
    from lambda_migrate.lease.store import LeaseStore
    from lambda_migrate.migrations import Manifest
    from lambda_migrate.settings import Settings

__all__ = ["Site"]


class Site:
    """One target at work. Its parts are made when they are first needed.

    Args:
        settings: Which target, database, table and files.
        deadline: For all of it.
        environ: Where the process runs; a relative directory lies in its ``LAMBDA_TASK_ROOT``.
        attendant: Who is asked and told.
        observer: Who sees events.
        request_id: The command's id, for the history.
        clock: Time.
    """

    def __init__(
        self,
        settings: Settings,
        deadline: Deadline,
        environ: Mapping[str, str],
        *,
        attendant: Attendant | None = None,
        observer: Observer = null_observer,
        request_id: str = "",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.settings = settings
        self.deadline = deadline
        self.attendant: Attendant = attendant or Unattended()
        self.clock = clock
        self._environ = environ
        self._observer = observer
        self._request_id = request_id

    @cached_property
    def manifest(self) -> Manifest:
        """The migration files.

        Raises:
            ManifestError: Files are at fault.
        """
        from lambda_migrate.wiring import make_manifest

        return make_manifest(self.settings, self._environ)

    @property
    def has_table(self) -> bool:
        """Whether there is a lease table."""
        return bool(self.settings.table)

    @cached_property
    def store(self) -> LeaseStore:
        """The lease table.

        Raises:
            ConfigurationError: None is named.
        """
        from lambda_migrate.wiring import make_store

        store = make_store(self.settings.require(table=True), clock=self.clock)
        set_credentials_deadline(store, self.deadline)
        return store

    @cached_property
    def maintenance(self) -> Operations:
        """The target, ready to be worked on.

        Raises:
            ConfigurationError: Settings or migration files are wrong.
        """
        from lambda_migrate.engine.operations import Operations
        from lambda_migrate.wiring import make_target

        settings = self.settings.require(database=True)
        target = make_target(settings, observer=self._observer, clock=self.clock)
        set_credentials_deadline(target.store, self.deadline)
        self._note_without_table()
        return Operations(self.manifest, target, request_id=self._request_id)

    @cached_property
    def place(self) -> dict[str, str]:
        """Where the work is done, as every answer says it; no secrets."""
        settings = self.settings
        return {
            "target": settings.target,
            "database": self.maintenance.target.database.fingerprint,
            "environment": settings.environment,
            "schema": settings.schema,
            "directory": settings.directory,
        }

    def _note_without_table(self) -> None:
        address = self.settings.address
        if not self.has_table and not (address is not None and address.is_local):
            self.attendant.note(
                "no lease table is named (--table): PostgreSQL's fence alone keeps others away, "
                "and functions learn of what is done here only when they look"
            )
