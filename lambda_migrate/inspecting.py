"""A look at the database under the lease that migrates nothing: for mode ``require``.

An address that no check has gone through may lead to a database that another address has made
ready: through a tunnel, say, where the functions name a secret. One instance looks, over one short
connection, and publishes what it finds for all others.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from lambda_migrate.applying import next_failure, proved
from lambda_migrate.errors import ConfigurationError, MigrateError, MigrationFailed
from lambda_migrate.lease.readiness import UNKNOWN, Check, record_check, record_vain_look
from lambda_migrate.lease.state import READY_KEPT
from lambda_migrate.migrations.plan import make_plan
from lambda_migrate.postgresql.database import is_behind
from lambda_migrate.values import replace

if TYPE_CHECKING:
    from lambda_migrate.deadline import Deadline
    from lambda_migrate.lease.state import DatabaseRecord, Lease, LeaseState
    from lambda_migrate.migrations import Manifest
    from lambda_migrate.postgresql.database import Inspection
    from lambda_migrate.target import Target

__all__ = ["inspect"]


def inspect(target: Target, lease: Lease, manifest: Manifest, deadline: Deadline) -> LeaseState:
    """Look, publish what was found, and give the lease back.

    Returns:
        The item as it then is.

    Raises:
        LeaseLost: The lease was over before that.
        ConfigurationError: The role may not read the history, for example.
        DatabaseUnavailable: PostgreSQL did not answer.
        MigrationFailed: The history diverged from this code long ago.
    """
    try:
        found = target.database.inspect(deadline)
    except ConfigurationError:
        with suppress(MigrateError):  # otherwise the lease runs out by itself
            _publish_nothing(target, lease)
        raise
    except BaseException:
        with suppress(MigrateError):
            target.store.release(lease)
        raise
    check = _check(target, lease, manifest, found)
    if check is None:
        return _publish_nothing(target, lease)
    if not check.served and len(check.digests) > len(manifest) + READY_KEPT:
        raise _record_contradiction(target, lease, manifest)
    return _publish(target, lease, check)


def _record_contradiction(target: Target, lease: Lease, manifest: Manifest) -> MigrationFailed:
    """Record that this code is not served, so that other instances do not look as well."""
    error = MigrationFailed(
        "the database and this code have had different migrations for a long time: run "
        "`lambda-migrate status` with the files of this code, and deploy code that matches"
    )
    failure = next_failure(
        lease.state,
        error,
        digest=manifest.digest,
        version="",
        pause_seconds=target.policy.failure_pause_seconds,
        now_ms=target.store.now_ms(),
    )
    target.store.fail(lease, failure)
    error.attempts, error.retry_at_ms = failure.attempts, failure.retry_at_ms
    return error


def _check(target: Target, lease: Lease, manifest: Manifest, found: Inspection) -> Check | None:
    """What was found; None if it cannot be determined without taking the fence."""
    known = {i: (record.fence, record.owner) for i, record in lease.state.databases.items()}
    fence = found.fence
    if fence is None or fence.is_copy or is_behind(fence, known):
        # A copy or a restore: only an instance that may write can give it an identity of its own.
        return _nothing(target, lease)
    if known.get(fence.identity) != (fence.token, fence.owner):
        # A holder took the fence since the last completion: it may be frozen in the middle of a
        # rollback, and only a takeover would keep it from committing.
        return None
    out_of_order = target.policy.allow_out_of_order
    plan = make_plan(manifest, found.history, allow_out_of_order=out_of_order)
    return replace(
        _nothing(target, lease),
        identity=fence.identity,
        digests=tuple(proved(found.history)),
        served=manifest.digest if plan.is_current else "",
    )


def _nothing(target: Target, lease: Lease) -> Check:
    return Check(
        identity=UNKNOWN,
        address=target.database.fingerprint,
        digests=(),
        fence=lease.fence,
        owner=lease.owner,
        at_ms=target.store.now_ms(),
        is_takeover=False,
    )


def _publish_nothing(target: Target, lease: Lease) -> LeaseState:
    address = target.database.fingerprint
    return _store(target, lease, record_vain_look(lease.state.databases, address, lease.fence))


def _publish(target: Target, lease: Lease, check: Check) -> LeaseState:
    return _store(target, lease, record_check(lease.state.databases, check))


def _store(target: Target, lease: Lease, databases: dict[str, DatabaseRecord]) -> LeaseState:
    target.store.look(lease, databases)
    return replace(
        lease.state, databases=databases, owner=None, lease_until_ms=0, lease_ms=0, progress=None
    )
