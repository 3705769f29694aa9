"""A small storm without Locust: threads that ask the same server the same things."""

from __future__ import annotations

import csv
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from load.storm.control import Control
from load.storm.evidence import Evidence, gather_evidence
from load.storm.host import Host, serve
from load.storm.packages import Package
from load.storm.scenarios import Scenario
from load.storm.testbed import open_testbed
from load.storm.verdicts import Verdict, verdicts


def play(scenario: Scenario, package: Package, home: Path) -> Evidence:
    """Each cold start and its warm invocation, and statistics such as Locust writes."""
    began = time.monotonic()
    with open_testbed(scenario, package, home) as testbed:
        host = Host(testbed)
        host.prepare()
        with serve(host) as url, ThreadPoolExecutor(scenario.environments) as pool:
            list(pool.map(lambda _: _start_cold(url), range(scenario.environments)))
        _write_statistics(host, home / "locust_stats.csv")
        return gather_evidence(host, locust=home / "locust", seconds=time.monotonic() - began)


def _start_cold(url: str) -> None:
    control = Control(url)
    version = control.post("/cold")["version"]
    control.post("/invoke", kind="warm", version=version)


def _write_statistics(host: Host, path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Name", "Request Count", "Failure Count"])
        for kind in ("cold", "warm"):
            own = [one for one in host.observed if one.kind == kind]
            failed = sum(one.result.status != "ok" for one in own)
            writer.writerow([kind, len(own), failed])


def judged(evidence: Evidence) -> dict[str, Verdict]:
    """Verdicts by their laws."""
    return {verdict.what: verdict for verdict in verdicts(evidence)}
