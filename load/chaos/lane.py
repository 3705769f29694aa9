"""Servers of their own for one schedule at a time, and the playing of it."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import queue
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pg8000.native

from lambda_migrate.local.servers.dynamodb import DynamoDBEndpoint
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL
from load.chaos.code import write_codes
from load.chaos.dynamodb import DynamoDBRelay
from load.chaos.evidence import Check, Evidence, Life, Mark, Start
from load.chaos.looking import SECRETS, TABLE, Looker, search
from load.chaos.nursery import Nursery
from load.chaos.relay import Loop, PostgreSQLRelay
from load.chaos.schedule import HOLDER, Environment, Fault, Schedule

__all__ = ["Lane"]

Meddle = Callable[[Looker, Path], None]

_KILL_LATE_SECONDS = 0.3
"""Lambda's own kill comes slightly after the deadline."""

_OUTLIVE_SECONDS = 8.0
"""How long after its deadline an environment that is not killed there may go on."""

_LOG_TAIL = 4_000

_ROLLBACK_SECONDS = 15.0
_START_SECONDS = 40.0

SLACK_SECONDS = 2.5
"""What a loaded machine may add to a cold start that has bounds."""

_SETTINGS = {
    # A server that is restarted in immediate mode forgets nothing that it has acknowledged.
    "synchronous_commit": "on",
    "track_commit_timestamp": "on",
    "max_connections": "60",
}

_numbers = itertools.count(1)


class Lane:
    """A PostgreSQL server and a nursery; the loop and the DynamoDB engine are shared.

    Args:
        folder: For logs and migration files.
        loop: Where the relays run.
        engine: The DynamoDB engine, with `TABLE`.
    """

    def __init__(self, folder: Path, loop: Loop, engine: DynamoDBEndpoint) -> None:
        self.folder = folder
        self.loop = loop
        self.engine = engine
        self._stack = contextlib.ExitStack()
        folder.mkdir(parents=True, exist_ok=True)
        self.client = engine.client()

    def __enter__(self) -> Lane:
        with contextlib.ExitStack() as stack:
            self.server = stack.enter_context(LocalPostgreSQL(settings=_SETTINGS))
            self.nursery = stack.enter_context(Nursery(self.folder / "nursery.log"))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self.client.close()

    def play(self, schedule: Schedule, *, meddle: Meddle = lambda _looker, _log: None) -> Evidence:
        """Play a schedule; returns what was seen.

        Args:
            schedule: What is to happen.
            meddle: Called when all is over and before the last look, with the database and a log:
                what it does wrong must be found.
        """
        name = f"round_{schedule.seed}_{next(_numbers)}"
        folder = self.folder / name
        folder.mkdir()
        with contextlib.ExitStack() as stack:
            self.server.create_database(name)
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            stack.callback(self.server.drop_database, name)
            return _Round(self, schedule, name, folder, stack).play(meddle)


class _Round:
    """One schedule while it is played. One thread conducts; slow faults have one each."""

    def __init__(
        self,
        lane: Lane,
        schedule: Schedule,
        name: str,
        folder: Path,
        stack: contextlib.ExitStack,
    ) -> None:
        self.lane = lane
        self.schedule = schedule
        self.name = name
        self.folder = folder
        self.evidence = Evidence(schedule)
        self._directories = write_codes(schedule, folder)
        chance = random.Random(schedule.seed)  # noqa: S311 - repeatable on purpose
        self._postgresql = stack.enter_context(
            PostgreSQLRelay(lane.loop, lane.server.socket, self._strike)
        )
        self._dynamodb = stack.enter_context(
            DynamoDBRelay(lane.loop, lane.engine.endpoint_url, self._strike, chance=chance)
        )
        self._looker = Looker(lane.server, lane.client, name)
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        self._actions: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._lives: dict[str, Life] = {}
        self._invoked: dict[str, dict[str, Any]] = {}
        self._frozen: dict[str, float] = {}
        self._pids: dict[int, str] = {}
        """Never forgotten: an owner in the item may be long dead."""
        self._threads: list[threading.Thread] = []
        self._to_come = 0
        self._began = time.monotonic()

    # --- the whole of it

    def play(self, meddle: Meddle) -> Evidence:
        """From the first start to the last look."""
        self._began = time.monotonic()
        self._plan()
        if self.schedule.traffic:
            self._birth("traffic", "traffic", code="new", timeout=0.0)
        self._conduct()
        self.evidence.end_of_faults = self._now
        self._end_faults()
        self.evidence.facts.lingering = self._wait_for_backends(self.schedule.lease_seconds + 1.0)
        self._start_afresh()
        meddle(self._looker, self._log("fresh probe"))
        self._look()
        self.evidence.lives = [life for life in self._lives.values() if life.name != "traffic"]
        for life in self.evidence.lives:
            life.log = self._log(life.name).read_text(errors="replace")[-_LOG_TAIL:]
        self.evidence.marks.sort(key=lambda mark: mark.at)
        self.evidence.seconds = self._now
        return self.evidence

    @property
    def _now(self) -> float:
        return time.monotonic() - self._began

    def _mark(self, who: str, what: str, detail: str = "") -> None:
        self.evidence.marks.append(Mark(round(self._now, 3), who, what, detail))

    def _strike(self, kind: str, detail: str) -> None:
        """A fault struck. Called in any thread."""
        self.evidence.strikes[kind] += 1
        self._mark("faults", kind, detail)

    # --- what is to happen

    def _plan(self) -> None:
        for number, environment in enumerate(self.schedule.environments):
            self._later(environment.at, partial(self._open, number, environment))
        for fault in self.schedule.faults:
            self._later(fault.at, partial(self._happen, fault))
        if self.schedule.rollback is not None:
            rollback = self.schedule.rollback
            self._later(
                rollback.at,
                lambda: self._birth(
                    "rollback", "roll back", code="new", timeout=_ROLLBACK_SECONDS, to=rollback.to
                ),
            )

    def _later(self, at: float, act: Callable[[], None], *, counts: bool = True) -> None:
        self._to_come += counts

        def run() -> None:
            self._to_come -= counts
            act()

        heapq.heappush(self._actions, (at, next(self._order), run))

    def _conduct(self) -> None:
        while self._to_come or self._alive():
            self._turn()
        for thread in self._threads:
            thread.join()

    def _turn(self) -> None:
        """Do what is due, or take in one event."""
        due = self._actions[0][0] - self._now if self._actions else 0.5
        if due <= 0:
            heapq.heappop(self._actions)[2]()
            return
        with contextlib.suppress(queue.Empty):
            self._take_in(self._events.get(timeout=min(due, 0.5)))

    def _alive(self) -> list[Life]:
        return [x for x in self._lives.values() if x.ended is None and x.name != "traffic"]

    # --- environments

    def _open(self, number: int, environment: Environment) -> None:
        self._birth(
            f"environment {number}",
            "serve",
            code=environment.code,
            timeout=environment.timeout,
            invocations=environment.invocations,
            outlives=environment.outlives,
            clock=environment.clock,
            jump_after=environment.jump_after,
            jump=environment.jump,
        )

    def _birth(self, name: str, role: str, *, code: str, timeout: float, **more: Any) -> None:
        clock = max(abs(more.get("clock", 0.0)), abs(more.get("jump", 0.0)))
        self._lives[name] = Life(name, code, clock=clock, started=round(self._now, 3))
        self._log(name).touch()  # it may be killed before it can
        order = {
            "name": f"{self.name}/{name}",
            "role": role,
            "timeout": timeout,
            "invocations": 1,
            "clock": 0.0,
            "jump_after": 0.0,
            "jump": 0.0,
            **more,
            "entrance": self.schedule.entrance,
            "lease_seconds": self.schedule.lease_seconds,
            "check": {"socket": str(self.lane.server.socket), "database": self.name},
            "environ": self._environ(code),
            "log": str(self._log(name)),
        }
        outlives = bool(more.get("outlives"))
        self.lane.nursery.start(
            order, lambda event: self._events.put({**event, "name": name, "outlives": outlives})
        )

    def _environ(self, code: str) -> dict[str, str]:
        address = f"127.0.0.1:{self._postgresql.port}/{self.name}"
        return {
            "AWS_ACCESS_KEY_ID": "chaos",
            "AWS_SECRET_ACCESS_KEY": SECRETS["secret key"],
            "AWS_SESSION_TOKEN": SECRETS["session token"],
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL_DYNAMODB": self._dynamodb.url,
            "AWS_LAMBDA_FUNCTION_NAME": "chaos",
            "LAMBDA_MIGRATE_TABLE": TABLE,
            "LAMBDA_MIGRATE_TARGET": self.name,
            "LAMBDA_MIGRATE_DATABASE_URL": f"postgresql://postgres:{SECRETS['password']}@{address}",
            "LAMBDA_MIGRATE_DIRECTORY": str(self._directories[code]),
            "LAMBDA_MIGRATE_LEASE_SECONDS": f"{max(5.0, self.schedule.lease_seconds):g}",
            "LAMBDA_MIGRATE_WAIT_SECONDS": "60",
            "LAMBDA_MIGRATE_FAILURE_PAUSE_SECONDS": "1",
            "POWERTOOLS_SERVICE_NAME": "chaos",
        }

    def _take_in(self, event: dict[str, Any]) -> None:
        name, what = event["name"], event["event"]
        life = self._lives[name]
        if what == "hit":
            self._note_hit(life, event["fault"])
            return
        event = {**event, "at": round(event["at"] - self._began, 3)}
        life.events.append(event)
        if what == "started":
            self._pids[event["pid"]] = name
        elif what == "ended":
            self._bury(life, event)
        elif what == "invoked":
            self._invoked[name] = event
            self._mark(name, what)
            late = _OUTLIVE_SECONDS if event["outlives"] else _KILL_LATE_SECONDS
            ends = event["ends"] - self._began + late
            self._later(ends, lambda: self._kill_late(life, event), counts=False)
        elif what == "served":
            self._invoked.pop(name, None)
            self._mark(name, what, event["outcome"])
        elif what == "checked":
            self._note_check(life, event)
        else:
            self._invoked.pop(name, None)
            detail = event.get("error", "") or event.get("migration", "")
            self._mark(name, what, f"{detail} {event.get('message', '')}"[:200])

    def _bury(self, life: Life, event: dict[str, Any]) -> None:
        self._thaw(life)
        life.ended = event["at"]
        life.exit_code = event["code"]
        self._invoked.pop(life.name, None)
        self._mark(life.name, "ended", f"{event['code']} {life.killed}")

    def _kill_late(self, life: Life, invocation: dict[str, Any]) -> None:
        if self._invoked.get(life.name, {}).get("at") == invocation["at"]:
            self._kill(life, "deadline")

    def _kill(self, life: Life, why: str) -> None:
        life.killed = life.killed or why
        self._mark(life.name, "killed", why)
        self.lane.nursery.signal(f"{self.name}/{life.name}", signal.SIGKILL)

    def _note_check(self, life: Life, event: dict[str, Any]) -> None:
        served = next(e for e in reversed(life.events) if e["event"] == "served")
        invoked = next(e for e in reversed(life.events) if e["event"] == "invoked")
        versions = event["versions"]
        self.evidence.checks.append(
            Check(
                who=life.name,
                code=life.code,
                invoked_wall=invoked["wall"],
                served_wall=served["wall"],
                checked_wall=event["wall"],
                versions=None if versions is None else tuple(versions),
                indexes=tuple(event["indexes"] or ()),
                stood_still=life.stood_still,
            )
        )

    # --- faults

    def _happen(self, fault: Fault) -> None:
        kind, seconds = fault.kind, fault.seconds
        if kind in ("kill", "freeze"):
            self._aim(fault, until=self._now + 1.5)
        elif kind in ("postgresql-restart", "postgresql-cut", "dynamodb-item-lost"):
            act = {
                "postgresql-restart": self._restart,
                "postgresql-cut": self._cut,
                "dynamodb-item-lost": self._lose_item,
            }[kind]
            thread = threading.Thread(target=act, daemon=True)
            self._threads.append(thread)
            thread.start()
        elif kind == "postgresql-refused":
            self._postgresql.refuse(seconds)
        elif kind in ("postgresql-silent", "postgresql-stuck"):
            self._postgresql.silence(seconds, new_ones_too=kind == "postgresql-silent")
        elif kind in ("commit-unanswered", "takeover-unanswered"):
            self._postgresql.lose_answer_of_next(kind.partition("-")[0])
        elif kind == "commit-late":
            self._postgresql.delay_next_commit(seconds)
        elif kind.startswith("granted-twice"):
            self._dynamodb.arm(kind)
        elif kind.endswith("at-commit"):
            self._postgresql.at_next_commit(lambda: self._hit(fault, self._dynamodb.owner or ""))
        elif kind.endswith("at-write"):
            self._dynamodb.at_next_write(lambda owner: self._hit(fault, owner))
        else:
            self._dynamodb.change(kind, seconds, fault.share)

    def _hit(self, fault: Fault, owner: str) -> None:
        """Signal the process of this owner, at once. Called in the loop's thread."""
        name = self._name_of(owner)
        if name:
            number = signal.SIGKILL if fault.kind.startswith("kill") else signal.SIGSTOP
            self._strike(fault.kind, name)
            self._events.put({"event": "hit", "name": name, "at": time.monotonic(), "fault": fault})
            self.lane.nursery.signal(f"{self.name}/{name}", number)

    def _note_hit(self, life: Life, fault: Fault) -> None:
        if fault.kind.startswith("kill"):
            life.killed = life.killed or "fault"
        else:
            self._stop(life, fault.seconds)

    def _stop(self, life: Life, seconds: float) -> None:
        self._frozen.setdefault(life.name, self._now)
        self._later(self._now + seconds, lambda: self._wake(life))

    def _aim(self, fault: Fault, *, until: float) -> None:
        """Signal its target; the holder, as soon as there is one, for a little while."""
        life = self._target(fault)
        if life is None or life.ended is not None:
            if self._now < until:
                self._later(self._now + 0.03, lambda: self._aim(fault, until=until))
            return
        self._strike(fault.kind, life.name)
        if fault.kind == "kill":
            self._kill(life, "fault")
            return
        self.lane.nursery.signal(f"{self.name}/{life.name}", signal.SIGSTOP)
        self._stop(life, fault.seconds)

    def _target(self, fault: Fault) -> Life | None:
        if fault.target != HOLDER:
            return self._lives.get(f"environment {fault.target}")
        return self._lives.get(self._name_of(self._dynamodb.owner or ""))

    def _name_of(self, owner: str) -> str:
        """Whose owner id that is: function/process/random, see `new_owner`."""
        parts = owner.split("/")
        return self._pids.get(int(parts[1]), "") if len(parts) == 3 else ""

    def _wake(self, life: Life) -> None:
        self._thaw(life)
        self._mark(life.name, "thawed")
        self.lane.nursery.signal(f"{self.name}/{life.name}", signal.SIGCONT)

    def _thaw(self, life: Life) -> None:
        since = self._frozen.pop(life.name, None)
        if since is not None:
            life.frozen.append((round(since, 3), round(self._now, 3)))

    def _restart(self) -> None:
        self._strike("postgresql-restart", "")
        self.lane.server.restart("immediate")

    def _cut(self) -> None:
        with contextlib.suppress(pg8000.native.Error, OSError):  # it is being restarted
            count = self._looker.cut()
            if count:
                self._strike("postgresql-cut", f"{count} connections")

    def _lose_item(self) -> None:
        self._looker.delete_item()
        self._dynamodb.lose_item()
        self._strike("dynamodb-item-lost", "")

    def _end_faults(self) -> None:
        self._postgresql.calm()
        self._dynamodb.calm()
        self.lane.nursery.signal(f"{self.name}/traffic", signal.SIGKILL)

    # --- afterwards

    def _start_afresh(self) -> None:
        """Cold starts when all faults are over; nobody waits for a pause after a failure."""
        if self.schedule.broken:
            self._looker.end_pause()
            self._start("new")
        self._start("probe")
        self._start("old")

    def _start(self, code: str) -> None:
        """One cold start, with the bound that it has: two leases, and the work that is left."""
        bound = 2 * self.schedule.lease_seconds + self._work() + SLACK_SECONDS
        name = f"fresh {code}"
        began = self._now
        self._birth(name, "serve", code=code, timeout=_START_SECONDS)
        life = self._lives[name]
        while life.ended is None:
            self._turn()
        ends = [e for e in life.events if e["event"] in ("served", "raised")]
        last: dict[str, Any] = ends[-1] if ends else {"at": self._now, "event": "killed"}
        ended = str(last.get("error", last["event"]))
        seconds = last["at"] - began
        self.evidence.starts.append(
            Start(code, ended, round(seconds, 3), bound, str(last.get("message", "")))
        )

    def _work(self) -> float:
        return sum(step.seconds for step in self.schedule.steps)

    def _wait_for_backends(self, seconds: float) -> list[str]:
        """Our connections, once there are none or so much time has passed."""
        until = self._now + seconds
        while (found := self._looker.backends()) and self._now < until:
            time.sleep(0.1)
        return found

    def _look(self) -> None:
        """Everything that the laws ask for."""
        lingering, open_now = self.evidence.facts.lingering, self._wait_for_backends(1.5)
        facts = self._looker.look()
        facts.lingering, facts.backends = lingering, open_now
        facts.secrets = self._search()
        self.evidence.facts = facts

    def _search(self) -> list[str]:
        places = {path.name: path.read_text(errors="replace") for path in self._logs()}
        places["the lease table"] = "\n".join(self._dynamodb.written)
        places["events"] = "\n".join(
            json.dumps(event) for life in self._lives.values() for event in life.events
        )
        return search(places)

    def _log(self, name: str) -> Path:
        return self.folder / f"{name.replace(' ', '-')}.log"

    def _logs(self) -> list[Path]:
        return sorted(self.folder.glob("*.log"))
