"""A small storm without Locust: what its users would invoke, in a loop of this process."""

from __future__ import annotations

import asyncio
import csv
import time
from pathlib import Path

from lambda_migrate.local.servers.dynamodb import LocalDynamoDB
from load.storm.evidence import Evidence, gather_evidence
from load.storm.host import Host, open_testbed
from load.storm.scenarios import Package, Scenario
from load.storm.verdicts import Verdict, verdicts


def run_storm(scenario: Scenario, package: Package, home: Path) -> Evidence:
    """Each cold start and its warm invocation, and statistics such as Locust writes."""
    began = time.monotonic()
    with open_testbed(scenario, package, home, api=LocalDynamoDB()) as testbed:
        host = Host(testbed)
        host.prepare()
        asyncio.run(_run_users(host, scenario.environments))
        _write_statistics(host, home / "locust_stats.csv")
        return gather_evidence(host, locust=home / "locust", seconds=time.monotonic() - began)


async def _run_users(host: Host, users: int) -> None:
    await asyncio.gather(*(_run_user(host, user) for user in range(users)))


async def _run_user(host: Host, user: int) -> None:
    for kind in ("cold", "warm"):
        await asyncio.wrap_future(host.submit({"kind": kind, "user": user}))


def _write_statistics(host: Host, path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Name", "Request Count", "Failure Count"])
        for kind in ("cold", "warm"):
            own = [one.result for one in host.observed if one.result.cold == (kind == "cold")]
            failed = sum(one.status != "ok" for one in own)
            writer.writerow([kind, len(own), failed])


def verdicts_by_name(evidence: Evidence) -> dict[str, Verdict]:
    """Verdicts by what must hold."""
    return {verdict.what: verdict for verdict in verdicts(evidence)}
