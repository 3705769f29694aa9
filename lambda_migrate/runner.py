"""`MigrationRunner`: what the decorator calls, and what scripts use instead of the decorator."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lambda_migrate.check_events import (
    CheckFinished,
    catch_observer_errors,
    null_observer,
)
from lambda_migrate.check_log import has_default_format, write_check_finished
from lambda_migrate.clock import SYSTEM_CLOCK

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Self, Unpack

    from lambda_migrate.check_events import Event, Observer
    from lambda_migrate.clock import Clock, Deadline
    from lambda_migrate.engine.target import Target
    from lambda_migrate.lease.first_read import FirstRead
    from lambda_migrate.migrations import Manifest
    from lambda_migrate.migrations.digest import DeferredManifest
    from lambda_migrate.migrations.ready_when import Requirements
    from lambda_migrate.outcome import Outcome
    from lambda_migrate.settings import Settings
    from lambda_migrate.settings_arguments import SettingsArguments

__all__ = ["DefaultObserver", "DeferredTarget", "MigrationRunner"]


class DefaultObserver:
    """`PowertoolsObserver`, which is not loaded for a check that found the schema ready."""

    def __init__(self) -> None:
        self._observers: dict[str, Observer] = {}

    def observe(self, event: Event) -> None:
        """See `Observer.observe`."""
        is_simple = not self._observers and has_default_format(os.environ)
        if is_simple and isinstance(event, CheckFinished) and not event.applied:
            write_check_finished(event)
            return
        from lambda_migrate.aws.telemetry import PowertoolsObserver

        # `setdefault` is atomic: the heartbeat's thread observes as well.
        self._observers.setdefault("powertools", PowertoolsObserver()).observe(event)


class DeferredTarget:
    """The target that the settings name; most starts need no more of it than one read.

    Args:
        settings: The settings.
        observer: Receives every event.

    Attributes:
        clock: The target's.
    """

    def __init__(self, settings: Settings, observer: Observer) -> None:
        self.clock = SYSTEM_CLOCK
        self._settings = settings
        self._observer = observer

    def read(self) -> FirstRead | None:
        """Read the item in the lease table; None if there is no table, or with mode ``off``."""
        settings = self._settings
        if not settings.table or settings.mode == "off":
            return None
        from lambda_migrate.lease.first_read import FirstRead

        return FirstRead(os.environ, settings.table, settings.target, clock=self.clock)

    def finish(self, first_read: FirstRead, digest: str) -> bool:
        """End the check if the item marks the manifest ready; return whether it does."""
        if not first_read.is_ready(digest, self._settings.lease_address):
            return False
        from lambda_migrate.lease.first_read import make_owner

        first_read.client.close()
        event = CheckFinished(
            target=self._settings.target,
            digest=digest,
            outcome="UP_TO_DATE",
            seconds=self.clock.monotonic() - first_read.started,
            waited_seconds=0.0,
            lease_calls=first_read.client.request_count,
            applied=(),
            fence=0,
            owner=make_owner(),
        )
        catch_observer_errors(self._observer).observe(event)
        return True

    def load(self, first_read: FirstRead | None = None) -> Target:
        """Create the target.

        Args:
            first_read: What was read before, if anything: the target's first reading.
        """
        from lambda_migrate.wiring import make_target

        return make_target(
            self._settings, observer=self._observer, clock=self.clock, first_read=first_read
        )


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
        target: Target | DeferredTarget,
    ) -> None:
        self._target = target
        self._manifest = manifest
        self._first_read: FirstRead | None = None
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
        from lambda_migrate.settings import Settings

        is_on_lambda = "AWS_LAMBDA_FUNCTION_NAME" in os.environ
        loaded = Settings.load(os.environ, **settings)
        loaded.require_configured(table=is_on_lambda, database=True)
        if observer is None:
            observer = DefaultObserver() if is_on_lambda else null_observer
        return cls(_defer_manifest(loaded, os.environ), DeferredTarget(loaded, observer))

    @property
    def target(self) -> Target:
        """The database with its item in the lease table, and how to behave."""
        if isinstance(self._target, DeferredTarget):
            self._target = self._target.load()
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
        from lambda_migrate.engine.decider import load_manifest

        return load_manifest(self._manifest)

    def find_ready(self) -> bool:
        """Read the lease table, if the target is not loaded yet; return whether it is ready.

        Most starts need no more. Otherwise the target is loaded, and `ensure` continues.
        """
        target = self._target
        if self._is_ready or not isinstance(target, DeferredTarget):
            return self._is_ready
        first_read = target.read()
        self._is_ready = first_read is not None and target.finish(first_read, self.digest)
        if not self._is_ready:
            self._target, self._first_read = target.load(first_read), first_read
        return self._is_ready

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
        from lambda_migrate.outcome import Outcome

        if self.find_ready():
            return Outcome.UP_TO_DATE
        target = self.target
        first_read, self._first_read = self._first_read, None
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
        target.observer.observe(check.finished_event(outcome))
        return outcome

    def forget_result(self) -> None:
        """Forget that the schema was ready, as after a snapshot of this process was restored."""
        self._is_ready = False


def _defer_manifest(
    settings: Settings, environ: Mapping[str, str]
) -> Manifest | DeferredManifest | Requirements:
    """The manifest; its files are parsed later if they are a plain directory.

    Without files, what other tools must have applied.

    Raises:
        ManifestError: The migration files cannot be used.
    """
    if settings.ready_when is not None:
        return settings.ready_when
    from lambda_migrate.migrations.digest import EMPTY_DIGEST, DeferredManifest, read_digest

    def load() -> Manifest:
        from lambda_migrate.wiring import make_manifest

        return make_manifest(settings, environ)

    if settings.source != "sql":
        from lambda_migrate.wiring import read_tool_digest

        return DeferredManifest(read_tool_digest(settings, environ), load)
    digest = read_digest(settings.directory, relative_to=environ.get("LAMBDA_TASK_ROOT"))
    return load() if digest in (None, EMPTY_DIGEST) else DeferredManifest(digest, load)
