"""The validation itself: step after step, on a local Lambda with a real PostgreSQL."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lambda_migrate.clock import Deadline
from lambda_migrate.commands.dry_run import build_dry_run_document
from lambda_migrate.engine.operations import Operations
from lambda_migrate.errors import ConfigurationError, MigrateError
from lambda_migrate.events import null_observer
from lambda_migrate.local.cloudwatch import CloudWatch, read_alarms
from lambda_migrate.local.demo.example import VERSIONS
from lambda_migrate.local.demo.servers import make_operations
from lambda_migrate.local.runtime.process import ProcessError
from lambda_migrate.local.servers.dynamodb import LocalDynamoDB
from lambda_migrate.migrations.source import read_manifest
from load.staging import database, verdicts
from load.staging.generated_orders import GeneratedOrdersPackage
from load.staging.verdicts import Limits, StepResult
from load.storm.__main__ import run_on_testbed
from load.storm.evidence import StormEvidence
from load.storm.scenarios import Scenario, Wave, make_scenario
from load.storm.testbed import LEASE_TABLE, Testbed, open_testbed
from load.storm.verdicts import Verdict, make_verdict

SAM_TEMPLATE = Path(__file__).parents[2] / "template.yaml"  # with the alarms
_SERVICE, _NAMESPACE = "orders", "Orders"  # dimension and namespace of all metrics
_OPERATION_TIMEOUT_SECONDS = 900.0  # Lambda's longest timeout

_POSTGRESQL_SETTINGS = {
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "maintenance_work_mem": "128MB",
    "work_mem": "32MB",
}
"""Somewhat more than a storm needs."""

_COUNT_ORPHANS_SQL = """
SELECT count(*) FROM orders o LEFT JOIN customers c ON c.id = o.customer_id WHERE c.id IS NULL
"""

_COUNT_WRONG_TOTALS_SQL = """
SELECT count(*) FROM orders
WHERE created_at < current_date AND total_cents IS DISTINCT FROM quantity::bigint * unit_cents
"""
"""Clients of version 1 place orders without a total all the time; so only until yesterday."""

_COUNT_WRONG_POINTS_SQL = (
    "SELECT count(*) FROM customers WHERE created_at < current_date AND points <> 1"
)


@contextmanager
def open_validation(
    package: GeneratedOrdersPackage,
    out: Path,
    *,
    environments: int,
    clients: int,
    limits: Limits | None = None,
) -> Iterator[Validation]:
    """A validation on an empty database, with so many cold starts and clients in each storm."""
    scenario = replace(
        make_scenario("deployment", environments),
        name="deployment",
        clients=clients,
        settings={"POWERTOOLS_METRICS_NAMESPACE": _NAMESPACE, "POWERTOOLS_SERVICE_NAME": _SERVICE},
    )
    with (
        tempfile.TemporaryDirectory(prefix="lm-staging-") as home,
        open_testbed(
            scenario, package, Path(home), api=LocalDynamoDB(), server_settings=_POSTGRESQL_SETTINGS
        ) as testbed,
    ):
        yield Validation(package, limits or Limits(), testbed, out)


@dataclass
class Validation:
    """The steps, and what they hand to one another. See `open_validation`."""

    package: GeneratedOrdersPackage
    limits: Limits
    testbed: Testbed
    out: Path
    storms: dict[str, StormEvidence] = field(default_factory=dict)
    _facts: dict[str, Any] = field(default_factory=dict)
    _must_stop: bool = False  # a step has made those after it meaningless

    def _query(self, sql: str, **parameters: Any) -> list[list[Any]]:
        return self.testbed.server.execute(sql, self.package.database, **parameters)

    def run(self) -> Iterator[StepResult]:
        """Run the steps in order."""
        steps: Mapping[str, Callable[[], Sequence[Verdict]]] = {
            "restore the data": self._restore,
            "plan": self._check_plan,
            "dry run": self._dry_run,
            "deploy under traffic": self._deploy,
            "check the data": self._check_data,
            "roll back under traffic": self._roll_back,
            "check the data again": self._check_data_after_rollback,
            "alarms": self._check_alarms,
        }
        stopped_by = ""
        for name, step in steps.items():
            if stopped_by:
                not_run = Verdict("not run", "not measured", f"after {stopped_by!r}")
                yield StepResult(name, 0.0, [not_run])
            else:
                yield self._run_step(name, step)
                stopped_by = name if self._must_stop else ""

    def _run_step(self, name: str, step: Callable[[], Sequence[Verdict]]) -> StepResult:
        self._facts = {}
        began = time.monotonic()
        try:
            results = step()
        except ConfigurationError:
            raise
        except (MigrateError, ProcessError) as error:
            results = [Verdict("the step completed", "failed", str(error))]
            self._must_stop = True
        return StepResult(name, time.monotonic() - began, results, self._facts)

    def _make_operations(self, version: int) -> Operations:
        bed = self.testbed
        return make_operations(
            bed.code_folders[version], bed.variables(), bed.dynamodb, null_observer
        )

    # --- the steps

    def _restore(self) -> list[Verdict]:
        self._make_operations(1).up(Deadline.after(_OPERATION_TIMEOUT_SECONDS))
        self.package.generated_orders.insert_rows(self._query)
        self._query("VACUUM (ANALYZE)")
        self._copies = database.copy_tables(self._query)
        self._schema_before = database.read_schema(self.testbed.server, self.package.database)
        rows = sum(copy.rows for copy in self._copies)
        self._facts["tables"] = {copy.table: copy.rows for copy in self._copies}
        return [
            make_verdict("there is data", rows > 0, f"{rows:,} rows in {len(self._copies)} tables"),
            self._check_count("orders without a customer", _COUNT_ORPHANS_SQL),
        ]

    def _check_plan(self) -> list[Verdict]:
        manifest = read_manifest(str(self.package.example.directory / "migrations"))
        pending = [migration for migration in manifest if migration.version > VERSIONS[1]]
        self._facts["pending"] = [migration.name for migration in pending]
        irreversible = [migration.name for migration in pending if migration.down is None]
        found = ", ".join(irreversible) or f"{len(pending)} of {len(pending)}"
        return [make_verdict("each has a down script", bool(pending) and not irreversible, found)]

    def _dry_run(self) -> list[Verdict]:
        result = self._make_operations(2).dry_run(Deadline.after(_OPERATION_TIMEOUT_SECONDS))
        assert result is not None  # noqa: S101 - None is for users who do not confirm
        document = self._facts["dry_run"] = build_dry_run_document(result)
        # What it wrote and rolled back is still in the tables' files, and would slow down the rest.
        self._query("VACUUM (ANALYZE)")
        self._must_stop = document["error"] is not None
        return list(verdicts.verdicts_of_dry_run(document, self.limits))

    def _deploy(self) -> list[Verdict]:
        evidence, results = self._run_storm(self.testbed.scenario)
        self._must_stop = any(count != 1 for count in evidence.effects.values())
        return results

    def _roll_back(self) -> list[Verdict]:
        """Old environments start together beside the same clients, and version 2 is rolled back."""
        waves = (Wave(1, self.testbed.scenario.environments),)
        scenario = replace(
            self.testbed.scenario, name="rollback", waves=waves, ready=2, rollback=True
        )
        evidence, results = self._run_storm(scenario)
        if evidence.rollback_seconds is not None:
            results.insert(0, make_verdict("rollback", True, f"{evidence.rollback_seconds:.2f} s"))
        return results

    def _run_storm(self, scenario: Scenario) -> tuple[StormEvidence, list[Verdict]]:
        """Run a storm on the database that stays."""
        began = time.monotonic()
        evidence = run_on_testbed(
            replace(self.testbed, scenario=scenario), self.out / scenario.name
        )
        for function in self.testbed.functions.values():
            function.end_idle()
        # Connections of the restore and the dry run are not the storm's.
        sessions = [one for one in evidence.sessions if one.opened >= began]
        evidence = self.storms[scenario.name] = replace(evidence, sessions=sessions)
        return evidence, list(verdicts.verdicts_of_storm(evidence, self.limits))

    def _check_data(self) -> list[Verdict]:
        return [
            *self._check_rows(),
            self._check_count("orders whose total is wrong", _COUNT_WRONG_TOTALS_SQL),
            self._check_count("customers without their one point", _COUNT_WRONG_POINTS_SQL),
        ]

    def _check_data_after_rollback(self) -> list[Verdict]:
        schema = database.read_schema(self.testbed.server, self.package.database)
        found = database.find_schema_differences(self._schema_before, schema)
        more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
        same = f"the same {len(schema)} lines of pg_dump --schema-only"
        verdict = make_verdict(
            "the schema is as before", not found, "; ".join(found[:3]) + more or same
        )
        return [*self._check_rows(), verdict]

    def _check_rows(self) -> list[Verdict]:
        changed = list(database.find_changed_rows(self._query, self._copies))
        rows = sum(copy.rows for copy in self._copies)
        kept = f"all {rows:,} in {len(self._copies)} tables are there, with all values"
        results = [one.result for storm in self.storms.values() for one in storm.invocations]
        confirmed = self.package.read_confirmed_orders(results)
        query = "SELECT count(*) FROM orders WHERE id = ANY (:ids)"
        [[count]] = self._query(query, ids=confirmed)
        return [
            make_verdict("existing rows", not changed, "; ".join(changed) or kept),
            verdicts.verdict_of_orders(len(confirmed), int(count)),
            self._check_count("orders without a customer", _COUNT_ORPHANS_SQL),
        ]

    def _check_count(self, what: str, query: str) -> Verdict:
        [[count]] = self._query(query)
        return make_verdict(what, count == 0, f"{count:,}")

    def _check_alarms(self) -> list[Verdict]:
        """Which alarms the release reaches, by the metrics that all of its functions wrote."""
        values = {
            "LeaseTable": LEASE_TABLE,
            "MetricsNamespace": _NAMESPACE,
            "ServiceName": _SERVICE,
            "Target": self.package.database,
        }
        alarms, cloudwatch = read_alarms(SAM_TEMPLATE, values), CloudWatch()
        for _, function, view in self.testbed.environments():
            cloudwatch.put_log(function.logs(view.environment_id))
        reached = [name for name, alarm in alarms.items() if cloudwatch.was_triggered(alarm)]
        metrics = {metric.name for metric in cloudwatch.metrics()}
        found = ", ".join(sorted(reached)) or f"none of {len(alarms)}, by {len(metrics)} metrics"
        is_fine = bool(metrics) and not reached
        return [make_verdict("alarms triggered by this release", is_fine, found)]
