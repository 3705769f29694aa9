"""A target's status, and whether files, history and item agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lambda_migrate.lease.readiness import UNKNOWN_IDENTITY
from lambda_migrate.lease.record import join_digests, split_digests
from lambda_migrate.migrations.repeatable import find_satisfied_digests
from lambda_migrate.migrations.revisions import PARTLY_COMMITTED_ADVICE
from lambda_migrate.migrations.version import RevisionVersion
from lambda_migrate.postgresql.ports import ToolCommand, is_behind_last_completion

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lambda_migrate.clock import Deadline
    from lambda_migrate.engine.target import Target
    from lambda_migrate.lease.record import LeaseState
    from lambda_migrate.migrations import HistoryRow, Manifest, Plan
    from lambda_migrate.postgresql.ports import FenceRow

__all__ = [
    "SchemaStatus",
    "Verification",
    "find_problems",
    "make_plan_with_revision_graph",
    "read_status",
]


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """A target's history, plan and lease.

    Attributes:
        history: All rows.
        plan: The manifest compared with them.
        lease: The item, by a strongly consistent read.
        is_marked_ready: Whether the item marks this manifest ready.
        is_other_database: Whether the item has another database at this address, or a later state
            of this one.
    """

    history: Sequence[HistoryRow]
    plan: Plan
    lease: LeaseState
    is_marked_ready: bool
    is_other_database: bool = False


@dataclass(frozen=True, slots=True)
class Verification:
    """Whether files, history and item agree.

    Attributes:
        status: What was compared.
        problems: One sentence for each disagreement, with what to do.
        resynced: Whether the item was corrected by this call.
    """

    status: SchemaStatus
    problems: tuple[str, ...]
    resynced: bool = False


def read_status(target: Target, manifest: Manifest, deadline: Deadline) -> SchemaStatus:
    """Read history and item, and compare them with the manifest; change nothing."""
    inspection = target.database.inspect(deadline)
    lease = target.store.read(consistent=True)
    address = target.database.address_text
    plan, history = make_plan_with_revision_graph(target, manifest, inspection.history, deadline)
    return SchemaStatus(
        history=history,
        plan=plan,
        lease=lease,
        is_marked_ready=lease.is_ready(manifest.digest, address),
        is_other_database=_is_other_database(inspection.fence, lease, address),
    )


def make_plan_with_revision_graph(
    target: Target, manifest: Manifest, history: Sequence[HistoryRow], deadline: Deadline
) -> tuple[Plan, Sequence[HistoryRow]]:
    """Compare a manifest with a history, for a command: another tool is started if necessary.

    Returns:
        The plan, and the history with the graph that the tool loaded.
    """
    out_of_order = target.policy.allow_out_of_order
    plan = manifest.make_plan(history, allow_out_of_order=out_of_order)
    if plan.needs_revision_graph:
        command = ToolCommand(to=manifest.last_revision)
        history = target.database.add_revision_graph(history, deadline, command=command)
        plan = manifest.make_plan(history, allow_out_of_order=out_of_order)
    return plan, history


def _is_other_database(fence: FenceRow | None, lease: LeaseState, address: str) -> bool:
    known = lease.find_identity(address)
    if known in (None, UNKNOWN_IDENTITY):
        return False
    if fence is None or fence.identity != known or fence.is_database_copy:
        return True
    return is_behind_last_completion(fence, lease.completions_by_database)


def find_problems(status: SchemaStatus, address: str) -> Iterator[str]:
    """Describe every disagreement between files, history and item, each with what to do.

    Args:
        status: Of the target.
        address: Of its database.
    """
    for divergence in status.plan.divergences:
        yield str(divergence)
    for row in status.plan.interrupted:
        is_revision = isinstance(row.version, RevisionVersion)
        yield f"{row.name}: it is in doubt ({row.state.value}); " + (
            PARTLY_COMMITTED_ADVICE if is_revision else "the next `up` resolves it"
        )
    if status.is_other_database:
        yield (
            f"{address} points to a different database than the lease table has, or to an "
            "earlier state of it: it was restored, or a secret or a name was changed; run "
            "`lambda-migrate verify --resync`"
        )
    elif status.is_marked_ready and not status.plan.is_current:
        yield (
            "the lease table marks this code version ready, but the history does not support "
            "that: the database was restored or changed by hand; run "
            "`lambda-migrate verify --resync`"
        )
    elif unsupported := _count_ready_without_history(status, address):
        count = f"{unsupported} code version{'s' * (unsupported != 1)}"
        yield (
            f"the lease table marks {count} ready that the history does not support; run "
            "`lambda-migrate verify --resync`"
        )


def _count_ready_without_history(status: SchemaStatus, address: str) -> int:
    """How many manifests are marked ready at this address that the history does not satisfy."""
    record = status.lease.find_record(address)
    if record is None:
        return 0
    marked = split_digests(record.ready_digests)[: record.addresses[address][0]]
    satisfied = split_digests(join_digests(find_satisfied_digests(status.history)))
    return len(set(marked) - set(satisfied))
