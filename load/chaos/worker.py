"""Servers of their own for one schedule at a time, and the playing of it."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import os
import queue
import random
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pg8000.native

from lambda_migrate.local.runtime.fork_client import ForkedProcess, ForkServer
from lambda_migrate.local.servers.dynamodb import DynamoDBEndpoint, LocalDynamoDB
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL
from load.chaos.dynamodb import DynamoDBRelay
from load.chaos.evidence import ColdStart, Evidence, Mark, Observation, ProcessRecord, Result
from load.chaos.inspect import SECRETS, TABLE, Inspector, find_secrets
from load.chaos.invariants import check_invariants
from load.chaos.migrations import write_migrations
from load.chaos.relay import Loop, PostgreSQLRelay
from load.chaos.schedule import HOLDER, Environment, Fault, Schedule

__all__ = ["Worker", "Workers"]

Tamper = Callable[[Inspector, Path], None]

_KILL_LATE_SECONDS = 0.3
"""Lambda's own kill comes slightly after the deadline."""

_OUTLIVE_SECONDS = 8.0
"""How long after its deadline an environment that is not killed there may continue."""

_LOG_TAIL = 4_000
_ROLLBACK_SECONDS = 15.0
_COLD_START_SECONDS = 40.0

_SLACK_SECONDS = 2.5
"""What a loaded machine may add to a cold start that has a limit."""

_POSTGRESQL = {
    # A server that is restarted in immediate mode forgets nothing that it has acknowledged.
    "synchronous_commit": "on",
    "track_commit_timestamp": "on",
    "max_connections": "60",
}

_run_numbers = itertools.count(1)


class Workers:
    """Several workers that play schedules side by side.

    Args:
        count: How many.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._stack = contextlib.ExitStack()
        self._workers: list[Worker] = []

    def __enter__(self) -> Workers:
        with contextlib.ExitStack() as stack:
            # PostgreSQL's own account must be able to pass through.
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lm-chaos-")))
            loop = stack.enter_context(Loop())
            engine: DynamoDBEndpoint = stack.enter_context(LocalDynamoDB())
            engine.create_table(TABLE)
            self._workers = [
                stack.enter_context(Worker(folder / f"worker-{number}", loop, engine))
                for number in range(self._count)
            ]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def play(self, schedules: Iterable[Schedule]) -> Iterator[Result]:
        """Play them all and check the invariants; results come as they are ready."""
        waiting: queue.Queue[Schedule] = queue.Queue()
        for schedule in schedules:
            waiting.put(schedule)
        results: queue.Queue[Result | BaseException | None] = queue.Queue()

        def work(worker: Worker) -> None:
            try:
                with contextlib.suppress(queue.Empty):
                    while True:
                        results.put(check_invariants(worker.play(waiting.get_nowait())))
            except BaseException as error:  # noqa: BLE001 - raised by the thread that reads results
                results.put(error)
            else:
                results.put(None)

        for worker in self._workers:
            threading.Thread(target=work, args=[worker], daemon=True).start()
        running = len(self._workers)
        while running:
            result = results.get()
            if isinstance(result, BaseException):
                raise result
            if result is None:
                running -= 1
            else:
                yield result

    def play_one(self, schedule: Schedule) -> Result:
        """Play one and check the invariants, on the first worker."""
        return check_invariants(self._workers[0].play(schedule))


class Worker:
    """A PostgreSQL server and a fork server; the loop and the DynamoDB engine are shared.

    Args:
        folder: For logs and migration files.
        loop: Where the relays run.
        engine: The DynamoDB engine, with `TABLE`.
    """

    def __init__(self, folder: Path, loop: Loop, engine: DynamoDBEndpoint) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.loop = loop
        self.engine = engine
        self.client = engine.client()
        self.server = LocalPostgreSQL(settings=_POSTGRESQL)
        self.fork_server = ForkServer(
            sys.executable,
            modules=[str(Path(__file__).with_name("preload.py"))],
            log=folder / "fork-server.log",
        )

    def __enter__(self) -> Worker:
        self.server.start()
        try:
            self.fork_server.start(os.environ)
        except BaseException:
            self.server.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.fork_server.stop()
        self.server.close()
        self.client.close()

    def play(
        self, schedule: Schedule, *, tamper: Tamper = lambda _inspector, _log: None
    ) -> Evidence:
        """Play a schedule.

        Args:
            schedule: What happens.
            tamper: Called after the last process and before the final state is read, with the
                database and a log: what it does wrong must be found.
        """
        name = f"round_{schedule.seed}_{next(_run_numbers)}"
        folder = self.folder / name
        folder.mkdir()
        with contextlib.ExitStack() as stack:
            self.server.create_database(name)
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            stack.callback(self.server.drop_database, name)
            return _ChaosRun(self, schedule, name, folder, stack).play(tamper)


class _ChaosRun:
    """One schedule while it is played. One thread conducts; slow faults have one each."""

    def __init__(
        self,
        worker: Worker,
        schedule: Schedule,
        name: str,
        folder: Path,
        stack: contextlib.ExitStack,
    ) -> None:
        self.worker = worker
        self.schedule = schedule
        self.name = name
        self.folder = folder
        self.evidence = Evidence(schedule)
        self._directories = write_migrations(schedule, folder)
        rng = random.Random(schedule.seed)  # noqa: S311 - repeatable on purpose
        self._postgresql = stack.enter_context(
            PostgreSQLRelay(worker.loop, worker.server.socket, self._record_fault)
        )
        self._dynamodb = stack.enter_context(
            DynamoDBRelay(worker.loop, worker.engine.endpoint_url, self._record_fault, rng=rng)
        )
        self._inspector = Inspector(worker.server, worker.client, name)
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        self._socket = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        self._socket.bind(str(folder / "events.sock"))
        reader = threading.Thread(target=self._read_events, daemon=True)
        reader.start()
        stack.callback(reader.join, 10)
        stack.callback(self._send, b"")
        self._actions: list[tuple[float, int, Callable[[], None]]] = []
        self._action_numbers = itertools.count()
        self._records: dict[str, ProcessRecord] = {}
        self._processes: dict[str, ForkedProcess] = {}
        stack.callback(self._kill_all)
        self._invoked: dict[str, dict[str, Any]] = {}
        self._frozen: dict[str, float] = {}
        self._names: dict[int, str] = {}
        """By pid. Never forgotten: an owner in the item may be long dead."""
        self._threads: list[threading.Thread] = []
        self._planned = 0
        self._began = time.monotonic()

    def play(self, tamper: Tamper) -> Evidence:
        """From the first start to the final state."""
        self._began = time.monotonic()
        self._schedule_actions()
        if self.schedule.traffic:
            self._start("traffic", "traffic", code="new", timeout=0.0)
        while self._planned or self._running():
            self._process_next()
        for thread in self._threads:
            thread.join()
        self.evidence.faults_ended = self._now
        self._end_faults()
        lingering = self._wait_for_connections(self.schedule.lease_seconds + 1.0)
        self._start_cold()
        tamper(self._inspector, self._log("fresh probe"))
        connections = self._wait_for_connections(1.5)
        state = self._inspector.read_state()
        state.lingering, state.connections = lingering, connections
        state.secrets = self._find_secrets()
        self.evidence.state = state
        records = [one for one in self._records.values() if one.name != "traffic"]
        for record in records:
            record.log = self._log(record.name).read_text(errors="replace")[-_LOG_TAIL:]
        self.evidence.processes = records
        self.evidence.marks.sort(key=lambda mark: mark.at)
        self.evidence.seconds = self._now
        return self.evidence

    @property
    def _now(self) -> float:
        return time.monotonic() - self._began

    def _mark(self, process: str, what: str, detail: str = "") -> None:
        self.evidence.marks.append(Mark(round(self._now, 3), process, what, detail))

    def _record_fault(self, kind: str, detail: str) -> None:
        """Record that a fault took effect. Called in any thread."""
        self.evidence.fault_counts[kind] += 1
        self._mark("faults", kind, detail)

    # --- what happens when

    def _schedule_actions(self) -> None:
        for number, environment in enumerate(self.schedule.environments):
            self._call_at(environment.at, partial(self._start_environment, number, environment))
        for fault in self.schedule.faults:
            self._call_at(fault.at, partial(self._apply, fault))
        if self.schedule.rollback is not None:
            at, to = self.schedule.rollback.at, self.schedule.rollback.to
            timeout = _ROLLBACK_SECONDS
            start = partial(
                self._start, "rollback", "roll back", code="new", timeout=timeout, to=to
            )
            self._call_at(at, start)

    def _call_at(self, at: float, act: Callable[[], None], *, is_planned: bool = True) -> None:
        self._planned += is_planned

        def run() -> None:
            self._planned -= is_planned
            act()

        heapq.heappush(self._actions, (at, next(self._action_numbers), run))

    def _process_next(self) -> None:
        """Do what is due, or handle one event."""
        due = self._actions[0][0] - self._now if self._actions else 0.5
        if due <= 0:
            heapq.heappop(self._actions)[2]()
            return
        with contextlib.suppress(queue.Empty):
            self._handle(self._events.get(timeout=min(due, 0.5)))

    def _running(self) -> list[ProcessRecord]:
        return [x for x in self._records.values() if x.ended is None and x.name != "traffic"]

    # --- processes

    def _start_environment(self, number: int, environment: Environment) -> None:
        self._start(
            f"environment {number}",
            "serve",
            code=environment.code,
            timeout=environment.timeout,
            invocations=environment.invocations,
            outlives_deadline=environment.outlives_deadline,
            clock=environment.clock,
            jump_after=environment.jump_after,
            jump=environment.jump,
        )

    def _start(self, name: str, role: str, *, code: str, timeout: float, **more: Any) -> None:
        clock = max(abs(more.get("clock", 0.0)), abs(more.get("jump", 0.0)))
        self._records[name] = ProcessRecord(name, code, clock=clock, started=round(self._now, 3))
        self._log(name).touch()  # it may be killed before it can
        job = {
            "name": name,
            "role": role,
            "timeout": timeout,
            "invocations": 1,
            "clock": 0.0,
            "jump_after": 0.0,
            "jump": 0.0,
            **more,
            "entry_point": self.schedule.entry_point,
            "lease_seconds": self.schedule.lease_seconds,
            "database": {"socket": str(self.worker.server.socket), "name": self.name},
            "events": self._socket.getsockname(),
        }
        process = self.worker.fork_server.fork_call(
            "load.chaos.process:run",
            job,
            variables=self._variables(code),
            directory=self.folder,
            log=self._log(name),
        )
        self._processes[name] = process
        self._names[process.pid] = name

        def report_end() -> None:
            # Through the socket: behind everything that the process itself sent.
            ended = {"event": "ended", "name": name, "code": process.poll()}
            self._send(json.dumps({**ended, "at": time.monotonic()}).encode())

        process.when_ended(report_end)

    def _variables(self, code: str) -> dict[str, str]:
        address = f"127.0.0.1:{self._postgresql.port}/{self.name}"
        return {
            "PATH": os.environ.get("PATH", os.defpath),
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

    def _read_events(self) -> None:
        while data := self._socket.recv(1 << 16):
            self._events.put(json.loads(data))

    def _send(self, data: bytes) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(data, self._socket.getsockname())

    def _handle(self, event: dict[str, Any]) -> None:
        name, what = event["name"], event["event"]
        record = self._records[name]
        if what == "hit":
            self._note_hit(record, event["fault"])
            return
        event = {**event, "at": round(event["at"] - self._began, 3)}
        record.events.append(event)
        if what == "ended":
            self._note_end(record, event)
        elif what == "invoked":
            self._invoked[name] = event
            self._mark(name, what)
            late = _OUTLIVE_SECONDS if self._outlives(name) else _KILL_LATE_SECONDS
            ends = event["ends"] - self._began + late
            self._call_at(ends, lambda: self._kill_at_deadline(record, event), is_planned=False)
        elif what == "served":
            self._invoked.pop(name, None)
            self._mark(name, what, event["outcome"])
        elif what == "observed":
            self._note_observation(record, event)
        else:
            self._invoked.pop(name, None)
            self._mark(name, what, f"{event.get('error', '')} {event.get('message', '')}"[:200])

    def _outlives(self, name: str) -> bool:
        kind, _, number = name.partition(" ")
        is_own = kind == "environment" and number.isdigit()
        return is_own and self.schedule.environments[int(number)].outlives_deadline

    def _note_end(self, record: ProcessRecord, event: dict[str, Any]) -> None:
        self._processes[record.name].kill()  # it has ended; this collects it
        self._note_thaw(record)
        record.ended = event["at"]
        record.exit_code = event["code"]
        self._invoked.pop(record.name, None)
        self._mark(record.name, "ended", f"{event['code']} {record.killed}")

    def _kill_at_deadline(self, record: ProcessRecord, invocation: dict[str, Any]) -> None:
        if self._invoked.get(record.name, {}).get("at") == invocation["at"]:
            self._kill(record, "deadline")

    def _kill(self, record: ProcessRecord, why: str) -> None:
        record.killed = record.killed or why
        self._mark(record.name, "killed", why)
        self._signal(record.name, signal.SIGKILL)

    def _signal(self, name: str, number: int) -> None:
        """Signal a process, if it was started. Called in any thread."""
        process = self._processes.get(name)
        if process is not None:
            process.signal_group(number)

    def _kill_all(self) -> None:
        for process in self._processes.values():
            process.kill()

    def _note_observation(self, record: ProcessRecord, event: dict[str, Any]) -> None:
        served = next(e for e in reversed(record.events) if e["event"] == "served")
        versions = event["versions"]
        self.evidence.observations.append(
            Observation(
                process=record.name,
                code=record.code,
                served_at=served["wall"],
                versions=None if versions is None else tuple(versions),
                indexes=tuple(event["indexes"] or ()),
                frozen_seconds=record.frozen_seconds,
            )
        )

    # --- faults

    def _apply(self, fault: Fault) -> None:
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
            self._postgresql.silence(seconds, include_new_connections=kind == "postgresql-silent")
        elif kind in ("commit-unanswered", "takeover-unanswered"):
            self._postgresql.lose_answer_of_next(kind.partition("-")[0])
        elif kind == "commit-late":
            self._postgresql.delay_next_commit(seconds)
        elif kind.startswith("granted-twice"):
            self._dynamodb.grant_twice(kind)
        elif kind.endswith("at-commit"):
            self._postgresql.at_next_commit(lambda: self._hit(fault, self._dynamodb.owner or ""))
        elif kind.endswith("at-write"):
            self._dynamodb.on_next_write(lambda owner: self._hit(fault, owner))
        else:
            self._dynamodb.inject(kind, seconds, fault.share)

    def _hit(self, fault: Fault, owner: str) -> None:
        """Signal the process of this owner at once. Called in the loop's thread."""
        name = self._name_of(owner)
        if name:
            number = signal.SIGKILL if fault.kind.startswith("kill") else signal.SIGSTOP
            self._record_fault(fault.kind, name)
            self._events.put({"event": "hit", "name": name, "fault": fault})
            self._signal(name, number)

    def _note_hit(self, record: ProcessRecord, fault: Fault) -> None:
        if fault.kind.startswith("kill"):
            record.killed = record.killed or "fault"
        else:
            self._note_freeze(record, fault.seconds)

    def _note_freeze(self, record: ProcessRecord, seconds: float) -> None:
        self._frozen.setdefault(record.name, self._now)
        self._call_at(self._now + seconds, lambda: self._thaw(record))

    def _aim(self, fault: Fault, *, until: float) -> None:
        """Signal its target; the holder, as soon as there is one, for a short while."""
        record = self._target(fault)
        if record is None or record.ended is not None:
            if self._now < until:
                self._call_at(self._now + 0.03, lambda: self._aim(fault, until=until))
            return
        self._record_fault(fault.kind, record.name)
        if fault.kind == "kill":
            self._kill(record, "fault")
            return
        self._signal(record.name, signal.SIGSTOP)
        self._note_freeze(record, fault.seconds)

    def _target(self, fault: Fault) -> ProcessRecord | None:
        if fault.target != HOLDER:
            return self._records.get(f"environment {fault.target}")
        return self._records.get(self._name_of(self._dynamodb.owner or ""))

    def _name_of(self, owner: str) -> str:
        """Which process has this owner id: function/pid/random, see `new_owner`."""
        parts = owner.split("/")
        return self._names.get(int(parts[1]), "") if len(parts) == 3 else ""

    def _thaw(self, record: ProcessRecord) -> None:
        self._note_thaw(record)
        self._mark(record.name, "thawed")
        self._signal(record.name, signal.SIGCONT)

    def _note_thaw(self, record: ProcessRecord) -> None:
        since = self._frozen.pop(record.name, None)
        if since is not None:
            record.frozen.append((round(since, 3), round(self._now, 3)))

    def _restart(self) -> None:
        self._record_fault("postgresql-restart", "")
        self.worker.server.restart("immediate")

    def _cut(self) -> None:
        with contextlib.suppress(pg8000.native.Error, OSError):  # it is being restarted
            count = self._inspector.terminate_connections()
            if count:
                self._record_fault("postgresql-cut", f"{count} connections")

    def _lose_item(self) -> None:
        self._inspector.delete_item()
        self._dynamodb.lose_item()
        self._record_fault("dynamodb-item-lost", "")

    def _end_faults(self) -> None:
        self._postgresql.clear_faults()
        self._dynamodb.clear_faults()
        self._signal("traffic", signal.SIGKILL)

    # --- afterwards

    def _start_cold(self) -> None:
        """Cold starts when all faults are over, without waiting for the pause after a failure."""
        if self.schedule.broken:
            self._inspector.end_pause()
            self._start_one("new")
        self._start_one("probe")
        self._start_one("old")

    def _start_one(self, code: str) -> None:
        """One cold start, with its limit: two leases, and the work that is left."""
        work = sum(spec.seconds for spec in self.schedule.migrations)
        limit = 2 * self.schedule.lease_seconds + work + _SLACK_SECONDS
        name = f"fresh {code}"
        began = self._now
        self._start(name, "serve", code=code, timeout=_COLD_START_SECONDS)
        record = self._records[name]
        while record.ended is None:
            self._process_next()
        ends = [e for e in record.events if e["event"] in ("served", "raised")]
        last: dict[str, Any] = ends[-1] if ends else {"at": self._now, "event": "killed"}
        outcome = str(last.get("error", last["event"]))
        seconds = round(last["at"] - began, 3)
        message = str(last.get("message", ""))
        self.evidence.cold_starts.append(ColdStart(code, outcome, seconds, limit, message))

    def _wait_for_connections(self, seconds: float) -> list[str]:
        """Connections of the library, once there are none or so much time has passed."""
        until = self._now + seconds
        while (found := self._inspector.connections()) and self._now < until:
            time.sleep(0.1)
        return found

    def _find_secrets(self) -> list[str]:
        logs = sorted(self.folder.glob("*.log"))
        texts = {path.name: path.read_text(errors="replace") for path in logs}
        texts["the lease table"] = "\n".join(self._dynamodb.written)
        texts["events"] = "\n".join(
            json.dumps(event) for record in self._records.values() for event in record.events
        )
        return find_secrets(texts)

    def _log(self, name: str) -> Path:
        return self.folder / f"{name.replace(' ', '-')}.log"
