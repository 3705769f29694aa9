"""Answers as JSON documents. Their shape is promised in ``docs/reference/command-line.md``."""

from __future__ import annotations

from dataclasses import asdict, fields
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from lambda_migrate.commands.status_rows import Entry, counts, entries_of
from lambda_migrate.lease.record import split_digests

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lambda_migrate.commands.preview import Preview, Step
    from lambda_migrate.engine.flags import Flags
    from lambda_migrate.engine.operations import Status, Verification
    from lambda_migrate.lease.record import DatabaseRecord, Failure, LeaseState, Progress
    from lambda_migrate.migrations import Divergence, Manifest

__all__ = [
    "entries_in",
    "flags_document",
    "iso",
    "lease_document",
    "plan_document",
    "status_document",
    "verify_document",
]


FIRST_STATEMENTS = 3
"""So many of a migration's statements are quoted; the rest is counted."""


def iso(wall_ms: int) -> str | None:
    """Milliseconds since the epoch as ISO 8601 in UTC; None if that is no date."""
    try:
        moment = datetime.fromtimestamp(wall_ms / 1000, timezone.utc)
    except (OverflowError, OSError, ValueError):  # the lease table may hold any number
        return None
    return moment.isoformat(timespec="milliseconds")


def status_document(
    status: Status, manifest: Manifest, place: dict[str, str], *, has_table: bool
) -> dict[str, Any]:
    """The answer of ``status``.

    Args:
        status: What was found.
        manifest: The migrations at hand.
        place: ``target``, ``database``, ``environment``, ``schema``, ``directory``.
        has_table: Whether there is a lease table.
    """
    entries = entries_of(status)
    return {
        **place,
        "digest": manifest.digest,
        "files": len(manifest),
        "is_current": status.plan.is_current,
        "is_marked_ready": status.is_marked_ready if has_table else None,
        "counts": {state.replace(" ", "_"): n for state, n in counts(entries).items()},
        "in_doubt": [row.name for row in status.plan.in_doubt],
        "migrations": [_entry(entry) for entry in entries],
        "divergences": [_divergence(each) for each in status.plan.divergences],
        "lease": lease_document(status.lease) if has_table else None,
    }


def _entry(entry: Entry) -> dict[str, Any]:
    return {**asdict(entry), "state": entry.state.replace(" ", "_")}


def entries_in(document: Mapping[str, Any]) -> list[Entry]:
    """The migrations of a `status_document`."""
    names = {each.name for each in fields(Entry)}
    return [
        Entry(
            **{
                **{key: value for key, value in each.items() if key in names},
                "state": each["state"].replace("_", " "),
            }
        )
        for each in document["migrations"]
    ]


def _divergence(divergence: Divergence) -> dict[str, Any]:
    return {
        "version": divergence.version,
        "name": divergence.name,
        "kind": divergence.kind.replace("-", "_"),
        "advice": divergence.advice,
    }


def lease_document(state: LeaseState) -> dict[str, Any]:
    """The item in the lease table."""
    held = state.owner is not None
    return {
        "fence": state.fence,
        "owner": state.owner,
        "lease_until": iso(state.lease_until_ms) if held else None,
        "lease_until_ms": state.lease_until_ms if held else None,
        "progress": _progress(state.progress) if state.progress else None,
        "failure": _failure(state.failure) if state.failure else None,
        "databases": [_database(identity, record) for identity, record in state.databases.items()],
    }


def _database(identity: str, record: DatabaseRecord) -> dict[str, Any]:
    return {
        "identity": identity,
        "versions_ready": _without_empty(record.dropped + len(split_digests(record.ready))),
        "addresses": [
            {"address": address, "versions_ready": _versions(record, confirmed)}
            for address, (confirmed, _) in sorted(record.addresses.items())
        ],
        "checked_at": iso(record.at_ms),
        "checked_by": record.owner,
        "fence": record.fence,
    }


def _versions(record: DatabaseRecord, confirmed: int) -> int:
    return _without_empty(record.dropped + confirmed) if confirmed else 0


def _without_empty(manifests: int) -> int:
    """How many versions are ready: the manifest without migrations is not counted."""
    return max(0, manifests - 1)


def _progress(progress: Progress) -> dict[str, Any]:
    return {
        "migration": progress.migration,
        "done": progress.done,
        "total": progress.total,
        "started_at": iso(progress.started_ms),
        "started_ms": progress.started_ms,
    }


def _failure(failure: Failure) -> dict[str, Any]:
    return {
        "digest": failure.digest,
        "migration": failure.migration,
        "sqlstate": failure.sqlstate,
        "cause": failure.cause,
        "attempts": failure.attempts,
        "at": iso(failure.at_ms),
        "retry_at": iso(failure.retry_at_ms),
        "retry_at_ms": failure.retry_at_ms,
        "had_ms": failure.had_ms,
    }


def flags_document(flags: Flags | None, *, unavailable: str | None = None) -> dict[str, Any]:
    """The feature flags in force; None: they cannot be read, because of ``unavailable``."""
    return {
        "mode": flags.mode if flags else None,
        "hold_back_at": flags.hold_back_at if flags else None,
        "paused": flags.paused if flags else None,
        "unavailable": unavailable,
    }


def plan_document(preview: Preview, place: dict[str, str]) -> dict[str, Any]:
    """The answer of ``plan``."""
    return {
        **place,
        "digest": preview.digest,
        "can_go_on": preview.can_go_on,
        "in_doubt": [row.name for row in preview.in_doubt],
        "pending": [_step(step) for step in preview.steps],
        "divergences": [_divergence(each) for each in preview.divergences],
    }


def verify_document(
    found: Verification, place: dict[str, str], *, resynced: bool
) -> dict[str, Any]:
    """The answer of ``verify``."""
    return {
        **place,
        "agree": not found.problems,
        "problems": list(found.problems),
        "resynced": resynced,
        "applied": len(found.status.plan.applied),
        "pending": len(found.status.plan.pending),
    }


def _step(step: Step) -> dict[str, Any]:
    return {
        "version": step.version,
        "name": step.name,
        "path": step.path,
        "transactional": step.transactional,
        "has_down_script": step.has_down_script,
        "statements": len(step.statements),
        "first_statements": list(step.statements[:FIRST_STATEMENTS]),
        "faults": list(step.faults),
    }
