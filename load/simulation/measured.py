"""What a real storm measured, to hold a prediction against."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from load.simulation.figures import delay_of, quantile, waiters
from load.simulation.model import simulate
from load.simulation.policies import LIBRARY
from load.simulation.scenario import Scenario

__all__ = ["Comparison", "Storm", "compare", "load_storm"]

ROUNDS = 20
"""Simulated storms for each measured one: the spread between them is what chance does."""


@dataclass(frozen=True, slots=True)
class Storm:
    """A storm's report, as far as it concerns waiting. Times are seconds."""

    name: str
    n: int  # environments
    migration: float  # from the acquisition of the lease to the last commit
    arrivals: tuple[float, ...]  # each environment's first read, from the earliest
    delays: tuple[float, ...]  # from the last commit to serving, of those that waited
    calls: tuple[float, ...]  # their DynamoDB calls
    read: float = 0.006  # median of a read
    freeing: float = 0.0  # from the last commit to the write that frees the lease
    serving: float = 0.0  # from a waiter's last read to serving

    def scenario(self) -> Scenario:
        """The same storm, to be simulated."""
        return Scenario(
            environments=self.n,
            migration=self.migration,
            others=(),
            replay=self.arrivals,
            connect=0.0,
            read=self.read,
            read_minimum=self.read / 2,
            stale_mean=0.0,  # engines of one copy
            freeing=self.freeing,
            serving=self.serving,
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """A storm beside its simulations; every list is sorted."""

    storm: Storm
    delays: tuple[tuple[float, ...], ...]  # as predicted, one list for each simulation
    calls: tuple[tuple[float, ...], ...]

    def rows(self) -> list[tuple[str, float, float]]:
        """What, predicted (median of the simulated storms), measured."""
        measured = {"delay": self.storm.delays, "calls": self.storm.calls}
        predicted = {"delay": self.delays, "calls": self.calls}
        return [
            (
                f"{what} {label}",
                quantile(sorted(quantile(each, share) for each in predicted[what]), 0.5),
                quantile(measured[what], share),
            )
            for what in ("delay", "calls")
            for label, share in (("median", 0.5), ("99 in 100", 0.99))
        ]


def load_storm(path: Path) -> Storm:
    """Read ``report.json`` of a storm.

    Raises:
        ValueError: It lacks what is compared.
    """
    try:
        document = json.loads(path.read_text())
        waits = document["waits"]
        if not waits["lease_calls"]:
            raise ValueError(f"{path}: no environment waited")
        return Storm(
            name=path.parent.name,
            n=int(document["n"]),
            migration=float(document["migration_seconds"]),
            arrivals=tuple(sorted(map(float, document["arrivals_seconds"]))),
            delays=tuple(sorted(map(float, waits["delay_after_commit_seconds"]))),
            calls=tuple(sorted(map(float, waits["lease_calls"]))),
            read=float(document.get("read_latency_seconds", 0.006)),
            freeing=float(document.get("release_after_commit_seconds", 0.0)),
            serving=float(document.get("serve_after_read_seconds", 0.0)),
        )
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a storm's report, or one without waits: {error}") from error


def compare(storm: Storm, seed: int) -> Comparison:
    """Simulate the storm as it arrived, with the library's own policy."""
    scenario = storm.scenario()
    runs = [simulate(scenario, LIBRARY, seed=seed + number) for number in range(ROUNDS)]
    return Comparison(
        storm,
        tuple(tuple(sorted(delay_of(run, each) for each in waiters(run))) for run in runs),
        tuple(tuple(sorted(float(each.calls) for each in waiters(run))) for run in runs),
    )
