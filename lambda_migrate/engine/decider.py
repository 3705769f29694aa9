"""Reading the item and deciding: everything that `decide` needs to know, from one cold start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lambda_migrate.errors import ConfigurationError, FlagsUnavailable
from lambda_migrate.lease.decision import (
    Acquire,
    BlockByFlags,
    LeaseExpiryTracker,
    Permission,
    Refuse,
    Serve,
    decide,
)
from lambda_migrate.lease.record import LeaseState
from lambda_migrate.migrations.deferred import DeferredManifest
from lambda_migrate.migrations.requirements import NO_FILES, Requirements

if TYPE_CHECKING:
    from lambda_migrate.clock import Deadline
    from lambda_migrate.engine.flags import Flags
    from lambda_migrate.engine.target import Target
    from lambda_migrate.lease.decision import Decision
    from lambda_migrate.migrations import Manifest
    from lambda_migrate.postgresql.ports import DatabaseInspection

__all__ = ["Decider", "resolve_manifest"]


def resolve_manifest(manifest: Manifest | DeferredManifest | Requirements) -> Manifest:
    """The manifest itself; a deferred one reads its files now, if it has not done so before.

    Raises:
        ManifestError: The migration files cannot be used.
        ConfigurationError: Another tool migrates this database, so that there are none.
    """
    if isinstance(manifest, Requirements):
        raise ConfigurationError(NO_FILES)
    return manifest.load() if isinstance(manifest, DeferredManifest) else manifest


class Decider:
    """Decides what to do next, from the newest reading and from what is known besides.

    Args:
        manifest: The migrations that this code ships, or what other tools must have applied.
        target: The database with its item.
        owner: This instance, in the lease table.
        deadline: When the cold start has to end.
    """

    def __init__(
        self,
        manifest: Manifest | DeferredManifest | Requirements,
        target: Target,
        *,
        owner: str,
        deadline: Deadline,
    ) -> None:
        self.fence_at_inspection: int | None = None
        """`LeaseState.fence_of_latest_check` when this instance inspected the database."""
        self._manifest = manifest
        self._target = target
        self._owner = owner
        self._deadline = deadline
        self._state = LeaseState()
        self._flags: Flags | None = None  # as last read
        self._is_database_current = False
        self._lease_watch = LeaseExpiryTracker()
        self._needs_confirmation = False

    @property
    def requirements(self) -> Requirements | None:
        """What other tools must have applied; None if lambda-migrate applies migrations itself."""
        return self._manifest if isinstance(self._manifest, Requirements) else None

    @property
    def manifest(self) -> Manifest:
        """The migrations that this code ships; their files are read now if not before."""
        return resolve_manifest(self._manifest)

    @property
    def allowed_manifest(self) -> Manifest:
        """The part of the manifest that the flags allow; if that is all, `manifest` itself."""
        return self.manifest if self._flags is None else self._flags.limit_manifest(self.manifest)

    # --- reading

    def decide_from_consistent_read(self) -> Decision:
        """Read strongly consistently, and decide.

        Raises:
            LeaseStoreUnavailable: The lease table did not respond.
        """
        return self.decide(self._target.store.read(consistent=True))

    def decide_from_next_read(self) -> Decision:
        """Read and decide; a strongly consistent read confirms what ends the wait.

        If the confirmation was throttled, only the confirmation is repeated. All waiters learn at
        the same time that they may serve; if each polled again first, an overloaded table would
        have half as many units again to serve.
        """
        if not self._needs_confirmation:
            decision = self.decide(self._target.store.read())
            self._needs_confirmation = isinstance(decision, Serve | Refuse)
            if not self._needs_confirmation:
                return decision
        decision = self.decide_from_consistent_read()
        self._needs_confirmation = False
        return decision

    # --- deciding

    def decide(self, state: LeaseState, *, has_lost_acquisition: bool = False) -> Decision:
        """Decide from a reading; without a lease table, from the database itself.

        Args:
            state: The reading.
            has_lost_acquisition: This instance has just tried to acquire the lease, and ``state``
                was in the way: do not try again immediately.
        """
        if not self._target.has_lease_table:
            state = state._replace(databases={})  # only the database knows what is ready
        self._state = state
        self._is_database_current = False
        decision = self._decide_from_state(has_lost_acquisition=has_lost_acquisition)
        if self._target.has_lease_table or isinstance(decision, Serve | Refuse):
            return decision
        if self.requirements is not None:
            self._is_database_current = self.is_database_current()
            return self._decide_from_state(has_lost_acquisition=has_lost_acquisition)
        from lambda_migrate.postgresql.ports import require_environment

        inspection = self._target.database.inspect(self._deadline)
        if inspection.fence is not None:
            require_environment(inspection.fence.environment, self._target.environment)
        self._is_database_current = self._is_current(inspection)
        return self._decide_from_state(has_lost_acquisition=has_lost_acquisition)

    def decide_with_flags(self, decision: Decision) -> Decision:
        """Read the feature flags if ``decision`` depends on them, and decide again.

        Raises:
            FlagsUnavailable: They cannot be read.
        """
        if not isinstance(decision, Refuse | BlockByFlags | Acquire):
            return decision
        if self._target.flags is None or not self._may_migrate:
            return decision
        from lambda_migrate.engine.flag_gate import read_flags

        try:
            self._flags = read_flags(self._target, self._deadline)
        except FlagsUnavailable:
            if isinstance(decision, Refuse):
                return decision  # the failed migration is the more important news
            raise
        return self._decide_from_state()

    def is_database_current(self) -> bool:
        """Whether PostgreSQL itself shows, read-only, that the database satisfies the manifest."""
        database = self._target.database
        if self.requirements is not None:
            entries = self.requirements.entries
            return not database.inspect_requirements(entries, self._deadline).unmet
        return self._is_current(database.inspect(self._deadline))

    @property
    def wait_reason(self) -> str:
        """What other tools have not applied yet, by the newest reading; "" if that is unknown."""
        address = self._target.database.address_text
        failure = self._state.find_failure(self._manifest.digest, address)
        return failure.cause if failure is not None and failure.is_unmet_requirement else ""

    @property
    def refusal_reason(self) -> str:
        """Which flag blocks the manifest; "" if none does."""
        # Files are read only if a version is held back.
        return self.pause_reason or (
            self._flags.refusal_reason(self.manifest.version) if self._flags is not None else ""
        )

    @property
    def pause_reason(self) -> str:
        """Which flag blocks every version; "" if none does."""
        return self._flags.refusal_reason(0) if self._flags is not None else ""

    def _decide_from_state(self, *, has_lost_acquisition: bool = False) -> Decision:
        state, target = self._state, self._target
        return decide(
            state,
            digest=self._manifest.digest,
            address=target.database.address_text,
            owner=self._owner,
            now_ms=target.store.now_ms(),
            remaining_ms=round(self._deadline.remaining() * 1000),
            manifest_length=self._count_migrations(),
            permission=self._permission(),
            is_expired=self._lease_watch.has_expired(state, target.clock.monotonic()),
            is_database_current=self._is_database_current,
            fence_at_inspection=self.fence_at_inspection,
            waits_for_other_tool=self.requirements is not None,
            has_lost_acquisition=has_lost_acquisition,
        )

    @property
    def _may_migrate(self) -> bool:
        by_flag = self._flags is None or self._flags.mode != "require"
        return by_flag and self._target.policy.mode != "require" and self.requirements is None

    def _permission(self) -> Permission:
        """What the settings and the flags allow; files are read only if a version is held back."""
        if self._target.policy.mode == "require" or self.requirements is not None:
            return Permission("require")
        if self._flags is None:
            return Permission()
        digest = None
        if self._flags.hold_back_at and self.allowed_manifest is not self.manifest:
            digest = self.allowed_manifest.digest if self.allowed_manifest else ""
        return Permission(self._flags.mode, is_paused=self._flags.paused, allowed_digest=digest)

    def _count_migrations(self) -> int:
        """The manifest's length, where the decision depends on it: files are read for it."""
        is_short = not any(each.unlisted_count for each in self._state.databases.values())
        address = self._target.database.address_text
        is_ready = self._state.is_ready(self._manifest.digest, address)
        return 0 if self._may_migrate or is_short or is_ready else len(self.manifest)

    def _is_current(self, inspection: DatabaseInspection) -> bool:
        # A rollback may be in progress: its history row is deleted only when it commits.
        return (
            not inspection.has_active_holder
            and self.manifest.make_plan(
                inspection.history, allow_out_of_order=self._target.policy.allow_out_of_order
            ).is_current
        )
