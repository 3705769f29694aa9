"""What an attempt to migrate leaves in the item: its progress and its failure.

A start that finds the schema ready does not load this module.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Failure", "Progress"]


class Progress(NamedTuple):
    """What the holder publishes with each renewal.

    Attributes:
        migration: The name of the running migration.
        done: How many of ``total`` pending migrations are committed.
        total: How many were pending when the holder began.
        started_ms: When the running migration began, milliseconds since the epoch.
        attempts: How many holders in a row have started with this migration, including this one;
            the others ended without releasing the lease.
    """

    migration: str
    done: int
    total: int
    started_ms: int
    attempts: int = 1


class Failure(NamedTuple):
    """Why the last attempt at a manifest failed, for all who would try it next.

    Attributes:
        digest: The manifest that failed.
        migration: The name of the migration that failed, or "" if none did.
        version: Its version, or "".
        sqlstate: PostgreSQL's error code, or "".
        cause: One short sentence without data or secrets.
        attempts: How many attempts at this digest have failed in a row.
        at_ms: When, milliseconds since the epoch.
        retry_at_ms: No process tries again before this.
        available_ms: How much time an attempt had that ran out of it. One with more time may try.
        is_process_killed: Whether its holders were killed, so that they reported no error.
        address: The database address that the failure applies to if no migration is to blame:
            other addresses may have another password, role or network. "": all addresses.
        is_unmet_requirement: Whether nothing failed: another tool had not applied yet what is
            required. Others wait, and one of them inspects the database again after the pause.
    """

    digest: str
    migration: str
    version: str
    sqlstate: str
    cause: str
    attempts: int
    at_ms: int
    retry_at_ms: int
    available_ms: int | None = None
    is_process_killed: bool = False
    address: str = ""
    is_unmet_requirement: bool = False

    def applies_to(self, digest: str, address: str) -> bool:
        """Whether it is a failure of this manifest at this address."""
        return self.digest == digest and self.address in ("", address)
