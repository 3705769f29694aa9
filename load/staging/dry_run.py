"""Each pending migration, executed on the data and rolled back: its time, its locks, its rows.

What is judged is the document of ``lambda-migrate plan --dry-run --format json``, whether it was
run here or in a function's VPC.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lambda_migrate.clock import Deadline
from lambda_migrate.commands.dry_run import build_dry_run_document
from lambda_migrate.events import null_observer
from lambda_migrate.local.demo.servers import make_operations
from load.staging.verdicts import Limits
from load.storm.testbed import Testbed
from load.storm.verdicts import Verdict, judge

__all__ = ["longest_lock", "run_dry_run", "verdicts_of_dry_run"]

_SECONDS = 900.0  # Lambda's longest timeout
_RAN, _FAILED = "ran", "failed"


@dataclass(frozen=True, slots=True)
class BlockingLock:
    """A lock that others wait for; it is held until its migration is committed, so for its time."""

    migration: str
    relation: str
    mode: str
    seconds: float


def run_dry_run(testbed: Testbed) -> Mapping[str, Any]:
    """Run ``lambda-migrate plan --dry-run`` with the new code's files.

    Raises:
        MigrateError: It could not be started.
    """
    bed = testbed
    operations = make_operations(bed.codes[2], bed.variables(), bed.dynamodb, null_observer)
    result = operations.dry_run(Deadline.after(_SECONDS))
    assert result is not None  # noqa: S101 - None is for users who do not confirm
    return build_dry_run_document(result)


def verdicts_of_dry_run(document: Mapping[str, Any], limits: Limits) -> Iterator[Verdict]:
    """Whether all pending migrations run on this data, and how long they block others.

    Args:
        document: The answer's ``dry_run``.
        limits: What is accepted.
    """
    what = "each pending migration runs on this data"
    migrations = document["migrations"]
    if document["error"] is not None:
        message = str(document["error"]["message"])
        failed = next((one["name"] for one in migrations if one["outcome"] == _FAILED), "")
        yield Verdict(what, "failed", message if failed in message else f"{failed}: {message}")
        return
    executed = [one for one in migrations if one["outcome"] == _RAN]
    if executed:
        yield judge(what, True, f"{len(executed)} of {len(migrations)}")
    for one in migrations:
        if one["outcome"] != _RAN:
            yield Verdict(f"{one['name']} runs on this data", "not measured", one["reason"])
    what, lock = "longest lock that blocks writes", longest_lock(document)
    if lock is None:
        yield judge(what, True, f"none (limit {limits.lock:g} s)")
    else:
        found = f"{lock.seconds:.2f} s: {lock.migration}, {lock.mode} on {lock.relation}"
        yield judge(what, lock.seconds <= limits.lock, f"{found} (limit {limits.lock:g} s)")


def longest_lock(document: Mapping[str, Any]) -> BlockingLock | None:
    """The lock that blocks others for the longest time; None if no migration takes any."""
    blocking = (
        BlockingLock(one["name"], lock["relation"], lock["mode"], one["seconds"] or 0.0)
        for one in document["migrations"]
        for lock in one["locks"]
        if lock["blocks"]
    )
    return max(blocking, key=lambda lock: lock.seconds, default=None)
