"""How soon waiting instances serve once the last migration has committed."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass

from load.bench.charts import draw_bars
from load.bench.figures import format_number, percentile, spread
from load.bench.migrations import LONG_SECONDS, storm
from load.bench.output import read_figures
from load.bench.peers import LAMBDA_MIGRATE, START_BARRIER
from load.bench.processes import MeasurementFailed, run_from_barrier
from load.bench.results import Check, Section, Table, check_spread
from load.bench.workspace import Workspace

__all__ = ["Run", "measure"]

INSTANCES = 100

_CODE = f"""
import time
import app
from load.bench.output import print_figures
{START_BARRIER}
began = time.time()
served = app.handler({{}}, app.Context())
print_figures([began, served])
"""

_COMMIT = """
SELECT extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8, owner
FROM lambda_migrate.history ORDER BY version::numeric DESC LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class Run:
    """One storm.

    Attributes:
        delays: Seconds from the commit to the handler, of each that had begun before it and did
            not migrate.
        late: How many began after it.
        failed: How many were not served at all.
        migration_seconds: From the gate's opening to the commit.
    """

    delays: list[float]
    late: int
    failed: int
    migration_seconds: float


def measure(workspace: Workspace, *, runs: int) -> Section:
    """Several storms of 100, all loaded before they begin."""
    found = [_run(workspace) for _ in range(runs)]
    by_percent = {
        percent: [percentile(one.delays, percent) for one in found]
        for percent in (10, 25, 50, 75, 90, 99, 100)
    }
    where = f"from the last commit to the handler, {INSTANCES} at once"
    columns = ("storm", "waited", "began after the commit", "commit after, s")
    return Section(
        key="waiters",
        title="How soon waiting instances serve",
        checks=[
            check_spread(f"median wait {where}", 0.3, by_percent[50], unit="s"),
            check_spread(f"99 in 100 wait at most {where}", 1.0, by_percent[99], unit="s"),
            Check(
                f"failed of {INSTANCES} at once", limit=0, value=max(one.failed for one in found)
            ),
        ],
        tables=[
            Table(
                (*columns, "median, s", "99 in 100, s", "last, s"),
                [
                    (
                        str(n + 1),
                        str(len(one.delays)),
                        str(one.late),
                        format_number(one.migration_seconds),
                        *(format_number(by_percent[percent][n]) for percent in (50, 99, 100)),
                    )
                    for n, one in enumerate(found)
                ],
            )
        ],
        charts={
            "waiters": draw_bars(
                "From the last commit until waiting instances serve",
                "s",
                [(f"{percent} in 100", spread(values)) for percent, values in by_percent.items()],
            )
        },
        notes=[
            "The instances are processes that have imported the function and wait at a gate, which "
            f"opens for all at once; ten migrations are pending, one of them {LONG_SECONDS:g} s. "
            "The time of the commit is PostgreSQL's (track_commit_timestamp), that of serving is "
            "taken in the handler; both are this machine's clock. Two cores serve all of them.",
        ],
        data={"runs": [asdict(one) for one in found]},
    )


def _run(workspace: Workspace) -> Run:
    before = workspace.project(LAMBDA_MIGRATE, "five", storm(pending=False))
    after = workspace.project(LAMBDA_MIGRATE, "fifteen", storm(pending=True))
    database = workspace.new_database()
    workspace.migrate(LAMBDA_MIGRATE, before, database)
    program = workspace.program(
        LAMBDA_MIGRATE, after, database, command=(sys.executable, "-c", _CODE)
    )
    finished = run_from_barrier([program] * INSTANCES)
    commit, owner = workspace.query(database, _COMMIT)[0]
    holder = int(str(owner).split("/")[1])
    times = {one.pid: read_figures(one.output) for one in finished if one.status == 0}
    others = [(began, served) for pid, (began, served) in times.items() if pid != holder]
    workspace.drop_database(database)
    delays = sorted(served - commit for began, served in others if began < commit)
    if not delays:
        raise MeasurementFailed("no process waited: all others failed, or began too late")
    return Run(
        delays=delays,
        late=sum(began >= commit for began, _ in others),
        failed=sum(one.status != 0 for one in finished),
        migration_seconds=commit - min(began for began, _ in times.values()),
    )
