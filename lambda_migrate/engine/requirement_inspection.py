"""Inspecting under the lease whether other tools have applied what ``ready_when`` requires.

Only the tools' own tables show that, and the tools notify no process. So one instance at a time
inspects them, over one short connection, and publishes the result. "Not yet" is published with a
pause that grows: all others wait without a connection, and the first that reads the item after the
pause inspects again.

The database has none of our tables, and so no identity of ours. What is ready is recorded for each
address, together with the cluster and the database that it pointed to: where it points to a
different one, what was ready before does not count there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lambda_migrate.engine.failure import shorten_cause
from lambda_migrate.engine.holder import LeaseSession, acquire_lease
from lambda_migrate.engine.inspection import ReadinessInspection
from lambda_migrate.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    MigrationFailed,
)
from lambda_migrate.lease.progress import Failure
from lambda_migrate.lease.readiness import CheckedDatabase, record_check
from lambda_migrate.lease.record import MAX_READY_DIGESTS, SHORT_DIGEST_BYTES, split_digests
from lambda_migrate.manifest_digest import EMPTY_DIGEST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lambda_migrate.clock import Deadline
    from lambda_migrate.engine.target import Target
    from lambda_migrate.lease.record import DatabaseRecord, LeaseState
    from lambda_migrate.lease.store import Lease
    from lambda_migrate.migrations.requirement_check import RequirementInspection, RequirementResult
    from lambda_migrate.migrations.requirements import Requirements

__all__ = [
    "RequirementsStatus",
    "find_requirement_problems",
    "inspect_requirements_under_lease",
    "read_requirements_status",
    "resync_requirements",
]

_FIRST_PAUSE_MS = 500
_PAUSE_GROWTH = 1.5
_MAX_PAUSE_MS = 10_000
"""After "not yet". All instances together open at most one connection in this time."""


def inspect_requirements_under_lease(
    target: Target, lease: Lease, requirements: Requirements, deadline: Deadline
) -> ReadinessInspection:
    """Inspect the database, publish the result, and release the lease.

    Raises:
        LeaseLost: The lease expired first.
        LeaseStoreUnavailable: It could not be released, and expires by itself.
        ConfigurationError: For example, the role may not read the tool's table; recorded for this
            address, with a pause.
        MigrationFailed: A tool failed to apply what is required; recorded in the same way.
    """
    return _RequirementInspector(target, lease, requirements, deadline).run()


class _RequirementInspector:
    """One inspection under one lease."""

    def __init__(
        self, target: Target, lease: Lease, requirements: Requirements, deadline: Deadline
    ) -> None:
        self._target = target
        self._lease = lease
        self._requirements = requirements
        self._deadline = deadline
        self._lease_session = LeaseSession(target, lease, deadline)
        self._address = target.database.address_text

    def run(self) -> ReadinessInspection:
        try:
            inspection = self._read_tables()
            _require_no_failure(inspection)
        except DatabaseUnavailable as error:
            return self._store_unmet_requirement(str(error))
        except (ConfigurationError, MigrationFailed) as error:
            pause_ms = round(self._target.policy.failure_pause_seconds * 1000)
            self._lease_session.store_failure(self._make_failure(str(error), pause_ms))
            raise
        except BaseException:
            self._lease_session.release()
            raise
        if inspection.unmet:
            return self._store_unmet_requirement("; ".join(map(_describe, inspection.unmet)))
        return ReadinessInspection(self._store_result(inspection))

    def resync(self) -> None:
        """Inspect, and publish the result without what was ready before for other requirements."""
        try:
            inspection = self._read_tables()
        except BaseException:
            self._lease_session.release()
            raise
        self._store_result(inspection, drop_other_digests=True)

    def _read_tables(self) -> RequirementInspection:
        return self._target.database.inspect_requirements(
            self._requirements.entries, self._deadline
        )

    def _store_result(
        self, inspection: RequirementInspection, *, drop_other_digests: bool = False
    ) -> LeaseState:
        """Record what this address points to and that it is ready, or that it is not.

        Args:
            inspection: What was read.
            drop_other_digests: Do not keep what was ready before for other requirements.
        """
        databases = self._record(inspection, drop_other_digests=drop_other_digests)
        digest, state = self._requirements.digest, self._lease.state
        failures = [f for f in state.failures if not f.applies_to(digest, self._address)]
        self._lease_session.store_completion(databases, failures)
        return state.with_failures(failures)._replace(databases=databases).without_lease()

    def _record(
        self, inspection: RequirementInspection, *, drop_other_digests: bool
    ) -> dict[str, DatabaseRecord]:
        databases = self._lease.state.databases
        identity = f"{inspection.system_id} {self._address}"
        digests = [EMPTY_DIGEST]  # records begin with it, as with migrations of our own
        if identity in databases and not drop_other_digests:
            shorts = split_digests(databases[identity].ready_digests)
            digests = [short.hex() for short in shorts[: MAX_READY_DIGESTS - 1]]
        digest = self._requirements.digest
        digests = [each for each in digests if each != digest[: 2 * SHORT_DIGEST_BYTES]]
        check = CheckedDatabase(
            identity=identity,
            address=self._address,
            digests=digests if inspection.unmet else [*digests, digest],
            fence=self._lease.fence,
            owner=self._lease.owner,
            at_ms=self._target.store.now_ms(),
            is_token_written=False,
        )
        return record_check(databases, check)

    def _store_unmet_requirement(self, reason: str) -> ReadinessInspection:
        """Make all others wait for a pause that grows with each inspection."""
        before = self._find_unmet_requirement()
        exponent = 0 if before is None else min(max(before.attempts, 0), 30)
        pause_ms = min(_MAX_PAUSE_MS, round(_FIRST_PAUSE_MS * _PAUSE_GROWTH**exponent))
        failure = self._make_failure(reason, pause_ms, is_unmet_requirement=True)
        self._lease_session.store_failure(failure)
        state = self._lease.state.with_failure(failure).without_lease()
        return ReadinessInspection(state, reason, may_become_ready=True)

    def _find_unmet_requirement(self) -> Failure | None:
        failure = self._lease.state.find_failure(self._requirements.digest, self._address)
        return failure if failure is not None and failure.is_unmet_requirement else None

    def _make_failure(
        self, cause: str, pause_ms: int, *, is_unmet_requirement: bool = False
    ) -> Failure:
        before = self._find_unmet_requirement() if is_unmet_requirement else None
        now_ms = self._target.store.now_ms()
        return Failure(
            digest=self._requirements.digest,
            migration="",
            version="",
            sqlstate="",
            cause=shorten_cause(cause),
            attempts=1 if before is None else max(before.attempts, 0) + 1,
            at_ms=now_ms,
            retry_at_ms=now_ms + pause_ms,
            address=self._address,
            is_unmet_requirement=is_unmet_requirement,
        )


def _describe(result: RequirementResult) -> str:
    return f"{result.requirement}: {result.reason}"


def _require_no_failure(inspection: RequirementInspection) -> None:
    """Refuse to wait for what does not happen by itself.

    Raises:
        MigrationFailed: A tool failed to apply what is required.
    """
    failed = [each for each in inspection.unmet if each.has_failed]
    if failed:
        raise MigrationFailed(
            f"{'; '.join(map(_describe, failed))}; resolve it with that tool, and migrate again"
        )


# --- status, verify


@dataclass(frozen=True, slots=True)
class RequirementsStatus:
    """What other tools have applied, and the lease.

    Attributes:
        inspection: What their tables show.
        lease: The item, by a strongly consistent read.
        is_marked_ready: Whether the item marks these requirements ready.
    """

    inspection: RequirementInspection
    lease: LeaseState
    is_marked_ready: bool


def read_requirements_status(
    target: Target, requirements: Requirements, deadline: Deadline
) -> RequirementsStatus:
    """Read the tools' tables and the item; change nothing."""
    inspection = target.database.inspect_requirements(requirements.entries, deadline)
    lease = target.store.read(consistent=True)
    is_marked_ready = lease.is_ready(requirements.digest, target.database.address_text)
    return RequirementsStatus(inspection, lease, is_marked_ready)


def find_requirement_problems(status: RequirementsStatus) -> Iterator[str]:
    """Describe what the item marks ready although it is not, with what to do."""
    if status.is_marked_ready:
        for each in status.inspection.unmet:
            yield (
                f"the lease table marks {each.requirement} ready, but {each.reason}: it was rolled "
                "back, or the database was restored; run `lambda-migrate verify --resync`"
            )


def resync_requirements(
    target: Target, requirements: Requirements, deadline: Deadline, *, request_id: str = ""
) -> None:
    """Correct the item from the tools' tables.

    What is ready for other requirements is dropped: only functions that have them can prove it.

    Raises:
        LeaseHeld: Another process holds the lease.
    """
    lease = acquire_lease(target, request_id)
    _RequirementInspector(target, lease, requirements, deadline).resync()
