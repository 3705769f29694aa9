"""A holder is killed in the middle of its migration: how soon does another process start it again?

Each kill has a database, a target and processes of its own. What the processes send to DynamoDB
passes through a relay, which counts it; when the migration began is what the migration itself
wrote. Nothing here knows how a lease is stored or waited for.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from load.bench.figures import percentile
from load.bench.findings import Chart, Check, Section, Table, number
from load.bench.migrations import Change
from load.bench.peers import OURS
from load.bench.processes import MeasurementFailed
from load.bench.stage import Stage
from load.bench.within.answer import find
from load.chaos.dynamodb import DynamoDBRelay, Seen
from load.chaos.relay import Loop

__all__ = ["Kill", "Requests", "measure", "section_of"]

LEASE_SECONDS = 5.0
"""The shortest that may be set; the renewals are a third of it apart."""

WAITERS = 3
_AT_ONCE = 3
_PATIENCE_SECONDS = 60.0
_HELD_SECONDS = 600
_PERCENTS = (0, 25, 50, 75, 90, 99, 100)

_MIGRATION = Change(
    1,
    "long",
    (
        "INSERT INTO starts VALUES (clock_timestamp())",
        "SELECT pg_sleep(seconds) FROM length",
    ),
)
_TABLES = f"""
    CREATE TABLE starts (at timestamptz);
    CREATE TABLE length AS SELECT {_HELD_SECONDS} AS seconds;
    GRANT ALL ON starts, length TO PUBLIC
"""
_IS_RUNNING = """
    SELECT 1 FROM pg_stat_activity WHERE datname = current_database()
    AND state = 'active' AND pid <> pg_backend_pid() AND query LIKE '%FROM length%'
"""
_CODE = """
import app
from load.bench.within.answer import tell
tell(app.handler({}, app.Context()))
"""


@dataclass(frozen=True, slots=True)
class Requests:
    """What one process asked of DynamoDB.

    Attributes:
        consistent: Reads that DynamoDB promises to be up to date: one unit each, up to 4 KB.
        eventual: The others: half a unit each.
        writes: One unit each at least, refused or not.
    """

    consistent: int
    eventual: int
    writes: int

    @property
    def calls(self) -> int:
        """All of them."""
        return self.consistent + self.eventual + self.writes

    @property
    def read_units(self) -> float:
        """Of an item of up to 4 KB."""
        return self.consistent + self.eventual / 2


@dataclass(frozen=True, slots=True)
class Kill:
    """One holder killed; times are seconds after it.

    Attributes:
        acquired: Another process had the lease.
        started: Its migration began to run.
        served: Each of the waiters was at its handler, in order.
        failed: How many waiters were not served.
        effects: How often the migration took effect.
        waited: Of each waiter that did not migrate, from its first request until it served.
        waiters: What each of these asked of DynamoDB.
        fast: What a process asked that started when all was over.
    """

    acquired: float
    started: float
    served: Sequence[float]
    failed: int
    effects: int
    waited: Sequence[float]
    waiters: Sequence[Requests]
    fast: Requests


def measure(stage: Stage, *, kills: int, chance: random.Random | None = None) -> Section:
    """Kill holders of several targets at the same time, ``kills`` of them in all."""
    chance = chance or random.Random()  # noqa: S311 - when to kill is no secret
    project = stage.project(OURS, "takeovers", [_MIGRATION])
    # A renewal comes every third of a lease, so that each moment between two is as likely.
    moments = [LEASE_SECONDS * (1 + chance.random() / 3) for _ in range(kills)]
    making = threading.Lock()

    def kill(after: float) -> Kill:
        with making:
            database = stage.new_database()
        with tempfile.TemporaryDirectory(prefix="lm-bench-") as logs:
            return _Round(stage, project, database, loop, Path(logs)).play(after)

    with Loop() as loop, ThreadPoolExecutor(_AT_ONCE) as lanes:
        return section_of(list(lanes.map(kill, moments)))


class _Round:
    """One target, from its holder's start until all other processes serve."""

    def __init__(self, stage: Stage, project: Path, database: str, loop: Loop, logs: Path) -> None:
        self._stage = stage
        self._project = project
        self._database = database
        self._logs = logs
        self._opened = ExitStack()
        engine = stage.dynamodb.endpoint_url
        chance = random.Random(0)  # noqa: S311 - nothing is left to it: no fault is asked for
        self._relay = DynamoDBRelay(loop, engine, lambda *_: None, chance=chance)

    def play(self, after: float) -> Kill:
        """Kill the holder ``after`` seconds after the last process began to wait."""
        self._stage.server.execute(_TABLES, self._database)
        with self._opened, self._relay:
            holder = self._start("holder")
            self._until(lambda: self._ask(_IS_RUNNING), "the holder never began its migration")
            waiters = {name: self._start(name) for name in map("waiter{}".format, range(WAITERS))}
            self._until(
                lambda: waiters.keys() <= {one.client for one in self._relay.seen},
                "some waiters never asked DynamoDB",
            )
            time.sleep(after)
            self._stage.server.execute("UPDATE length SET seconds = 0", self._database)
            killed = time.time()
            holder.kill()
            told = {name: self._told(process, name) for name, process in waiters.items()}
            self._told(self._start("fast"), "fast")
            found = self._kill(killed, told)
        self._stage.drop_database(self._database)
        return found

    def _kill(self, killed: float, told: dict[str, float | None]) -> Kill:
        seen = list(self._relay.seen)
        acquired = next(
            (one for one in seen if one.at > killed and one.client in told and _is_grant(one)), None
        )
        starts = self._ask("SELECT extract(epoch FROM at)::float8 FROM starts")
        if acquired is None or not starts:
            raise MeasurementFailed(f"no process took over:\n{self._output('waiter0')}")
        began = {one.client: one.at for one in reversed(seen)}
        others = [name for name, at in told.items() if at and name != acquired.client]
        return Kill(
            acquired=acquired.at - killed,
            started=starts[0][0] - killed,
            served=sorted(at - killed for at in told.values() if at is not None),
            failed=sum(at is None for at in told.values()),
            effects=len(starts),
            waited=[(told[name] or 0) - began[name] for name in others],
            waiters=[_requests(seen, name) for name in others],
            fast=_requests(seen, "fast"),
        )

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        environment = {
            **self._stage.environment(self._database),
            "AWS_ENDPOINT_URL_DYNAMODB": self._relay.url,
            "AWS_ACCESS_KEY_ID": name,
            "LAMBDA_MIGRATE_LEASE_SECONDS": f"{LEASE_SECONDS:g}",
        }
        with (self._logs / name).open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", _CODE],
                cwd=self._project,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._opened.callback(process.wait)
        self._opened.callback(process.kill)
        return process

    def _told(self, process: subprocess.Popen[bytes], name: str) -> float | None:
        """When it served; None if it failed."""
        try:
            code = process.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            return None
        return float(find(self._output(name))) if code == 0 else None

    def _output(self, name: str) -> str:
        return (self._logs / name).read_text(errors="replace")

    def _ask(self, sql: str) -> list[list[Any]]:
        return self._stage.ask(self._database, sql)

    def _until(self, holds: Callable[[], Any], otherwise: str) -> None:
        until = time.monotonic() + _PATIENCE_SECONDS
        while not holds():
            if time.monotonic() > until:
                logs = "\n".join(path.read_text() for path in self._logs.iterdir())
                raise MeasurementFailed(f"{otherwise}:\n{logs}")
            time.sleep(0.05)


def _is_grant(one: Seen) -> bool:
    """A waiter's first write that succeeds: until it has the lease it only reads."""
    return one.operation == "UpdateItem" and one.succeeded


def _requests(seen: Iterable[Seen], client: str) -> Requests:
    own = [one for one in seen if one.client == client]
    reads = [one for one in own if one.operation == "GetItem"]
    eventual = sum(one.may_be_stale for one in reads)
    return Requests(len(reads) - eventual, eventual, len(own) - len(reads))


# -- what it says ---------------------------------------------------------------------------------


def section_of(kills: Sequence[Kill]) -> Section:
    """The row of the table."""
    acquired = [one.acquired / LEASE_SECONDS for one in kills]
    count = f"{len(kills)} kills"
    waiters = [requests for one in kills for requests in one.waiters]
    return Section(
        key="takeovers",
        title="How soon another process takes over from one that was killed",
        checks=[
            Check(
                f"from a holder's end by SIGKILL until another has the lease, median of {count}",
                bar=1 + 1 / LEASE_SECONDS,
                value=percentile(acquired, 50),
                unit="leases",
                range=(min(acquired), max(acquired)),
            ),
            Check(
                f"waiters that failed, of {count}", bar=0, value=sum(one.failed for one in kills)
            ),
            Check(
                f"migrations that took effect more than once, of {count}",
                bar=0,
                value=sum(one.effects != 1 for one in kills),
            ),
        ],
        tables=[
            Table(
                ("after the kill", "unit", *_percents()),
                [
                    _distribution("the lease is acquired", [one.acquired for one in kills]),
                    _distribution("the migration runs", [one.started for one in kills]),
                    _distribution("the last waiter serves", [max(one.served) for one in kills]),
                    _beyond("the lease is acquired", [one.acquired for one in kills]),
                    _beyond("the migration runs", [one.started for one in kills]),
                    _beyond("the last waiter serves", [max(one.served) for one in kills]),
                ],
            ),
            Table(
                (
                    "DynamoDB, in the median (at most)",
                    "calls",
                    "consistent reads",
                    "other reads",
                    "writes",
                    "read units",
                ),
                [
                    _usage("a waiter", waiters),
                    _usage("the fast path", [one.fast for one in kills]),
                ],
            ),
        ],
        charts=[_chart(acquired)],
        notes=[
            f"The lease is {LEASE_SECONDS:g} s long. Each kill has a database, a target and a "
            f"relay in front of DynamoDB of its own; {WAITERS} processes wait, {_AT_ONCE} targets "
            "are under way at the same time. The holder is killed between one lease and one lease "
            "and a third after the last of them began to wait: each moment between two renewals "
            "is as likely.",
            "The lease is acquired with the first write of a waiter that succeeds. The migration "
            "itself writes when it runs (clock_timestamp), so that connecting, ending the "
            "holder's backend and reading the history are in it.",
            "A waiter's requests are those of a whole wait of "
            f"{number(percentile([s for one in kills for s in one.waited], 50))} s in the median, "
            "of one that does not migrate. A consistent read of up to 4 KB is one unit, another "
            "half a unit.",
        ],
        data={"kills": [asdict(one) for one in kills]},
    )


def _percents() -> list[str]:
    named = {0: "least", 50: "median", 100: "worst"}
    return [named.get(percent, f"{percent} in 100") for percent in _PERCENTS]


def _distribution(what: str, seconds: Sequence[float]) -> Sequence[str]:
    shares = [one / LEASE_SECONDS for one in seconds]
    return (what, "leases", *(number(percentile(shares, percent)) for percent in _PERCENTS))


def _beyond(what: str, seconds: Sequence[float]) -> Sequence[str]:
    beyond = [one - LEASE_SECONDS for one in seconds]
    return (
        what,
        "s beyond one lease",
        *(number(percentile(beyond, percent)) for percent in _PERCENTS),
    )


def _usage(who: str, requests: Sequence[Requests]) -> Sequence[str]:
    def told(values: Sequence[float]) -> str:
        return f"{number(percentile(values, 50))} ({number(max(values))})"

    return (
        who,
        told([one.calls for one in requests]),
        told([one.consistent for one in requests]),
        told([one.eventual for one in requests]),
        told([one.writes for one in requests]),
        told([one.read_units for one in requests]),
    )


def _chart(acquired: Sequence[float]) -> Chart:
    bars = []
    for percent in _PERCENTS[1:]:
        value = percentile(acquired, percent)
        bars.append((f"{percent} in 100 within", value, value, value))
    title = "From a holder's end until another has the lease"
    return Chart("takeovers", title, "leases", bars, limit=1 + 1 / LEASE_SECONDS)
