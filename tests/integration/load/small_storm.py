"""A small storm without Locust: threads that ask the same server the same things."""

from __future__ import annotations

import csv
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from load.storm.evidence import Evidence, gather_evidence
from load.storm.host import Host, serve
from load.storm.locust_client import send_to_host
from load.storm.packages import Package
from load.storm.scenarios import Scenario, make_scenario
from load.storm.testbed import open_testbed
from load.storm.verdicts import Verdict, verdicts


def forked_scenario(name: str, n: int) -> Scenario:
    """A scenario whose environments and DynamoDB API start quickly."""
    return replace(make_scenario(name, n), engine="moto", processes="forked")


def run_storm(scenario: Scenario, package: Package, home: Path) -> Evidence:
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
    version = send_to_host(url, "/cold")["version"]
    send_to_host(url, "/invoke", kind="warm", version=version)


def _write_statistics(host: Host, path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Name", "Request Count", "Failure Count"])
        for kind in ("cold", "warm"):
            own = [one for one in host.observed if one.kind == kind]
            failed = sum(one.result.status != "ok" for one in own)
            writer.writerow([kind, len(own), failed])


def verdicts_by_name(evidence: Evidence) -> dict[str, Verdict]:
    """Verdicts by what must hold."""
    return {verdict.what: verdict for verdict in verdicts(evidence)}
