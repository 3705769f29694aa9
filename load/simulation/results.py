"""A simulated deployment in numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from load.bench.results import percentile
from load.simulation.model import Deployment, SimulatedStart

READ_DOLLARS = 0.125e-6
"""A read request unit on demand in us-east-1 since November 2024. Other regions, and tables with
provisioned capacity: https://aws.amazon.com/dynamodb/pricing/on-demand/."""

WRITE_DOLLARS = 0.625e-6
"""A write request unit, the same."""


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """What is compared. NaN where no environment waited."""

    waiting: int  # environments that waited for another one's migrations, and served
    not_served: int  # those that gave up
    mean_acquisitions: float  # how often the lease was acquired
    delay_median: float  # from the last commit to serving, of those that waited; seconds
    delay_p99: float  # the same, 99th percentile
    calls_median: float  # their DynamoDB calls, the first read and a lost bid included
    calls_mean: float
    read_units: float  # paid for each environment on average, whether it waited or not
    peak_units: float  # most units requested of the partition within one second
    throttled: float  # share of all requests that the partition did not serve
    dollars: float  # of DynamoDB, for all environments


def find_waiters(run: Deployment) -> list[SimulatedStart]:
    """Those that came before the last commit, waited for it, and served, as in a storm."""
    committed = math.inf if run.committed is None else run.committed
    return [
        start
        for start in run.starts
        if start.waited and not start.held and start.served is not None
        if start.arrived < committed
    ]


def summarize(runs: Sequence[Deployment]) -> SimulationResult:
    """The result of several runs of one scenario; costs are those of one run."""
    seen = [(run, start) for run in runs for start in find_waiters(run)]
    delays = [(start.served or 0.0) - (run.committed or 0.0) for run, start in seen] or [math.nan]
    calls = [float(start.calls) for _, start in seen] or [math.nan]
    represented, count = runs[0].scenario.represented, len(runs)
    read_units = sum(run.partition.read_units for run in runs)
    write_units = sum(run.partition.write_units for run in runs)
    unserved = sum(start.served is None for run in runs for start in run.starts)
    return SimulationResult(
        waiting=round(len(seen) * represented / count),
        not_served=round(unserved * represented / count),
        mean_acquisitions=sum(len(run.acquired) for run in runs) / count,
        delay_median=percentile(delays, 50),
        delay_p99=percentile(delays, 99),
        calls_median=percentile(calls, 50),
        calls_mean=sum(calls) / len(calls),
        read_units=read_units / sum(len(run.starts) for run in runs),
        peak_units=max(max(run.partition.requested_units_in.values()) for run in runs)
        * represented,
        throttled=sum(run.partition.throttled for run in runs)
        / sum(run.partition.requests for run in runs),
        dollars=(read_units * READ_DOLLARS + write_units * WRITE_DOLLARS) * represented / count,
    )
