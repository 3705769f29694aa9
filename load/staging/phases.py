"""The storm of the new version, and the way back, both while clients use the old one.

They are the storms of load/storm, on a database that stays.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from lambda_migrate.local.demo.sampler import ConnectionSampler
from lambda_migrate.local.demo.stage import connect_monitor
from load.storm.__main__ import drive
from load.storm.evidence import Evidence, gather
from load.storm.host import Host, serve
from load.storm.scenarios import Scenario, Wave
from load.storm.stage import StormStage

__all__ = ["deployment", "play", "way_back"]


def deployment(
    environments: int, clients: int, settings: Mapping[str, str] | None = None
) -> Scenario:
    """Version 2 starts, all at the same instant, beside the clients of version 1."""
    waves = (Wave(2, environments),)
    return Scenario(
        "deployment", "deployment", "orders", waves, ready=1, clients=clients, settings=settings
    )


def way_back(
    environments: int, clients: int, settings: Mapping[str, str] | None = None
) -> Scenario:
    """Version 2 is taken back while version 1 starts, beside the same clients."""
    back = deployment(environments, clients, settings)
    waves = (Wave(1, environments),)
    return replace(back, name="rollback", shape="rollback", waves=waves, ready=2, rollback=True)


def play(stage: StormStage, scenario: Scenario, out: Path) -> Evidence:
    """One of them, to its end.

    Args:
        stage: With both versions.
        scenario: Which.
        out: The folder for Locust's report.

    Raises:
        ProcessError: Locust failed.
    """
    began = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    with _sampled(stage, scenario) as phase:
        host = Host(phase)
        host.prepare()
        with serve(host) as url:
            drive(scenario, url, out)
        evidence = gather(host, locust=out / "locust", seconds=time.monotonic() - began)
        # What restored the data, and the dry run, are no part of this storm.
        sessions = [one for one in evidence.sessions if one.opened >= began]
        evidence = replace(evidence, sessions=sessions)
        for function in stage.functions.values():
            function.end_idle()
    return evidence


@contextmanager
def _sampled(stage: StormStage, scenario: Scenario) -> Iterator[StormStage]:
    sampler = ConnectionSampler(
        lambda: connect_monitor(stage.server),
        database=stage.package.database,
        application=stage.package.database,
    )
    with sampler:
        yield replace(stage, scenario=scenario, sampler=sampler)
