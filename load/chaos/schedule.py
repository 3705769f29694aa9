"""What happens in one round of chaos: plain data, made from a seed, printed and replayed.

Times are seconds after the round begins. The same seed makes the same schedule; how it plays out
also depends on the machine's timing.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

__all__ = [
    "HOLDER",
    "KINDS",
    "Environment",
    "Fault",
    "MigrationSpec",
    "Rollback",
    "Schedule",
    "from_json",
    "generate",
    "to_json",
]

KINDS = {
    "kill": "SIGKILL",
    "freeze": "SIGSTOP, and SIGCONT later",
    "kill-at-commit": "SIGKILL while a COMMIT is on its way",
    "kill-at-write": "SIGKILL between a write to DynamoDB and its answer",
    "freeze-at-commit": "SIGSTOP while a COMMIT is on its way, and SIGCONT later",
    "freeze-at-write": "SIGSTOP between a write to DynamoDB and its answer, and SIGCONT later",
    "postgresql-restart": "PostgreSQL restarted in immediate mode",
    "postgresql-cut": "connections ended by pg_terminate_backend",
    "postgresql-refused": "connections broken, new ones refused for a while",
    "postgresql-silent": "nothing passes to or from PostgreSQL for a while",
    "postgresql-stuck": "the connections open now go silent, new ones work",
    "commit-unanswered": "the connection breaks after a COMMIT went through",
    "takeover-unanswered": "the connection breaks after a takeover went through",
    "commit-late": "a COMMIT arrives late",
    "dynamodb-error": "DynamoDB answers 500",
    "dynamodb-throttled": "DynamoDB throttles",
    "dynamodb-slow": "DynamoDB answers late",
    "dynamodb-unreached": "requests to DynamoDB are lost",
    "dynamodb-unanswered": "DynamoDB's answers are lost, after the write was done",
    "dynamodb-stale": "eventually consistent reads show the past",
    "dynamodb-item-lost": "the target's item is deleted",
    "granted-twice-stolen": "a lease that is held is granted to another, by the table",
    "granted-twice-alike": "two processes hold the same fencing token",
    "granted-twice-unwritten": "the next fencing token is given out and forgotten by the table",
    "clock": "an environment's wall clock is off, or jumps, by up to a minute",
}
"""Every kind of fault and its description. A timeout or a rollback is not a fault."""

HOLDER = "holder"
"""The target of a signal: the process that holds the lease at that moment."""


@dataclass(frozen=True)
class MigrationSpec:
    """One migration: ``base``, ``table``, ``balance``, ``alter``, ``index``, ``long``, ``many``."""

    kind: str
    seconds: float = 0.0  # how long a `long` or `many` one sleeps


@dataclass(frozen=True)
class Environment:
    """One execution environment."""

    at: float
    code: str  # old, new or fixed
    timeout: float  # of each invocation
    invocations: int = 1  # at most: it is invoked again only after an error
    outlives_deadline: bool = False  # as one that is frozen after it returned
    clock: float = 0.0  # error of its wall clock, in seconds
    jump_after: float = 0.0  # seconds after its start; 0: its wall clock does not jump
    jump: float = 0.0


@dataclass(frozen=True)
class Fault:
    """One fault of `KINDS`."""

    kind: str
    at: float
    seconds: float = 0.0  # duration; for an armed one, how long it stays armed
    target: str = ""  # of signals: an environment's number, or HOLDER
    share: float = 1.0  # of the requests that it hits while it lasts


@dataclass(frozen=True)
class Rollback:
    """A rollback to a version, by a process of its own."""

    at: float
    to: int


@dataclass(frozen=True)
class Schedule:
    """One round."""

    seed: int
    lease_seconds: float
    entry_point: str  # handler: the decorator, settings from variables; or runner
    migrations: tuple[MigrationSpec, ...]  # of the newest code, version 1 first
    old: int  # how many of these the old code has
    broken: int  # the version that fails in new code, not in fixed code; 0: none
    traffic: bool  # whether an application writes to the migrated tables meanwhile
    environments: tuple[Environment, ...]
    faults: tuple[Fault, ...]
    rollback: Rollback | None = None

    def lines(self) -> Iterator[str]:
        """The schedule as text."""
        kinds = " ".join(
            f"{version}:{one.kind}" + (f"({one.seconds:g}s)" if one.seconds else "")
            for version, one in enumerate(self.migrations, 1)
        )
        yield f"seed {self.seed}: lease {self.lease_seconds:g} s, through the {self.entry_point}"
        yield (
            f"  migrations {kinds}; old code has {self.old}"
            + (f", {self.broken} fails in new code" if self.broken else "")
            + (", under traffic" if self.traffic else "")
        )
        for number, one in enumerate(self.environments):
            yield f"  {one.at:5.2f}  environment {number}: {_describe_environment(one)}"
        for fault in sorted(self.faults, key=lambda fault: fault.at):
            yield f"  {fault.at:5.2f}  {KINDS[fault.kind]}{_describe_fault(fault)}"
        if self.rollback is not None:
            yield f"  {self.rollback.at:5.2f}  roll back to version {self.rollback.to}"


def _describe_environment(one: Environment) -> str:
    words = [f"{one.code} code", f"timeout {one.timeout:g} s"]
    if one.invocations > 1:
        words.append(f"up to {one.invocations} invocations")
    if one.outlives_deadline:
        words.append("not killed at its deadline")
    if one.clock:
        words.append(f"clock {one.clock:+.0f} s")
    if one.jump:
        words.append(f"clock jumps {one.jump:+.0f} s after {one.jump_after:g} s")
    return ", ".join(words)


def _describe_fault(fault: Fault) -> str:
    target = fault.target if fault.target == HOLDER else f"environment {fault.target}"
    return (
        (f" to {target}" if fault.target else "")
        + (f" for {fault.seconds:.2f} s" if fault.seconds else "")
        + (f", {fault.share:.0%} of them" if fault.share < 1 else "")
    )


def to_json(schedule: Schedule) -> str:
    """The schedule as JSON."""
    return json.dumps(asdict(schedule), indent=1)


def from_json(text: str) -> Schedule:
    """The schedule that `to_json` wrote."""
    data: dict[str, Any] = json.loads(text)
    data["migrations"] = tuple(MigrationSpec(**one) for one in data["migrations"])
    data["environments"] = tuple(Environment(**one) for one in data["environments"])
    data["faults"] = tuple(Fault(**one) for one in data["faults"])
    data["rollback"] = Rollback(**data["rollback"]) if data.get("rollback") else None
    return Schedule(**data)


# --- from a seed


def generate(seed: int) -> Schedule:
    """The schedule of a seed: the same seed always gives the same one."""
    rng = random.Random(seed)  # noqa: S311 - repeatable on purpose
    steps = _steps(rng)
    broken = _broken(rng, steps)
    old = rng.randint(1, (broken or len(steps)) - (1 if broken else 0))
    schedule = Schedule(
        seed=seed,
        lease_seconds=rng.choice([3.0, 3.0, 5.0]),
        entry_point="runner",
        migrations=steps,
        old=old,
        broken=broken,
        traffic=any(step.kind in ("index", "alter") for step in steps) and rng.random() < 0.8,
        environments=_environments(rng, is_broken=bool(broken)),
        faults=(),
    )
    if schedule.lease_seconds >= 5.0:
        schedule = replace(schedule, entry_point="handler")
    if rng.random() < 0.3:
        to = rng.randint(1, len(steps) - 1)
        schedule = replace(schedule, rollback=Rollback(_moment(rng, 1.0, 5.0), to))
    schedule = replace(schedule, faults=_faults(rng, schedule))
    return _with_clocks(rng, schedule)


def _moment(rng: random.Random, first: float, last: float) -> float:
    return round(rng.uniform(first, last), 2)


def _steps(rng: random.Random) -> tuple[MigrationSpec, ...]:
    kinds = ["table", "balance", "alter", "index", "index", "long", "long", "long", "many"]
    steps = [MigrationSpec("base")]
    for kind in (rng.choice(kinds) for _ in range(rng.randint(2, 7))):
        seconds = 0.0
        if kind == "long":
            # Now and then longer than the shorter timeouts.
            seconds = _moment(rng, 0.3, 2.0) if rng.random() < 0.85 else 4.0
        elif kind == "many":
            seconds = _moment(rng, 0.5, 1.5)
        steps.append(MigrationSpec(kind, seconds))
    return tuple(steps)


def _broken(rng: random.Random, steps: tuple[MigrationSpec, ...]) -> int:
    able = [v for v, step in enumerate(steps, 1) if v > 1 and step.kind != "many"]
    return rng.choice(able) if able and rng.random() < 0.25 else 0


def _environments(rng: random.Random, *, is_broken: bool) -> tuple[Environment, ...]:
    codes = ["old", "new", "new", "fixed"] if is_broken else ["old", "new", "new", "new"]
    together = rng.random() < 0.5
    return tuple(
        Environment(
            at=_moment(rng, 0.0, 0.3 if together or number < 2 else 4.0),
            code=rng.choice(codes),
            timeout=rng.choice([5.0, 7.0, 9.0, 12.0]),
            invocations=rng.choice([1, 2, 3]),
        )
        for number in range(rng.randint(3, 7))
    )


_WEIGHTS = {
    "kill": 5,
    "kill-at-commit": 2,
    "kill-at-write": 3,
    "freeze": 5,
    "freeze-at-commit": 2,
    "freeze-at-write": 3,
    "postgresql-restart": 1,
    "postgresql-cut": 3,
    "postgresql-refused": 2,
    "postgresql-silent": 2,
    "postgresql-stuck": 2,
    "commit-unanswered": 3,
    "takeover-unanswered": 2,
    "commit-late": 2,
    "dynamodb-error": 2,
    "dynamodb-throttled": 2,
    "dynamodb-slow": 2,
    "dynamodb-unreached": 2,
    "dynamodb-unanswered": 4,
    "dynamodb-stale": 3,
    "dynamodb-item-lost": 1,
    "granted-twice-stolen": 2,
    "granted-twice-alike": 2,
    "granted-twice-unwritten": 2,
}


def _faults(rng: random.Random, schedule: Schedule) -> tuple[Fault, ...]:
    kinds = rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()), k=rng.randint(1, 8))
    return tuple(_fault(rng, kind, schedule) for kind in kinds)


def _fault(rng: random.Random, kind: str, schedule: Schedule) -> Fault:
    lease = schedule.lease_seconds
    numbers = [str(number) for number in range(len(schedule.environments))]
    target = HOLDER if rng.random() < 0.75 else rng.choice(numbers)
    # Most faults begin early; the ones that are armed must be there before their moment.
    early = kind.startswith("granted-twice") or "-at-" in kind or rng.random() < 0.5
    fault = Fault(kind, at=_moment(rng, 0.0, 2.0 if early else 5.0))
    if kind == "kill":
        return replace(fault, target=target)
    if kind.startswith("freeze"):
        longest = 2 * lease if rng.random() < 0.5 else 0.8 * lease
        aimed = target if kind == "freeze" else ""
        return replace(fault, target=aimed, seconds=_moment(rng, 0.2, longest))
    if kind in ("postgresql-refused", "postgresql-silent", "commit-late"):
        return replace(fault, seconds=_moment(rng, 0.2, 1.5 * lease))
    if kind == "postgresql-stuck":
        return replace(fault, seconds=_moment(rng, 1.0, 3 * lease))
    if kind.startswith("dynamodb") and kind != "dynamodb-item-lost":
        share = rng.choice([0.3, 0.7, 1.0])
        return replace(fault, seconds=_moment(rng, 0.5, lease), share=share)
    return fault


def _with_clocks(rng: random.Random, schedule: Schedule) -> Schedule:
    """Some environments outlive their deadline; in the runner's schedules some clocks are off."""
    frozen = any(fault.kind.startswith("freeze") for fault in schedule.faults)
    outlive = frozen and rng.random() < 0.5
    clocks = schedule.entry_point == "runner" and rng.random() < 0.3
    changed = []
    for environment in schedule.environments:
        each = replace(environment, outlives_deadline=outlive and rng.random() < 0.5)
        if clocks and rng.random() < 0.6:
            each = replace(each, clock=round(rng.uniform(-60, 60)))
        if clocks and rng.random() < 0.2:
            jump = round(rng.uniform(-60, 60))
            each = replace(each, jump_after=_moment(rng, 0.2, 3.0), jump=jump)
        changed.append(each)
    return replace(schedule, environments=tuple(changed))
