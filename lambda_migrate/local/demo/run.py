"""``lambda-migrate demo``: a hundred real Lambda runtimes against a real PostgreSQL.

::

    version 1   100 environments at the same instant: 1 migrates, 99 wait
                each serves once more, then most go, as idle ones do; the rest serves steadily
    version 2   100 environments at the same instant: 1 migrates for 3 s, version 1 goes on
    rollback    by version 1's code, with the down scripts from the database; version 1 goes on
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
from lambda_migrate.local.demo.deployment import VERSIONS, Example, find_example
from lambda_migrate.local.demo.evidence import Storm
from lambda_migrate.local.demo.findings import Findings, Rollback, faults, is_served
from lambda_migrate.local.demo.fleet import Fleet, Traffic
from lambda_migrate.local.demo.report import facts, table, write
from lambda_migrate.local.demo.stage import RollbackTimes, Stage, start_demo_servers
from lambda_migrate.local.demo.timeline import Row
from lambda_migrate.local.demo.warm import measure_in_new_process

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["run_demo"]

KEPT = 25
"""So many environments of version 1 stay while version 2 starts: 200 would want 10 GB."""

_ROLLBACK_SECONDS = 60.0
_INTERRUPTED = 130  # what a shell reports of a process that Ctrl-C ended


def run_demo(
    *,
    environments: int = 100,
    report: Path = Path("demo-report"),
    console: Console | None = None,
    example: Example | None = None,
) -> int:
    """Run the demo, tell how it went, and write ``summary.json`` and ``timeline.svg``.

    Args:
        environments: In each of the two storms.
        report: The folder to write into; made if need be.
        console: Where to tell; standard output if None.
        example: The function; this checkout's if None.

    Returns:
        0; 1 if a migration took effect twice, an invocation failed or more than one PostgreSQL
        connection of lambda-migrate was open; 130 after Ctrl-C.

    Raises:
        ConfigurationError: There is no example, or nothing can be written into ``report``.
        ProcessError: PostgreSQL or the DynamoDB API did not start.
    """
    from rich.console import Console

    if environments < 1:
        raise ConfigurationError(f"--environments {environments}: write a number from 1")
    console = console or Console()
    example = example or find_example()
    _require_writable(report)
    try:
        findings, rows = _play(environments, console, example)
    except KeyboardInterrupt:
        console.print("Interrupted; every process has been ended.", style="yellow")
        return _INTERRUPTED
    return _conclude(findings, rows, report=report, console=console)


def _require_writable(report: Path) -> None:
    """Now rather than after a minute."""
    try:
        report.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=report):
            pass
    except OSError as error:
        raise ConfigurationError(
            f"--report {report}: nothing can be written there ({error.strerror}); name another"
        ) from error


def _conclude(findings: Findings, rows: Sequence[Row], *, report: Path, console: Console) -> int:
    """Print and write everything; the exit code."""
    from rich.table import Table

    found = faults(findings)
    paths = write(findings, rows, report)
    console.print(table(findings))
    grid = Table.grid(padding=(0, 2))
    for label, fact in facts(findings):
        grid.add_row(label, fact)
    console.print(grid, highlight=False)
    console.print(f"\nwritten: {', '.join(map(str, paths))}", highlight=False, style="dim")
    for fault in found:
        console.print(f"FAILED  {fault}", style="bold red", highlight=False, markup=False)
    if not found:
        console.print(
            f"All went well, in {findings.seconds:.0f} s.", style="bold green", highlight=False
        )
    return 1 if found else 0


# -- the play -------------------------------------------------------------------------------------


def _play(environments: int, console: Console, example: Example) -> tuple[Findings, list[Row]]:
    began = SYSTEM_CLOCK.monotonic()
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lm-demo-")))
        stage = stack.enter_context(start_demo_servers(home, environments, console, example))
        play = _Play(stage, environments)
        play.run()
        until = SYSTEM_CLOCK.monotonic()
        stage.sampler.stop()
        findings = play.findings(seconds=until - began)
        rows = [
            row for fleet in play.fleets for row in fleet.rows(stage.sampler.sessions, until=until)
        ]
    return findings, rows


class _Play:
    """The acts, and what was seen of them."""

    def __init__(self, stage: Stage, environments: int) -> None:
        self._stage = stage
        self._board = stage.board
        self._n = environments
        self.fleets: list[Fleet] = []
        self._storms: list[Storm] = []
        self._effects: list[Mapping[str, int]] = []
        self._traffic: Traffic | None = None
        self._rollback: Rollback | None = None
        self._troubles: list[str] = []
        self._warm: Mapping[str, float] = {}

    def run(self) -> None:
        """All acts; a failed storm ends the play, for what follows builds upon it."""
        with self._deploy(1) as first:
            if not self._storm(first):
                return
            first.shrink(KEPT)
            with Traffic(first) as self._traffic:
                with self._deploy(2) as second:
                    went_well = self._storm(second)
                if went_well:
                    self._try_to_roll_back(first)
        if self._rollback is not None:
            self._board.now("measuring what a warm invocation costs")
            self._warm = measure_in_new_process(self._stage.example.directory / "migrations")

    @contextmanager
    def _deploy(self, version: int) -> Iterator[Fleet]:
        with self._stage.deploy(version) as fleet:
            self.fleets.append(fleet)
            yield fleet

    def _storm(self, fleet: Fleet) -> bool:
        """One version's cold starts and warm invocations; whether all were served."""
        what = f"version {fleet.version}"
        self._board.now(f"{what}: {self._n} environments load, then all are invoked at once")
        storm = fleet.storm(self._n)
        went_well = all(map(is_served, storm.results))
        if went_well:
            self._board.now(f"{what}: every environment is invoked again")
            storm = replace(storm, warm=fleet.warm(storm))
        self._effects.append(
            self._stage.example.effects(self._stage.server, through=VERSIONS[fleet.version])
        )
        known = {band.label for one in self._storms for band in one.bands}
        bands = [band for band in self._stage.migrations() if band.label not in known]
        self._storms.append(replace(storm, bands=bands))
        self._board.done(_told(self._storms[-1]))
        return went_well

    def _try_to_roll_back(self, first: Fleet) -> None:
        try:
            self._rollback = self._roll_back(first)
        except MigrateError as error:
            self._troubles.append(f"The rollback failed: {error}")

    def _roll_back(self, first: Fleet) -> Rollback:
        self._board.now("rolling back, with the down scripts from the database")
        observer = RollbackTimes()
        began = SYSTEM_CLOCK.monotonic()
        reverted = self._stage.operator(first, observer).down(
            Deadline.after(_ROLLBACK_SECONDS), to=VERSIONS[1]
        )
        seconds = SYSTEM_CLOCK.monotonic() - began
        self._board.now("version 1: a fresh environment on the schema that was rolled back")
        rollback = Rollback(
            reverted=reverted,
            seconds=seconds,
            bands=observer.bands,
            taken_back=self._stage.example.taken_back(self._stage.server),
            cold_start=first.storm(1),
        )
        self._board.done(f"rolled back {len(reverted)} migrations; version 1 starts and serves on")
        return rollback

    def findings(self, *, seconds: float) -> Findings:
        """All that was seen."""
        stage = self._stage
        return Findings(
            environments=self._n,
            seconds=seconds,
            storms=self._storms,
            effects=self._effects,
            traffic=self._traffic.results if self._traffic is not None else (),
            rollback=self._rollback,
            samples=stage.sampler.samples,
            troubles=[one for one in (*self._troubles, stage.sampler.fault) if one],
            dynamodb=stage.calls(),
            warm=self._warm,
            postgresql=stage.server.version,
        )


def _told(storm: Storm) -> str:
    served = sum(map(is_served, storm.results))
    who = ", ".join(check.environment for check in storm.migrators) or "nobody"
    return (
        f"version {storm.version}: {who} migrated, {len(storm.waiters)} waited, "
        f"{served} of {len(storm.results)} served"
    )
