"""`FirstCheck`: one read of the lease table, which finds the schema ready in most cold starts.

Such a start loads this module and what it imports, and no more. Any doubt is left to the whole
check, `MigrationRunner.ensure`, which continues from the read.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from lambda_migrate.check_events import (
    CheckSucceeded,
    has_default_log_format,
    write_check_succeeded,
)
from lambda_migrate.clock import SYSTEM_CLOCK
from lambda_migrate.lease.first_read import FirstRead, make_owner
from lambda_migrate.manifest_digest import EMPTY_DIGEST, read_digest
from lambda_migrate.settings import Settings

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from lambda_migrate.engine.target import Target
    from lambda_migrate.migrations import Manifest
    from lambda_migrate.migrations.deferred import DeferredManifest
    from lambda_migrate.migrations.requirements import Requirements
    from lambda_migrate.observers import Observer
    from lambda_migrate.settings_arguments import SettingsArguments

__all__ = ["FirstCheck"]


class FirstCheck:
    """What the settings name, and the first read of the item in the lease table.

    Args:
        settings: The settings.
        observer: Receives every event; by default Powertools' Logger and Metrics.

    Attributes:
        settings: The settings.
        clock: The target's.
        digest: Of the migrations that this code ships, or of what other tools must have applied.

    Raises:
        ManifestError: The migration files cannot be used.
    """

    def __init__(self, settings: Settings, observer: Observer | None) -> None:
        self.settings = settings
        self.clock = SYSTEM_CLOCK
        self._observer = observer
        self._first_read: FirstRead | None = None
        self._manifest: Manifest | DeferredManifest | Requirements | None = None
        self.digest = self._read_digest()

    @classmethod
    def from_settings(
        cls, *, observer: Observer | None = None, **settings: Unpack[SettingsArguments]
    ) -> Self:
        """See `MigrationRunner.from_settings`; without an observer, Powertools is used anywhere."""
        loaded = Settings.load(os.environ, **settings)
        is_on_lambda = "AWS_LAMBDA_FUNCTION_NAME" in os.environ
        loaded.require_configured(table=is_on_lambda, database=True)
        return cls(loaded, observer)

    def _read_digest(self) -> str:
        settings = self.settings
        if settings.ready_when is not None:
            self._manifest = settings.ready_when
            return settings.ready_when.digest
        if settings.source != "sql":
            from lambda_migrate.wiring import read_tool_digest

            return read_tool_digest(settings, os.environ)
        root = os.environ.get("LAMBDA_TASK_ROOT")
        digest = read_digest(settings.directory, relative_to=root)
        if digest in (None, EMPTY_DIGEST):
            from lambda_migrate.wiring import make_manifest

            self._manifest = make_manifest(settings, os.environ)
            return self._manifest.digest
        return digest

    @property
    def manifest(self) -> Manifest | DeferredManifest | Requirements:
        """The migrations that this code ships, or what other tools must have applied.

        The files of a plain directory are parsed when a migration has to run.
        """
        if self._manifest is None:
            from lambda_migrate.migrations.deferred import DeferredManifest
            from lambda_migrate.wiring import make_manifest

            self._manifest = DeferredManifest(
                self.digest, lambda: make_manifest(self.settings, os.environ)
            )
        return self._manifest

    def check_ready(self) -> bool:
        """Whether the item marks the manifest ready, beyond doubt; then the check has ended.

        Without a table, and with mode ``off``, nothing is read. After False nothing is read again.
        """
        settings = self.settings
        if self._first_read is not None or not settings.table or settings.mode == "off":
            return False
        first_read = FirstRead(os.environ, settings.table, settings.target, clock=self.clock)
        if not first_read.is_ready(self.digest, settings.database_address_text):
            self._first_read = first_read
            return False
        first_read.client.close()
        self._report_ready(first_read)
        return True

    def _report_ready(self, first_read: FirstRead) -> None:
        event = CheckSucceeded(
            target=self.settings.target,
            digest=self.digest,
            outcome="UP_TO_DATE",
            seconds=self.clock.monotonic() - first_read.started,
            waited_seconds=0.0,
            lease_calls=first_read.client.request_count,
            applied=(),
            fence=0,
            owner=make_owner(),
        )
        if self._observer is None and has_default_log_format(os.environ):
            with suppress(Exception):  # what follows logs it
                write_check_succeeded(event)
                return
        from lambda_migrate.observers import catch_observer_errors

        catch_observer_errors(self._get_observer()).observe(event)

    def _get_observer(self) -> Observer:
        if self._observer is None:
            from lambda_migrate.wiring import default_observer

            self._observer = default_observer()
        return self._observer

    def load_target(self) -> tuple[Target, FirstRead | None]:
        """Create the target; its first reading is what was read here, if anything."""
        from lambda_migrate.wiring import make_target

        first_read, self._first_read = self._first_read, None
        target = make_target(
            self.settings, observer=self._get_observer(), clock=self.clock, first_read=first_read
        )
        return target, first_read
