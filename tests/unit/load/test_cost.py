"""What a deployment costs: the page, the formula and the simulation say the same."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from lambda_migrate.aws.telemetry import METRICS, PowertoolsObserver
from lambda_migrate.events import CheckSucceeded
from load.simulation.lease_table import Scenario
from load.simulation.model import READ_DOLLARS, WRITE_DOLLARS, simulate, summarize
from load.simulation.policies import LIBRARY

PAGE = (Path(__file__).parents[3] / "docs" / "explanation" / "cost-per-deployment.md").read_text()
ROW = re.compile(
    r"\| ([\d,]+) \| ([\d.]+) s \| \$([\d.]+) \| \$([\d.]+) \| \$([\d.]+) \| \$(.+) \|"
)
ROWS = ROW.findall(PAGE)

GB_SECOND_DOLLARS = 13.3334e-6
LOG_BYTES = 800
MEMORY_GB = 0.5
COLD_START_SECONDS = 0.042 * 1_769 / 512


@dataclass(frozen=True)
class Cost:
    """Dollars."""

    dynamodb: float
    waiting: float
    logs: float

    @property
    def total(self) -> float:
        return self.dynamodb + self.waiting + self.logs


def cost_of(starts: int, seconds: float, read_units: float, write_units: float = 0.0) -> Cost:
    return Cost(
        read_units * READ_DOLLARS + write_units * WRITE_DOLLARS,
        starts * seconds * MEMORY_GB * GB_SECOND_DOLLARS,
        starts * LOG_BYTES * 1e-9 * 0.5,
    )


def cost_of_deployment(environments: int, seconds: float) -> Cost:
    """The formula of the page: all start at once, one migrates, the others wait all the time."""
    if seconds <= 3.3:
        reads = 3 + 2 * seconds
    elif seconds <= 60:
        reads = 9 + 7.2 * math.log(seconds / 3.3)
    else:
        reads = 30 + (seconds - 60) / 9
    read_units = 2 + 0.5 * (reads - 2)
    write_units = 0.013 * environments + 3 * seconds / 20 + 3
    return cost_of(environments, seconds, environments * read_units, write_units)


def test_the_page_has_deployments() -> None:
    assert len(ROWS) >= 5


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]} for {row[1]} s")
def test_the_page_has_the_figures_of_the_formula(row: tuple[str, ...]) -> None:
    environments, seconds, *stated = row
    cost = cost_of_deployment(int(environments.replace(",", "")), float(seconds))
    for text, value in zip(
        stated, (cost.dynamodb, cost.waiting, cost.logs, cost.total), strict=True
    ):
        places = len(text.partition(".")[2])
        assert text == f"{value:.{places}f}"


def test_the_page_has_the_cost_of_a_million_cold_starts() -> None:
    cost = cost_of(1_000_000, COLD_START_SECONDS, read_units=1_000_000)
    figures = (cost.dynamodb, cost.waiting, cost.logs, cost.total)
    assert "| " + " | ".join(f"${value:.2f}" for value in figures) + " |" in PAGE


@pytest.mark.parametrize("seconds", [0.1, 3.0, 20.0, 60.0])
@pytest.mark.parametrize("environments", [100, 1_000])
def test_the_formula_is_within_a_tenth_of_the_simulation(environments: int, seconds: float) -> None:
    scenario = Scenario(environments=environments, migration_seconds=seconds)
    seeds = range(max(1, 300 // environments))  # few environments differ more
    simulated = summarize([simulate(scenario, LIBRARY, seed=seed) for seed in seeds])
    assert cost_of_deployment(environments, seconds).dynamodb == pytest.approx(
        simulated.dollars, rel=0.1
    )


def test_a_check_that_waited_writes_as_many_bytes_as_the_page_says(
    capsys: pytest.CaptureFixture[str],
) -> None:
    owner = f"orders-api/8/{'f' * 32}"
    event = CheckSucceeded("orders", "a" * 64, "WAITED", 3.5, 3.25, 8, (), 0, owner)
    PowertoolsObserver().observe(event)
    written = len(capsys.readouterr().out)
    assert written <= LOG_BYTES
    assert written == pytest.approx(int(re.findall(r"(\d+) bytes long", PAGE)[0]), abs=20)


def test_the_page_counts_the_metrics() -> None:
    assert len(METRICS) == 9
    assert f"${0.30 * len(METRICS):.2f} a month" in PAGE
