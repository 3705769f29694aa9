"""The validation itself: step after step, on a local Lambda with a real PostgreSQL."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lambda_migrate.local.servers.postgresql import find_binaries
from load.staging.checks import Answer, Check, Moment, run_checks
from load.staging.data import ShopData
from load.staging.database import (
    POSTGRESQL_SETTINGS,
    connect,
    make_runner,
    migrate_to_old_version,
    restore,
)
from load.staging.dry_run import run_dry_run, verdicts_of_dry_run
from load.staging.faults import (
    NAMESPACE,
    SERVICE,
    FaultResult,
    apply_faults,
    reached_alarms,
    read_metrics,
    staging_alarms,
)
from load.staging.records import Records, Size, compare, copy_tables, read_shape, read_sizes
from load.staging.release import Release
from load.staging.steps import Findings, Halted, Step, StepResult, run_steps
from load.staging.verdicts import (
    Limits,
    verdict_of_alarms,
    verdict_of_checks,
    verdict_of_log_lines,
    verdict_of_orders,
    verdict_of_schema,
    verdicts_of_faults,
    verdicts_of_records,
    verdicts_of_storm,
)
from load.storm.__main__ import run_on_testbed
from load.storm.evidence import Evidence
from load.storm.scenarios import Processes, Scenario, Wave
from load.storm.testbed import Testbed, open_testbed
from load.storm.verdicts import Verdict, judge

__all__ = ["TEMPLATE", "Options", "Validation", "validate"]

TEMPLATE = Path(__file__).parents[2] / "template.yaml"


@dataclass(frozen=True, slots=True)
class Options:
    """How a release is validated."""

    environments: int = 40  # cold starts of each storm
    clients: int = 6  # that use the old version meanwhile
    processes: Processes = "separate"
    limits: Limits = field(default_factory=Limits)
    shop: ShopData | None = None  # data of the example; None for another function
    dump: Path | None = None  # schema and data, restored before the old version's migrations
    data: Path | None = None  # data alone, read after them
    checks: tuple[Check, ...] = ()
    may_change: frozenset[str] = frozenset()  # columns as table.column
    template: Path = TEMPLATE  # with the alarms
    postgresql: int | None = None  # major version; None: the newest without an installation
    parameters: Mapping[str, str] = field(default_factory=dict)  # of the template


@dataclass
class Validation:
    """What was found; the steps fill it."""

    name: str
    options: Options
    pending: tuple[str, ...] = ()
    steps: tuple[StepResult, ...] = ()
    sizes: tuple[Size, ...] = ()  # before anything was migrated
    storms: dict[str, Evidence] = field(default_factory=dict)
    records: dict[Moment, Records] = field(default_factory=dict)
    answers: dict[Moment, dict[str, Answer]] = field(default_factory=dict)
    faults: tuple[FaultResult, ...] = ()


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
    staging_alarms(options.template, target=release.database, **options.parameters)  # fail early
    with (
        tempfile.TemporaryDirectory(prefix="lm-staging-") as home,
        open_testbed(
            _scenario("deployment", release, options),
            release,
            Path(home),
            handler=release.handler,
            tuning=POSTGRESQL_SETTINGS,
            binaries=find_binaries(options.postgresql),
        ) as testbed,
        connect(testbed.server, release.database) as connection,
    ):
        run = _LocalRun(release, options, testbed, connection, out, Path(home))
        run.found.steps = tuple(run_steps(run.steps(), on_step, last=last))
        return run.found


def _scenario(name: str, release: Release, options: Options) -> Scenario:
    """New environments start at once beside clients of version 1; or old ones, and a rollback."""
    is_rollback = name == "rollback"
    metrics = {"POWERTOOLS_METRICS_NAMESPACE": NAMESPACE, "POWERTOOLS_SERVICE_NAME": SERVICE}
    return Scenario(
        name,
        name,
        "orders",
        (Wave(1 if is_rollback else 2, options.environments),),
        ready=2 if is_rollback else 1,
        clients=options.clients,
        rollback=is_rollback,
        processes=options.processes,
        settings={**metrics, **release.variables},
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

    def steps(self) -> list[Step]:
        return [
            Step("restore the data", self._restore),
            Step("plan", self._plan),
            Step("dry run", self._dry_run),
            Step("deploy under traffic", self._deploy, "deployment"),
            Step("check the data", lambda: (self._check("after"), {})),
            Step("roll back under traffic", self._roll_back, "rollback"),
            Step("check the data again", self._check_again),
            Step("alarms", self._check_alarms),
        ]

    def _restore(self) -> Findings:
        options, server, database = self.options, self.testbed.server, self.release.database
        if options.dump is not None:
            restore(server, database, options.dump)
        migrated = migrate_to_old_version(self.testbed)
        if options.shop is not None:
            options.shop.fill(self.connection)
        if options.data is not None:
            restore(server, database, options.data)
        self.query("VACUUM (ANALYZE)")
        self.found.sizes = tuple(read_sizes(self.query))
        self.copies = copy_tables(self.query)
        tables = compare(self.query, self.copies).tables
        self.found.records["before"] = Records(tables, read_shape(self.query))
        self.found.answers["before"] = run_checks(self.query, options.checks, "before")
        rows = sum(copy.rows for copy in self.copies)
        verdicts = [
            judge("there is data", rows > 0, f"{rows:,} rows in {len(self.copies)} tables"),
            verdict_of_checks(options.checks, self.found.answers, "before"),
        ]
        return verdicts, {"migrated": list(migrated)}

    def _plan(self) -> Findings:
        faults, names = self.release.faults(), list(self.found.pending)
        found = "; ".join(faults) or ", ".join(names)
        one_way = [m.name for m in self.release.pending if m.down is None]
        verdicts = [
            judge("the new migrations follow the old ones", not faults, found),
            judge(
                "each has a down script",
                not one_way,
                ", ".join(one_way) or f"{len(names)} of {len(names)}",
            ),
        ]
        findings = verdicts, {"pending": names}
        if faults:
            raise Halted(findings)
        return findings

    def _dry_run(self) -> Findings:
        document = run_dry_run(self.testbed)
        # What it wrote and rolled back is still in the tables' files, and would slow down the rest.
        self.query("VACUUM (ANALYZE)")
        verdicts = list(verdicts_of_dry_run(document, self.options.limits))
        if document["error"] is not None:
            raise Halted((verdicts, {"dry_run": document}))
        return verdicts, {"dry_run": document}

    def _deploy(self) -> Findings:
        evidence, verdicts = self._storm("deployment")
        if any(times != 1 for times in evidence.effects.values()):
            raise Halted((verdicts, {}))
        return verdicts, {}

    def _roll_back(self) -> Findings:
        evidence, verdicts = self._storm("rollback")
        if evidence.rolled_back is not None:
            verdicts.insert(0, judge("rollback", True, f"{evidence.rolled_back:.2f} s"))
        return verdicts, {}

    def _storm(self, name: str) -> tuple[Evidence, list[Verdict]]:
        evidence = self.found.storms[name] = self._play(name)
        counts = self.release.example is not None
        verdicts = verdicts_of_storm(evidence, self.options.limits, counts=counts)
        return evidence, [*verdicts, verdict_of_log_lines(evidence)]

    def _play(self, name: str) -> Evidence:
        """Run a storm on the database that stays."""
        began = time.monotonic()
        out = self.out / name
        scenario = _scenario(name, self.release, self.options)
        evidence = run_on_testbed(replace(self.testbed, scenario=scenario), out)
        for function in self.testbed.functions.values():
            function.end_idle()
        # Connections of the restore and the dry run are not the storm's.
        sessions = [one for one in evidence.sessions if one.opened >= began]
        return replace(evidence, sessions=sessions)

    def _check_again(self) -> Findings:
        verdicts = self._check("rolled-back")
        records = self.found.records
        verdicts.append(verdict_of_schema(records["before"].shape, records["rolled-back"].shape))
        return verdicts, {}

    def _check(self, moment: Moment) -> list[Verdict]:
        options, found = self.options, self.found
        found.records[moment] = compare(self.query, self.copies)
        found.answers[moment] = run_checks(self.query, options.checks, moment)
        results = [one.result for storm in found.storms.values() for one in storm.observed]
        verdicts = [
            *verdicts_of_records(found.records[moment], options.may_change),
            verdict_of_checks(options.checks, found.answers, moment),
        ]
        confirmed = self.release.confirmed_orders(results)
        if confirmed:
            query = "SELECT count(*) FROM orders WHERE id = ANY (:ids)"
            [[count]] = self.connection.run(query, ids=confirmed)
            verdicts.append(verdict_of_orders(confirmed, int(count)))
        return verdicts

    def _check_alarms(self) -> Findings:
        """Which alarms are reached by the release, and by each fault."""
        options = self.options
        alarms = staging_alarms(
            options.template, target=self.release.database, **options.parameters
        )
        own = read_metrics(*self.testbed.functions.values())
        self.found.faults = tuple(apply_faults(self.testbed, options.template, self.home))
        emitted = {metric.name for metric in own.metrics()}.union(
            *(one.metrics for one in self.found.faults)
        )
        # Metrics that AWS itself emits are not ours to check.
        reads = {
            name: frozenset(
                query.metric.name
                for query in alarm.queries.values()
                if query.metric is not None and not query.metric.namespace.startswith("AWS/")
            )
            for name, alarm in alarms.items()
        }
        return [
            verdict_of_alarms(reached_alarms(own, alarms), len(alarms)),
            *verdicts_of_faults(self.found.faults, reads, frozenset(emitted)),
        ], {}
