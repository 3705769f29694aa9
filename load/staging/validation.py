"""The validation itself: step after step, on a local Lambda with a real PostgreSQL."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lambda_migrate.clock import Deadline
from lambda_migrate.commands.dry_run import build_dry_run_document
from lambda_migrate.engine.operations import Operations
from lambda_migrate.events import null_observer
from lambda_migrate.local.demo.servers import make_operations
from load.staging.checks import Answer, Check, Phase, run_checks
from load.staging.database import (
    compare_tables,
    connect,
    copy_tables,
    make_runner,
    read_schema_objects,
    restore,
)
from load.staging.faults import (
    NAMESPACE,
    SERVICE,
    inject_faults,
    reached_alarms,
    read_metrics,
    staging_alarms,
)
from load.staging.generated_orders import GeneratedOrders
from load.staging.release import Release
from load.staging.steps import Step, StepOutcome, StepResult, run_steps
from load.staging.verdicts import (
    Limits,
    verdict_of_alarms,
    verdict_of_checks,
    verdict_of_log_lines,
    verdict_of_orders,
    verdict_of_schema,
    verdicts_of_dry_run,
    verdicts_of_faults,
    verdicts_of_rows,
    verdicts_of_storm,
)
from load.storm.__main__ import run_on_testbed
from load.storm.evidence import Evidence
from load.storm.scenarios import Processes, Scenario, Wave
from load.storm.testbed import Testbed, open_testbed
from load.storm.verdicts import Verdict, judge

__all__ = ["Options", "Validation", "validate"]

_POSTGRESQL_SETTINGS = {
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "maintenance_work_mem": "128MB",
    "work_mem": "32MB",
}
"""Somewhat more than a storm needs."""

_OPERATION_SECONDS = 900.0
"""Lambda's longest timeout."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a release is validated."""

    environments: int = 40  # cold starts of each storm
    clients: int = 6  # that use the old version meanwhile
    processes: Processes = "separate"
    limits: Limits = field(default_factory=Limits)
    generated: GeneratedOrders | None = None  # data of the example; None for another function
    dump: Path | None = None  # schema and data, restored before the old version's migrations
    checks: tuple[Check, ...] = ()
    may_change: frozenset[str] = frozenset()  # columns as table.column


@dataclass
class Validation:
    """What was found; the steps fill it."""

    name: str
    options: Options
    pending: tuple[str, ...] = ()
    steps: tuple[StepResult, ...] = ()
    storms: dict[str, Evidence] = field(default_factory=dict)


def validate(
    release: Release,
    options: Options,
    out: Path,
    *,
    on_step: Callable[[StepResult], object] = lambda _: None,
    last: str = "",
) -> Validation:
    """Validate a release, from an empty database; everything that was started is ended.

    Args:
        release: The old and the new code.
        options: How.
        out: The folder for the storms' reports.
        on_step: Called with the result of each step.
        last: The name of the step after which to end; "" for all of them.

    Raises:
        ConfigurationError: The machine has too little memory, or something cannot be read.
        ProcessError: A server did not start, or Locust failed.
    """
    with (
        tempfile.TemporaryDirectory(prefix="lm-staging-") as home,
        open_testbed(
            _make_scenario("deployment", options),
            release,
            Path(home),
            tuning=_POSTGRESQL_SETTINGS,
        ) as testbed,
        connect(testbed.server, release.database) as connection,
    ):
        run = _LocalRun(release, options, testbed, connection, out, Path(home))
        run.found.steps = tuple(run_steps(run.steps(), on_step, last=last))
        return run.found


def _make_scenario(name: str, options: Options) -> Scenario:
    """New environments start at once beside clients of version 1; or old ones, and a rollback."""
    is_rollback = name == "rollback"
    return Scenario(
        name,
        name,
        "orders",
        (Wave(1 if is_rollback else 2, options.environments),),
        ready=2 if is_rollback else 1,
        clients=options.clients,
        rollback=is_rollback,
        processes=options.processes,
        settings={"POWERTOOLS_METRICS_NAMESPACE": NAMESPACE, "POWERTOOLS_SERVICE_NAME": SERVICE},
    )


class _LocalRun:
    """The steps, and what they hand to one another."""

    def __init__(
        self,
        release: Release,
        options: Options,
        testbed: Testbed,
        connection: Any,
        out: Path,
        home: Path,
    ) -> None:
        self.release = release
        self.options = options
        self.testbed = testbed
        self.connection = connection
        self.query = make_runner(connection)
        self.out = out
        self.home = home
        self.found = Validation(release.name, options, tuple(m.name for m in release.pending))
        self.answers: dict[Phase, Mapping[str, Answer]] = {}

    def steps(self) -> list[Step]:
        return [
            ("restore the data", self._restore),
            ("plan", self._plan),
            ("dry run", self._dry_run),
            ("deploy under traffic", self._deploy),
            ("check the data", lambda: StepOutcome(self._check_data("after"))),
            ("roll back under traffic", self._roll_back),
            ("check the data again", self._check_data_again),
            ("alarms", self._check_alarms),
        ]

    def _make_operations(self, version: int) -> Operations:
        bed = self.testbed
        return make_operations(
            bed.code_folders[version], bed.variables(), bed.dynamodb, null_observer
        )

    def _restore(self) -> StepOutcome:
        options = self.options
        if options.dump is not None:
            restore(self.testbed.server, self.release.database, options.dump)
        migrated = self._make_operations(1).up(Deadline.after(_OPERATION_SECONDS))
        if options.generated is not None:
            options.generated.fill(self.connection)
        self.query("VACUUM (ANALYZE)")
        self.copies = copy_tables(self.query)
        self.schema_before = read_schema_objects(self.query)
        self.answers["before"] = run_checks(self.query, options.checks, "before")
        rows = sum(copy.rows for copy in self.copies)
        verdicts = [
            judge("there is data", rows > 0, f"{rows:,} rows in {len(self.copies)} tables"),
            verdict_of_checks(options.checks, self.answers, "before"),
        ]
        tables = {copy.table: copy.rows for copy in self.copies}
        return StepOutcome(verdicts, {"migrated": list(migrated), "tables": tables})

    def _plan(self) -> StepOutcome:
        problems, names = self.release.problems(), list(self.found.pending)
        found = "; ".join(problems) or ", ".join(names)
        irreversible = [m.name for m in self.release.pending if m.down is None]
        has_down = ", ".join(irreversible) or f"{len(names)} of {len(names)}"
        verdicts = [
            judge("the new migrations follow the old ones", not problems, found),
            judge("each has a down script", not irreversible, has_down),
        ]
        return StepOutcome(verdicts, is_last=bool(problems))

    def _dry_run(self) -> StepOutcome:
        result = self._make_operations(2).dry_run(Deadline.after(_OPERATION_SECONDS))
        assert result is not None  # noqa: S101 - None is for users who do not confirm
        document = build_dry_run_document(result)
        # What it wrote and rolled back is still in the tables' files, and would slow down the rest.
        self.query("VACUUM (ANALYZE)")
        verdicts = list(verdicts_of_dry_run(document, self.options.limits))
        return StepOutcome(verdicts, {"dry_run": document}, is_last=document["error"] is not None)

    def _deploy(self) -> StepOutcome:
        evidence, verdicts = self._run_storm("deployment")
        return StepOutcome(verdicts, is_last=any(n != 1 for n in evidence.effects.values()))

    def _roll_back(self) -> StepOutcome:
        evidence, verdicts = self._run_storm("rollback")
        if evidence.rolled_back is not None:
            verdicts.insert(0, judge("rollback", True, f"{evidence.rolled_back:.2f} s"))
        return StepOutcome(verdicts)

    def _run_storm(self, name: str) -> tuple[Evidence, list[Verdict]]:
        """Run a storm on the database that stays."""
        began = time.monotonic()
        out = self.out / name
        scenario = _make_scenario(name, self.options)
        evidence = run_on_testbed(replace(self.testbed, scenario=scenario), out)
        for function in self.testbed.functions.values():
            function.end_idle()
        # Connections of the restore and the dry run are not the storm's.
        sessions = [one for one in evidence.sessions if one.opened >= began]
        evidence = self.found.storms[name] = replace(evidence, sessions=sessions)
        counts_effects = self.release.example is not None
        verdicts = verdicts_of_storm(evidence, self.options.limits, counts_effects=counts_effects)
        return evidence, [*verdicts, verdict_of_log_lines(evidence)]

    def _check_data_again(self) -> StepOutcome:
        verdicts = self._check_data("rolled-back")
        verdicts.append(verdict_of_schema(self.schema_before, read_schema_objects(self.query)))
        return StepOutcome(verdicts)

    def _check_data(self, phase: Phase) -> list[Verdict]:
        options = self.options
        self.answers[phase] = run_checks(self.query, options.checks, phase)
        verdicts = [
            *verdicts_of_rows(compare_tables(self.query, self.copies), options.may_change),
            verdict_of_checks(options.checks, self.answers, phase),
        ]
        results = [one.result for storm in self.found.storms.values() for one in storm.observed]
        confirmed = self.release.confirmed_orders(results)
        if confirmed:
            query = "SELECT count(*) FROM orders WHERE id = ANY (:ids)"
            [[count]] = self.connection.run(query, ids=confirmed)
            verdicts.append(verdict_of_orders(confirmed, int(count)))
        return verdicts

    def _check_alarms(self) -> StepOutcome:
        """Which alarms are reached by the release, and by each fault."""
        alarms = staging_alarms(self.release.database)
        own = read_metrics(*self.testbed.functions.values())
        results = inject_faults(self.testbed, self.home)
        emitted = {metric.name for metric in own.metrics()}.union(*(one.metrics for one in results))
        # Metrics that AWS itself emits are not ours to check.
        read_by_alarms = {
            name: frozenset(
                query.metric.name
                for query in alarm.queries.values()
                if query.metric is not None and not query.metric.namespace.startswith("AWS/")
            )
            for name, alarm in alarms.items()
        }
        verdicts = [
            verdict_of_alarms(reached_alarms(own, alarms), len(alarms)),
            *verdicts_of_faults(results, read_by_alarms, frozenset(emitted)),
        ]
        return StepOutcome(verdicts)
