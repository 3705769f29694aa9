"""How soon the waiting instances serve once the last migration has committed."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass

from load.bench.figures import Spread, percentile, spread
from load.bench.findings import Chart, Check, Section, Table, number
from load.bench.migrations import LONG_SECONDS, storm
from load.bench.peers import GATE, OURS
from load.bench.processes import MeasurementFailed, run_gated
from load.bench.stage import Stage
from load.bench.within.answer import find

__all__ = ["Run", "measure"]

INSTANCES = 100

_CODE = f"""
import time
import app
from load.bench.within.answer import tell
{GATE}
began = time.time()
served = app.handler({{}}, app.Context())
tell([began, served])
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


def measure(stage: Stage, *, runs: int) -> Section:
    """Several storms of 100, all loaded before they begin."""
    found = [_run(stage) for _ in range(runs)]
    median = spread([percentile(one.delays, 50) for one in found])
    last = spread([percentile(one.delays, 99) for one in found])
    where = f"from the last commit to the handler, {INSTANCES} at once"
    return Section(
        key="waiters",
        title="How soon the waiting serve",
        checks=[
            _check(f"median wait {where}", 0.3, median),
            _check(f"99 in 100 wait at most {where}", 1.0, last),
            Check(f"failed of {INSTANCES} at once", bar=0, value=max(one.failed for one in found)),
        ],
        tables=[
            Table(
                (
                    "storm",
                    "waited",
                    "began after the commit",
                    "commit after, s",
                    "median, s",
                    "99 in 100, s",
                    "last, s",
                ),
                [
                    (
                        str(n),
                        str(len(one.delays)),
                        str(one.late),
                        number(one.migration_seconds),
                        *(number(percentile(one.delays, p)) for p in (50, 99, 100)),
                    )
                    for n, one in enumerate(found, 1)
                ],
            )
        ],
        charts=[_chart(found)],
        notes=[
            "The instances are processes that have imported the function and wait at a gate, which "
            f"opens for all at once; ten migrations are pending, one of them {LONG_SECONDS:g} s. "
            "The time of the commit is PostgreSQL's (track_commit_timestamp), that of serving is "
            "taken in the handler; both are this machine's clock. Two cores serve all of them.",
        ],
        data={"runs": [asdict(one) for one in found]},
    )


def _run(stage: Stage) -> Run:
    before = stage.project(OURS, "five", storm(pending=False))
    after = stage.project(OURS, "fifteen", storm(pending=True))
    database = stage.new_database()
    stage.bring_up(OURS, before, database)
    program = stage.program(OURS, after, database, command=(sys.executable, "-c", _CODE))
    finished = run_gated([program] * INSTANCES)
    commit, owner = stage.ask(database, _COMMIT)[0]
    holder = int(str(owner).split("/")[1])
    told = {one.pid: find(one.output) for one in finished if one.status == 0}
    others = [(began, served) for pid, (began, served) in told.items() if pid != holder]
    stage.drop_database(database)
    delays = sorted(served - commit for began, served in others if began < commit)
    if not delays:
        raise MeasurementFailed("nobody waited: all the others failed, or began too late")
    return Run(
        delays=delays,
        late=sum(began >= commit for began, _ in others),
        failed=sum(one.status != 0 for one in finished),
        migration_seconds=commit - min(began for began, _ in told.values()),
    )


def _check(what: str, bar: float, found: Spread) -> Check:
    return Check(what, bar=bar, value=found.median, unit="s", range=(found.low, found.high))


def _chart(found: list[Run]) -> Chart:
    bars = []
    for percent in (10, 25, 50, 75, 90, 99, 100):
        one = spread([percentile(run.delays, percent) for run in found])
        bars.append((f"{percent} in 100 within", one.median, one.low, one.high))
    return Chart("waiters", "From the last commit until the waiting serve", "s", bars)
