"""``lambda-migrate demo``: 100 Lambda runtimes against a PostgreSQL server.

::

    version 1   100 environments start together: 1 migrates, 99 wait; all serve again, then most end
    version 2   100 environments start together: 1 migrates for 3 s; version 1 keeps serving
    rollback    by version 1's code, with the down scripts in the database; version 1 keeps serving
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lambda_migrate.clock import SYSTEM_CLOCK, Deadline
from lambda_migrate.errors import ConfigurationError, MigrateError
from lambda_migrate.local.demo.checks import ColdStartStorm
from lambda_migrate.local.demo.example import VERSIONS, Example, find_example
from lambda_migrate.local.demo.fleet import Fleet, Traffic
from lambda_migrate.local.demo.report import list_summary_rows, make_table, write_report
from lambda_migrate.local.demo.results import DemoResult, Rollback, find_faults, is_served
from lambda_migrate.local.demo.servers import DemoServers, RollbackTimes, start_demo_servers
from lambda_migrate.local.demo.timeline import Row
from lambda_migrate.local.demo.warm_overhead import measure_in_new_process

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["run_demo"]

KEPT_ENVIRONMENTS = 25
"""Environments of version 1 that stay while version 2 starts; 200 would need 10 GB."""

_ROLLBACK_SECONDS = 60.0
_INTERRUPTED = 130  # as a shell reports Ctrl-C


def run_demo(
    *,
    environments: int = 100,
    report: Path = Path("demo-report"),
    console: Console | None = None,
    example: Example | None = None,
    source: str = "sql",
) -> int:
    """Run the demo, print the results, and write ``summary.json`` and ``timeline.svg``.

    Args:
        environments: Number of environments of each version.
        report: The folder of the report; created if missing.
        console: Where to print; standard output if None.
        example: The example function; the one of this checkout if None.
        source: Where the migrations of that one come from; a key of `EXAMPLES`.

    Returns:
        0; 1 if a migration took effect twice, an invocation failed or more than one PostgreSQL
        connection of lambda-migrate was open; 130 after Ctrl-C.

    Raises:
        ConfigurationError: The example is missing, or ``report`` is not writable.
        ProcessError: PostgreSQL or the DynamoDB API did not start.
    """
    from rich.console import Console

    if environments < 1:
        raise ConfigurationError(f"--environments {environments}: must be at least 1")
    console = console or Console()
    example = example or find_example(source)
    _require_writable(report)
    try:
        result, rows = _run(environments, console, example)
    except KeyboardInterrupt:
        console.print("Interrupted; every process was stopped.", style="yellow")
        return _INTERRUPTED
    return _report_result(result, rows, report=report, console=console)


def _require_writable(report: Path) -> None:
    """Check that the report can be written before anything starts."""
    try:
        report.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=report):
            pass
    except OSError as error:
        raise ConfigurationError(
            f"--report {report} is not writable ({error.strerror}): choose another folder"
        ) from error


def _report_result(
    result: DemoResult, rows: Sequence[Row], *, report: Path, console: Console
) -> int:
    """Print and write the results; return the exit code."""
    from rich.table import Table

    found = find_faults(result)
    paths = write_report(result, rows, report)
    console.print(make_table(result))
    grid = Table.grid(padding=(0, 2))
    for label, fact in list_summary_rows(result):
        grid.add_row(label, fact)
    console.print(grid, highlight=False)
    console.print(f"\nwritten: {', '.join(map(str, paths))}", highlight=False, style="dim")
    for fault in found:
        console.print(f"FAILED  {fault}", style="bold red", highlight=False, markup=False)
    if not found:
        console.print(
            f"All checks passed in {result.seconds:.0f} s.", style="bold green", highlight=False
        )
    return 1 if found else 0


def _run(environments: int, console: Console, example: Example) -> tuple[DemoResult, list[Row]]:
    began = SYSTEM_CLOCK.monotonic()
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lm-demo-")))
        servers = stack.enter_context(start_demo_servers(home, environments, console, example))
        demo = _Demo(servers, environments)
        demo.run()
        until = SYSTEM_CLOCK.monotonic()
        servers.sampler.stop()
        result = demo.result(seconds=until - began)
        rows = [
            row
            for fleet in demo.fleets
            for row in fleet.rows(servers.sampler.sessions, until=until)
        ]
    return result, rows


class _Demo:
    """The steps of the demo and their results."""

    def __init__(self, servers: DemoServers, environments: int) -> None:
        self._servers = servers
        self._progress = servers.progress
        self._n = environments
        self.fleets: list[Fleet] = []
        self._storms: list[ColdStartStorm] = []
        self._effects: list[Mapping[str, int]] = []
        self._traffic: Traffic | None = None
        self._rollback: Rollback | None = None
        self._errors: list[str] = []
        self._warm: Mapping[str, float] = {}

    def run(self) -> None:
        """Run all steps; a failed storm ends the demo, as later steps build on it."""
        with self._deploy(1) as old_fleet:
            if not self._run_storm(old_fleet):
                return
            old_fleet.shrink(KEPT_ENVIRONMENTS)
            with Traffic(old_fleet) as self._traffic:
                with self._deploy(2) as new_fleet:
                    succeeded = self._run_storm(new_fleet)
                if succeeded:
                    self._attempt_rollback(old_fleet)
        if self._rollback is not None:
            self._progress.start_step("measuring the overhead of a warm invocation")
            self._warm = measure_in_new_process(find_example().directory / "migrations")

    @contextmanager
    def _deploy(self, version: int) -> Iterator[Fleet]:
        with self._servers.deploy(version) as fleet:
            self.fleets.append(fleet)
            yield fleet

    def _run_storm(self, fleet: Fleet) -> bool:
        """Run cold starts and warm invocations of a version; return whether all were served."""
        what = f"version {fleet.version}"
        self._progress.start_step(
            f"{what}: starting {self._n} environments, then invoking all together"
        )
        storm = fleet.run_storm(self._n)
        succeeded = all(map(is_served, storm.results))
        if succeeded:
            self._progress.start_step(f"{what}: invoking every environment again")
            storm = replace(storm, warm_results=fleet.invoke_warm(storm))
        self._effects.append(
            self._servers.example.count_effects(
                self._servers.server, through_version=VERSIONS[fleet.version]
            )
        )
        known = {interval.label for one in self._storms for interval in one.intervals}
        intervals = [
            interval for interval in self._servers.migrations() if interval.label not in known
        ]
        self._storms.append(replace(storm, intervals=intervals))
        self._progress.finish_step(_describe(self._storms[-1]))
        return succeeded

    def _attempt_rollback(self, old_fleet: Fleet) -> None:
        try:
            self._rollback = self._roll_back(old_fleet)
        except MigrateError as error:
            self._errors.append(f"The rollback failed: {error}")

    def _roll_back(self, old_fleet: Fleet) -> Rollback:
        self._progress.start_step("rolling back with the down scripts in the database")
        observer = RollbackTimes()
        began = SYSTEM_CLOCK.monotonic()
        if self._servers.example.source == "sql":
            rolled_back = self._servers.make_operations(old_fleet, observer).down(
                Deadline.after(_ROLLBACK_SECONDS), to=VERSIONS[1]
            )
        else:  # the down scripts are not in the database, but in the code of version 2
            rolled_back = self._servers.roll_back_by_command(
                self.fleets[-1].code, steps=VERSIONS[2] - VERSIONS[1]
            )
        seconds = SYSTEM_CLOCK.monotonic() - began
        self._progress.start_step("version 1: a new environment after the rollback")
        rollback = Rollback(
            rolled_back=rolled_back,
            seconds=seconds,
            intervals=observer.intervals,
            rollback_counts=self._servers.example.count_rollbacks(self._servers.server),
            cold_start=old_fleet.run_storm(1),
        )
        self._progress.finish_step(f"rolled back {len(rolled_back)} migrations; version 1 starts")
        return rollback

    def result(self, *, seconds: float) -> DemoResult:
        """Everything that was measured."""
        servers = self._servers
        return DemoResult(
            environments=self._n,
            seconds=seconds,
            storms=self._storms,
            effect_counts=self._effects,
            traffic=self._traffic.results if self._traffic is not None else (),
            rollback=self._rollback,
            samples=servers.sampler.samples,
            errors=[one for one in (*self._errors, servers.sampler.fault) if one],
            dynamodb_requests=servers.calls(),
            warm_microseconds=self._warm,
            postgresql_version=servers.server.version,
        )


def _describe(storm: ColdStartStorm) -> str:
    served = sum(map(is_served, storm.results))
    migrators = ", ".join(check.environment for check in storm.migrators) or "none"
    return (
        f"version {storm.version}: {migrators} migrated, {len(storm.waiters)} waited, "
        f"{served} of {len(storm.results)} served"
    )
