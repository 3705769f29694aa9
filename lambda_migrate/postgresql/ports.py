"""The port to the database: `database` implements it for PostgreSQL, `testing` in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from lambda_migrate.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from typing_extensions import Self

    from lambda_migrate.clock import Deadline
    from lambda_migrate.migrations import HistoryRow, Manifest, Migration
    from lambda_migrate.migrations.baseline import SyncedHistory, ToolHistory
    from lambda_migrate.migrations.requirement_check import RequirementInspection
    from lambda_migrate.migrations.requirements import Requirement
    from lambda_migrate.migrations.version import Version
    from lambda_migrate.postgresql.dry_run_effects import AdvancedSequence, MigrationEffects

__all__ = [
    "Database",
    "DatabaseInspection",
    "DatabaseSession",
    "DryRunSession",
    "FenceRow",
    "FencedSession",
    "LeaseGrant",
    "Notice",
    "StaleFencingToken",
    "ToolCommand",
    "is_behind_last_completion",
    "require_environment",
]


@dataclass(frozen=True, slots=True)
class LeaseGrant:
    """What a holder received with the lease; each history row that it writes records it.

    Attributes:
        target: The item in the lease table.
        fence: The fencing token.
        owner: The holder of the lease.
        environment: ``staging``, ``production``: compared with the one that the database
            recorded; see `FencedSession.record_environment`.
        request_id: The invocation's id, for the history.
        replaces_environment: Accept a database of another environment.
        completions_by_database: Identity -> token and owner of the last holder that completed
            there, as the lease table has them. A database with that identity and an older token is
            a copy, or was restored to an earlier state.
    """

    target: str
    fence: int
    owner: str
    environment: str = ""
    request_id: str = ""
    replaces_environment: bool = False
    completions_by_database: Mapping[str, tuple[int, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FenceRow:
    """The fence row of a database.

    Attributes:
        token: The highest token that was accepted.
        owner: The holder that set it.
        environment: The environment that the database belongs to.
        identity: The database's UUID, created with the row.
        confirmed_system_id: Cluster and database for which the identity was last confirmed, or "".
        current_system_id: The current cluster and database; without the cluster if the role may not
            read its identifier.
    """

    token: int
    owner: str
    environment: str
    identity: str
    confirmed_system_id: str = ""
    current_system_id: str = ""

    @property
    def is_database_copy(self) -> bool:
        """Whether the row came here with a dump, a template or a restore into another cluster."""
        confirmed, live = self.confirmed_system_id.split("/"), self.current_system_id.split("/")
        return any(a and b and a != b for a, b in zip(confirmed, live, strict=False))

    @property
    def system_id_to_store(self) -> str:
        """The live system; the stored cluster, if the role may not read its identifier."""
        stored, _, _ = self.confirmed_system_id.partition("/")
        live, _, database = self.current_system_id.partition("/")
        return f"{live or ('' if self.is_database_copy else stored)}/{database}"


def require_environment(recorded_environment: str, environment: str) -> None:
    """Refuse a database that belongs to another environment.

    Args:
        recorded_environment: The database's environment; "" before the first run.
        environment: The configured environment; "" if none is configured.

    Raises:
        ConfigurationError: They differ.
    """
    if recorded_environment in ("", environment):
        return
    configured = f"environment {environment!r}" if environment else "no environment"
    raise ConfigurationError(
        f"this database belongs to environment {recorded_environment!r}, but {configured} is "
        "configured: correct the database settings, or set "
        f"LAMBDA_MIGRATE_ENVIRONMENT={recorded_environment}. "
        "If the database is a copy that now belongs to another environment, run "
        "`lambda-migrate repair --environment NAME`"
    )


def is_behind_last_completion(
    row: FenceRow, completions_by_database: Mapping[str, tuple[int, str]]
) -> bool:
    """Whether the fence is older than the last completion recorded for its identity."""
    if row.identity not in completions_by_database:
        return False
    token, owner = completions_by_database[row.identity]
    return row.token < token or (row.token == token and row.owner != owner)


class ToolCommand(NamedTuple):
    """What another tool is to do.

    Attributes:
        name: ``up``, ``down``, or ``dry-run``, which is rolled back.
        to: The last revision to apply, or the one to roll back to; "" for all.
        steps: How many revisions to roll back; None if ``to`` says it.
    """

    name: str = "up"
    to: str = ""
    steps: int | None = None


@dataclass(frozen=True, slots=True)
class DatabaseInspection:
    """The state of a database, read through one short connection.

    Attributes:
        history: Every row, in the order of versions.
        fence: None if the library's tables do not exist.
        has_active_holder: Whether a holder is working on it.
        is_replica: Whether the server is in recovery, so that its data may be outdated.
    """

    history: Sequence[HistoryRow] = ()
    fence: FenceRow | None = None
    has_active_holder: bool = False
    is_replica: bool = False


class StaleFencingToken(Exception):
    """PostgreSQL has accepted a token at least as high as the one offered.

    Attributes:
        current_token: That token.
    """

    def __init__(self, current_token: int) -> None:
        self.current_token = current_token
        super().__init__(f"PostgreSQL has accepted fencing token {current_token}")


class Notice(NamedTuple):
    """A message that PostgreSQL sent while a script ran, without ending it.

    Attributes:
        severity: ``WARNING``, ``NOTICE``, ``INFO``.
        message: One line, shortened, with the detail and the hint.
    """

    severity: str
    message: str


class DatabaseSession(Protocol):
    """What both kinds of session have in common: they are closed at the end of a ``with``."""

    def abort(self) -> None:
        """Abort the running statement from another thread; its caller gets `LeaseLost`."""

    def take_notices(self) -> tuple[Notice, ...]:
        """The warnings and notices of the script that ran last, or failed; () after that.

        There is a bound for their number and length; the last one then counts those left out.
        """
        return ()

    def close(self) -> None:
        """Roll back what is open, and close the connection. Idempotent."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class FencedSession(DatabaseSession, Protocol):
    """A holder's session on the database, open until `close`.

    Every method raises `LeaseLost` after a higher token was accepted, `DatabaseUnavailable` if
    PostgreSQL cannot be reached before the deadline, and otherwise only what it names.
    """

    @property
    def identity(self) -> str:
        """The database's UUID; the takeover gives a copy a new one."""

    @property
    def is_new_or_copied_database(self) -> bool:
        """Whether the database had no fence before the takeover, or is recognized as a copy."""

    @property
    def distrusted_identity(self) -> str:
        """The identity whose record in the lease table may be outdated, or ""."""

    def read_history(self) -> Sequence[HistoryRow]:
        """Read every row, in the order of versions."""

    def add_revision_graph(self, *, command: ToolCommand | None = None) -> Sequence[HistoryRow]:
        """The history read last, with the graph that another tool loads; see `revisions`.

        That tool then waits to run its steps: see `apply` and `roll_back`.

        Args:
            command: What it is to do; None: everything that is pending.
        """

    def record_manifest(self, manifest: Manifest) -> None:
        """Record that the database satisfies a manifest, if no rows of its migrations show it."""

    def read_tool_histories(self) -> list[ToolHistory]:
        """Read the history tables of other migration tools, in every schema."""

    def apply(self, migration: Migration, digest: str, deadline: Deadline) -> int:
        """Run the up script and write its history row, together or not at all.

        A non-transactional migration in doubt is resolved first.

        Args:
            migration: The migration to apply.
            digest: The chain digest that ends with it.
            deadline: PostgreSQL cancels what is not done by then.

        Returns:
            The duration in milliseconds; after a commit in doubt, the one in the history row.

        Raises:
            MigrationFailed: It was rolled back.
            RepairRequired: A non-transactional migration was interrupted, or failed and may have
                committed a part.
        """

    def roll_back(self, row: HistoryRow, deadline: Deadline) -> int:
        """Run the stored down script and delete the history row, together or not at all.

        A row in doubt is resolved first; if that deletes it, nothing is run.

        Raises:
            MigrationFailed: The rollback itself was rolled back, or there is no down script.
            RepairRequired: As in `apply`.
        """

    def resolve_in_doubt(
        self, row: HistoryRow, deadline: Deadline, *, file: tuple[Migration, str] | None = None
    ) -> None:
        """Complete a row in doubt, or undo it so that its migration is pending again.

        A script of several statements continues where it stopped.

        Args:
            row: The row.
            deadline: Overall.
            file: The migration of that version as it is now, with its chain digest. Statements that
                have not run are taken from it.

        Raises:
            RepairRequired: The outcome cannot be determined.
        """

    def record_applied(
        self, migrations: Sequence[tuple[Migration, str]], *, baseline: bool
    ) -> None:
        """Mark migrations (with their chain digests) as applied, without running them.

        An existing row is updated: checksum, name, digest, down script, ``applied``.
        """

    def delete_rows(self, versions: Sequence[Version]) -> None:
        """Delete history rows without running anything; their migrations are pending again."""

    def resolve_revision(self, revision_id: str, *, is_applied: bool) -> str:
        """Resolve a revision of another tool that was interrupted; returns its name.

        Raises:
            ConfigurationError: It is not in doubt, or the tool's own table says otherwise.
        """

    def sync_tool_history(self, synced: SyncedHistory | None) -> None:
        """From now on write another tool's history table in the transaction of each row here.

        Args:
            synced: That table; None: write none any more.
        """

    def record_environment(self) -> None:
        """Record the grant's environment in the database, once something has succeeded."""

    def mark_repeatables_stale(self, name: str = "") -> None:
        """Make repeatable migrations pending again, and delete the set rows; see `repeatable`.

        Args:
            name: Only the migration of this name; by default all.
        """


class DryRunSession(DatabaseSession, Protocol):
    """One transaction that runs migrations one after the other and is never committed.

    While it is open it holds every lock that they take, and the fence row, so no process can
    migrate. It changes neither token nor environment. It raises what a `FencedSession` does.
    """

    def begin(self, deadline: Deadline) -> None:
        """Begin again, after rolling back what is open; `Database.begin_dry_run` began first.

        Raises:
            LeaseHeld: Another process is migrating.
        """

    def read_history(self) -> list[HistoryRow]:
        """Every row as it was before the dry run, in the order of versions; [] on a first run."""

    def run_migration(self, migration: Migration, deadline: Deadline) -> MigrationEffects:
        """Run a transactional up script after the earlier ones, and measure it.

        Raises:
            MigrationFailed: As `FencedSession.apply` would. It was rolled back; the earlier ones
                still count, so the next one can run, unless the script ended the transaction.
        """

    def roll_back(self) -> tuple[AdvancedSequence, ...]:
        """Roll everything back, and confirm it with PostgreSQL.

        Returns:
            Sequences that gave out numbers, which are never rolled back.

        Raises:
            RepairRequired: PostgreSQL reports that the transaction was not rolled back.
        """


class Database(Protocol):
    """A PostgreSQL database that has, or will have, the library's schema."""

    @property
    def address_text(self) -> str:
        """Its address, without secrets: ``host:port/name`` or a secret's ARN.

        It includes the library's schema unless that is the default one.
        """

    @property
    def placeholders(self) -> Mapping[str, str]:
        """The values of placeholders in scripts, by name.

        Raises:
            ConfigurationError: The setting cannot be used.
        """

    def inspect(self, deadline: Deadline) -> DatabaseInspection:
        """Read the state of the database through one short connection, without taking over."""

    def read_history(self, deadline: Deadline) -> Sequence[HistoryRow]:
        """The history of `inspect`; empty if there is none."""

    def add_revision_graph(
        self,
        history: Sequence[HistoryRow],
        deadline: Deadline,
        *,
        command: ToolCommand | None = None,
    ) -> Sequence[HistoryRow]:
        """``history``, with the graph that another tool loads; see `revisions`.

        For commands: it starts that tool, which changes nothing.

        Args:
            history: As inspected.
            deadline: Overall.
            command: What to plan; None: everything that is pending.
        """

    def open_session(
        self, grant: LeaseGrant, deadline: Deadline, *, terminate_holders: bool = True
    ) -> FencedSession:
        """Connect, create missing tables, and make ``grant`` the only one that can commit.

        Args:
            grant: The holder's grant; its fencing token must be higher than any accepted before.
            deadline: For connecting and for everything that the holder does.
            terminate_holders: Terminate the backends of older holders. If False, raise `LeaseHeld`
                while one is alive.

        Raises:
            StaleFencingToken: Its token is not higher.
            ConfigurationError: It is another environment's database, or a privilege is missing.
            DatabaseUnavailable: PostgreSQL was not reached before the deadline.
            LeaseHeld: An older holder is alive and ``terminate_holders`` is False.
        """

    def begin_dry_run(self, grant: LeaseGrant, deadline: Deadline) -> DryRunSession:
        """Connect, and begin a transaction that will be rolled back.

        It terminates no holder's backend. A successor may terminate its backend.

        Args:
            grant: The holder's grant; its fencing token must be higher than any accepted before.
            deadline: For connecting and for the whole dry run.

        Raises:
            StaleFencingToken: Its token is not higher.
            ConfigurationError: It is another environment's database, or a privilege is missing.
            DatabaseUnavailable: PostgreSQL was not reached before the deadline.
            LeaseHeld: A holder is alive.
        """

    def read_tool_histories(self, deadline: Deadline) -> list[ToolHistory]:
        """See `FencedSession.read_tool_histories`; through one short connection."""

    def inspect_requirements(
        self, requirements: Sequence[Requirement], deadline: Deadline
    ) -> RequirementInspection:
        """Read whether other tools have applied these, through one short connection.

        Raises:
            ConfigurationError: A tool's table may not be read, or several tables fit.
            DatabaseUnavailable: PostgreSQL was not reached before the deadline.
        """
