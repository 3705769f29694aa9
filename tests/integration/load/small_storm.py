"""A small storm without Locust: this process makes the invocations in a loop."""

from __future__ import annotations

import asyncio
import csv
import time
from pathlib import Path

from lambda_migrate.local.servers.dynamodb import LocalDynamoDB
from load.storm.evidence import StormEvidence, collect_evidence
from load.storm.scenarios import Package, Scenario
from load.storm.testbed import StormFunction, open_testbed
from load.storm.verdicts import Verdict, verdicts


def run_storm(scenario: Scenario, package: Package, home: Path) -> StormEvidence:
    """Each cold start and its warm invocation, and statistics such as Locust writes."""
    began = time.monotonic()
    with open_testbed(scenario, package, home, api=LocalDynamoDB()) as testbed:
        function = StormFunction(testbed)
        function.prepare()
        asyncio.run(_run_users(function, scenario.environments))
        _write_statistics(function, home / "locust_stats.csv")
        return collect_evidence(function, prefix=home / "locust", seconds=time.monotonic() - began)


async def _run_users(function: StormFunction, users: int) -> None:
    await asyncio.gather(*(_run_user(function, user) for user in range(users)))


async def _run_user(function: StormFunction, user: int) -> None:
    for kind in ("cold", "warm"):
        await asyncio.wrap_future(function.submit({"kind": kind, "user": user}))


def _write_statistics(function: StormFunction, path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Name", "Request Count", "Failure Count"])
        for kind in ("cold", "warm"):
            own = [
                one.result for one in function.invocations if one.result.cold == (kind == "cold")
            ]
            failed = sum(one.status != "ok" for one in own)
            writer.writerow([kind, len(own), failed])


def verdicts_by_name(evidence: StormEvidence) -> dict[str, Verdict]:
    """Verdicts by what must hold."""
    return {verdict.name: verdict for verdict in verdicts(evidence)}
