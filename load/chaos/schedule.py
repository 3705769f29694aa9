"""What happens in one round of chaos: plain data, made from a seed, printed and replayed.

Times are seconds after the round begins. The same seed makes the same schedule; what comes of it
also depends on the machine's timing.
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass, replace
from typing import Any

_FAULT_WEIGHTS = {
    "kill": 5,
    "kill-at-commit": 2,  # while a COMMIT is on its way
    "kill-at-write": 3,  # between a write to DynamoDB and its response
    "freeze": 5,  # SIGSTOP, and SIGCONT later
    "freeze-at-commit": 2,
    "freeze-at-write": 3,
    "postgresql-restart": 1,  # in immediate mode
    "postgresql-cut": 3,  # connections ended by pg_terminate_backend
    "postgresql-refused": 2,  # connections broken, new ones refused for a while
    "postgresql-silent": 2,  # nothing passes to or from PostgreSQL for a while
    "postgresql-stuck": 2,  # the connections open now go silent, new ones work
    "commit-unanswered": 3,  # the connection breaks after a COMMIT went through
    "takeover-unanswered": 2,  # the same of a takeover
    "commit-late": 2,
    "dynamodb-error": 2,  # status 500
    "dynamodb-throttled": 2,
    "dynamodb-slow": 2,
    "dynamodb-unreached": 2,  # requests are lost
    "dynamodb-unanswered": 4,  # responses are lost, after the write was done
    "dynamodb-stale": 3,  # eventually consistent reads show the past
    "dynamodb-item-lost": 1,
    "granted-twice-stolen": 2,  # a lease that is held is granted to another process by the table
    "granted-twice-alike": 2,  # two processes hold the same fencing token
    "granted-twice-unwritten": 2,  # the next fencing token is given out and forgotten
}

_TOOL_MIGRATION_KINDS = (
    *("table", "balance", "alter", "index", "index", "long", "many"),
    *("parts", "parts", "rows"),
)
_TOOL_FAULTS = (
    *("kill", "kill", "kill-at-commit", "freeze", "freeze", "freeze-at-commit"),
    *("postgresql-cut", "granted-twice-stolen"),
)
"""What each round of a tool has one to three of, besides the faults of its seed."""

FAULT_KINDS = (*_FAULT_WEIGHTS, "clock")
"""Every kind of fault; ``clock``: a wall clock is off, or jumps, by up to a minute."""

TOOLS = ("alembic", "django")

HOLDER = "holder"  # the target of a signal: the process that holds the lease at that moment


@dataclass(frozen=True)
class MigrationSpec:
    """One migration: ``base``, ``table``, ``balance``, ``alter``, ``index``, ``long``, ``many``.

    Tools also have ``parts`` and ``rows``, which commit a part before they are complete.
    """

    kind: str
    seconds: float = 0.0  # how long a `long` or `many` one sleeps


@dataclass(frozen=True)
class ExecutionEnvironment:
    """One Lambda execution environment."""

    at: float
    code_version: str  # old, new or fixed
    timeout: float  # of each invocation
    invocations: int = 1  # at most: it is invoked again only after an error
    outlives_deadline: bool = False  # as one that is frozen after it returned
    clock_offset: float = 0.0  # error of its wall clock, in seconds
    clock_jumps_after: float = 0.0  # seconds after its start
    clock_jump: float = 0.0  # seconds


@dataclass(frozen=True)
class Fault:
    """One fault of `KINDS`."""

    kind: str
    at: float
    seconds: float = 0.0  # duration; for an armed one, how long it stays armed
    target: str = ""  # of signals: an environment's number, or HOLDER
    probability: float = 1.0  # for each request, while it lasts
    signalled_processes: str = ""  # with a tool: "" signals the parent only, else `child` or `both`


@dataclass(frozen=True)
class Rollback:
    """A rollback to a version, by a process of its own."""

    at: float
    target_version: int


@dataclass(frozen=True)
class Schedule:
    """One round."""

    seed: int
    lease_seconds: float
    entry_point: str  # handler: the decorator, settings from variables; or runner
    migrations: tuple[MigrationSpec, ...]  # of the newest code, version 1 first
    old_version: int  # of the old code
    broken_version: int  # fails in new code, not in fixed code; 0: none
    has_traffic: bool  # whether an application writes to the migrated tables meanwhile
    environments: tuple[ExecutionEnvironment, ...]
    faults: tuple[Fault, ...]
    rollback: Rollback | None = None
    source: str = "sql"  # or alembic, django


def to_json(schedule: Schedule) -> str:
    """The schedule as JSON."""
    return json.dumps(asdict(schedule), indent=1)


def from_json(text: str) -> Schedule:
    """The schedule that `to_json` wrote."""
    data: dict[str, Any] = json.loads(text)
    data["migrations"] = tuple(MigrationSpec(**one) for one in data["migrations"])
    data["environments"] = tuple(ExecutionEnvironment(**one) for one in data["environments"])
    data["faults"] = tuple(Fault(**one) for one in data["faults"])
    data["rollback"] = Rollback(**data["rollback"]) if data.get("rollback") else None
    return Schedule(**data)


# --- from a seed


def make_schedule(seed: int, source: str = "sql") -> Schedule:
    """The schedule of a seed and a source: the same ones always give the same schedule."""
    rng = random.Random(seed)  # noqa: S311 - repeatable on purpose
    migrations = _make_migrations(rng)
    broken = _choose_broken_version(rng, migrations)
    old = rng.randint(1, broken - 1 if broken else len(migrations))
    lease_seconds = rng.choice([3.0, 3.0, 5.0])
    locks_table = any(one.kind in ("index", "alter") for one in migrations)
    schedule = Schedule(
        seed=seed,
        lease_seconds=lease_seconds,
        entry_point="handler" if lease_seconds >= 5.0 else "runner",
        migrations=migrations,
        old_version=old,
        broken_version=broken,
        has_traffic=locks_table and rng.random() < 0.8,
        environments=_make_environments(rng, is_broken=bool(broken)),
        faults=(),
    )
    if rng.random() < 0.3:
        target_version = rng.randint(1, len(migrations) - 1)
        rollback = Rollback(_choose_time(rng, 1.0, 5.0), target_version)
        schedule = replace(schedule, rollback=rollback)
    kinds = rng.choices(list(_FAULT_WEIGHTS), list(_FAULT_WEIGHTS.values()), k=rng.randint(1, 8))
    faults = tuple(_make_fault(rng, kind, schedule) for kind in kinds)
    schedule = _add_clock_faults(rng, replace(schedule, faults=faults))
    return schedule if source == "sql" else _adapt_to_tool(schedule, source)


def _choose_time(rng: random.Random, first: float, last: float) -> float:
    return round(rng.uniform(first, last), 2)


def _make_migrations(rng: random.Random) -> tuple[MigrationSpec, ...]:
    kinds = ["table", "balance", "alter", "index", "index", "long", "long", "long", "many"]
    migrations = [MigrationSpec("base")]
    for kind in (rng.choice(kinds) for _ in range(rng.randint(2, 7))):
        seconds = 0.0
        if kind == "long":
            # Now and then longer than the shorter timeouts.
            seconds = _choose_time(rng, 0.3, 2.0) if rng.random() < 0.85 else 4.0
        elif kind == "many":
            seconds = _choose_time(rng, 0.5, 1.5)
        migrations.append(MigrationSpec(kind, seconds))
    return tuple(migrations)


def _choose_broken_version(rng: random.Random, migrations: tuple[MigrationSpec, ...]) -> int:
    breakable = [v for v, one in enumerate(migrations, 1) if v > 1 and one.kind != "many"]
    return rng.choice(breakable) if breakable and rng.random() < 0.25 else 0


def _make_environments(rng: random.Random, *, is_broken: bool) -> tuple[ExecutionEnvironment, ...]:
    versions = ["old", "new", "new", "fixed" if is_broken else "new"]
    together = rng.random() < 0.5
    return tuple(
        ExecutionEnvironment(
            at=_choose_time(rng, 0.0, 0.3 if together or number < 2 else 4.0),
            code_version=rng.choice(versions),
            timeout=rng.choice([5.0, 7.0, 9.0, 12.0]),
            invocations=rng.choice([1, 2, 3]),
        )
        for number in range(rng.randint(3, 7))
    )


def _make_fault(rng: random.Random, kind: str, schedule: Schedule) -> Fault:
    lease = schedule.lease_seconds
    numbers = [str(number) for number in range(len(schedule.environments))]
    target = HOLDER if rng.random() < 0.75 else rng.choice(numbers)
    # Most faults begin early; the ones that are armed must be there before their moment.
    early = kind.startswith("granted-twice") or "-at-" in kind or rng.random() < 0.5
    fault = Fault(kind, at=_choose_time(rng, 0.0, 2.0 if early else 5.0))
    if kind == "kill":
        return replace(fault, target=target)
    if kind.startswith("freeze"):
        longest = 2 * lease if rng.random() < 0.5 else 0.8 * lease
        target = target if kind == "freeze" else ""
        return replace(fault, target=target, seconds=_choose_time(rng, 0.2, longest))
    if kind in ("postgresql-refused", "postgresql-silent", "commit-late"):
        return replace(fault, seconds=_choose_time(rng, 0.2, 1.5 * lease))
    if kind == "postgresql-stuck":
        return replace(fault, seconds=_choose_time(rng, 1.0, 3 * lease))
    if kind.startswith("dynamodb") and kind != "dynamodb-item-lost":
        probability = rng.choice([0.3, 0.7, 1.0])
        seconds = _choose_time(rng, 0.5, lease)
        return replace(fault, seconds=seconds, probability=probability)
    return fault


def _add_clock_faults(rng: random.Random, schedule: Schedule) -> Schedule:
    """Some environments outlive their deadline; in the runner's schedules some clocks are off."""
    has_freeze = any(fault.kind.startswith("freeze") for fault in schedule.faults)
    outlive = has_freeze and rng.random() < 0.5
    clocks = schedule.entry_point == "runner" and rng.random() < 0.3
    changed = []
    for environment in schedule.environments:
        each = replace(environment, outlives_deadline=outlive and rng.random() < 0.5)
        if clocks and rng.random() < 0.6:
            each = replace(each, clock_offset=round(rng.uniform(-60, 60)))
        if clocks and rng.random() < 0.2:
            jump = round(rng.uniform(-60, 60))
            after = _choose_time(rng, 0.2, 3.0)
            each = replace(each, clock_jumps_after=after, clock_jump=jump)
        changed.append(each)
    return replace(schedule, environments=tuple(changed))


# --- of a tool


def _adapt_to_tool(schedule: Schedule, source: str) -> Schedule:
    """Replace what a child process cannot do, or not in that time."""
    rng = random.Random(f"{source} {schedule.seed}")  # noqa: S311 - repeatable on purpose
    specs = [MigrationSpec(rng.choice(_TOOL_MIGRATION_KINDS)) for _ in range(rng.randint(2, 5))]
    migrations = [MigrationSpec("base")] + [
        replace(spec, seconds=_choose_time(rng, 0.2, 1.0)) for spec in specs
    ]
    environments = [
        replace(
            each,
            at=each.at if number == 0 else round(rng.choice([0.2, 4.0]) * rng.random(), 2),
            code_version="new" if number == 0 else rng.choice(["old", "new", "new"]),
            timeout=rng.choice([8.0, 12.0, 16.0]),  # a child is not started in the last 3 seconds
        )
        for number, each in enumerate(schedule.environments[: rng.randint(2, 3)])
    ]
    kept = schedule.faults[: rng.randint(0, 3)]
    more = [
        Fault(rng.choice(_TOOL_FAULTS), at=0.0, target=HOLDER) for _ in range(rng.randint(1, 3))
    ]
    faults = [_move_fault(rng, each, schedule) for each in (*kept, *more)]
    return replace(
        schedule,
        source=source,
        migrations=tuple(migrations),
        old_version=rng.randint(1, len(migrations)),
        broken_version=0,
        rollback=None,
        environments=tuple(environments),
        faults=tuple(faults),
    )


def _move_fault(rng: random.Random, fault: Fault, schedule: Schedule) -> Fault:
    """Spread faults over the longer time that a child takes; let signals hit parent and child."""
    at = _choose_time(rng, 0.3, 6.0)
    if not fault.kind.startswith(("kill", "freeze")):
        return replace(fault, at=max(fault.at, at))
    seconds = _choose_time(rng, 0.3, 2.2 * schedule.lease_seconds)
    return replace(
        fault,
        at=at,
        target=HOLDER if fault.target else "",
        seconds=seconds if fault.kind.startswith("freeze") else 0.0,
        signalled_processes=rng.choice(["", "child", "child", "both"]),
    )
