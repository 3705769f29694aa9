"""The port to the database that is migrated: `postgres` is the real one, `testing` has a fake."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from lambda_migrate.deadline import Deadline
    from lambda_migrate.migrations import HistoryRow, Migration
    from lambda_migrate.postgresql.measured import Measured, MovedSequence

__all__ = ["Database", "FenceStale", "Grant", "HeldDatabase", "Rehearsal"]


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

        A non-transactional one is settled first if it is in doubt.

        Args:
            migration: What to apply.
            digest: The chain digest that ends with it.
            deadline: PostgreSQL cancels what is not done by then.

        Returns:
            Milliseconds that it took; of a commit in doubt, what its history row says.

        Raises:
            MigrationFailed: Nothing of it was committed.
            RepairRequired: A non-transactional one is in doubt: it was interrupted, or failed and
                may have committed a part.
        """

    def revert(self, row: HistoryRow, deadline: Deadline) -> int:
        """Run the stored down script and remove the history row, together or not at all.

        A row in doubt is settled first; if it is gone then, nothing is run.

        Raises:
            MigrationFailed: Nothing of it was committed, or there is no down script.
            RepairRequired: As of `apply`.
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


class Rehearsal(Protocol):
    """One transaction in which migrations run one after the other, and which is never committed.

    While it is open it holds every lock that they take, and the fence row: nobody can migrate.
    Neither the token nor the environment's stamp is changed. It raises what a `HeldDatabase` does.
    """

    def begin(self, deadline: Deadline) -> None:
        """Begin anew; what is open is rolled back first. `Database.rehearse` has begun already.

        Raises:
            LeaseHeld: Somebody is migrating.
        """

    def history(self) -> list[HistoryRow]:
        """Every row as it was before the rehearsal, in the order of versions; [] on a first run."""

    def run(self, migration: Migration, deadline: Deadline) -> Measured:
        """Run a transactional up script after those before it, and measure it.

        Raises:
            MigrationFailed: As `HeldDatabase.apply` would; nothing of it is left, and what ran
                before it still stands, so that the next one can be run, unless the script ended
                the transaction.
        """

    def end(self) -> tuple[MovedSequence, ...]:
        """Roll everything back, and make sure of it.

        Returns:
            Sequences that gave out numbers, which no rollback takes back.

        Raises:
            RepairRequired: PostgreSQL says that the transaction was not rolled back.
        """

    def abort(self) -> None:
        """See `HeldDatabase.abort`."""

    def close(self) -> None:
        """Roll back and close the connection. Idempotent."""

    def __enter__(self) -> Rehearsal: ...

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

    def rehearse(self, grant: Grant, deadline: Deadline) -> Rehearsal:
        """Connect, and begin a transaction that will be rolled back; commits nothing.

        No holder's backend is ended for it. A successor ends ours.

        Args:
            grant: The right to work; its fence must be higher than any seen before.
            deadline: For connecting and for all of it.

        Raises:
            FenceStale: Its fence is not higher.
            ConfigurationError: Another environment's database, or a privilege is missing.
            DatabaseUnavailable: Not reached before the deadline.
            LeaseHeld: A holder is alive.
        """

    def read_environment(self, deadline: Deadline) -> str:
        """What the database is stamped with, through one short connection; "" if with nothing."""
