"""What was seen in one round: plain data, for the laws to judge and the report to draw."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from load.chaos.schedule import Schedule

__all__ = ["Check", "Evidence", "Facts", "Life", "Mark", "Start"]


@dataclass(frozen=True)
class Mark:
    """Something that happened: seconds after the round began, to whom, what, and details."""

    at: float
    who: str
    what: str
    detail: str = ""


@dataclass(frozen=True)
class Check:
    """What one environment found in the database when it served.

    Attributes:
        who: The environment.
        code: Its code version.
        invoked_wall: When its last check began, seconds since the epoch.
        served_wall: When the library said that it may be served.
        checked_wall: When the database was looked at.
        versions: The rows of ``effects``; None where the database could not be reached.
        indexes: The valid indexes.
        stood_still: For how long it was frozen before it served.
    """

    who: str
    code: str
    invoked_wall: float
    served_wall: float
    checked_wall: float
    versions: tuple[int, ...] | None
    indexes: tuple[str, ...]
    stood_still: float = 0.0


@dataclass
class Life:
    """One process of the round.

    Attributes:
        name: ``environment 3``, ``rollback``.
        code: Its code version.
        clock: By how much its wall clock was off at most, seconds.
        started: Seconds after the round began.
        ended: The same; None while it lives.
        exit_code: Negative for a signal.
        killed: Why we killed it: ``fault``, ``deadline`` or ``end``; "" if it ended by itself.
        events: What it told, each with ``at`` (seconds after the round began) and ``wall``.
        frozen: From when to when it stood still.
        log: The end of what it wrote.
    """

    name: str
    code: str
    clock: float = 0.0
    started: float = 0.0
    ended: float | None = None
    exit_code: int | None = None
    killed: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)
    frozen: list[tuple[float, float]] = field(default_factory=list)
    log: str = ""

    @property
    def stood_still(self) -> float:
        """For how long it was frozen in all."""
        return sum(until - since for since, until in self.frozen)


@dataclass(frozen=True)
class Start:
    """One of the cold starts after the round.

    Attributes:
        code: Its code version.
        ended: ``served``, the error's name, or ``killed``.
        seconds: How long it took.
        bound: How long it may take: two leases, and what was left to do.
        message: The error's.
    """

    code: str
    ended: str
    seconds: float
    bound: float
    message: str = ""


@dataclass
class Facts:
    """What was there when all was over."""

    effects: dict[int, int] = field(default_factory=dict)
    balance: int = 0
    deeds: list[tuple[int, str, float]] = field(default_factory=list)
    """Version, ``up`` or ``down``, and when it was committed, seconds since the epoch."""
    history: list[tuple[int, str]] = field(default_factory=list)
    indexes: dict[str, bool] = field(default_factory=dict)
    """All indexes of migrations, and whether they are valid."""
    backends: list[str] = field(default_factory=list)
    """Our connections that were still open."""
    lingering: list[str] = field(default_factory=list)
    """Our connections that were open one lease after the last environment had ended."""
    owner: str | None = None
    lease_over_in: float = 0.0
    """Seconds until the lease in the item runs out, by the clock of its owner; negative if it
    has."""
    secrets: list[str] = field(default_factory=list)
    """Where a secret was found."""


@dataclass
class Evidence:
    """All of it."""

    schedule: Schedule
    marks: list[Mark] = field(default_factory=list)
    lives: list[Life] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)
    facts: Facts = field(default_factory=Facts)
    strikes: Counter[str] = field(default_factory=Counter)
    """How often a fault of each kind really struck."""
    seconds: float = 0.0
    end_of_faults: float = 0.0
