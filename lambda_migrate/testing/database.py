"""A database in memory: the fence, the history and the errors of PostgreSQL, without SQL."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from lambda_migrate.clock import SYSTEM_CLOCK
from lambda_migrate.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    LeaseHeld,
    LeaseLost,
    MigrationFailed,
    RepairRequired,
)
from lambda_migrate.lease.memory import InMemoryLeaseStore
from lambda_migrate.migrations import HistoryRow, RowState
from lambda_migrate.migrations.requirement_check import RequirementInspection, check_requirement
from lambda_migrate.migrations.sql.classify import classify
from lambda_migrate.migrations.sql.lint import check_script
from lambda_migrate.migrations.sql.tokens import split_statements
from lambda_migrate.migrations.version import RepeatableVersion
from lambda_migrate.postgresql.dry_run_effects import MigrationEffects
from lambda_migrate.postgresql.ports import (
    DatabaseInspection,
    DatabaseSession,
    FenceRow,
    StaleFencingToken,
    is_behind_last_completion,
    require_environment,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from lambda_migrate.clock import Clock, Deadline
    from lambda_migrate.migrations import Manifest, Migration, Script
    from lambda_migrate.migrations.baseline import SyncedHistory, ToolHistory
    from lambda_migrate.migrations.requirements import Requirement
    from lambda_migrate.migrations.version import Version
    from lambda_migrate.postgresql.dry_run_effects import AdvancedSequence
    from lambda_migrate.postgresql.ports import LeaseGrant, ToolCommand

__all__ = ["InMemoryDatabase", "InMemoryDryRun", "InMemoryLeaseStore", "InMemorySession"]


class InMemoryDatabase:
    """A database without PostgreSQL: the same fence, history and errors, but scripts do not run.

    Share one instance between runners that compete. Scripts are checked as lambda-migrate checks
    them before it runs them.

    Args:
        address_text: See `Database.address_text`.
        clock: For what is stored in the history.
    """

    def __init__(
        self, *, address_text: str = "memory:5432/test", clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self.effects: list[str] = []
        """Names of the migrations whose up script was committed, in that order."""
        self.rolled_back: list[str] = []
        """Names of the migrations whose down script was committed, in that order."""
        self.on_script: Callable[[Any], None] | None = None
        """Called with the version during each script, before it is committed."""
        self.is_down = False
        """While True, every connection raises `DatabaseUnavailable`."""
        self.connections = 0
        """How many connections were opened, including those for reading."""
        self.token = 0
        """The highest fencing token so far."""
        self.environment = ""
        """The environment that is recorded in the database."""
        self.identity = str(uuid4())
        """The database's identity; two databases with the same one are copies."""
        self.other_histories: list[ToolHistory] = []
        """The contents of other migration tools' history tables."""
        self.synced_history: SyncedHistory | None = None
        """Another tool's history table that is to be kept up to date."""
        self.dry_run_effects: dict[Version, MigrationEffects] = {}
        """What a dry run reports for a version; its duration is taken from the clock."""
        self.placeholders: Mapping[str, str] = {}
        """The values of placeholders in scripts."""
        self.moved_sequences: tuple[AdvancedSequence, ...] = ()
        """The advanced sequences that a dry run reports."""
        self._address_text = address_text
        self._clock = clock
        self._owner = ""
        self._rows: dict[Version, HistoryRow] = {}
        self._took_effect: dict[Version, bool | None] = {}
        self._failures: dict[Version, MigrationFailed] = {}
        self._open: set[_ActiveSession] = set()
        self._guard = threading.RLock()

    @property
    def address_text(self) -> str:
        """See `Database.address_text`."""
        return self._address_text

    # --- what a test arranges

    def fail_on(self, version: Version, failure: MigrationFailed | None) -> None:
        """Make every script of ``version`` fail from now on.

        Args:
            version: A version, or the name of a repeatable migration as `RepeatableVersion`.
            failure: The error that it raises; None if it succeeds again.
        """
        if failure is None:
            self._failures.pop(version, None)
        else:
            self._failures[version] = failure

    def leave_in_doubt(
        self,
        migration: Migration,
        digest: str,
        *,
        took_effect: bool | None,
        rolling_back: bool = False,
    ) -> None:
        """Leave a row as a holder does that is killed while a script marked transaction:false runs.

        Args:
            migration: The migration that it was applying.
            digest: The chain digest that ends with it.
            took_effect: Whether its statement took effect; None if that cannot be determined.
            rolling_back: It was running the down script.
        """
        with self._guard:
            state = RowState.ROLLING_BACK if rolling_back else RowState.STARTED
            row = self._make_row(migration, digest, self.token, self._owner)
            self._insert_in_doubt_row(row, state, up=None if rolling_back else migration.up)
            self._took_effect[migration.version] = took_effect

    # --- the port

    def inspect(self, deadline: Deadline) -> DatabaseInspection:
        """See `Database.inspect`."""
        with self._guard:
            self._connect(deadline)
            fence = self._fence_row() if self.token else None
            return DatabaseInspection(
                tuple(self._sorted_rows()), fence, has_active_holder=bool(self._open)
            )

    def read_history(self, deadline: Deadline) -> list[HistoryRow]:
        """See `Database.read_history`."""
        return list(self.inspect(deadline).history)

    def open_session(
        self, grant: LeaseGrant, deadline: Deadline, *, terminate_holders: bool = True
    ) -> InMemorySession:
        """See `Database.open_session`."""
        with self._guard:
            self._connect(deadline)
            self._check_environment(grant)
            if self.token >= grant.fence and not self._is_held_by(grant):
                raise StaleFencingToken(self.token)
            if self._open and not terminate_holders:
                raise LeaseHeld("another process is migrating this database")
            self._open.clear()
            distrusted_identity = (
                self.identity
                if is_behind_last_completion(self._fence_row(), grant.completions_by_database)
                else ""
            )
            if distrusted_identity:
                self.identity = str(uuid4())
            is_new_or_copied_database = (self.token, self._owner) == (0, "")
            self.token, self._owner = grant.fence, grant.owner
            held = InMemorySession(
                self,
                grant,
                deadline,
                distrusted_identity=distrusted_identity,
                is_new_or_copied_database=is_new_or_copied_database,
            )
            self._open.add(held)
            return held

    def begin_dry_run(self, grant: LeaseGrant, deadline: Deadline) -> InMemoryDryRun:
        """See `Database.begin_dry_run`."""
        with self._guard:
            self._connect(deadline)
            dry_run = InMemoryDryRun(self, grant)
            dry_run.begin(deadline)
            return dry_run

    def add_revision_graph(
        self,
        history: Sequence[HistoryRow],
        deadline: Deadline,  # noqa: ARG002
        *,
        command: ToolCommand | None = None,  # noqa: ARG002
    ) -> Sequence[HistoryRow]:
        """See `Database.add_revision_graph`."""
        return history

    def read_tool_histories(self, deadline: Deadline) -> list[ToolHistory]:
        """See `Database.read_tool_histories`."""
        with self._guard:
            self._connect(deadline)
            return list(self.other_histories)

    def inspect_requirements(
        self, requirements: Sequence[Requirement], deadline: Deadline
    ) -> RequirementInspection:
        """See `Database.inspect_requirements`; a table's schema and name are not compared."""
        with self._guard:
            self._connect(deadline)
            results = []
            for each in requirements:
                found = [h for h in self.other_histories if h.tool.lower() == each.tool]
                results.append(check_requirement(each, each.tool, found))
            return RequirementInspection(tuple(results), self.identity)

    # --- what its holders share

    def _connect(self, deadline: Deadline) -> None:
        if self.is_down or deadline.is_over:
            raise DatabaseUnavailable("the in-memory database is down")
        self.connections += 1

    def _check_environment(self, grant: LeaseGrant) -> None:
        if not grant.replaces_environment:
            require_environment(self.environment, grant.environment)

    def _run(self, version: Version, *, name: str, deadline: Deadline) -> None:
        migration = RepeatableVersion(name) if isinstance(version, RepeatableVersion) else version
        hook, failure = self.on_script, self._failures.get(migration)
        if hook is not None:
            hook(version)
        if failure is not None:
            raise failure
        if deadline.is_over:
            raise MigrationFailed("the deadline has passed", migration=name, is_timeout=True)

    def _fence_row(self) -> FenceRow:
        return FenceRow(self.token, self._owner, self.environment, self.identity)

    def _insert_in_doubt_row(
        self, row: HistoryRow, state: RowState, *, up: Script | None = None
    ) -> None:
        """Leave a row in doubt; whether its statement took effect is unknown."""
        self._rows[row.version] = replace(row, state=state, applied_at=None, up=up)
        self._took_effect[row.version] = None

    def _is_held_by(self, grant: LeaseGrant) -> bool:
        return (self.token, self._owner) == (grant.fence, grant.owner)

    def _sorted_rows(self) -> list[HistoryRow]:
        return [self._rows[version] for version in sorted(self._rows)]

    def _make_row(self, migration: Migration, digest: str, fence: int, owner: str) -> HistoryRow:
        now = _format_time(self._clock.wall_ms())
        return HistoryRow(
            version=migration.version,
            name=migration.name,
            checksum=migration.checksum,
            digest=digest,
            down=migration.down,
            started_at=now,
            applied_at=now,
            fence=fence,
            owner=owner,
        )


class InMemorySession(DatabaseSession):
    """`FencedSession` of an `InMemoryDatabase`; its `open_session` makes them.

    Args:
        database: What is held.
        grant: The holder's right.
        deadline: For what has no deadline of its own.
        distrusted_identity: See `FencedSession.distrusted_identity`.
        is_new_or_copied_database: See `FencedSession.is_new_or_copied_database`.
    """

    def __init__(
        self,
        database: InMemoryDatabase,
        grant: LeaseGrant,
        deadline: Deadline,
        *,
        distrusted_identity: str = "",
        is_new_or_copied_database: bool = False,
    ) -> None:
        self.grant = grant
        self.distrusted_identity = distrusted_identity
        self.is_new_or_copied_database = is_new_or_copied_database
        self._database = database
        self._deadline = deadline
        self._is_aborted = False

    @property
    def identity(self) -> str:
        """See `FencedSession.identity`."""
        return self._database.identity

    def read_history(self) -> list[HistoryRow]:
        """See `FencedSession.read_history`."""
        with self._require_fence() as database:
            return database._sorted_rows()

    def add_revision_graph(self, *, command: ToolCommand | None = None) -> list[HistoryRow]:  # noqa: ARG002
        """See `FencedSession.add_revision_graph`."""
        return self.read_history()

    def record_manifest(self, manifest: Manifest) -> None:
        """See `FencedSession.record_manifest`."""
        from lambda_migrate.migrations.repeatable import make_manifest_row

        row = make_manifest_row(manifest.version, manifest.repeatables_checksum)
        self.record_applied([(row, manifest.digest)], baseline=False)

    def read_tool_histories(self) -> list[ToolHistory]:
        """See `FencedSession.read_tool_histories`."""
        with self._require_fence(self._deadline) as database:
            return list(database.other_histories)

    def apply(self, migration: Migration, digest: str, deadline: Deadline) -> int:
        """See `FencedSession.apply`."""
        version, path = migration.version, migration.path or migration.name
        self._resolve_in_doubt_first(version, deadline)
        with self._require_fence() as database:
            if version in database._rows:
                raise MigrationFailed(
                    f"version {version} is in the history already",
                    migration=migration.name,
                    sqlstate=UNIQUE_VIOLATION,
                )
            row = database._make_row(
                migration, digest, fence=self.grant.fence, owner=self.grant.owner
            )
        try:
            took_ms = self._run(
                migration.up, version, name=migration.name, path=path, deadline=deadline
            )
        except MigrationFailed as failed:
            if _may_have_committed_partly(migration.up):
                with self._require_fence() as database:
                    database._insert_in_doubt_row(row, RowState.STARTED, up=migration.up)
                raise _make_repair_required_error(row, failed.cause) from failed
            raise
        with self._require_fence() as database:
            applied_at = _format_time(database._clock.wall_ms())
            database._rows[version] = replace(row, applied_at=applied_at, duration_ms=took_ms)
            database.effects.append(migration.name)
        return took_ms

    def roll_back(self, row: HistoryRow, deadline: Deadline) -> int:
        """See `FencedSession.roll_back`."""
        if row.down is None:
            raise MigrationFailed("it was applied without a down script", migration=row.name)
        if not self._resolve_in_doubt_first(row.version, deadline):
            return 0
        path = f"{row.name} (stored down script)"
        try:
            took_ms = self._run(row.down, row.version, name=row.name, path=path, deadline=deadline)
        except MigrationFailed as failed:
            if _may_have_committed_partly(row.down):
                with self._require_fence() as database:
                    database._insert_in_doubt_row(row, RowState.ROLLING_BACK)
                raise _make_repair_required_error(row, failed.cause) from failed
            raise
        with self._require_fence() as database:
            if database._rows.pop(row.version, None) is not None:
                database.rolled_back.append(row.name)
        return took_ms

    def resolve_in_doubt(
        self,
        row: HistoryRow,
        deadline: Deadline,
        *,
        file: tuple[Migration, str] | None = None,  # noqa: ARG002 - a script here is one statement
    ) -> None:
        """See `FencedSession.resolve_in_doubt`."""
        with self._require_fence(deadline) as database:
            rolling_back = row.state is RowState.ROLLING_BACK
            script = row.down if rolling_back else row.up
            took_effect = database._took_effect.get(row.version)
            if took_effect is None:
                if script is None or not script.idempotent:
                    raise _make_repair_required_error(row, "it was interrupted")
                took_effect = False
            database._took_effect.pop(row.version, None)
            self._resolve_row(database, row, took_effect=took_effect)

    def _resolve_in_doubt_first(self, version: Version, deadline: Deadline) -> bool:
        """Resolve the version's row if it is in doubt; whether there is a row then."""
        with self._require_fence() as database:
            row = database._rows.get(version)
        if row is None or row.state is RowState.APPLIED:
            return row is not None
        self.resolve_in_doubt(row, deadline)
        return version in self._database._rows

    def record_applied(
        self, migrations: Sequence[tuple[Migration, str]], *, baseline: bool
    ) -> None:
        """See `FencedSession.record_applied`."""
        with self._require_fence(self._deadline) as database:
            for migration, digest in migrations:
                database._rows[migration.version] = self._make_applied_row(
                    database, migration, digest, baseline=baseline
                )

    def delete_rows(self, versions: Sequence[Version]) -> None:
        """See `FencedSession.delete_rows`."""
        with self._require_fence(self._deadline) as database:
            for version in versions:
                database._rows.pop(version, None)

    def resolve_revision(self, revision_id: str, *, is_applied: bool) -> str:  # noqa: ARG002
        """See `FencedSession.resolve_revision`; there are none."""
        raise ConfigurationError(f"{revision_id} is not a revision of another tool")

    def mark_repeatables_stale(self, name: str = "") -> None:
        """See `FencedSession.mark_repeatables_stale`."""
        with self._require_fence(self._deadline) as database:
            for version, row in list(database._rows.items()):
                if str(version).startswith("R:"):
                    del database._rows[version]
                elif isinstance(version, RepeatableVersion) and name in ("", row.name):
                    database._rows[version] = replace(row, state=RowState.STALE)

    def sync_tool_history(self, synced: SyncedHistory | None) -> None:
        """See `FencedSession.sync_tool_history`."""
        with self._require_fence(self._deadline) as database:
            database.synced_history = synced

    def record_environment(self) -> None:
        """See `FencedSession.record_environment`."""
        with self._require_fence() as database:
            database.environment = self.grant.environment

    def abort(self) -> None:
        """See `FencedSession.abort`."""
        self._is_aborted = True

    def close(self) -> None:
        """See `FencedSession.close`."""
        with self._database._guard:
            self._database._open.discard(self)

    # --- how

    @contextmanager
    def _require_fence(self, deadline: Deadline | None = None) -> Iterator[InMemoryDatabase]:
        """The database, locked, as long as this grant is the newest and time is left."""
        with self._database._guard:
            if self._is_aborted or not self._database._is_held_by(self.grant):
                raise LeaseLost(
                    f"lost the lease on {self.grant.target!r}: fencing token {self.grant.fence} "
                    f"was superseded by {self._database.token}; nothing was committed after that"
                )
            if self._database.is_down:
                raise DatabaseUnavailable("the in-memory database is down")
            if deadline is not None and deadline.is_over:
                raise DatabaseUnavailable("the deadline has passed")
            yield self._database

    def _run(
        self, script: Script, version: Version, *, name: str, path: str, deadline: Deadline
    ) -> int:
        """Everything of a script but its effects, outside the lock; returns milliseconds."""
        values = self._database.placeholders
        _require_runnable(script, values, name=name, path=path)
        if deadline.is_over:
            raise MigrationFailed("the deadline has passed", migration=name, is_timeout=True)
        with self._require_fence() as database:
            began = database._clock.monotonic()
        database._run(version, name=name, deadline=deadline)
        return round((database._clock.monotonic() - began) * 1000)

    def _resolve_row(
        self, database: InMemoryDatabase, row: HistoryRow, *, took_effect: bool
    ) -> None:
        started = row.state is RowState.STARTED
        if took_effect:
            (database.effects if started else database.rolled_back).append(row.name)
        if took_effect is not started:
            del database._rows[row.version]
            return
        applied_at = row.applied_at or _format_time(database._clock.wall_ms())
        database._rows[row.version] = replace(
            row, state=RowState.APPLIED, applied_at=applied_at, up=None
        )

    def _make_applied_row(
        self, database: InMemoryDatabase, migration: Migration, digest: str, *, baseline: bool
    ) -> HistoryRow:
        fresh = database._make_row(
            migration, digest, fence=self.grant.fence, owner=self.grant.owner
        )
        known = database._rows.get(migration.version)
        if known is None:
            return replace(fresh, baseline=baseline)
        return replace(
            known,
            name=fresh.name,
            checksum=fresh.checksum,
            digest=digest,
            state=RowState.APPLIED,
            applied_at=known.applied_at or fresh.applied_at,
            down=fresh.down,
            up=None,
        )


class InMemoryDryRun(DatabaseSession):
    """`DryRunSession` of an `InMemoryDatabase`, created by its `begin_dry_run`.

    Args:
        database: The database.
        grant: Under which right.
    """

    def __init__(self, database: InMemoryDatabase, grant: LeaseGrant) -> None:
        self.grant = grant
        self._database = database
        self._has_begun = False
        self._is_lost = False
        self._rows: list[HistoryRow] = []

    def begin(self, deadline: Deadline) -> None:
        """See `DryRunSession.begin`."""
        self.close()
        with self._database._guard:
            database = self._database
            if self._has_begun:
                self._require_open()
            if database.is_down or deadline.is_over:
                raise DatabaseUnavailable("the in-memory database is down")
            database._check_environment(self.grant)
            if database.token >= self.grant.fence and not database._is_held_by(self.grant):
                raise StaleFencingToken(database.token)
            if database._open:
                raise LeaseHeld("another process is migrating this database")
            self._has_begun = True
            self._rows = database._sorted_rows()
            database._open.add(self)

    def read_history(self) -> list[HistoryRow]:
        """See `DryRunSession.read_history`."""
        return list(self._rows)

    def run_migration(self, migration: Migration, deadline: Deadline) -> MigrationEffects:
        """See `DryRunSession.run_migration`."""
        name, clock = migration.name, self._database._clock
        values, path = self._database.placeholders, migration.path or name
        _require_runnable(migration.up, values, name=name, path=path)
        if not migration.up.transactional:
            raise MigrationFailed(
                "it is marked transaction:false and cannot run in a dry run", migration=name
            )
        self._require_open()
        if deadline.is_over:
            raise MigrationFailed("the deadline has passed", migration=name, is_timeout=True)
        began = clock.monotonic()
        self._database._run(migration.version, name=name, deadline=deadline)
        self._require_open()
        measured = self._database.dry_run_effects.get(migration.version, MigrationEffects(0))
        return replace(measured, seconds=clock.monotonic() - began)

    def roll_back(self) -> tuple[AdvancedSequence, ...]:
        """See `DryRunSession.roll_back`."""
        self._require_open()
        self.close()
        return self._database.moved_sequences

    def abort(self) -> None:
        """See `DryRunSession.abort`."""
        self._is_lost = True

    def close(self) -> None:
        """See `DryRunSession.close`."""
        with self._database._guard:
            self._database._open.discard(self)

    def _require_open(self) -> None:
        """A successor ends a dry run, as it ends a holder."""
        database = self._database
        is_superseded = database.token > self.grant.fence
        if self._is_lost or is_superseded:
            raise LeaseLost(
                f"lost the lease on {self.grant.target!r}: fencing token {self.grant.fence} was "
                "superseded; nothing of it was committed"
            )
        if database.is_down:
            raise DatabaseUnavailable("the in-memory database is down")


_ActiveSession = InMemorySession | InMemoryDryRun

UNIQUE_VIOLATION = "23505"


def _may_have_committed_partly(script: Script) -> bool:
    """Whether a run of it that failed leaves its row in doubt."""
    if script.transactional or script.idempotent:
        return False
    return any(classify(each).kind == "other" for each in split_statements(script.sql))


def _make_repair_required_error(row: HistoryRow, cause: str) -> RepairRequired:
    repair = f"lambda-migrate repair {row.version} --as"
    return RepairRequired(
        f"{cause}; part of it may be committed: check the database, then run `{repair} applied` "
        f"or `{repair} pending`",
        migration=row.name,
    )


def _require_runnable(
    script: Script, placeholders: Mapping[str, str], *, name: str, path: str
) -> None:
    faults = check_script(script, path=path, placeholders=placeholders)
    if faults:
        raise MigrationFailed(faults[0], migration=name, detail="\n".join([name, *faults]))


def _format_time(wall_ms: int) -> str:
    """As the history has it: ``2026-01-31T12:00:00.000Z``."""
    moment = datetime.fromtimestamp(wall_ms / 1000, tz=timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{wall_ms % 1000:03d}Z"
