"""Inspecting the database under the lease without migrating it: for mode ``require``.

A new address may point to a database that is ready at another address already: a tunnel, for
example, where the functions use a secret. One instance inspects the database over one short
connection and publishes the result for all others.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lambda_migrate.engine.holder import LeaseSession
from lambda_migrate.errors import ConfigurationError, MigrateError, MigrationFailed
from lambda_migrate.lease.readiness import (
    UNKNOWN_IDENTITY,
    CheckedDatabase,
    record_check,
    record_failed_inspection,
)
from lambda_migrate.lease.record import MAX_READY_DIGESTS
from lambda_migrate.migrations.history import is_versioned
from lambda_migrate.migrations.repeatable import find_satisfied_digests
from lambda_migrate.postgresql.ports import is_behind_last_completion, require_environment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lambda_migrate.clock import Deadline
    from lambda_migrate.engine.target import Target
    from lambda_migrate.lease.progress import Failure
    from lambda_migrate.lease.record import DatabaseRecord, LeaseState
    from lambda_migrate.lease.store import Lease
    from lambda_migrate.migrations import Manifest
    from lambda_migrate.postgresql.ports import DatabaseInspection

__all__ = ["ReadinessInspection", "inspect_database"]


@dataclass(frozen=True, slots=True)
class ReadinessInspection:
    """What an inspection has shown.

    Attributes:
        state: The item as it is after the inspection.
        reason: Why it could not determine whether the manifest is satisfied, and what to do; or "".
        may_become_ready: Whether a later inspection may show more although the item stays the same.
    """

    state: LeaseState
    reason: str = ""
    may_become_ready: bool = False


def inspect_database(
    target: Target, lease: Lease, manifest: Manifest, deadline: Deadline
) -> ReadinessInspection:
    """Inspect the database, publish the result, and release the lease.

    Raises:
        LeaseLost: The lease expired first.
        LeaseStoreUnavailable: It could not be released, and expires by itself.
        ConfigurationError: For example, the role may not read the history; recorded for this
            address, with a pause.
        DatabaseUnavailable: PostgreSQL did not respond.
        MigrationFailed: The history diverged from this code long ago.
    """
    return _ReadinessInspector(target, lease, manifest, deadline).run()


class _ReadinessInspector:
    """One inspection under one lease."""

    def __init__(
        self, target: Target, lease: Lease, manifest: Manifest, deadline: Deadline
    ) -> None:
        self._target = target
        self._lease = lease
        self._manifest = manifest
        self._deadline = deadline
        self._lease_session = LeaseSession(target, lease, deadline)
        self._address = target.database.address_text
        self._databases = lease.state.databases

    def run(self) -> ReadinessInspection:
        try:
            inspection = self._target.database.inspect(self._deadline)
            if inspection.fence is not None:
                require_environment(inspection.fence.environment, self._target.environment)
        except ConfigurationError as error:
            self._lease_session.store_failure(self._make_failure(error))
            raise
        except BaseException:
            with suppress(MigrateError):  # it expires by itself otherwise
                self._lease_session.store_inspection(self._databases)
            raise
        return self._evaluate(inspection)

    def _evaluate(self, inspection: DatabaseInspection) -> ReadinessInspection:
        known = self._lease.state.completions_by_database
        fence = inspection.fence
        is_old = fence is None or is_behind_last_completion(fence, known)
        if is_old and inspection.is_replica:
            reason = f"the replica {self._address} has not replayed the newest migrations yet"
            return self._store_result(self._databases, reason, may_become_ready=True)
        if fence is None or is_old or fence.is_database_copy:
            # A copy or a restore: only an instance that may write can give it its own identity.
            reason = (
                f"{self._address} points to a different database than the one that was migrated "
                "last, or to an earlier state of it; run `lambda-migrate up` through this address"
            )
            return self._store_result(record_check(self._databases, self._new_check()), reason)
        if known.get(fence.identity) != (fence.token, fence.owner):
            # A holder raised the token since the last completion. It may be frozen during a
            # rollback, and only a takeover would keep it from committing.
            record = record_failed_inspection(self._databases, self._address, self._lease.fence)
            reason = (
                f"{fence.owner} began to migrate {self._address} after the last check and did not "
                "complete; run `lambda-migrate up`"
            )
            return self._store_result(record, reason)
        return self._compare(inspection, fence.identity)

    def _compare(self, inspection: DatabaseInspection, identity: str) -> ReadinessInspection:
        out_of_order = self._target.policy.allow_out_of_order
        plan = self._manifest.make_plan(inspection.history, allow_out_of_order=out_of_order)
        digests = find_satisfied_digests(inspection.history)
        applied_count = sum(map(is_versioned, inspection.history))
        may_be_old = not (plan.is_current or plan.needs_revision_graph)
        if may_be_old and applied_count > len(self._manifest) + MAX_READY_DIGESTS:
            raise self._record_divergence()
        manifest_digest = self._manifest.digest if plan.is_current else ""
        check = replace(
            self._new_check(), identity=identity, digests=digests, manifest_digest=manifest_digest
        )
        return self._store_result(record_check(self._databases, check))

    def _record_divergence(self) -> MigrationFailed:
        """Record it as a failure: nothing in the item would keep others from inspecting again."""
        error = MigrationFailed(
            f"the database has more than {MAX_READY_DIGESTS} applied migrations that this code "
            "does not have, and its history does not match these files: run `lambda-migrate "
            "status` with the files of this code, and deploy code that matches"
        )
        self._lease_session.record_failure(self._manifest, error)
        return error

    def _make_failure(self, error: ConfigurationError) -> Failure:
        """A failure that keeps others at this address from inspecting for a while.

        Others may have another role at the same address, so the pause does not grow.
        """
        failure = self._lease_session.describe_failure(self._manifest, error)
        pause_ms = round(self._target.policy.failure_pause_seconds * 1000)
        return failure._replace(retry_at_ms=failure.at_ms + pause_ms)

    def _new_check(self) -> CheckedDatabase:
        return CheckedDatabase(
            identity=UNKNOWN_IDENTITY,
            address=self._address,
            digests=(),
            fence=self._lease.fence,
            owner=self._lease.owner,
            at_ms=self._target.store.now_ms(),
            is_token_written=False,
        )

    def _store_result(
        self,
        databases: Mapping[str, DatabaseRecord],
        reason: str = "",
        *,
        may_become_ready: bool = False,
    ) -> ReadinessInspection:
        self._lease_session.store_inspection(databases)
        state = self._lease.state._replace(databases=databases).without_lease()
        return ReadinessInspection(state, reason, may_become_ready)
