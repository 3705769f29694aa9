"""The in-memory engine of the protocol tests: the fakes that we ship for users' tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lambda_migrate.clock import Deadline
from lambda_migrate.errors import DatabaseUnavailable, MigrationFailed
from lambda_migrate.lease.memory import InMemoryLeaseStore
from lambda_migrate.lease.record import LeaseState
from lambda_migrate.lease.store import LeaseStore
from lambda_migrate.migrations import HistoryRow, Manifest, Migration, RowState
from lambda_migrate.migrations.baseline import SyncedHistory, ToolHistory
from lambda_migrate.migrations.requirement_check import RequirementInspection
from lambda_migrate.migrations.requirements import Requirement
from lambda_migrate.migrations.version import Version
from lambda_migrate.postgresql.ports import (
    Database,
    DatabaseInspection,
    DatabaseSession,
    DryRunSession,
    FencedSession,
    LeaseGrant,
    ToolCommand,
)
from lambda_migrate.testing import FakeClock, InMemoryDatabase
from tests.contract.databases import migration
from tests.contract.protocol import (
    LEASE_SECONDS,
    AddressKind,
    DatabaseSnapshot,
    Fault,
    Instance,
    Row,
)
from tests.unit.engine.fakes import Address, copy_database

A, B, C, D = (migration(n, name) for n, name in enumerate("abcd", 1))
BROKEN = migration(9, "broken")


@dataclass
class Item:
    """The state item, shared by the views of all instances."""

    state: LeaseState = field(default_factory=LeaseState)


class View(InMemoryLeaseStore):
    """The lease table as one instance sees it: by its own clock."""

    def __init__(self, item: Item, instance: Instance) -> None:
        self._item = Item()  # the constructor empties it
        self._instance = instance
        super().__init__(lease_seconds=LEASE_SECONDS, clock=instance.clock)
        self._item = item

    @property
    def state(self) -> LeaseState:
        return self._item.state

    @state.setter
    def state(self, state: LeaseState) -> None:
        self._item.state = state

    def _compute_expiry(self) -> tuple[float, int]:
        term = super()._compute_expiry()
        self._instance.on_its_way()
        return term


class MemoryEngine:
    """`Engine` on the fakes."""

    def __init__(self) -> None:
        self.manifests = [Manifest([A, B]), Manifest([A, B, C, D]), Manifest([A, B, C, D, BROKEN])]
        self._item = Item()
        self._databases = {
            AddressKind.ORIGINAL: self._arranged(InMemoryDatabase(clock=FakeClock()))
        }
        self._running: Instance | None = None

    def _arranged(self, database: InMemoryDatabase) -> InMemoryDatabase:
        database.on_script = self._in_the_middle
        broken = MigrationFailed("as planned", migration=BROKEN.name, sqlstate="P0001")
        database.fail_on(BROKEN.version, broken)
        return database

    def store(self, instance: Instance) -> LeaseStore:
        return View(self._item, instance)

    def database(self, instance: Instance) -> Database:
        if instance.address is AddressKind.TUNNEL:
            original = Address(self._databases[AddressKind.ORIGINAL], "localhost:15432/test")
            return SteppedDatabase(self, instance, original)
        return SteppedDatabase(self, instance, self._databases[instance.address])

    def item(self) -> LeaseState:
        return self._item.state

    def free_lease(self) -> None:
        self._item.state = self._item.state._replace(owner=None, lease_until_ms=0)

    def delete_item(self) -> None:
        self._item.state = LeaseState()

    def has_changed(self) -> bool:
        return True

    def copy(self) -> bool:
        original = self._databases[AddressKind.ORIGINAL]
        self._databases[AddressKind.COPY] = self._arranged(
            copy_database(original, "copy:5432/test")
        )
        return True

    def read_snapshot(self, address: AddressKind = AddressKind.ORIGINAL) -> DatabaseSnapshot:
        database = self._databases[address]
        rows = database._rows.values()
        return DatabaseSnapshot(
            database.token,
            tuple(Row(row.name, row.fence, row.state is RowState.APPLIED) for row in rows),
            tuple((Counter(database.effects) - Counter(database.rolled_back)).elements()),
        )

    def close(self) -> None:
        """Nothing is open."""

    def running(self, instance: Instance) -> None:
        """The next script that runs is this instance's."""
        self._running = instance

    def _in_the_middle(self, version: int) -> None:
        assert self._running is not None
        self._running.begins_a_commit()
        if self._running.turn(f"commit {version}") is Fault.REQUEST_LOST:
            raise DatabaseUnavailable("as planned: the connection broke")


class SteppedDatabase:
    """`Database` of one instance."""

    def __init__(self, engine: MemoryEngine, instance: Instance, database: Database) -> None:
        self.engine = engine
        self.instance = instance
        self._database = database

    @property
    def address_text(self) -> str:
        return self._database.address_text

    @property
    def placeholders(self) -> Mapping[str, str]:
        return self._database.placeholders

    def inspect(self, deadline: Deadline) -> DatabaseInspection:
        if self.instance.turn("inspect") in (Fault.REQUEST_LOST, Fault.ANSWER_LOST):
            raise DatabaseUnavailable("as planned: no answer")
        self.instance.opens_a_connection()
        self.instance.closes_a_connection()
        return self._database.inspect(deadline)

    def read_history(self, deadline: Deadline) -> Sequence[HistoryRow]:
        return self.inspect(deadline).history

    def add_revision_graph(
        self,
        history: Sequence[HistoryRow],
        deadline: Deadline,
        *,
        command: ToolCommand | None = None,
    ) -> Sequence[HistoryRow]:
        return self._database.add_revision_graph(history, deadline, command=command)

    def open_session(
        self, grant: LeaseGrant, deadline: Deadline, *, terminate_holders: bool = True
    ) -> FencedSession:
        if self.instance.turn("take over") in (Fault.REQUEST_LOST, Fault.ANSWER_LOST):
            raise DatabaseUnavailable("as planned: no answer")
        session = self._database.open_session(grant, deadline, terminate_holders=terminate_holders)
        self.instance.opens_a_connection()
        return SteppedSession(self, session)

    def begin_dry_run(self, grant: LeaseGrant, deadline: Deadline) -> DryRunSession:
        return self._database.begin_dry_run(grant, deadline)  # no starting instance does

    def read_tool_histories(self, deadline: Deadline) -> list[ToolHistory]:
        return self._database.read_tool_histories(deadline)

    def inspect_requirements(
        self, requirements: Sequence[Requirement], deadline: Deadline
    ) -> RequirementInspection:
        return self._database.inspect_requirements(requirements, deadline)


class SteppedSession(DatabaseSession):
    """`FencedSession` of one instance."""

    def __init__(self, database: SteppedDatabase, session: FencedSession) -> None:
        self._engine = database.engine
        self._instance = database.instance
        self._session = session
        self._is_open = True

    @property
    def identity(self) -> str:
        return self._session.identity

    @property
    def distrusted_identity(self) -> str:
        return self._session.distrusted_identity

    @property
    def is_new_or_copied_database(self) -> bool:
        return self._session.is_new_or_copied_database

    def read_history(self) -> Sequence[HistoryRow]:
        fault = self._turn("history")
        history = self._session.read_history()
        self._lose(fault)
        return history

    def add_revision_graph(self, *, command: ToolCommand | None = None) -> Sequence[HistoryRow]:
        return self._session.add_revision_graph(command=command)

    def resolve_revision(self, revision_id: str, *, is_applied: bool) -> str:
        return self._session.resolve_revision(revision_id, is_applied=is_applied)

    def record_manifest(self, manifest: Manifest) -> None:
        self._session.record_manifest(manifest)

    def read_tool_histories(self) -> list[ToolHistory]:
        return self._session.read_tool_histories()

    def apply(self, migration: Migration, digest: str, deadline: Deadline) -> int:
        fault = self._turn(f"apply {migration.name}")
        self._engine.running(self._instance)
        milliseconds = self._session.apply(migration, digest, deadline)
        self._lose(fault)
        return milliseconds

    def roll_back(self, row: HistoryRow, deadline: Deadline) -> int:
        fault = self._turn(f"revert {row.name}")
        self._engine.running(self._instance)
        milliseconds = self._session.roll_back(row, deadline)
        self._lose(fault)
        return milliseconds

    def resolve_in_doubt(
        self, row: HistoryRow, deadline: Deadline, *, file: tuple[Migration, str] | None = None
    ) -> None:
        fault = self._turn(f"resolve {row.name}")
        self._session.resolve_in_doubt(row, deadline, file=file)
        self._lose(fault)

    def record_applied(
        self, migrations: Sequence[tuple[Migration, str]], *, baseline: bool
    ) -> None:
        raise NotImplementedError

    def delete_rows(self, versions: Sequence[Version]) -> None:
        raise NotImplementedError

    def sync_tool_history(self, kept: SyncedHistory | None) -> None:
        raise NotImplementedError

    def record_environment(self) -> None:
        self._session.record_environment()

    def mark_repeatables_stale(self, name: str = "") -> None:
        fault = self._turn("mark repeatable migrations stale")
        self._session.mark_repeatables_stale(name)
        self._lose(fault)

    def abort(self) -> None:
        self._session.abort()

    def close(self) -> None:
        if self._is_open and not self._instance.is_killed:
            self._is_open = False
            self._instance.closes_a_connection()
            self._session.close()

    def _turn(self, at: str) -> Fault:
        fault = self._instance.turn(at)
        if fault is Fault.REQUEST_LOST:
            raise DatabaseUnavailable("as planned: the connection broke")
        return fault

    def _lose(self, fault: Fault) -> None:
        if fault is Fault.ANSWER_LOST:
            raise DatabaseUnavailable("as planned: the connection broke before the answer")
