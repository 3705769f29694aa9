"""What a command works on: one target with its settings, migration files, lease and database."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from lambda_migrate.clock import SYSTEM_CLOCK
from lambda_migrate.commands.documents import format_notice
from lambda_migrate.commands.prompt import NonInteractivePrompter
from lambda_migrate.errors import ConfigurationError
from lambda_migrate.events import MigrationNotice, null_observer
from lambda_migrate.lease.dynamodb_call import set_credentials_deadline

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from lambda_migrate.clock import Clock, Deadline
    from lambda_migrate.commands.prompt import Prompter
    from lambda_migrate.engine.operations import Operations
    from lambda_migrate.engine.target import Target
    from lambda_migrate.events import Event, Observer
    from lambda_migrate.lease.store import LeaseStore
    from lambda_migrate.migrations import Manifest
    from lambda_migrate.settings import Settings

__all__ = ["CommandContext"]


class CommandContext:
    """One target, with parts that are created when a command first needs them.

    Args:
        settings: The target, database, lease table and migrations directory.
        deadline: Overall limit of the command.
        environ: The process environment; a relative directory lies in its ``LAMBDA_TASK_ROOT``.
        prompter: Asks questions and shows notes.
        observer: Receives events.
        request_id: The id of this command, recorded in the history.
        clock: Time.
        is_write: Whether the command changes anything, or locks tables in a dry run.
    """

    def __init__(
        self,
        settings: Settings,
        deadline: Deadline,
        environ: Mapping[str, str],
        *,
        prompter: Prompter | None = None,
        observer: Observer = null_observer,
        request_id: str = "",
        clock: Clock = SYSTEM_CLOCK,
        is_write: bool = True,
    ) -> None:
        self.settings = settings
        self.deadline = deadline
        self.prompter: Prompter = prompter or NonInteractivePrompter()
        self.clock = clock
        self._environ = environ
        self._is_write = is_write
        self._observer = observer
        self.notices: list[dict[str, str]] = []
        """What PostgreSQL reported while the command's migrations ran; see `format_notice`."""
        self.request_id = request_id

    @cached_property
    def manifest(self) -> Manifest:
        """The migration files.

        Raises:
            ManifestError: Some files are invalid.
            ConfigurationError: Another tool migrates this database, so that there are none.
        """
        from lambda_migrate.wiring import make_manifest

        if self.settings.ready_when is not None:
            from lambda_migrate.migrations.requirements import NO_FILES

            raise ConfigurationError(NO_FILES)
        return make_manifest(self.settings, self._environ)

    @property
    def has_table(self) -> bool:
        """Whether a lease table is configured."""
        return bool(self.settings.table)

    @cached_property
    def store(self) -> LeaseStore:
        """The lease table.

        Raises:
            ConfigurationError: No lease table is configured.
        """
        from lambda_migrate.wiring import make_store

        store = make_store(self.settings.require_configured(table=True), clock=self.clock)
        set_credentials_deadline(store, self.deadline)
        return store

    @cached_property
    def target(self) -> Target:
        """The database with its item in the lease table.

        Raises:
            ConfigurationError: Settings are wrong.
        """
        from lambda_migrate.wiring import make_target

        settings = self.settings.require_configured(database=True)
        target = make_target(settings, observer=self, clock=self.clock)
        set_credentials_deadline(target.store, self.deadline)
        self._warn_without_table()
        return target

    @cached_property
    def operations(self) -> Operations:
        """The operations on this target.

        Raises:
            ConfigurationError: Settings or migration files are wrong.
        """
        return self.make_operations(self.manifest)

    def make_operations(self, manifest: Manifest) -> Operations:
        """The operations on this target with other migration files.

        Raises:
            ConfigurationError: Settings are wrong.
        """
        from lambda_migrate.engine.operations import Operations

        return Operations(manifest, self.target, request_id=self.request_id)

    @property
    def root(self) -> Path:
        """The folder that a relative directory is relative to."""
        from pathlib import Path

        return Path(self._environ.get("LAMBDA_TASK_ROOT") or Path.cwd())

    def observe(self, event: Event) -> None:
        """See `Observer.observe`."""
        self._observer.observe(event)
        if isinstance(event, MigrationNotice):
            self.notices.append(format_notice(event))

    @cached_property
    def location(self) -> dict[str, str]:
        """The target and its database, as in every result; no secrets."""
        settings = self.settings
        return {
            "target": settings.target,
            "database": self.target.database.address_text,
            "environment": settings.environment,
            "schema": settings.schema,
            "directory": self._describe_source(),
        }

    def _describe_source(self) -> str:
        """Where the migrations are: a directory, or the tool that has them."""
        if self.settings.source != "sql":
            return self.settings.source
        return "" if self.settings.ready_when is not None else self.settings.directory

    def _warn_without_table(self) -> None:
        address = self.settings.address
        if self.has_table or (address is not None and address.is_local):
            return
        consequence = (
            "only the fence in PostgreSQL excludes other processes, and functions do not see a "
            "change until they check the database themselves"
            if self._is_write
            else "only the database is shown"
        )
        self.prompter.notify(
            f"no lease table is configured (--table, LAMBDA_MIGRATE_TABLE): {consequence}"
        )
