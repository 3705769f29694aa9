"""The port to the database that is migrated: `postgres` is the real one, `testing` has a fake."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from lambda_migrate.deadline import Deadline
    from lambda_migrate.migrations import HistoryRow, Migration

__all__ = ["Database", "FenceStale", "Grant", "HeldDatabase"]


@dataclass(frozen=True, slots=True)
class Grant:
    """Under which right a holder works: it stands in every history row it writes.

    Attributes:
        target: The item in the lease table.
        fence: The fencing token.
        owner: Who holds the lease.
        environment: ``staging``, ``production``: stamped by the first run, then compared.
        request_id: The invocation's id, for the history.
        restamp: Accept a database stamped with another environment and stamp it anew.
    """

    target: str
    fence: int
    owner: str
    environment: str = ""
    request_id: str = ""
    restamp: bool = False


class FenceStale(Exception):
    """PostgreSQL has seen a token at least as high as the one offered.

    Attributes:
        seen: That token.
    """

    def __init__(self, seen: int) -> None:
        self.seen = seen
        super().__init__(f"PostgreSQL has seen fence {seen}")


class HeldDatabase(Protocol):
    """A database under one holder's fence: one connection, open until `close`.

    Every method raises `LeaseLost` once a higher token was seen, `DatabaseUnavailable` when
    PostgreSQL cannot be reached before the deadline, and nothing else that is not named here.
    """

    def history(self) -> list[HistoryRow]:
        """Every row, in the order of versions."""

    def apply(self, migration: Migration, digest: str, deadline: Deadline) -> int:
        """Run the up script and write its history row, together or not at all.

        Args:
            migration: What to apply.
            digest: The chain digest that ends with it.
            deadline: PostgreSQL cancels what is not done by then.

        Returns:
            Milliseconds that it took; of a commit in doubt, what its history row says.

        Raises:
            MigrationFailed: Nothing of it was committed.
            RepairRequired: A non-transactional one is in doubt.
        """

    def revert(self, row: HistoryRow, deadline: Deadline) -> int:
        """Run the stored down script and remove the history row, together or not at all.

        Raises:
            MigrationFailed: Nothing of it was committed, or there is no down script.
        """

    def settle(self, row: HistoryRow, deadline: Deadline) -> None:
        """Bring a row in doubt to an end: complete it, or undo it so that it is pending again.

        Raises:
            RepairRequired: What happened cannot be told apart.
        """

    def record(self, migrations: Sequence[tuple[Migration, str]], *, baseline: bool) -> None:
        """Declare migrations (with their chain digests) applied, without running them.

        A row that exists is stamped anew: checksum, name, digest, down script, ``applied``.
        """

    def forget(self, versions: Sequence[int]) -> None:
        """Remove rows without running anything: what they named is pending again."""

    def abort(self) -> None:
        """End the running statement from another thread; whoever runs it gets `LeaseLost`."""

    def close(self) -> None:
        """Close the connection. Idempotent."""

    def __enter__(self) -> HeldDatabase: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Database(Protocol):
    """A PostgreSQL database that has, or will have, our schema."""

    @property
    def fingerprint(self) -> str:
        """Where it is, without secrets: ``host:port/name`` or a secret's ARN."""

    def read_history(self, deadline: Deadline) -> list[HistoryRow]:
        """Read the history through one short connection, without a fence; [] if there is none."""

    def take_over(self, grant: Grant, deadline: Deadline, *, evict: bool = True) -> HeldDatabase:
        """Connect, create what is missing, and make ``grant`` the only one that can commit.

        Args:
            grant: The right to work; its fence must be higher than any seen before.
            deadline: For connecting and for everything the holder does.
            evict: End the backends of older holders. False: `LeaseHeld` if one is alive.

        Raises:
            FenceStale: Its fence is not higher.
            ConfigurationError: Another environment's database, or a privilege is missing.
            DatabaseUnavailable: Not reached before the deadline.
            LeaseHeld: An older holder is alive and ``evict`` is False.
        """
