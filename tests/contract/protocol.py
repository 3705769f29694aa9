"""Many instances of the library's own runner, one at a time, as the test chooses.

Each instance is a thread that stops in front of every call to the lease table or the database, and
in front of every sleep, until it is given its turn. The scheduler decides the order of
everything, what goes wrong with each call, and how much time passes; nothing ever really waits.
An instance that gets no turn is frozen. Every call checks the library's invariants, and a violation
is recorded in `ProtocolModel.violations`:

- I1: The effects of a migration commit at most once, and together with its history row.
- I2: A holder whose lease was taken over commits nothing more.
- I3: A waiter holds no connection; an instance that finds the schema current opens none.
- I4: Nothing outlives the invocation's deadline.
- I5: A holder that dies blocks others for about one lease.
- I6: A failing migration is tried by one instance at a time, with growing pauses.
- I7: Code serves only if the schema has its migrations.
- I8: A lost response, a stale read or a lost item has a defined outcome.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol, TypeVar
from unittest.mock import patch

from lambda_migrate.clock import Clock, Deadline
from lambda_migrate.engine import holder
from lambda_migrate.engine.operations import Operations
from lambda_migrate.engine.target import Policy, Target
from lambda_migrate.errors import (
    LeaseLost,
    LeaseStoreUnavailable,
    MigrateError,
    MigrationFailed,
)
from lambda_migrate.lease.decision import MAX_FAILURE_PAUSE_MS, REQUIRED_TIME_FACTOR
from lambda_migrate.lease.heartbeat import Heartbeat
from lambda_migrate.lease.progress import Failure, Progress
from lambda_migrate.lease.record import CLOCK_SKEW_MS, DatabaseRecord, LeaseState
from lambda_migrate.lease.store import Lease, LeaseStore
from lambda_migrate.migrations import Manifest
from lambda_migrate.outcome import Outcome
from lambda_migrate.postgresql.ports import Database
from lambda_migrate.runner import MigrationRunner
from lambda_migrate.testing import FixedRandom

T = TypeVar("T")

LEASE_SECONDS = 20.0
INVOCATION_SECONDS = 60.0
SLOW_SECONDS = 3.0
STALENESS_SECONDS = 2.0
WRITES_WITHOUT_HEARTBEAT = ("renew", "advance_fence", "withdraw_readiness")
_TURN_SECONDS = 60.0
"""Of real time: an instance that does not come back from its turn by then never will."""
_EPOCH_MS = 1_700_000_000_000


class Fault(Enum):
    """What becomes of a call."""

    NONE = "none"
    REQUEST_LOST = "the request never arrived"
    ANSWER_LOST = "it was done, and the answer was lost"
    TWICE = "the answer was lost below us, where it was sent once more"
    STALE = "a read shows the past"
    SLOW = "the request is seconds on its way"
    LATE = "the request arrives, and once more much later"


class AddressKind(Enum):
    """What an instance's address points to."""

    ORIGINAL = "the database"
    TUNNEL = "the same database by another address"
    COPY = "a copy of it"


class Killed(BaseException):
    """The process is gone: nothing that would still be done takes effect."""


class ThreadTurns:
    """Exactly one of two sides runs: a thread, or the scheduler that gives it its turns."""

    def __init__(self) -> None:
        self.is_over = False
        self._go = threading.Lock()
        self._back = threading.Lock()
        self._go.acquire()
        self._back.acquire()

    def run_until_waiting(self) -> None:
        """In the scheduler: let the thread run until it waits for its next turn, or ends."""
        self._go.release()
        self.wait_for_turn_end()

    def wait_for_turn_end(self) -> None:
        """In the scheduler: wait until the thread does."""
        assert self._back.acquire(timeout=_TURN_SECONDS), "its turn never ended"

    def wait(self) -> None:
        """In the thread: end this turn, and wait for the next one."""
        self._back.release()
        self._go.acquire()

    def end(self) -> None:
        """In the thread: there will be no next turn."""
        self.is_over = True
        self._back.release()

    def run_to_end(self) -> None:
        """In the scheduler: let the thread run to its end, and do not wait for it."""
        self._go.release()


class ProtocolModel:
    """Time, what is in the table and in the database, and every violation of an invariant."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.now = 1_000.0
        self.violations: list[str] = []
        self.instances: list[Instance] = []
        self.current: Instance | None = None
        self._past: list[tuple[float, LeaseState]] = []
        self._late: list[Callable[[], None]] = []
        self._snapshots = {AddressKind.ORIGINAL: engine.read_snapshot(AddressKind.ORIGINAL)}

    def start(
        self,
        manifest: Manifest,
        *,
        skew: float = 0.0,
        rollback_to: int | None = None,
        address: AddressKind = AddressKind.ORIGINAL,
        mode: str = "migrate",
    ) -> Instance:
        """A cold start, or a person who rolls back."""
        if address is AddressKind.COPY and not self.has_copy:
            address = AddressKind.ORIGINAL
        instance = Instance(
            self, manifest, skew=skew, rollback_to=rollback_to, address=address, mode=mode
        )
        self.instances.append(instance)
        instance.begin()
        return instance

    def check(self, invariant: str, holds: bool, what: str) -> None:
        if not holds:
            who = self.current.name if self.current is not None else "no process"
            self.violations.append(f"{invariant}: {what} ({who}, at {self.now:.2f})")

    @property
    def has_copy(self) -> bool:
        return AddressKind.COPY in self._snapshots

    def copy(self) -> None:
        """Copy the database, with its fence and its identity, as a snapshot does; once."""
        if not self.has_copy and self.engine.copy():
            self._snapshots[AddressKind.COPY] = self.engine.read_snapshot(AddressKind.COPY)

    # --- requests that arrive a second time, long after

    def postpone(self, arrive: Callable[[], None]) -> None:
        self._late.append(arrive)

    def late_requests_arrive(self) -> None:
        """Each acquisition that was sent twice is asked for once more."""
        late, self._late = self._late, []
        for arrive in late:
            arrive()

    # --- the item's past, for reads that show it

    def remember(self) -> None:
        """Keep what the item says, before it says something else."""
        self._past.append((self.now, self.engine.item()))

    def stale_item(self) -> LeaseState | None:
        """The oldest state that an eventually consistent read may still show."""
        past = [state for at, state in self._past if at >= self.now - STALENESS_SECONDS]
        return past[0] if past else None

    # --- what the database says after each turn

    def look(self) -> None:
        """Compare the databases with what they were before this turn."""
        if self.engine.has_changed():
            for address in self._snapshots:
                self._check_snapshot(address)

    def _check_snapshot(self, address: AddressKind) -> None:
        before, after = self._snapshots[address], self.engine.read_snapshot(address)
        self._snapshots[address] = after
        doubled = [name for name in set(after.effects) if after.effects.count(name) > 1]
        self.check("I1", not doubled, f"{doubled} took effect more than once")
        applied = {row.name for row in after.rows if row.applied}
        begun = {row.name for row in after.rows}  # what cannot share a transaction with its row
        self.check(
            "I1",
            applied <= set(after.effects) <= begun,
            f"history {after.rows}, effects {sorted(after.effects)}",
        )
        if (before.rows, before.effects) != (after.rows, after.effects):
            fence = self._fence_in_turn()
            self.check("I2", fence == before.token, f"{fence} wrote, though {before.token} passed")
        self.check("I2", after.token >= before.token, f"{before.token} became {after.token}")

    def _fence_in_turn(self) -> int:
        """The token that the process of the last turn believes to have."""
        instance = self.current
        return instance.heart.lease.fence if instance is not None and instance.heart else 0

    def satisfies(self, manifest: Manifest, address: AddressKind) -> bool:
        original = AddressKind.ORIGINAL if address is AddressKind.TUNNEL else address
        applied = {row.name for row in self.engine.read_snapshot(original).rows if row.applied}
        return applied >= {migration.name for migration in manifest}

    def close(self) -> None:
        for instance in self.instances:
            instance.kill()
        self.engine.close()


@dataclass(frozen=True)
class Row:
    """A history row."""

    name: str
    fence: int
    applied: bool


@dataclass(frozen=True)
class DatabaseSnapshot:
    """What the database says, looked at from outside, all at one moment."""

    token: int = 0
    rows: tuple[Row, ...] = ()
    effects: tuple[str, ...] = ()


class Engine(Protocol):
    """A lease table and a database, fresh for one example."""

    @property
    def manifests(self) -> list[Manifest]:
        """The code versions that are about: older, newer, and newer but failing."""

    def store(self, instance: Instance) -> LeaseStore: ...

    def database(self, instance: Instance) -> Database: ...

    def item(self) -> LeaseState: ...

    def free_lease(self) -> None:
        """Take the lease from its holder, as if the table had granted it twice."""

    def delete_item(self) -> None: ...

    def has_changed(self) -> bool:
        """Whether a turn may have changed the database since `read_snapshot` was asked."""

    def read_snapshot(self, address: AddressKind = AddressKind.ORIGINAL) -> DatabaseSnapshot:
        """Of the database that is there; the tunnel leads to the original."""

    def copy(self) -> bool:
        """Copy the database as it is; False if this engine cannot."""

    def close(self) -> None: ...


class InstanceClock(Clock):
    """The model's time, on a wall clock that may be wrong; to sleep is to wait for a turn."""

    def __init__(self, instance: Instance, skew: float) -> None:
        self._instance = instance
        self._skew = skew

    def monotonic(self) -> float:
        return self._instance.model.now

    def wall_ms(self) -> int:
        return _EPOCH_MS + round((self._instance.model.now + self._skew) * 1000)

    def sleep(self, seconds: float) -> None:
        instance, model = self._instance, self._instance.model
        due = model.now + seconds
        in_time = due <= instance.until + 0.001 or instance.rolls_back
        model.check("I4", in_time, "sleeps beyond its deadline")
        instance.turn("sleep")
        model.now = max(model.now, due)


class Instance:
    """One cold start: `MigrationRunner.ensure` in a thread that runs when it is its turn.

    Or a rollback, by `Operations.down`.
    """

    def __init__(
        self,
        model: ProtocolModel,
        manifest: Manifest,
        *,
        skew: float,
        rollback_to: int | None = None,
        address: AddressKind = AddressKind.ORIGINAL,
        mode: str = "migrate",
    ) -> None:
        self.model = model
        self.manifest = manifest
        self.address = address
        self.requires = mode == "require"
        self.name = f"instance {len(model.instances) + 1}"
        self.clock = InstanceClock(self, skew)
        self.at = ""
        self.outcome: Outcome | None = None
        self.error: BaseException | None = None
        self.granted: Lease | None = None
        self.granted_ms = 0
        self.has_held = False
        self.is_killed = False
        self.connections = 0
        self.opened = 0
        self.slow = 0.0
        self.heart: SteppedHeartbeat | None = None
        self.until = model.now + INVOCATION_SECONDS
        """When the invocation ends."""
        self._fault = Fault.NONE
        self._turns = ThreadTurns()
        self.store = SteppedStore(self, model.engine.store(self))
        target = Target(
            name="orders",
            store=self.store,
            database=model.engine.database(self),
            policy=Policy(lease_seconds=LEASE_SECONDS, mode=mode),
            clock=self.clock,
            random=FixedRandom(0.5),
        )
        self.rolls_back = rollback_to is not None
        self._rollback_to = rollback_to
        self._target = target
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)

    @property
    def is_over(self) -> bool:
        return self._turns.is_over

    # --- what the machine does with it

    def begin(self) -> None:
        self._thread.start()
        self._turns.wait_for_turn_end()

    def step(self, fault: Fault = Fault.NONE) -> None:
        """Let it do what it stands in front of, and go on to what comes next."""
        if self.is_over:
            return
        self._fault = fault
        self.model.current = self
        self._turns.run_until_waiting()
        self._look()

    def go_to(self, call: str, *, turns: int) -> None:
        """Let it go on until it stands in front of ``call``, for at most so many turns."""
        for _ in range(turns):
            if self.is_over or self.at.startswith(call):
                break
            self.step()

    def beat(self, fault: Fault = Fault.NONE) -> None:
        """Let its heartbeat's time come, unless it would only wait for the write under way."""
        if self.at in WRITES_WITHOUT_HEARTBEAT or self.is_over:
            return
        if self.heart is not None and not self.heart.turns.is_over:
            self.model.current = self
            self.heart.beat(fault)
            self._look()

    def kill(self) -> None:
        """End the process; what it has open in PostgreSQL stays as it is."""
        self.is_killed = True
        if not self.is_over:
            self.model.current = self
            self._turns.run_until_waiting()

    # --- its own side

    def turn(self, at: str) -> Fault:
        """Stand in front of ``at`` until it is our turn; says what is to go wrong with it."""
        if self.is_killed:
            raise Killed
        if threading.current_thread() is not self._thread:
            assert self.heart is not None
            return self.heart.next_fault()
        self.at = at
        self._turns.wait()
        if self.is_killed:
            raise Killed
        fault, self._fault = self._fault, Fault.NONE
        self.slow = SLOW_SECONDS if fault is Fault.SLOW else 0.0
        return fault

    def on_its_way(self) -> None:
        """Called while a request travels."""
        slow, self.slow = self.slow, 0.0
        self.model.now += slow

    def opens_a_connection(self) -> None:
        """Check that it may: only a holder, and no holder of what is ready or failed."""
        model, granted = self.model, self.granted
        self.connections += 1
        self.opened += 1
        if self.rolls_back:
            return
        if granted is None:
            model.check("I3", False, "connects without holding the lease")
            return
        state, digest = granted.state, self.manifest.digest
        is_ready = state.is_ready(digest, self._target.database.address_text)
        model.check("I3", not is_ready, "connects, though the table says ready")
        failure = state.failure
        if failure is not None and failure.digest == digest and not self._has_more_time(failure):
            pause = failure.retry_at_ms - self.granted_ms
            model.check(
                "I6",
                not 0 < pause <= MAX_FAILURE_PAUSE_MS,
                f"tries again {pause} ms before the pause",
            )

    @staticmethod
    def _has_more_time(failure: Failure) -> bool:
        """Whether it may have had more when it began, if what failed only ran out of it."""
        available_ms = failure.available_ms
        return (
            available_ms is not None
            and available_ms * REQUIRED_TIME_FACTOR < INVOCATION_SECONDS * 1000
        )

    def begins_a_commit(self) -> None:
        self.model.check("I2", not self.requires, "commits, though it may only look")
        self.model.check("I4", self.model.now < self.until, "commits after its deadline")

    def closes_a_connection(self) -> None:
        self.connections -= 1

    def _run(self) -> None:
        try:
            self.turn("start")
            self._do(Deadline(self.until, self.clock))
        except (Exception, Killed) as error:  # noqa: BLE001 - `_look` judges it
            self.error = error
        finally:
            self._turns.end()

    def _do(self, deadline: Deadline) -> None:
        if self._rollback_to is None:
            self.outcome = MigrationRunner(self.manifest, self._target).ensure(deadline)
        else:
            Operations(self.manifest, self._target).down(deadline, to=self._rollback_to)

    def _look(self) -> None:
        model = self.model
        model.look()
        if self.at in ("read", "acquire") and not (self.is_over or self.rolls_back):
            model.check("I3", self.connections == 0, f"has a connection at {self.at}")
        if self.is_over and not self.is_killed:
            self._look_at_the_end()

    def _look_at_the_end(self) -> None:
        model = self.model
        model.check("I3", self.connections == 0, "left a connection open")
        if self.heart is not None:
            model.check("I4", self.heart.turns.is_over, "left its heartbeat running")
        if self.outcome is not None:
            is_satisfied = model.satisfies(self.manifest, self.address)
            model.check("I7", is_satisfied, f"serves {self.address.value}, {self.outcome.value}")
            if not self.has_held:
                model.check("I3", self.opened == 0, "connected without ever holding the lease")
        elif self.error is not None or not self.rolls_back:
            model.check("I8", isinstance(self.error, MigrateError), f"ended by {self.error!r}")


class SteppedHeartbeat(Heartbeat):
    """The library's heartbeat, whose time comes when the machine says so."""

    def __init__(self, store: SteppedStore, lease: Lease, **arguments: Any) -> None:
        self.turns = ThreadTurns()
        self._instance = store.instance
        self._due = 0.0
        self._fault = Fault.NONE
        super().__init__(store, lease, wait=self._wait_for_turn, **arguments)

    def beat(self, fault: Fault) -> None:
        model = self._instance.model
        model.now = max(model.now, self._due)
        self._fault = fault
        self.turns.run_until_waiting()

    def next_fault(self) -> Fault:
        fault, self._fault = self._fault, Fault.NONE
        self._instance.slow = SLOW_SECONDS if fault is Fault.SLOW else 0.0
        return fault

    def stop(self) -> Lease:
        self._stopped.set()
        if self._thread.is_alive() and not self.turns.is_over:
            self.turns.run_to_end()
        return super().stop()

    def __enter__(self) -> Heartbeat:
        self._instance.heart = self  # a mere look makes one that it never starts
        entered = super().__enter__()
        self.turns.wait_for_turn_end()
        return entered

    def _wait_for_turn(self, stopped: threading.Event, seconds: float) -> bool:
        self._due = self._instance.model.now + seconds
        self.turns.wait()
        return stopped.is_set()

    def _run(self) -> None:
        try:
            super()._run()
        finally:
            self.turns.end()


@contextmanager
def stepped_heartbeats() -> Iterator[None]:
    """Holders inside this block have heartbeats that take turns."""
    with patch.object(holder, "Heartbeat", SteppedHeartbeat):
        yield


class SteppedStore:
    """`LeaseStore` of one instance: each call waits for its turn, and may go wrong."""

    def __init__(self, instance: Instance, store: LeaseStore) -> None:
        self.instance = instance
        self._store = store
        self._model = instance.model

    @property
    def request_count(self) -> int:
        return self._store.request_count

    def now_ms(self) -> int:
        return self._store.now_ms()

    def close(self) -> None:
        """The connection is shared."""

    def read(self, *, consistent: bool = False) -> LeaseState:
        fault = self.instance.turn("read")
        self._lose(fault, Fault.REQUEST_LOST, Fault.ANSWER_LOST)
        past = self._model.stale_item() if fault is Fault.STALE and not consistent else None
        return past or self._store.read(consistent=consistent)

    def acquire(
        self, owner: str, *, expected: LeaseState | None = None, is_expired: bool = False
    ) -> Lease | LeaseState:
        instance, model = self.instance, self._model
        instance.granted = None
        in_time = model.now < instance.until or instance.rolls_back  # a person may
        model.check("I4", in_time, "acquires after its deadline")
        fault = instance.turn("acquire")

        def acquire() -> Lease | LeaseState:
            return self._store.acquire(owner, expected=expected, is_expired=is_expired)

        if fault is Fault.LATE and expected is not None and expected.fence:
            model.postpone(lambda: self._arrive_late(owner, expected, acquire))
        answer = self._write(fault, acquire)
        if isinstance(answer, Lease):
            instance.granted, instance.granted_ms = answer, instance.clock.wall_ms()
            instance.has_held = True
        return answer

    def renew(self, lease: Lease, progress: Progress | None = None) -> Lease:
        return self._own("renew", lease, lambda: self._store.renew(lease, progress))

    def advance_fence(self, lease: Lease, fence: int) -> Lease:
        return self._own("advance_fence", lease, lambda: self._store.advance_fence(lease, fence))

    def withdraw_readiness(self, lease: Lease, databases: Mapping[str, DatabaseRecord]) -> Lease:
        return self._own(
            "withdraw_readiness", lease, lambda: self._store.withdraw_readiness(lease, databases)
        )

    def store_completion(
        self,
        lease: Lease,
        databases: Mapping[str, DatabaseRecord],
        failures: Sequence[Failure] = (),
    ) -> None:
        self._own(
            "store_completion",
            lease,
            lambda: self._store.store_completion(lease, databases, failures),
        )

    def store_inspection(self, lease: Lease, databases: Mapping[str, DatabaseRecord]) -> None:
        self._own("store_inspection", lease, lambda: self._store.store_inspection(lease, databases))

    def store_failure(self, lease: Lease, failure: Failure) -> None:
        self._own("store_failure", lease, lambda: self._store.store_failure(lease, failure))

    def release(self, lease: Lease) -> None:
        self._own("release", lease, lambda: self._store.release(lease))

    def _own(self, name: str, lease: Lease, act: Callable[[], T]) -> T:
        """A write that only the lease's holder may make."""
        fault = self.instance.turn(name)
        before = self._model.engine.item()
        mine = (before.owner, before.fence) == (lease.owner, lease.fence)
        try:
            return self._write(fault, act)
        finally:
            after = self._model.engine.item()
            self._model.check(
                "I2", mine or after == before, f"{name} changed an item that is not its own"
            )

    def _arrive_late(
        self, owner: str, expected: LeaseState, acquire: Callable[[], Lease | LeaseState]
    ) -> None:
        """The acquisition once more, when its own first arrival may be long over."""
        before = self._model.engine.item()
        if before.fence <= expected.fence:
            return  # the first was lost, or the item was made again: then it is an acquisition
        acquire()
        after = self._model.engine.item()
        same = (before.fence, before.owner) == (after.fence, after.owner)
        self._model.check("I8", same, f"{owner}'s request that came late took the lease again")

    def _write(self, fault: Fault, act: Callable[[], T]) -> T:
        self._lose(fault, Fault.REQUEST_LOST)
        self._model.remember()
        began = self._model.now
        answer = act()
        if fault is Fault.TWICE:
            answer = self._again(answer, act)
        if isinstance(answer, Lease):
            most = began + LEASE_SECONDS - CLOCK_SKEW_MS / 1000
            self._model.check(
                "I2", answer.trusted_until <= most, "trusts its lease for longer than it was given"
            )
        self._lose(fault, Fault.ANSWER_LOST)
        return answer

    def _again(self, answer: T, act: Callable[[], T]) -> T:
        """The same write once more, nothing having come between."""
        try:
            second = act()
        except LeaseLost:
            self._model.check("I8", False, "takes its own write for a loss")
            raise
        same = type(second) is type(answer)
        self._model.check("I8", same, "takes its own lease for another process's")
        return second

    def _lose(self, fault: Fault, *lost: Fault) -> None:
        if fault in lost:
            raise LeaseStoreUnavailable(f"as planned: {fault.value}")


def refuses(error: BaseException | None, manifest: Manifest) -> bool:
    """Whether ``error`` is how a cold start of a failing manifest is to end."""
    return isinstance(error, MigrationFailed) and error.migration in {m.name for m in manifest}
