"""The profile of real cold starts has every phase of such a start."""

from __future__ import annotations

from lambda_migrate.local.servers.dynamodb import LocalDynamoDB
from load.bench.processes import read_figures
from load.profile.measured_process import PHASES
from load.profile.starts import ColdStartProfiler

CURRENT = {"imports", "TLS", "read", "rest"}


def test_each_phase_of_a_start_is_measured() -> None:
    with ColdStartProfiler.open(LocalDynamoDB()) as profiler:
        for kind, phases in (
            ("current", CURRENT),
            ("migrating one file", set(PHASES) - {"wait"}),
        ):
            result, _ = profiler.measure(kind)
            figures = read_figures(result.output)
            assert {phase for phase, values in figures.items() if any(values)} == phases
