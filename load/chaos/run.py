"""One schedule while it runs: starts processes, applies faults, records what happens."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import os
import queue
import random
import signal
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pg8000.native

from lambda_migrate.local.runtime.fork_client import ForkedProcess
from load.chaos.dynamodb import DynamoDBRelay
from load.chaos.evidence import ChaosEvidence, ColdStartResult, Observation, ProcessRecord
from load.chaos.migrations import write_migrations
from load.chaos.relay import PostgreSQLRelay
from load.chaos.schedule import HOLDER, Fault, Schedule
from load.chaos.state_reader import SECRETS, TABLE, StateReader

if TYPE_CHECKING:
    from load.chaos.worker import Worker

_KILL_LATE_SECONDS = 0.3
"""Lambda's own kill comes slightly after the deadline."""

_OUTLIVE_SECONDS = 8.0
"""How long after its deadline an environment that is not killed there may continue."""

_LOG_TAIL = 4_000
_ROLLBACK_SECONDS = 15.0
_COLD_START_SECONDS = 40.0

_SLACK_SECONDS = 2.5
"""What a loaded machine may add to a cold start that has a limit."""


class ChaosRun:
    """One schedule while it runs. One thread acts; slow faults have one each.

    Args:
        schedule: What happens.
        worker: The servers, with a database for this run.
        state: The run's database and item, past every fault.
        folder: For its logs and migration files.
        stack: Ends everything afterwards.
    """

    def __init__(
        self,
        schedule: Schedule,
        worker: Worker,
        state: StateReader,
        folder: Path,
        stack: contextlib.ExitStack,
    ) -> None:
        self._schedule = schedule
        self._server = worker.server
        self._fork_server = worker.fork_server
        self._state = state
        self._folder = folder
        self._evidence = ChaosEvidence(schedule)
        self._directories = write_migrations(schedule, folder)
        self._postgresql = stack.enter_context(
            PostgreSQLRelay(worker.loop, worker.server.socket, self._record_fault)
        )
        rng = random.Random(schedule.seed)  # noqa: S311 - repeatable on purpose
        self._dynamodb = stack.enter_context(
            DynamoDBRelay(worker.loop, worker.engine.endpoint_url, self._record_fault, rng=rng)
        )
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        self._socket = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        self._socket.bind(str(folder / "events.sock"))
        reader = threading.Thread(target=self._read_events, daemon=True)
        reader.start()
        stack.callback(reader.join, 10)
        stack.callback(self._send, b"")
        self._actions: list[tuple[float, int, Callable[[], None]]] = []
        self._action_numbers = itertools.count()
        self._planned = 0
        self._records: dict[str, ProcessRecord] = {}
        self._processes: dict[str, ForkedProcess] = {}
        stack.callback(self._kill_all)
        self._invoked: dict[str, dict[str, Any]] = {}
        self._frozen: dict[str, float] = {}
        self._names: dict[int, str] = {}
        """By pid. Never forgotten: an owner in the item may be long dead."""
        self._threads: list[threading.Thread] = []
        self._began = time.monotonic()

    def execute(self, before_final_state: Callable[[StateReader, Path], None]) -> ChaosEvidence:
        """From the first start to the final state."""
        self._began = time.monotonic()
        self._schedule_actions()
        if self._schedule.has_traffic:
            self._start("traffic", "traffic", code_version="new", timeout=0.0)
        while self._planned or self._has_running_process():
            self._process_next()
        for thread in self._threads:
            thread.join()
        self._postgresql.clear_faults()
        self._dynamodb.clear_faults()
        self._signal("traffic", signal.SIGKILL)
        leftover_connections = self._wait_for_connections(self._schedule.lease_seconds + 1.0)
        self._start_cold_afterwards()
        before_final_state(self._state, self._log("fresh probe"))
        connections = self._wait_for_connections(1.5)
        evidence = self._evidence
        evidence.state = self._state.read_state()
        evidence.state.leftover_connections, evidence.state.connections = (
            leftover_connections,
            connections,
        )
        evidence.state.secrets = self._find_secrets()
        evidence.processes = [one for one in self._records.values() if one.name != "traffic"]
        for record in evidence.processes:
            record.log = self._log(record.name).read_text(errors="replace")[-_LOG_TAIL:]
        evidence.timeline.sort()
        return evidence

    @property
    def _now(self) -> float:
        return time.monotonic() - self._began

    def _log(self, name: str) -> Path:
        return self._folder / f"{name.replace(' ', '-')}.log"

    def _record(self, process: str, what: str, detail: str = "") -> None:
        self._evidence.timeline.append((round(self._now, 3), process, what, detail))

    def _record_fault(self, kind: str, detail: str) -> None:
        """Record that a fault took effect. Called in any thread."""
        counts = self._evidence.fault_counts
        counts[kind] = counts.get(kind, 0) + 1
        self._record("faults", kind, detail)

    # --- what happens when

    def _schedule_actions(self) -> None:
        for number, each in enumerate(self._schedule.environments):
            start = partial(
                self._start,
                f"environment {number}",
                "serve",
                code_version=each.code_version,
                timeout=each.timeout,
                invocations=each.invocations,
                clock_offset=each.clock_offset,
                clock_jumps_after=each.clock_jumps_after,
                clock_jump=each.clock_jump,
            )
            self._call_at(each.at, start)
        for fault in self._schedule.faults:
            self._call_at(fault.at, partial(self._apply, fault))
        rollback = self._schedule.rollback
        if rollback is not None:
            start = partial(
                self._start,
                "rollback",
                "roll back",
                code_version="new",
                timeout=_ROLLBACK_SECONDS,
                target_version=rollback.target_version,
            )
            self._call_at(rollback.at, start)

    def _call_at(self, at: float, act: Callable[[], None], *, is_planned: bool = True) -> None:
        """Call ``act`` then; the run continues as long as anything is planned."""
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

    def _has_running_process(self) -> bool:
        return any(one.ended is None for one in self._records.values() if one.name != "traffic")

    # --- processes

    def _start(
        self, name: str, role: str, *, code_version: str, timeout: float, **more: Any
    ) -> None:
        clock_error = max(abs(more.get("clock_offset", 0.0)), abs(more.get("clock_jump", 0.0)))
        self._records[name] = ProcessRecord(name, code_version, clock_error)
        self._log(name).touch()  # it may be killed before it can
        job = {
            "name": name,
            "role": role,
            "timeout": timeout,
            **more,
            "entry_point": self._schedule.entry_point,
            "lease_seconds": self._schedule.lease_seconds,
            "database": {"socket": str(self._server.socket), "name": self._state.name},
            "events": self._socket.getsockname(),
        }
        process = self._fork_server.fork_call(
            "load.chaos.process:run",
            job,
            variables=self._variables(code_version),
            directory=self._folder,
            log=self._log(name),
        )
        self._processes[name] = process
        self._names[process.pid] = name

        def report_end() -> None:
            # Through the socket: behind everything that the process itself sent.
            ended = {"event": "ended", "name": name, "code": process.poll()}
            self._send(json.dumps({**ended, "at": time.monotonic()}).encode())

        process.when_ended(report_end)

    def _variables(self, code_version: str) -> dict[str, str]:
        address = f"127.0.0.1:{self._postgresql.port}/{self._state.name}"
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
            "LAMBDA_MIGRATE_TARGET": self._state.name,
            "LAMBDA_MIGRATE_DATABASE_URL": f"postgresql://postgres:{SECRETS['password']}@{address}",
            "LAMBDA_MIGRATE_DIRECTORY": str(self._directories[code_version]),
            "LAMBDA_MIGRATE_LEASE_SECONDS": f"{max(5.0, self._schedule.lease_seconds):g}",
            "LAMBDA_MIGRATE_WAIT_SECONDS": "60",
            "LAMBDA_MIGRATE_FAILURE_PAUSE_SECONDS": "1",
            "POWERTOOLS_SERVICE_NAME": "chaos",
        }

    def _signal(self, name: str, number: int) -> None:
        """Signal a process, if it was started. Called in any thread."""
        process = self._processes.get(name)
        if process is not None:
            process.signal_group(number)

    def _kill(self, record: ProcessRecord, why: str) -> None:
        record.killed = record.killed or why
        self._record(record.name, "killed", why)
        self._signal(record.name, signal.SIGKILL)

    def _kill_all(self) -> None:
        for process in self._processes.values():
            process.kill()

    # --- events of processes

    def _read_events(self) -> None:
        while data := self._socket.recv(1 << 16):
            self._events.put(json.loads(data))

    def _send(self, data: bytes) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(data, self._socket.getsockname())

    def _handle(self, event: dict[str, Any]) -> None:
        name, what = event["name"], event["event"]
        record = self._records[name]
        if what == "signalled":
            self._record_signal(record, event["fault"])
            return
        event = {**event, "at": round(event["at"] - self._began, 3)}
        record.events.append(event)
        if what == "observed":
            self._record_observation(record, event)
            return
        details = (str(event.get(key, "")) for key in ("outcome", "error", "message", "code"))
        self._record(name, what, " ".join(filter(None, details))[:200])
        if what == "invoked":
            self._invoked[name] = event
            late = _OUTLIVE_SECONDS if self._outlives_deadline(name) else _KILL_LATE_SECONDS
            ends = event["ends"] - self._began + late
            self._call_at(ends, lambda: self._kill_at_deadline(record, event), is_planned=False)
        else:
            self._invoked.pop(name, None)
        if what == "ended":
            self._processes[name].kill()  # it has ended; this collects it
            self._record_resumed(record)
            record.ended, record.exit_code = event["at"], event["code"]

    def _outlives_deadline(self, name: str) -> bool:
        kind, _, number = name.partition(" ")
        is_own = kind == "environment"
        return is_own and self._schedule.environments[int(number)].outlives_deadline

    def _kill_at_deadline(self, record: ProcessRecord, invocation: dict[str, Any]) -> None:
        if self._invoked.get(record.name, {}).get("at") == invocation["at"]:
            self._kill(record, "deadline")

    def _record_observation(self, record: ProcessRecord, event: dict[str, Any]) -> None:
        served = next(e for e in reversed(record.events) if e["event"] == "served")
        versions = event["versions"]
        self._evidence.observations.append(
            Observation(
                process=record.name,
                code_version=record.code_version,
                served_at=served["wall"],
                versions=None if versions is None else tuple(versions),
                indexes=tuple(event["indexes"] or ()),
                frozen_seconds=sum(until - since for since, until in record.frozen),
            )
        )

    # --- faults

    def _apply(self, fault: Fault) -> None:
        kind, seconds = fault.kind, fault.seconds
        slow = {
            "postgresql-restart": self._restart_postgresql,
            "postgresql-cut": self._terminate_connections,
            "dynamodb-item-lost": self._delete_item,
        }
        if kind in slow:
            thread = threading.Thread(target=slow[kind], daemon=True)
            self._threads.append(thread)
            thread.start()
        elif kind in ("kill", "freeze"):
            self._signal_target(fault, until=self._now + 1.5)
        elif kind.endswith("at-commit"):
            self._postgresql.on_next_commit(
                lambda: self._signal_owner(fault, self._dynamodb.owner or "")
            )
        elif kind.endswith("at-write"):
            self._dynamodb.on_next_write(lambda owner: self._signal_owner(fault, owner))
        elif kind == "postgresql-refused":
            self._postgresql.refuse(seconds)
        elif kind in ("postgresql-silent", "postgresql-stuck"):
            self._postgresql.silence(seconds, include_new_connections=kind == "postgresql-silent")
        elif kind in ("commit-unanswered", "takeover-unanswered"):
            self._postgresql.lose_response_to_next(kind.partition("-")[0])
        elif kind == "commit-late":
            self._postgresql.delay_next_commit(seconds)
        elif kind.startswith("granted-twice"):
            self._dynamodb.grant_twice(kind)
        else:
            self._dynamodb.inject(kind, seconds, fault.probability)

    def _restart_postgresql(self) -> None:
        self._record_fault("postgresql-restart", "")
        self._server.restart("immediate")

    def _terminate_connections(self) -> None:
        with contextlib.suppress(pg8000.native.Error, OSError):  # it is being restarted
            count = self._state.terminate_connections()
            if count:
                self._record_fault("postgresql-cut", f"{count} connections")

    def _delete_item(self) -> None:
        self._state.delete_item()
        self._dynamodb.lose_item()
        self._record_fault("dynamodb-item-lost", "")

    def _signal_target(self, fault: Fault, *, until: float) -> None:
        """Signal an environment; or the holder, as soon as there is one, for a short while."""
        name = f"environment {fault.target}"
        if fault.target == HOLDER:
            name = self._find_process(self._dynamodb.owner or "")
        record = self._records.get(name)
        if record is not None and record.ended is None:
            self._signal_for(fault, name)
            self._record_signal(record, fault)
        elif self._now < until:
            self._call_at(self._now + 0.03, lambda: self._signal_target(fault, until=until))

    def _signal_owner(self, fault: Fault, owner: str) -> None:
        """Signal the process of this owner at once. Called in the loop's thread."""
        name = self._find_process(owner)
        if name:
            self._signal_for(fault, name)
            self._events.put({"event": "signalled", "name": name, "fault": fault})

    def _signal_for(self, fault: Fault, name: str) -> None:
        self._record_fault(fault.kind, name)
        is_kill = fault.kind.startswith("kill")
        self._signal(name, signal.SIGKILL if is_kill else signal.SIGSTOP)

    def _record_signal(self, record: ProcessRecord, fault: Fault) -> None:
        if fault.kind.startswith("kill"):
            record.killed = record.killed or "fault"
        else:
            self._frozen.setdefault(record.name, self._now)
            self._call_at(self._now + fault.seconds, lambda: self._resume(record))

    def _find_process(self, owner: str) -> str:
        """Which process has this owner id: function/pid/random, see `new_owner`."""
        parts = owner.split("/")
        return self._names.get(int(parts[1]), "") if len(parts) == 3 else ""

    def _resume(self, record: ProcessRecord) -> None:
        self._record_resumed(record)
        self._record(record.name, "resumed")
        self._signal(record.name, signal.SIGCONT)

    def _record_resumed(self, record: ProcessRecord) -> None:
        since = self._frozen.pop(record.name, None)
        if since is not None:
            record.frozen.append((round(since, 3), round(self._now, 3)))

    # --- afterwards

    def _start_cold_afterwards(self) -> None:
        """Cold starts when all faults are over, without waiting for the pause after a failure."""
        if self._schedule.broken_version:
            self._state.clear_failure_pause()
            self._start_cold("new")
        self._start_cold("probe")
        self._start_cold("old")

    def _start_cold(self, code_version: str) -> None:
        """One cold start, with its limit: two leases, and the work that is left."""
        work = sum(spec.seconds for spec in self._schedule.migrations)
        limit = 2 * self._schedule.lease_seconds + work + _SLACK_SECONDS
        name, began = f"fresh {code_version}", self._now
        self._start(name, "serve", code_version=code_version, timeout=_COLD_START_SECONDS)
        record = self._records[name]
        while record.ended is None:
            self._process_next()
        ends = [e for e in record.events if e["event"] in ("served", "raised")]
        last: dict[str, Any] = ends[-1] if ends else {"at": self._now, "event": "killed"}
        self._evidence.cold_starts.append(
            ColdStartResult(
                code_version,
                str(last.get("error", last["event"])),
                round(last["at"] - began, 3),
                limit,
                str(last.get("message", "")),
            )
        )

    def _wait_for_connections(self, seconds: float) -> list[str]:
        """Connections of the library, once there are none or so much time has passed."""
        until = self._now + seconds
        while (found := self._state.connections()) and self._now < until:
            time.sleep(0.1)
        return found

    def _find_secrets(self) -> list[str]:
        logs = sorted(self._folder.glob("*.log"))
        texts = {path.name: path.read_text(errors="replace") for path in logs}
        texts["the lease table"] = "\n".join(self._dynamodb.written)
        texts["events"] = json.dumps([record.events for record in self._records.values()])
        return [
            f"{what} in {name}"
            for name, text in texts.items()
            for what, secret in SECRETS.items()
            if secret in text
        ]
