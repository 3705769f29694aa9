"""What was recorded in one round: plain data, for the invariants and the report."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from load.chaos.schedule import Schedule


@dataclass(frozen=True)
class Observation:
    """What one environment found in the database when it served. Wall times are epoch seconds."""

    process: str
    code_version: str
    served_at: float  # when the library let the handler run
    versions: tuple[int, ...] | None  # rows of `effects`; None: the database was unreachable
    indexes: tuple[str, ...]  # the valid ones
    frozen_seconds: float = 0.0  # before it served


@dataclass
class ProcessRecord:
    """One process of the round. Times are seconds after the round began."""

    name: str  # `environment 3`, `rollback`
    code_version: str
    clock_error: float = 0.0  # the largest of its wall clock, in seconds
    ended: float | None = None
    exit_code: int | None = None  # negative for a signal
    killed: str = ""  # why we killed it: `fault`, `deadline`; "" if it ended by itself
    events: list[dict[str, Any]] = field(default_factory=list)
    frozen: list[tuple[float, float]] = field(default_factory=list)
    log: str = ""  # its end


@dataclass(frozen=True)
class ColdStartResult:
    """One of the cold starts after the round."""

    code_version: str
    outcome: str  # `served`, the error's name, or `killed`
    seconds: float
    limit: float  # two leases, and the work that is left
    message: str = ""


@dataclass
class FinalState:
    """What database, item and logs held when all was over."""

    effects: dict[int, int] = field(default_factory=dict)
    balance: int = 0
    runs: list[tuple[int, str, float]] = field(default_factory=list)
    """Version, ``up`` or ``down``, and when it was committed (epoch seconds)."""
    history: list[tuple[int, str]] = field(default_factory=list)
    """Versions and their state; of a tool, what its own table lists."""
    mirror: list[tuple[int, str]] = field(default_factory=list)  # the same in the mirror
    differences: list[str] = field(default_factory=list)  # to what the tool alone makes
    children: list[str] = field(default_factory=list)  # processes that still run
    indexes: dict[str, bool] = field(default_factory=dict)  # and whether they are valid
    connections: list[str] = field(default_factory=list)  # of lambda-migrate, still open
    leftover_connections: list[str] = field(default_factory=list)
    """The same one lease after the last environment had ended."""
    owner: str | None = None
    lease_expires_in: float = 0.0
    """Seconds, by the clock of the lease's owner; negative once it has expired."""
    secrets: list[str] = field(default_factory=list)  # where one was found


@dataclass(frozen=True)
class RepairedMigration:
    """A migration of a tool that `repair` had to resolve."""

    version: int  # 0: the mirror has none in doubt
    has_committed_rows: bool


@dataclass
class ChaosEvidence:
    """Everything that was recorded, and a sentence for each invariant that was violated."""

    schedule: Schedule
    timeline: list[tuple[float, str, str, str]] = field(default_factory=list)
    """When, the process or ``faults``, what happened, details."""
    processes: list[ProcessRecord] = field(default_factory=list)
    observations: list[Observation] = field(default_factory=list)
    cold_starts: list[ColdStartResult] = field(default_factory=list)
    repairs: list[RepairedMigration] = field(default_factory=list)
    state: FinalState = field(default_factory=FinalState)
    fault_counts: dict[str, int] = field(default_factory=dict)  # of those that took effect
    violations: list[str] = field(default_factory=list)
