"""One schedule while it runs: a task for each process and each fault, in the proxies' loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import InitVar, asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from lambda_migrate.local.runtime.fork_client import ForkedProcess
from lambda_migrate.local.servers.dynamodb import DynamoDBEndpoint
from load.bench.tools import TOOLS_BY_SOURCE
from load.chaos.dynamodb_proxy import DynamoDBProxy
from load.chaos.evidence import ChaosEvidence, ColdStartResult, Observation, ProcessRecord
from load.chaos.migrations import REFERENCE_DATABASE_SUFFIX, make_revision_id, write_migrations
from load.chaos.postgresql_proxy import PostgreSQLProxy
from load.chaos.schedule import HOLDER, Fault, Schedule
from load.chaos.service_state import LEASE_TABLE, SECRETS, ServiceState
from load.staging.database import find_schema_differences

if TYPE_CHECKING:
    from load.chaos.worker import Worker

_KILL_DELAY_SECONDS = 0.3  # Lambda's own kill comes slightly after the deadline
_OVERRUN_SECONDS = 8.0  # after its deadline: how long one that is not killed there may continue
_LOG_TAIL = 4_000  # characters
_ROLLBACK_SECONDS = 15.0
_COLD_START_SECONDS = 40.0
_HOLDER_WAIT_SECONDS = 1.5  # how long a fault waits for a holder that it can hit
_CHILD_WAIT_SECONDS = 4.0  # the same, of a holder that has a child process
_TOOL_START_SECONDS = 12.0  # what starting a tool adds to a cold start, on a loaded machine
_SLACK_SECONDS = 2.5  # what a loaded machine may add to a cold start that has a limit


@dataclass
class ChaosRun:
    """One schedule while it runs. Everything but the constructor belongs to the proxies' loop."""

    schedule: Schedule
    worker: Worker  # the servers, with a database for this run
    state: ServiceState  # that database and the item, past every fault
    folder: Path  # for logs and migration files
    stack: InitVar[contextlib.ExitStack]  # ends everything afterwards

    def __post_init__(self, stack: contextlib.ExitStack) -> None:
        self._evidence = ChaosEvidence(self.schedule)
        self._directories = write_migrations(self.schedule, self.folder)
        loop, record_fault = self.worker.loop, self._record_fault
        postgresql = PostgreSQLProxy(loop, self.worker.server.socket, record_fault)
        self._postgresql = stack.enter_context(postgresql)
        rng = random.Random(self.schedule.seed)  # noqa: S311 - repeatable on purpose
        dynamodb = DynamoDBProxy(loop, self.worker.dynamodb.endpoint_url, record_fault, rng=rng)
        self._dynamodb = stack.enter_context(dynamodb)
        self._socket = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        self._socket.bind(str(self.folder / "events.sock"))
        self._socket.setblocking(False)
        self._records: dict[str, ProcessRecord] = {}
        self._processes: dict[str, ForkedProcess] = {}
        stack.callback(self._kill_all)
        self._invocations: dict[str, dict[str, Any]] = {}
        self._frozen_since: dict[str, float] = {}
        self._outage_tasks: list[asyncio.Task[None]] = []
        self._observation_tasks: list[asyncio.Task[None]] = []
        self._began = time.monotonic()

    async def execute(
        self, before_final_state: Callable[[ServiceState, Path], None]
    ) -> ChaosEvidence:
        """From the first start to the final state."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._socket, self._receive_events)
        try:
            self._began = time.monotonic()
            traffic = asyncio.ensure_future(self._generate_traffic())
            faults = map(self._apply_fault, self.schedule.faults)
            await asyncio.gather(*self._start_processes(), *faults)
            traffic.cancel()
            self._clear_faults()
            leftover = await self._wait_for_disconnect(self.schedule.lease_seconds + 1.0)
            await self._run_final_cold_starts()
            await asyncio.gather(*self._observation_tasks)
        finally:
            loop.remove_reader(self._socket)
        await asyncio.to_thread(before_final_state, self.state, self._log_path("fresh probe"))
        connections = await self._wait_for_disconnect(1.5)
        evidence = self._evidence
        evidence.state = await asyncio.to_thread(self.state.read_state)
        evidence.state.leftover_connections = leftover
        evidence.state.connections = connections
        evidence.state.differences = await self._compare_with_reference()
        evidence.state.children = [
            f"{each.pid} {' '.join(each.info['cmdline'])}"
            for each in psutil.process_iter(["cmdline", "cwd"])
            if each.info["cmdline"] and Path(each.info["cwd"] or "/").is_relative_to(self.folder)
        ]
        evidence.state.secrets = self._find_leaked_secrets()
        evidence.processes = list(self._records.values())
        for record in evidence.processes:
            record.log = self._log_path(record.name).read_text(errors="replace")[-_LOG_TAIL:]
        evidence.timeline.sort()
        return evidence

    @property
    def _now(self) -> float:
        return time.monotonic() - self._began

    async def _sleep_until(self, at: float) -> None:
        await asyncio.sleep(max(0.0, at - self._now))

    def _log_path(self, name: str) -> Path:
        return self.folder / f"{name.replace(' ', '-')}.log"

    def _record_event(self, process: str, what: str, detail: str = "") -> None:
        self._evidence.timeline.append((round(self._now, 3), process, what, detail))

    def _record_fault(self, kind: str, detail: str = "") -> None:
        """Record that a fault took effect."""
        counts = self._evidence.fault_counts
        counts[kind] = counts.get(kind, 0) + 1
        self._record_event("faults", kind, detail)

    async def _generate_traffic(self) -> None:
        """Short transactions on the migrated table, one after another."""
        while self.schedule.has_traffic:
            await asyncio.to_thread(self.state.write_order)
            await asyncio.sleep(0.1)

    # --- processes

    def _start_processes(self) -> list[Coroutine[Any, Any, ProcessRecord]]:
        started = [
            self._run_process(f"environment {number}", "serve", **asdict(each))
            for number, each in enumerate(self.schedule.environments)
        ]
        if self.schedule.rollback is not None:
            job = {"timeout": _ROLLBACK_SECONDS, **asdict(self.schedule.rollback)}
            started.append(self._run_process("rollback", "roll back", code_version="new", **job))
        return started

    async def _run_process(
        self, name: str, role: str, *, code_version: str, at: float = 0.0, **job: Any
    ) -> ProcessRecord:
        """Start a process at its time, and wait for its end."""
        await self._sleep_until(at)
        clock_error = max(abs(job.get("clock_offset", 0.0)), abs(job.get("clock_jump", 0.0)))
        record = self._records[name] = ProcessRecord(name, code_version, clock_error)
        process = await self._fork(name, role, code_version, job)
        ended: Future[None] = Future()
        process.when_ended(lambda: ended.set_result(None))
        await asyncio.wrap_future(ended)
        self._receive_events()  # what it sent before
        process.kill()  # it has ended; this collects it
        self._invocations.pop(name, None)
        self._record_resume(record)
        record.ended, record.exit_code = round(self._now, 3), process.poll()
        self._record_event(name, "ended", str(record.exit_code))
        return record

    async def _fork(
        self, name: str, role: str, code_version: str, job: dict[str, Any]
    ) -> ForkedProcess:
        self._log_path(name).touch()  # it may be killed before it can
        process = await asyncio.to_thread(
            self.worker.fork_server.fork_call,
            "load.chaos.process:run",
            {
                "name": name,
                "role": role,
                **job,
                "entry_point": self.schedule.entry_point,
                "lease_seconds": self.schedule.lease_seconds,
                "events": self._socket.getsockname(),
            },
            variables=self._variables(code_version),
            directory=self.folder,
            log=self._log_path(name),
        )
        self._processes[name] = process
        return process

    def _variables(self, code_version: str) -> dict[str, str]:
        address = f"127.0.0.1:{self._postgresql.port}/{self.state.name}"
        url = f"postgresql://postgres:{SECRETS['password']}@{address}"
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            **DynamoDBEndpoint(self._dynamodb.url).variables(),
            "AWS_SECRET_ACCESS_KEY": SECRETS["secret key"],
            "AWS_SESSION_TOKEN": SECRETS["session token"],
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_LAMBDA_FUNCTION_NAME": "chaos",
            "LAMBDA_MIGRATE_TABLE": LEASE_TABLE,
            "LAMBDA_MIGRATE_TARGET": self.state.name,
            "LAMBDA_TASK_ROOT": str(self._directories[code_version]),
            "DATABASE_URL": url,
            **TOOLS_BY_SOURCE[self.schedule.source].variables,
            "LAMBDA_MIGRATE_LEASE_SECONDS": f"{max(5.0, self.schedule.lease_seconds):g}",
            "LAMBDA_MIGRATE_WAIT_SECONDS": "60",
            "LAMBDA_MIGRATE_FAILURE_PAUSE_SECONDS": "1",
            "POWERTOOLS_SERVICE_NAME": "chaos",
        }

    def _kill_all(self) -> None:
        for process in self._processes.values():
            process.kill()

    # --- events of processes

    def _receive_events(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                self._handle_event(json.loads(self._socket.recv(1 << 16)))

    def _handle_event(self, event: dict[str, Any]) -> None:
        name, what = event["name"], event["event"]
        record = self._records[name]
        event["at"] = round(event["at"] - self._began, 3)
        record.events.append(event)
        details = (str(event.get(key, "")) for key in ("outcome", "error", "message"))
        self._record_event(name, what, " ".join(filter(None, details))[:200])
        self._invocations.pop(name, None)
        if what == "served":
            observation = self._observe(record, event["wall"])
            self._observation_tasks.append(asyncio.ensure_future(observation))
        if what == "invoked":
            self._invocations[name] = event
            late = _OVERRUN_SECONDS if event["outlives"] else _KILL_DELAY_SECONDS
            asyncio.get_running_loop().call_later(
                event["ends"] - time.monotonic() + late, self._kill_at_deadline, record, event
            )

    def _kill_at_deadline(self, record: ProcessRecord, invocation: dict[str, Any]) -> None:
        if self._invocations.get(record.name) is invocation:
            record.killed = record.killed or "deadline"
            self._record_event(record.name, "killed", "deadline")
            self._processes[record.name].signal_group(signal.SIGKILL)

    async def _observe(self, record: ProcessRecord, served_at: float) -> None:
        """Record what the database holds when a process serves."""
        versions, indexes = await asyncio.to_thread(self.state.read_versions_and_indexes)
        frozen = sum(until - since for since, until in record.frozen)
        self._evidence.observations.append(
            Observation(record.name, record.code_version, served_at, versions, indexes, frozen)
        )

    # --- faults

    async def _apply_fault(self, fault: Fault) -> None:
        """Apply a fault at its time, or arm it there."""
        await self._sleep_until(fault.at)
        kind, seconds = fault.kind, fault.seconds
        postgresql, dynamodb = self._postgresql, self._dynamodb

        def signal_owner(owner: str | None) -> bool:
            return self._signal_process(fault, self._find_process(owner))

        if kind == "postgresql-restart":
            self._record_fault(kind)
            await asyncio.to_thread(self.worker.server.restart, "immediate")
        elif kind == "postgresql-cut":
            if count := await asyncio.to_thread(self.state.terminate_connections):
                self._record_fault(kind, f"{count} connections")
        elif kind == "dynamodb-item-lost":
            await asyncio.to_thread(self.state.client.delete_item, **self.state.lease_key)
            dynamodb.record_item_deletion()
            self._record_fault(kind)
        elif kind in ("kill", "freeze"):
            await self._signal_target(fault)
        elif kind.endswith("at-commit"):
            postgresql.on_next_commit.append(lambda: signal_owner(dynamodb.owner))
        elif kind.endswith("at-write"):
            dynamodb.on_next_write.append(signal_owner)
        elif kind == "postgresql-refused":
            self._start_outage(postgresql.refuse_connections(seconds))
        elif kind in ("postgresql-silent", "postgresql-stuck"):
            is_all = kind == "postgresql-silent"
            self._start_outage(postgresql.pause_traffic(seconds, include_new_connections=is_all))
        elif kind in ("commit-unanswered", "takeover-unanswered"):
            postgresql.lost_responses.append(kind.partition("-")[0])
        elif kind == "commit-late":
            postgresql.commit_delays.append(seconds)
        elif kind.startswith("granted-twice"):
            dynamodb.arm_double_grant(kind)
        else:
            dynamodb.inject_fault(kind, seconds, fault.probability)

    def _start_outage(self, outage: Coroutine[Any, Any, None]) -> None:
        self._outage_tasks.append(asyncio.ensure_future(outage))

    def _clear_faults(self) -> None:
        for outage in self._outage_tasks:
            outage.cancel()
        self._postgresql.clear_faults()
        self._dynamodb.clear_faults()

    async def _signal_target(self, fault: Fault) -> None:
        """Signal an environment; or the holder, as soon as there is one, for a short while."""
        wait = _CHILD_WAIT_SECONDS if fault.signalled_processes else _HOLDER_WAIT_SECONDS
        until = self._now + wait
        while self._now < until:
            is_holder = fault.target == HOLDER
            holder = self._find_process(self._dynamodb.owner)
            if self._signal_process(fault, holder if is_holder else f"environment {fault.target}"):
                return
            await asyncio.sleep(0.03)

    def _signal_process(self, fault: Fault, name: str) -> bool:
        """Kill or freeze a process; False if it does not run."""
        record = self._records.get(name)
        if record is None or record.ended is not None or name not in self._processes:
            return False
        children: list[int] = []
        if fault.signalled_processes:
            with contextlib.suppress(psutil.Error):
                pid = self._processes[name].pid
                children = [each.pid for each in psutil.Process(pid).children()]
        if fault.signalled_processes and not children:
            return False
        is_kill = fault.kind.startswith("kill")
        signal_number = signal.SIGKILL if is_kill else signal.SIGSTOP
        self._record_fault(f"{fault.kind} {fault.signalled_processes}".strip(), name)
        if fault.signalled_processes != "child":
            if is_kill:
                record.killed = record.killed or "fault"
            else:
                self._frozen_since.setdefault(name, self._now)
            self._processes[name].signal_group(signal_number)
        _signal_groups(children, signal_number)
        if not is_kill:
            resume = partial(self._resume, record, children)
            asyncio.get_running_loop().call_later(fault.seconds, resume)
        return True

    def _find_process(self, owner: str | None) -> str:
        """Which process has this owner id: function/pid/random, see `make_owner`."""
        pid = (owner or "").partition("/")[2].partition("/")[0]
        # Also of one that has ended: an item's owner may be long dead.
        return next((name for name, one in self._processes.items() if str(one.pid) == pid), "")

    def _resume(self, record: ProcessRecord, children: Sequence[int]) -> None:
        _signal_groups(children, signal.SIGCONT)
        if record.ended is None:
            self._record_resume(record)
            self._record_event(record.name, "resumed")
            self._processes[record.name].signal_group(signal.SIGCONT)

    def _record_resume(self, record: ProcessRecord) -> None:
        since = self._frozen_since.pop(record.name, None)
        if since is not None:
            record.frozen.append((round(since, 3), round(self._now, 3)))

    # --- afterwards

    async def _run_final_cold_starts(self) -> None:
        """Cold starts when all faults are over, without waiting for the pause after a failure."""
        if self.schedule.broken_version:
            await asyncio.to_thread(self.state.clear_failure_pause)
            await self._run_cold_start("new")
        if self.schedule.source != "sql":  # a child that was killed has failed
            await asyncio.to_thread(self.state.clear_failure_pause)
        await self._run_cold_start("probe")
        if self._evidence.cold_starts[-1].outcome == "RepairRequired":
            self._evidence.cold_starts.pop()
            await self._repair()
            await self._run_cold_start("probe")
        # It costs a child process of a tool: not in every round.
        if self.schedule.source == "sql" or self.schedule.seed % 3 == 0:
            await self._run_cold_start("old")

    async def _repair(self) -> None:
        """Resolve a migration of a tool as a person does: reverse it, and declare it pending."""
        repair = await asyncio.to_thread(self.state.remove_committed_part)
        self._evidence.repairs.append(repair)
        revision = make_revision_id(self.schedule.source, repair.version)
        await self._run_process(
            "repair", "repair", code_version="new", version=revision, timeout=_COLD_START_SECONDS
        )
        await asyncio.to_thread(self.state.clear_failure_pause)

    async def _compare_with_reference(self) -> list[str]:
        """The lines more (``+``) and fewer (``-``) than in a database of the tool alone."""
        if self.schedule.source == "sql":
            return []
        server, read = self.worker.server, self.state.read_schema
        name = self.state.name + REFERENCE_DATABASE_SUFFIX
        await asyncio.to_thread(server.create_database, name)
        try:
            await self._run_process(
                "tool alone", "migrate reference database", code_version="probe"
            )
            ours = await asyncio.to_thread(read, self.state.name)
            alone = await asyncio.to_thread(read, name)
        finally:
            await asyncio.to_thread(server.drop_database, name)
        return find_schema_differences(alone, ours)

    async def _run_cold_start(self, code_version: str) -> None:
        """One cold start, with its limit: two leases, and the work that is left."""
        work = sum(spec.seconds for spec in self.schedule.migrations)
        limit = 2 * self.schedule.lease_seconds + work + _SLACK_SECONDS
        limit += _TOOL_START_SECONDS if self.schedule.source != "sql" else 0.0
        began = self._now
        record = await self._run_process(
            f"fresh {code_version}", "serve", code_version=code_version, timeout=_COLD_START_SECONDS
        )
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

    async def _wait_for_disconnect(self, seconds: float) -> list[str]:
        """Connections of the library, once there are none or so much time has passed."""
        until = self._now + seconds
        while (found := await asyncio.to_thread(self.state.list_connections)) and self._now < until:
            await asyncio.sleep(0.1)
        return found

    def _find_leaked_secrets(self) -> list[str]:
        logs = sorted(self.folder.glob("*.log"))
        texts = {path.name: path.read_text(errors="replace") for path in logs}
        texts["the lease table"] = "\n".join(self._dynamodb.write_requests)
        texts["events"] = json.dumps([record.events for record in self._records.values()])
        return [
            f"{what} in {name}"
            for name, text in texts.items()
            for what, secret in SECRETS.items()
            if secret in text
        ]


def _signal_groups(pids: Sequence[int], signal_number: int) -> None:
    """Signal child processes, each of which leads a group."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal_number)
