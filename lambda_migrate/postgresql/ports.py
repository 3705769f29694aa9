"""The port to the database that is migrated: `postgres` is the real one, `testing` has a fake."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from lambda_migrate.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from lambda_migrate.clock import Deadline
    from lambda_migrate.migrations import HistoryRow, Migration
    from lambda_migrate.migrations.adoption import OtherHistory
    from lambda_migrate.postgresql.dry_run_effects import AdvancedSequence, MigrationEffects

__all__ = [
    "Database",
    "DryRunSession",
    "FenceRow",
    "FencedSession",
    "Inspection",
    "LeaseGrant",
    "StaleFencingToken",
    "is_behind_last_completion",
    "require_environment",
]


@dataclass(frozen=True, slots=True)
class LeaseGrant:
    """Under which right a holder works: it stands in every history row it writes.

    Attributes:
        target: The item in the lease table.
        fence: The fencing token.
        owner: Who holds the lease.
        environment: ``staging``, ``production``: stamped by the first run, then compared.
        request_id: The invocation's id, for the history.
        restamps_environment: Accept a database stamped with another environment, and stamp it
            with this one.
        completions: Identity -> token and owner of the last holder that completed there, as the
            lease table has them. A database of that identity that has not seen them is a copy, or
            was restored to an earlier state.
    """

    target: str
    fence: int
    owner: str
    environment: str = ""
    request_id: str = ""
    restamps_environment: bool = False
    completions: Mapping[str, tuple[int, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FenceRow:
    """The fence as it is in the database.

    Attributes:
        token: The highest token seen.
        owner: The holder that set it.
        environment: What the database is stamped with.
        identity: The UUID that the row was made with.
        system: Cluster and database in which the identity was last confirmed, or "".
        live_system: Cluster and database that were asked; without the cluster where the role may
            not read its identifier.
    """

    token: int
    owner: str
    environment: str
    identity: str
    system: str = ""
    live_system: str = ""

    @property
    def is_copy(self) -> bool:
        """Whether the row came here with a dump, a template or a restore into another cluster."""
        pairs = zip(self.system.split("/"), self.live_system.split("/"), strict=False)
        return any(stored and live and stored != live for stored, live in pairs)

    @property
    def confirmed_system(self) -> str:
        """What to store: a role that may not read the cluster's identifier does not forget it."""
        (stored, _, _), (live, _, database) = (
            self.system.partition("/"),
            self.live_system.partition("/"),
        )
        return f"{live or ('' if self.is_copy else stored)}/{database}"


def require_environment(stamped: str, environment: str) -> None:
    """Refuse a database that belongs to another environment.

    Args:
        stamped: The environment that the database has; "" before the first run.
        environment: The one that is configured; "" if none is.

    Raises:
        ConfigurationError: They differ.
    """
    if stamped in ("", environment):
        return
    named = f"environment {environment!r}" if environment else "no environment"
    raise ConfigurationError(
        f"this database belongs to environment {stamped!r}, this function names {named}; "
        f"correct its database, or set LAMBDA_MIGRATE_ENVIRONMENT={stamped}. If the database "
        "is a copy that changed hands, run `lambda-migrate repair --environment`"
    )


def is_behind_last_completion(row: FenceRow, completions: Mapping[str, tuple[int, str]]) -> bool:
    """Whether the database has not seen the last holder that completed under its identity."""
    if row.identity not in completions:
        return False
    token, owner = completions[row.identity]
    return row.token < token or (row.token == token and row.owner != owner)


@dataclass(frozen=True, slots=True)
class Inspection:
    """A database as one short connection found it, without a fence.

    Attributes:
        history: Every row, in the order of versions.
        fence: None where our tables are not there.
        has_active_holder: Whether a holder is at work on it.
        is_replica: Whether the server is in recovery, so that what it shows may be old.
    """

    history: tuple[HistoryRow, ...] = ()
    fence: FenceRow | None = None
    has_active_holder: bool = False
    is_replica: bool = False


class StaleFencingToken(Exception):
    """PostgreSQL has seen a token at least as high as the one offered.

    Attributes:
        current_token: That token.
    """

    def __init__(self, current_token: int) -> None:
        self.current_token = current_token
        super().__init__(f"PostgreSQL has seen fencing token {current_token}")


class FencedSession(Protocol):
    """A database under one holder's fence: one connection, open until `close`.

    Every method raises `LeaseLost` once a higher token was seen, `DatabaseUnavailable` when
    PostgreSQL cannot be reached before the deadline, and nothing else that is not named here.
    """

    @property
    def identity(self) -> str:
        """The database's own UUID; a copy was given one of its own by the takeover."""

    @property
    def is_separate(self) -> bool:
        """Whether it had no fence before the takeover, or is a copy that is recognized as one."""

    @property
    def distrusted(self) -> str:
        """The identity whose record in the lease table may be outdated, or ""."""

    def read_history(self) -> list[HistoryRow]:
        """Every row, in the order of versions."""

    def read_other_histories(self) -> list[OtherHistory]:
        """What other migration tools' tables in this database say, in every schema."""

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

    def roll_back(self, row: HistoryRow, deadline: Deadline) -> int:
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

    def record_applied(
        self, migrations: Sequence[tuple[Migration, str]], *, baseline: bool
    ) -> None:
        """Declare migrations (with their chain digests) applied, without running them.

        A row that exists is stamped anew: checksum, name, digest, down script, ``applied``.
        """

    def delete_rows(self, versions: Sequence[int]) -> None:
        """Remove rows without running anything: what they named is pending again."""

    def abort(self) -> None:
        """End the running statement from another thread; whoever runs it gets `LeaseLost`."""

    def close(self) -> None:
        """Close the connection. Idempotent."""

    def __enter__(self) -> FencedSession: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class DryRunSession(Protocol):
    """One transaction in which migrations run one after the other, and which is never committed.

    While it is open it holds every lock that they take, and the fence row: nobody can migrate.
    Neither the token nor the environment's stamp is changed. It raises what a `FencedSession` does.
    """

    def begin(self, deadline: Deadline) -> None:
        """Begin again, after rolling back what is open; `Database.begin_dry_run` began first.

        Raises:
            LeaseHeld: Somebody is migrating.
        """

    def read_history(self) -> list[HistoryRow]:
        """Every row as it was before the rehearsal, in the order of versions; [] on a first run."""

    def run_migration(self, migration: Migration, deadline: Deadline) -> MigrationEffects:
        """Run a transactional up script after those before it, and measure it.

        Raises:
            MigrationFailed: As `FencedSession.apply` would; nothing of it is left, and what ran
                before it still stands, so that the next one can be run, unless the script ended
                the transaction.
        """

    def roll_back(self) -> tuple[AdvancedSequence, ...]:
        """Roll everything back, and make sure of it.

        Returns:
            Sequences that gave out numbers, which no rollback takes back.

        Raises:
            RepairRequired: PostgreSQL says that the transaction was not rolled back.
        """

    def abort(self) -> None:
        """See `FencedSession.abort`."""

    def close(self) -> None:
        """Roll back and close the connection. Idempotent."""

    def __enter__(self) -> DryRunSession: ...

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
        """Its address, without secrets: ``host:port/name`` or a secret's ARN.

        It names our schema too, where that is not the default one.
        """

    def inspect(self, deadline: Deadline) -> Inspection:
        """CatalogFinding through one short connection, without a fence."""

    def read_history(self, deadline: Deadline) -> list[HistoryRow]:
        """As `inspect`, the history alone; [] if there is none."""

    def take_over(
        self, grant: LeaseGrant, deadline: Deadline, *, evict: bool = True
    ) -> FencedSession:
        """Connect, create what is missing, and make ``grant`` the only one that can commit.

        Args:
            grant: The right to work; its fence must be higher than any seen before.
            deadline: For connecting and for everything the holder does.
            evict: End the backends of older holders. False: `LeaseHeld` if one is alive.

        Raises:
            StaleFencingToken: Its fence is not higher.
            ConfigurationError: Another environment's database, or a privilege is missing.
            DatabaseUnavailable: Not reached before the deadline.
            LeaseHeld: An older holder is alive and ``evict`` is False.
        """

    def begin_dry_run(self, grant: LeaseGrant, deadline: Deadline) -> DryRunSession:
        """Connect, and begin a transaction that will be rolled back; commits nothing.

        No holder's backend is ended for it. A successor ends ours.

        Args:
            grant: The right to work; its fence must be higher than any seen before.
            deadline: For connecting and for all of it.

        Raises:
            StaleFencingToken: Its fence is not higher.
            ConfigurationError: Another environment's database, or a privilege is missing.
            DatabaseUnavailable: Not reached before the deadline.
            LeaseHeld: A holder is alive.
        """

    def read_other_histories(self, deadline: Deadline) -> list[OtherHistory]:
        """See `FencedSession.read_other_histories`; through one short connection."""
