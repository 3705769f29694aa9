"""The lease and fence protocol keeps its invariants under any order of events.

Hypothesis chooses the order. The rules give turns to instances of the real runner, on fakes and on
the real engines. Calls are lost, repeated or late, holders freeze and die, leases expire, are
granted twice or are deleted, and rollbacks start at any time. The invariants are those of
docs/explanation/how-it-works.md: `protocol` checks I1 to I4 and I6 to I8 at every call. I5 is
checked at the end of each example, in whatever state its rules left the target: a process that
starts then succeeds, and instances that thaw later do no damage.

The examples are the same in every run. ``LAMBDA_MIGRATE_TEST_EXAMPLES=5000`` generates new ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from lambda_migrate.errors import MigrationFailed
from lambda_migrate.lease.decision import MAX_FAILURE_PAUSE_MS
from lambda_migrate.local.servers.dynamodb import DynamoDBEndpoint
from tests.contract.databases import Server
from tests.contract.protocol import (
    LEASE_SECONDS,
    AddressKind,
    Engine,
    Fault,
    Instance,
    ProtocolModel,
    refuses,
    stepped_heartbeats,
)
from tests.contract.protocol_memory import MemoryEngine
from tests.contract.protocol_postgresql import RealEngine, RealServers

EXAMPLES = "LAMBDA_MIGRATE_TEST_EXAMPLES"
OLDER, NEWER, FAILING = range(3)
AT_ONCE = 4
FAR = 40
"""Turns: enough for a cold start to get to its end."""
LONG_ENOUGH = 400
"""Turns: far more than any cold start needs, and few enough to tell that one never ends."""

# Choices do not depend on what came before: an example that is run again makes the same ones.
whom = st.integers(0, AT_ONCE - 1)
faults = st.sampled_from([fault for fault in Fault if fault is not Fault.NONE])
calls = st.sampled_from(
    ["acquire", "commit", "store_completion", "store_failure", "withdraw_readiness", "inspect"]
)
addresses = st.sampled_from(
    [AddressKind.ORIGINAL, AddressKind.ORIGINAL, AddressKind.TUNNEL, AddressKind.COPY]
)
modes = st.sampled_from(["migrate", "migrate", "migrate", "require"])
skews = st.sampled_from([0.0, 0.0, 0.4, -0.4, 60.0, -60.0])
starters = st.tuples(st.sampled_from([OLDER, NEWER, NEWER, FAILING]), skews, addresses, modes)
times = st.sampled_from([0.1, 1.0, LEASE_SECONDS / 3, LEASE_SECONDS + 1.5, 58.5, 700.0])


Starter = tuple[int, float, AddressKind, str]


class Protocol(RuleBasedStateMachine):
    """Instances of three code versions, and everything that can happen to them."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.model = ProtocolModel(engine)

    @property
    def running(self) -> list[Instance]:
        return [instance for instance in self.model.instances if not instance.is_over]

    def pick(self, which: int) -> Instance | None:
        running = self.running
        return running[which % len(running)] if running else None

    @initialize(fleet=st.lists(starters, min_size=2, max_size=AT_ONCE))
    def start_at_once(self, fleet: list[Starter]) -> None:
        for starter in fleet:
            self.start(starter)

    def start(self, starter: Starter) -> None:
        version, skew, address, mode = starter
        manifest = self.model.engine.manifests[version]
        self.model.start(manifest, skew=skew, address=address, mode=mode)

    @rule(starter=starters)
    def starts(self, starter: Starter) -> None:
        """A cold start, of which at most so many are under way."""
        if len(self.running) < AT_ONCE:
            self.start(starter)

    @rule(to=st.sampled_from([0, 2]), address=addresses)
    def another_process_rolls_back(self, to: int, address: AddressKind) -> None:
        if len(self.running) < AT_ONCE:
            manifest = self.model.engine.manifests[NEWER]
            self.model.start(manifest, rollback_to=to, address=address)

    @rule()
    def database_is_copied(self) -> None:
        self.model.copy()

    @rule()
    def late_requests_arrive(self) -> None:
        self.model.late_requests_arrive()

    @rule(which=whom, turns=st.integers(1, 25))
    def goes_on(self, which: int, turns: int) -> None:
        """A process without a turn is frozen meanwhile, perhaps in the middle of a transaction."""
        instance = self.pick(which)
        for _ in range(turns):
            if instance is not None:
                instance.step()

    @rule(which=whom, call=calls)
    def goes_on_until(self, which: int, call: str) -> None:
        """It stands in front of a call that matters, and may be frozen or killed there."""
        instance = self.pick(which)
        if instance is not None:
            instance.go_to(call, turns=FAR)

    @rule(which=whom, call=st.sampled_from(["", ""]) | calls, fault=faults, turns=st.integers(0, 3))
    def meets(self, which: int, call: str, fault: Fault, turns: int) -> None:
        """The next call goes wrong, or the next of a kind, and what it does then follows."""
        instance = self.pick(which)
        if instance is not None:
            instance.go_to(call, turns=FAR)
            instance.step(fault)
            for _ in range(turns):
                instance.step()

    @rule(which=whom, fault=st.sampled_from([Fault.NONE, Fault.NONE, *Fault]))
    def beats(self, which: int, fault: Fault) -> None:
        instance = self.pick(which)
        if instance is not None:
            instance.beat(fault)

    @rule(which=whom)
    def is_killed(self, which: int) -> None:
        instance = self.pick(which)
        if instance is not None:
            instance.kill()

    @rule(seconds=times)
    def time_passes(self, seconds: float) -> None:
        self.model.now += seconds

    @rule()
    def lease_is_granted_twice(self) -> None:
        self.model.remember()
        self.model.engine.free_lease()

    @rule()
    def item_is_deleted(self) -> None:
        self.model.remember()
        self.model.engine.delete_item()

    @invariant()
    def keeps_the_invariants(self) -> None:
        assert not self.model.violations, "\n".join(self.model.violations)

    def teardown(self) -> None:
        """I5: whatever happened, the next one succeeds; those who thaw then spoil nothing."""
        try:
            if not self.model.violations:
                self.next_ones_succeed()
                self.rest_thaws()
                self.next_ones_succeed()
                self.failing_one_says_why()
        finally:
            self.model.close()

    def next_ones_succeed(self) -> None:
        for address in AddressKind:
            self.next_one_succeeds(address)

    def next_one_succeeds(self, address: AddressKind) -> None:
        manifest = self.model.engine.manifests[NEWER]
        newest = let_end(self.model.start(manifest, address=address))
        if isinstance(newest.error, MigrationFailed):  # its deadline passed in the middle
            self.model.now += MAX_FAILURE_PAUSE_MS / 1000
            newest = let_end(self.model.start(manifest, address=address))
        assert newest.outcome is not None, f"I5: {newest.error!r}"

    def failing_one_says_why(self) -> None:
        self.model.now += MAX_FAILURE_PAUSE_MS / 1000
        manifest = self.model.engine.manifests[FAILING]
        failing = let_end(self.model.start(manifest))
        assert refuses(failing.error, manifest), f"I7: {failing.outcome} {failing.error!r}"

    def rest_thaws(self) -> None:
        while self.running:
            for instance in self.running:
                instance.step()
        assert not self.model.violations, "\n".join(self.model.violations)


@pytest.fixture(autouse=True)
def heartbeats() -> Iterator[None]:
    with stepped_heartbeats():
        yield


def explore(make_engine: Callable[[], Engine], *, examples: int, steps: int, shrink: bool) -> None:
    asked = int(os.environ.get(EXAMPLES, "0"))
    phases = [Phase.generate, Phase.shrink] if shrink else [Phase.generate]

    class Explored(Protocol):
        def __init__(self) -> None:
            super().__init__(make_engine())

    run_state_machine_as_test(
        Explored,
        settings=settings(
            max_examples=asked or examples,
            stateful_step_count=steps,
            derandomize=not asked,
            database=None,
            deadline=None,
            phases=phases,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_fakes_keep_the_invariants_in_any_order_of_events() -> None:
    explore(MemoryEngine, examples=200, steps=40, shrink=True)


def test_dynamodb_and_postgresql_keep_the_invariants_in_any_order_of_events(
    dynamodb: DynamoDBEndpoint, server: Server
) -> None:
    """Not shrunk: an example takes up to a second, and its steps are few."""
    with RealServers(dynamodb, server) as servers:
        explore(lambda: RealEngine(servers), examples=15, steps=20, shrink=False)


# --- the same instances, with one thing going wrong, at every moment in turn


Play = Callable[[ProtocolModel, int], bool]
"""One example, given the moment; False if the instance was done by then."""


def frozen_and_superseded(model: ProtocolModel, moment: int) -> bool:
    """One is frozen, another takes the fence over, the first thaws, and the other goes on."""
    manifest = model.engine.manifests[NEWER]
    first = model.start(manifest)
    if not after(first, moment):
        return False
    passed = model.engine.read_snapshot().token
    model.now += LEASE_SECONDS + 1.5
    second = model.start(manifest)
    for _ in range(FAR):
        if model.engine.read_snapshot().token > passed or second.is_over:
            break
        second.step()
    assert model.engine.read_snapshot().token > passed or second.is_over, (
        f"not taken over: {second.at}"
    )
    let_end(first)
    let_end(second)  # meanwhile the first may have been the one to wait, and to take over in turn
    assert let_end(model.start(manifest)).outcome is not None
    return True


def killed(model: ProtocolModel, moment: int) -> bool:
    manifest = model.engine.manifests[NEWER]
    first = model.start(manifest)
    if not after(first, moment):
        return False
    first.kill()
    model.now += LEASE_SECONDS + 1.5
    assert let_end(model.start(manifest)).outcome is not None
    return True


def meeting(fault: Fault, model: ProtocolModel, moment: int) -> bool:
    """One call goes wrong; the instance may fail of it, and the next one succeeds."""
    manifest = model.engine.manifests[NEWER]
    first = model.start(manifest)
    if not after(first, moment):
        return False
    first.step(fault)
    let_end(first)
    model.now += LEASE_SECONDS + 1.5
    assert let_end(model.start(manifest)).outcome is not None
    return True


def rolled_back(address: AddressKind, model: ProtocolModel, moment: int) -> bool:
    """A rollback runs through one address while others start at each, and then continues."""
    manifest = model.engine.manifests[NEWER]
    for start in (AddressKind.ORIGINAL, AddressKind.TUNNEL):
        let_end(model.start(manifest, address=start))
    model.copy()
    let_end(model.start(manifest, address=AddressKind.COPY))
    person = model.start(manifest, rollback_to=0, address=address)
    if not after(person, moment):
        return False
    starts = [model.start(manifest, address=start) for start in AddressKind]
    for each in starts:
        after(each, 2)
    let_end(person)
    for each in starts:
        let_end(each)
    for start in AddressKind:
        assert let_end(model.start(manifest, address=start)).outcome is not None
    return True


def after(instance: Instance, moment: int) -> bool:
    """Whether it still runs after so many turns."""
    for _ in range(moment):
        instance.step()
    return not instance.is_over


def let_end(instance: Instance) -> Instance:
    for _ in range(LONG_ENOUGH):
        if instance.is_over:
            break
        instance.step()
    assert instance.is_over, f"I5: {instance.name} never ends, it is at {instance.at}"
    assert not instance.model.violations, "\n".join(instance.model.violations)
    return instance


def at_every_moment(play: Play, make_engine: Callable[[], Engine]) -> None:
    for moment in count():
        model = ProtocolModel(make_engine())
        try:
            if not play(model, moment):
                break
        finally:
            model.close()
    assert moment > len(model.engine.manifests[NEWER].migrations), "hardly anything was tried"


PLAYS: dict[str, Play] = {
    "frozen and superseded": frozen_and_superseded,
    "killed": killed,
    **{
        f"rolled back through {address.value}": partial(rolled_back, address)
        for address in AddressKind
    },
    **{fault.value: partial(meeting, fault) for fault in Fault if fault is not Fault.NONE},
}


@pytest.mark.parametrize("play", PLAYS.values(), ids=PLAYS)
def test_fakes_keep_the_invariants_after_each_single_fault(play: Play) -> None:
    at_every_moment(play, MemoryEngine)


ON_REAL_ENGINES = {
    name: PLAYS[name]
    for name in ("frozen and superseded", Fault.ANSWER_LOST.value, Fault.TWICE.value)
}
"""What needs real locks, real sessions, and real conditions."""


@pytest.mark.parametrize("play", ON_REAL_ENGINES.values(), ids=ON_REAL_ENGINES)
def test_dynamodb_and_postgresql_keep_the_invariants_after_each_single_fault(
    play: Play, dynamodb: DynamoDBEndpoint, server: Server
) -> None:
    with RealServers(dynamodb, server) as servers:
        at_every_moment(play, lambda: RealEngine(servers))
