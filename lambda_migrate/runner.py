"""`MigrationRunner`: what the decorator calls, and what scripts use instead of the decorator."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lambda_migrate.first_check import FirstCheck
from lambda_migrate.outcome import Outcome

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from lambda_migrate.clock import Clock, Deadline
    from lambda_migrate.engine.target import Target
    from lambda_migrate.migrations import Manifest
    from lambda_migrate.migrations.deferred import DeferredManifest
    from lambda_migrate.migrations.requirements import Requirements
    from lambda_migrate.observers import Observer
    from lambda_migrate.settings_arguments import SettingsArguments

__all__ = ["MigrationRunner"]


class MigrationRunner:
    """Makes a database satisfy a manifest before the code serves.

    A script or a container needs three lines:

        from lambda_migrate import MigrationRunner

        runner = MigrationRunner.from_settings(database_url="postgresql://app@localhost/orders")
        runner.ensure()

    Creating a runner does no network I/O. One runner serves one process; threads may share it.

    Args:
        manifest: The migrations that this code ships; see `read_manifest`. Or what other tools
            must have applied.
        target: The database with its item in the lease table, and how to behave.
    """

    def __init__(
        self,
        manifest: Manifest | DeferredManifest | Requirements,
        target: Target | FirstCheck,
    ) -> None:
        self._target = target
        self._manifest = manifest
        self._is_ready = False

    @classmethod
    def from_settings(
        cls, *, observer: Observer | None = None, **settings: Unpack[SettingsArguments]
    ) -> Self:
        """Create a runner from the settings that `migrate_on_cold_start` takes.

        An argument takes precedence over its environment variable ``LAMBDA_MIGRATE_<NAME>``, which
        takes precedence over the default.

        On Lambda a lease table is required. Elsewhere it is optional: without one, `ensure` asks
        the database itself, and only PostgreSQL's fence keeps other processes from migrating at
        the same time. Use the same table as the functions do if functions start on this database.

        Args:
            observer: Gets every event. By default Powertools' Logger and Metrics on Lambda, and no
                observer elsewhere.
            **settings: By the names of `Settings`.

        Raises:
            ConfigurationError: Settings are missing or wrong; the message lists all of them.
            ManifestError: The migration files cannot be used.
        """
        if observer is None and "AWS_LAMBDA_FUNCTION_NAME" not in os.environ:
            from lambda_migrate.observers import null_observer

            observer = null_observer
        return cls.from_first_check(FirstCheck.from_settings(observer=observer, **settings))

    @classmethod
    def from_first_check(cls, first_check: FirstCheck) -> Self:
        """Create a runner that continues from a first check, or begins with it."""
        return cls(first_check.manifest, first_check)

    @property
    def target(self) -> Target:
        """The database with its item in the lease table, and how to behave."""
        if isinstance(self._target, FirstCheck):
            self._target, _ = self._target.load_target()
        return self._target

    @property
    def clock(self) -> Clock:
        """The target's clock."""
        return self._target.clock

    @property
    def digest(self) -> str:
        """The digest of the migrations that this code ships."""
        return self._manifest.digest

    @property
    def manifest(self) -> Manifest:
        """The migrations that this code ships; their files are read now if not before.

        Raises:
            ManifestError: The migration files cannot be used.
            ConfigurationError: Another tool migrates this database, so that there are none.
        """
        from lambda_migrate.engine.decider import resolve_manifest

        return resolve_manifest(self._manifest)

    def ensure(self, deadline: Deadline | None = None, *, request_id: str = "") -> Outcome:
        """Return as soon as the database satisfies the manifest; apply what is pending.

        Args:
            deadline: The invocation's end; without one, 15 minutes from now. Everything ends
                ``safety_margin_seconds`` before it.
            request_id: The invocation's id, for the history.

        Returns:
            Why the code may serve. The result is remembered: later calls return immediately,
            except after ``UNCHECKED``, which holds for one call.

        Raises:
            NotReady: The schema was not ready before the deadline; try again later.
            MigrationFailed: A migration failed, here or a moment ago in another process.
            ConfigurationError: A setting, a permission or a resource is wrong; fix it and deploy.
            ManifestError: There are no migrations, and ``allow_empty`` is not set.
        """
        if self._is_ready:
            return Outcome.UP_TO_DATE
        target, first_read = self._target, None
        if isinstance(target, FirstCheck):
            if target.check_ready():
                self._is_ready = True
                return Outcome.UP_TO_DATE
            target, first_read = target.load_target()
            self._target = target
        if target.policy.mode == "off":
            return Outcome.UP_TO_DATE
        from lambda_migrate.engine.check import Check

        check = Check(
            self._manifest, target, deadline, request_id=request_id, first_read=first_read
        )
        try:
            reading = check.read()
            if check.is_ready(reading):
                outcome = Outcome.UP_TO_DATE
            else:
                from lambda_migrate.engine.cold_start import ColdStart

                outcome = ColdStart(check).run(reading)
        except Exception as error:
            target.observer.observe(check.failed_event(error))
            raise
        finally:
            target.store.close()
        self._is_ready = outcome is not Outcome.UNCHECKED
        target.observer.observe(check.succeeded_event(outcome))
        return outcome

    def forget_result(self) -> None:
        """Forget that the schema was ready, as after a snapshot of this process was restored."""
        self._is_ready = False
