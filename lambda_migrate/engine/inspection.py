"""A look at the database under the lease that migrates nothing: for mode ``require``.

An address that no check has gone through may lead to a database that another address has made
ready: through a tunnel, say, where the functions name a secret. One instance looks, over one short
connection, and publishes what it finds for all others.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lambda_migrate.engine.apply import next_failure, record_failure, satisfied_digests
from lambda_migrate.engine.holder import LeaseSession
from lambda_migrate.errors import ConfigurationError, MigrateError, MigrationFailed
from lambda_migrate.lease.readiness import (
    UNKNOWN_IDENTITY,
    DatabaseCheck,
    record_check,
    record_failed_inspection,
)
from lambda_migrate.lease.record import MAX_READY
from lambda_migrate.migrations.plan import make_plan
from lambda_migrate.postgresql.ports import is_behind_last_completion, require_environment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lambda_migrate.clock import Deadline
    from lambda_migrate.engine.target import Target
    from lambda_migrate.lease.record import DatabaseRecord, Failure, Lease, LeaseState
    from lambda_migrate.migrations import Manifest
    from lambda_migrate.postgresql.ports import Inspection

__all__ = ["Look", "inspect"]


@dataclass(frozen=True, slots=True)
class Look:
    """What a look has shown.

    Attributes:
        state: The item as it then is.
        reason: Why it could not determine whether the manifest is satisfied, and what to do; or "".
        may_change: Whether a later look may find more although the item stays the same.
    """

    state: LeaseState
    reason: str = ""
    may_change: bool = False


def inspect(target: Target, lease: Lease, manifest: Manifest, deadline: Deadline) -> Look:
    """Look, publish what was found, and give the lease back.

    Raises:
        LeaseLost: The lease was over before that.
        LeaseStoreUnavailable: It could not be given back, and runs out by itself.
        ConfigurationError: The role may not read the history, for example; recorded for this
            address, with a pause.
        DatabaseUnavailable: PostgreSQL did not answer.
        MigrationFailed: The history diverged from this code long ago.
    """
    return _Inspector(target, lease, manifest, deadline).look()


class _Inspector:
    """One look under one lease."""

    def __init__(
        self, target: Target, lease: Lease, manifest: Manifest, deadline: Deadline
    ) -> None:
        self._target = target
        self._lease = lease
        self._manifest = manifest
        self._deadline = deadline
        self._hold = LeaseSession(target, lease, deadline)
        self._address = target.database.fingerprint
        self._databases = lease.state.databases

    def look(self) -> Look:
        try:
            found = self._target.database.inspect(self._deadline)
            if found.fence is not None:
                require_environment(found.fence.environment, self._target.environment)
        except ConfigurationError as error:
            self._hold.fail(self._refusal(error))
            raise
        except BaseException:
            with suppress(MigrateError):  # it runs out by itself otherwise
                self._hold.complete_inspection(self._databases)
            raise
        return self._judge(found)

    def _judge(self, found: Inspection) -> Look:
        known = self._lease.state.completions
        fence = found.fence
        is_old = fence is None or is_behind_last_completion(fence, known)
        if is_old and found.is_replica:
            reason = f"the replica {self._address} has not replayed the newest migrations yet"
            return self._publish(self._databases, reason, may_change=True)
        if fence is None or is_old or fence.is_copy:
            # A copy or a restore: only an instance that may write can give it its own identity.
            reason = (
                f"{self._address} leads to another database than the one that was migrated, or to "
                "an earlier state of it; run `lambda-migrate up` through this address"
            )
            return self._publish(record_check(self._databases, self._check()), reason)
        if known.get(fence.identity) != (fence.token, fence.owner):
            # A holder took the fence since the last completion: it may be frozen in the middle of
            # a rollback, and only a takeover would keep it from committing.
            vain = record_failed_inspection(self._databases, self._address, self._lease.fence)
            reason = (
                f"{fence.owner} has migrated {self._address} since the last check and did not "
                "complete; run `lambda-migrate up`"
            )
            return self._publish(vain, reason)
        return self._compare(found, fence.identity)

    def _compare(self, found: Inspection, identity: str) -> Look:
        out_of_order = self._target.policy.allow_out_of_order
        plan = make_plan(self._manifest, found.history, allow_out_of_order=out_of_order)
        digests = satisfied_digests(found.history)
        if not plan.is_current and len(digests) > len(self._manifest) + MAX_READY:
            raise self._contradiction()
        served = self._manifest.digest if plan.is_current else ""
        check = replace(self._check(), identity=identity, digests=digests, served=served)
        return self._publish(record_check(self._databases, check))

    def _contradiction(self) -> MigrationFailed:
        """Recorded, because nothing in the list would keep other instances from looking."""
        error = MigrationFailed(
            "the database and this code have had different migrations for a long time: run "
            "`lambda-migrate status` with the files of this code, and deploy code that matches"
        )
        record_failure(self._hold, self._manifest, error)
        return error

    def _refusal(self, error: ConfigurationError) -> Failure:
        """What keeps others at this address from looking as well, for a while.

        Others may act as another role behind the same address, so that the pause does not grow.
        """
        pause_seconds = self._target.policy.failure_pause_seconds
        now_ms = self._target.store.now_ms()
        failure = next_failure(
            self._lease.state,
            error,
            digest=self._manifest.digest,
            version="",
            address=self._address,
            pause_seconds=pause_seconds,
            now_ms=now_ms,
        )
        return replace(failure, retry_at_ms=now_ms + round(pause_seconds * 1000))

    def _check(self) -> DatabaseCheck:
        return DatabaseCheck(
            identity=UNKNOWN_IDENTITY,
            address=self._address,
            digests=(),
            fence=self._lease.fence,
            owner=self._lease.owner,
            at_ms=self._target.store.now_ms(),
            has_fence=False,
        )

    def _publish(
        self,
        databases: Mapping[str, DatabaseRecord],
        reason: str = "",
        *,
        may_change: bool = False,
    ) -> Look:
        self._hold.complete_inspection(databases)
        state = replace(
            self._lease.state, databases=databases, owner=None, lease_until_ms=0, lease_ms=0
        )
        return Look(state, reason, may_change)
