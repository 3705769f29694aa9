"""Results as JSON documents; ``docs/reference/command-line.md`` documents their shape."""

from __future__ import annotations

from dataclasses import asdict, fields
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from lambda_migrate.commands.status_entries import StatusEntry, build_entries, count_states
from lambda_migrate.lease.record import split_digests
from lambda_migrate.migrations.revisions import RevisionManifest
from lambda_migrate.migrations.version import RevisionVersion

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lambda_migrate.commands.preview import PlannedMigration, PlanPreview
    from lambda_migrate.engine.flags import Flags
    from lambda_migrate.engine.operations import SchemaStatus, Verification
    from lambda_migrate.events import MigrationNotice
    from lambda_migrate.lease.progress import Failure, Progress
    from lambda_migrate.lease.record import DatabaseRecord, LeaseState
    from lambda_migrate.migrations import Divergence, Manifest
    from lambda_migrate.migrations.version import Version

__all__ = [
    "build_flags_document",
    "build_lease_document",
    "build_plan_document",
    "build_status_document",
    "build_verify_document",
    "build_version",
    "format_iso",
    "format_notice",
    "parse_entries",
]


_MAX_EXACT_INTEGER = 2**53

MAX_STATEMENTS_SHOWN = 3
"""How many statements of a migration are quoted; the others are only counted."""


def format_iso(wall_ms: int) -> str | None:
    """Format milliseconds since the epoch as ISO 8601 in UTC; None if they are out of range."""
    try:
        moment = datetime.fromtimestamp(wall_ms / 1000, timezone.utc)
    except (OverflowError, OSError, ValueError):  # the lease table may hold any number
        return None
    return moment.isoformat(timespec="milliseconds")


def format_notice(event: MigrationNotice) -> dict[str, str]:
    """Format a warning or notice that PostgreSQL sent, for the value of ``notices``."""
    return {
        "migration": event.migration,
        "severity": event.severity,
        "message": event.message,
    }


def build_status_document(
    status: SchemaStatus, manifest: Manifest, location: dict[str, str], *, has_table: bool
) -> dict[str, Any]:
    """Build the result of ``status``.

    Args:
        status: The target's status.
        manifest: The migration files.
        location: ``target``, ``database``, ``environment``, ``schema``, ``directory``.
        has_table: Whether a lease table is configured.
    """
    entries = build_entries(status)
    return {
        **location,
        "digest": manifest.digest,
        "files": _count_files(status, manifest),
        "is_current": status.plan.is_current,
        "is_marked_ready": status.is_marked_ready if has_table else None,
        "counts": {state.replace(" ", "_"): n for state, n in count_states(entries).items()},
        "in_doubt": [row.name for row in status.plan.interrupted],
        "repeatables_ahead": list(status.plan.repeatables_ahead),
        "migrations": [_build_entry(entry) for entry in entries],
        "divergences": [_build_divergence(each) for each in status.plan.divergences],
        "lease": build_lease_document(status.lease) if has_table else None,
    }


def _count_files(status: SchemaStatus, manifest: Manifest) -> int:
    """The migrations of the code; another tool's are known from what it said."""
    if isinstance(manifest, RevisionManifest):
        return len(status.plan.applied) + len(status.plan.pending)
    return len(manifest) + len(manifest.repeatables)


def build_version(version: Version) -> int | str:
    """A version in JSON: text if a double, which many readers use, could not hold the number."""
    return version if isinstance(version, int) and version < _MAX_EXACT_INTEGER else str(version)


def _build_entry(entry: StatusEntry) -> dict[str, Any]:
    return {
        **asdict(entry),
        "version": build_version(entry.version),
        "state": entry.state.replace(" ", "_"),
    }


def parse_entries(document: Mapping[str, Any]) -> list[StatusEntry]:
    """Read the migrations from the document of `build_status_document`."""
    names = {each.name for each in fields(StatusEntry)}
    return [
        StatusEntry(
            **{
                **{key: value for key, value in each.items() if key in names},
                "state": each["state"].replace("_", " "),
            }
        )
        for each in document["migrations"]
    ]


def _build_divergence(divergence: Divergence) -> dict[str, Any]:
    return {
        "version": build_version(divergence.version),
        "name": divergence.name,
        "kind": divergence.kind.replace("-", "_"),
        "advice": divergence.advice,
    }


def build_lease_document(state: LeaseState) -> dict[str, Any]:
    """Build the document of the item in the lease table."""
    is_held = state.owner is not None
    return {
        "fence": state.fence,
        "owner": state.owner,
        "lease_until": format_iso(state.lease_until_ms) if is_held else None,
        "lease_until_ms": state.lease_until_ms if is_held else None,
        "progress": _build_progress(state.progress) if state.progress else None,
        "failure": _build_failure(state.failure) if state.failure else None,
        "databases": [
            _build_database(identity, record) for identity, record in state.databases.items()
        ],
    }


def _build_database(identity: str, record: DatabaseRecord) -> dict[str, Any]:
    return {
        "identity": identity,
        "versions_ready": _count_non_empty(
            record.unlisted_count + len(split_digests(record.ready_digests))
        ),
        "addresses": [
            {
                "address": address,
                "versions_ready": _count_confirmed_digests(record, confirmed_count),
            }
            for address, (confirmed_count, _) in sorted(record.addresses.items())
        ],
        "checked_at": format_iso(record.at_ms),
        "checked_by": record.owner,
        "fence": record.fence,
    }


def _count_confirmed_digests(record: DatabaseRecord, confirmed_count: int) -> int:
    return _count_non_empty(record.unlisted_count + confirmed_count) if confirmed_count else 0


def _count_non_empty(manifests: int) -> int:
    """Count the versions that are ready, without the empty manifest."""
    return max(0, manifests - 1)


def _build_progress(progress: Progress) -> dict[str, Any]:
    return {
        "migration": progress.migration,
        "done": progress.done,
        "total": progress.total,
        "started_at": format_iso(progress.started_ms),
        "started_ms": progress.started_ms,
    }


def _build_failure(failure: Failure) -> dict[str, Any]:
    return {
        "digest": failure.digest,
        "migration": failure.migration,
        "sqlstate": failure.sqlstate,
        "cause": failure.cause,
        "attempts": failure.attempts,
        "at": format_iso(failure.at_ms),
        "retry_at": format_iso(failure.retry_at_ms),
        "retry_at_ms": failure.retry_at_ms,
        "available_ms": failure.available_ms,
        "is_unmet_requirement": failure.is_unmet_requirement,
    }


def build_flags_document(flags: Flags | None, *, unavailable: str | None = None) -> dict[str, Any]:
    """Build the document of the feature flags; None: they cannot be read (``unavailable``)."""
    return {
        "mode": flags.mode if flags else None,
        "hold_back_at": flags.hold_back_at if flags else None,
        "paused": flags.paused if flags else None,
        "unavailable": unavailable,
    }


def build_plan_document(
    preview: PlanPreview, location: dict[str, str], *, with_sql: bool
) -> dict[str, Any]:
    """Build the result of ``plan``.

    Args:
        preview: What `up` would do.
        location: As of `build_status_document`.
        with_sql: Whether to include every statement in full.
    """
    return {
        **location,
        "digest": preview.digest,
        "can_be_applied": preview.can_be_applied,
        "in_doubt": [row.name for row in preview.in_doubt],
        "pending": [
            {**_build_migration(migration), **({"sql": list(migration.sql)} if with_sql else {})}
            for migration in preview.migrations
        ],
        "repeatables_ahead": list(preview.repeatables_ahead),
        "divergences": [_build_divergence(each) for each in preview.divergences],
    }


def build_verify_document(
    verification: Verification, location: dict[str, str], *, resynced: bool, has_table: bool
) -> dict[str, Any]:
    """Build the result of ``verify``; see `build_status_document`."""
    return {
        **location,
        "compared": ["files", "history", *(["lease table"] if has_table else [])],
        "agree": not verification.problems,
        "problems": list(verification.problems),
        "resynced": resynced,
        "applied": len(verification.status.plan.applied),
        "pending": len(verification.status.plan.pending),
    }


def _build_migration(migration: PlannedMigration) -> dict[str, Any]:
    # Only the tool reads the file of a revision.
    is_sql = not isinstance(migration.version, RevisionVersion)
    return {
        "version": build_version(migration.version),
        "name": migration.name,
        "path": migration.path,
        "transactional": migration.transactional if is_sql else None,
        "isolation": migration.isolation if is_sql else None,
        "has_down_script": migration.has_down_script if is_sql else None,
        "hooks": list(migration.hooks),
        "statements": len(migration.statements) if is_sql else None,
        "first_statements": list(migration.statements[:MAX_STATEMENTS_SHOWN]),
        "faults": list(migration.faults),
        "warnings": list(migration.warnings),
    }
