"""The kinds of cold start: each is set up anew, and measured in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from load.bench.migrations import Change, small
from load.bench.output import read_figures
from load.bench.peers import LAMBDA_MIGRATE
from load.bench.processes import ProcessResult, Program, run
from load.bench.workspace import ROLE, Workspace
from load.profile.relay import Authority, open_relay

__all__ = ["KINDS", "Bench", "limited_cpu", "measure_phases"]

LEASE_SECONDS = 5
_HELD_SECONDS = 2
_SECRET = "database"  # noqa: S105 - its name
_MEASURED = ("-m", "load.profile.measured")
_IS_HOLDING = """
SELECT 1 FROM pg_stat_activity
WHERE pid <> pg_backend_pid() AND state = 'active' AND query LIKE '%pg_sleep(CASE%'
"""
_COUNT_TRIES = "CREATE SEQUENCE tries; GRANT ALL ON SEQUENCE tries TO PUBLIC"

KINDS: Mapping[str, int] = {
    "current": 7,
    "waiting": 5,
    "migrating one file": 7,
    "migrating 1,000 files": 3,
    "taking over": 2,
}
"""Each kind of cold start, and how many are measured."""


class _Secrets(BaseHTTPRequestHandler):
    """Secrets Manager, as far as one secret that names the role goes."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answer GetSecretValue."""
        self.rfile.read(int(self.headers["Content-Length"]))
        secret = json.dumps({"username": ROLE, "password": "unused"})
        body = json.dumps({"Name": _SECRET, "SecretString": secret}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Write nothing."""


class Bench:
    """Servers behind relays that delay each round trip."""

    def __init__(self, workspace: Workspace, secrets_port: int, authority: Authority) -> None:
        self.workspace = workspace
        self._secrets_port = secrets_port
        self._authority = authority

    @classmethod
    @contextmanager
    def open(cls) -> Iterator[Bench]:
        """All servers running."""
        secrets = ThreadingHTTPServer(("127.0.0.1", 0), _Secrets)
        Thread(target=secrets.serve_forever, name="secrets", daemon=True).start()
        try:
            with Workspace() as workspace, Authority.create() as authority:
                yield cls(workspace, secrets.server_port, authority)
        finally:
            secrets.shutdown()
            secrets.server_close()

    @contextmanager
    def delayed(self, seconds: float) -> Iterator[Callable[[str], dict[str, str]]]:
        """The variables of a function, by database, when each round trip takes longer."""
        dynamodb = int(self.workspace.dynamodb.endpoint_url.rpartition(":")[2])
        tls = self._authority.server
        with (
            open_relay(dynamodb, tls=tls, delay_seconds=seconds) as lease_port,
            open_relay(self._secrets_port, delay_seconds=seconds) as secret_port,
            open_relay(self.workspace.server.port, delay_seconds=seconds) as database_port,
        ):
            url = f"postgresql://127.0.0.1:{database_port}"

            def variables(database: str) -> dict[str, str]:
                found = dict(self.workspace.environment(database))
                del found["DATABASE_URL"]
                return found | {
                    "AWS_CA_BUNDLE": str(self._authority.among_all),
                    "AWS_ENDPOINT_URL_DYNAMODB": f"https://127.0.0.1:{lease_port}",
                    "AWS_ENDPOINT_URL_SECRETS_MANAGER": f"http://127.0.0.1:{secret_port}",
                    "LAMBDA_MIGRATE_DATABASE_SECRET": _SECRET,
                    "LAMBDA_MIGRATE_DATABASE_URL": f"{url}/{database}?sslmode=disable",
                    "LAMBDA_MIGRATE_LEASE_SECONDS": str(LEASE_SECONDS),
                    "LAMBDA_MIGRATE_WAIT_SECONDS": "60",
                }

            yield variables

    def start(
        self,
        kind: str,
        variables: Callable[[str], Mapping[str, str]],
        command: Sequence[str] = (*_MEASURED, "time"),
        before: Sequence[str] = (),
    ) -> ProcessResult:
        """One cold start of a kind.

        Args:
            kind: Of `KINDS`.
            variables: The function's, by database.
            command: What the interpreter runs.
            before: What the interpreter's command is given to.
        """
        database = self.workspace.new_database()
        environment = variables(database)

        def program(changes: int, slow: bool = False) -> Program:
            directory = self._project(changes, slow=slow)
            return Program((*before, sys.executable, *command), directory, environment)

        def other(changes: int, *, slow: bool = False) -> Program:
            plain = (sys.executable, *_MEASURED, "run")
            return Program(plain, self._project(changes, slow=slow), environment)

        try:
            if kind == "current":
                run(other(50))
                return run(program(50))
            if kind == "migrating one file":
                run(other(50))
                return run(program(51))
            if kind == "migrating 1,000 files":
                return run(program(1000))
            run(other(50))
            self.workspace.query(database, _COUNT_TRIES)
            with self._holder(other(50, slow=True), killed=kind == "taking over"):
                return run(program(50, slow=True))
        finally:
            self.workspace.drop_database(database)

    def _project(self, count: int, *, slow: bool) -> Path:
        changes = small(count)
        if slow:
            sleep = (
                f"SELECT pg_sleep(CASE WHEN nextval('tries') = 1 THEN {_HELD_SECONDS} ELSE 0 END)"
            )
            changes += [Change(count + 1, "slow", (sleep,))]
        return self.workspace.project(LAMBDA_MIGRATE, f"profile-{count}-{slow}", changes)

    @contextmanager
    def _holder(self, program: Program, *, killed: bool) -> Iterator[None]:
        """Another process in the middle of a migration, or killed there."""
        process = subprocess.Popen(
            program.command,
            cwd=program.directory,
            env=dict(program.environment),
            stdout=subprocess.DEVNULL,
        )
        try:
            while not self.workspace.query("postgres", _IS_HOLDING):
                if process.poll() is not None:
                    raise RuntimeError("the holder ended before it migrated")
                time.sleep(0.01)
            if killed:
                process.kill()
            yield
            process.wait(60)
        finally:
            process.kill()
            process.wait()


def measure_phases(
    bench: Bench, kind: str, *, delay_seconds: float, rounds: int, what: str = "time"
) -> list[dict[str, list[float]]]:
    """The figures of each phase, for each of several starts."""
    with bench.delayed(delay_seconds) as variables:
        command = (*_MEASURED, what)
        runs = [bench.start(kind, variables, command) for _ in range(rounds + 1)]
    return [read_figures(one.output) for one in runs[1:]]


@contextmanager
def limited_cpu(share: float) -> Iterator[Sequence[str]]:
    """A command prefix that gives a process a share of one processor, by the kernel's quota.

    Raises:
        OSError: Control groups cannot be changed here: that takes root.
    """
    period = 20_000
    quota = max(1_000, round(share * period))
    first = Path("/sys/fs/cgroup/cpu")
    group = (first if first.is_dir() else Path("/sys/fs/cgroup")) / f"lm-profile-{os.getpid()}"
    group.mkdir()
    try:
        if first.is_dir():
            (group / "cpu.cfs_period_us").write_text(str(period))
            (group / "cpu.cfs_quota_us").write_text(str(quota))
        else:
            (group / "cpu.max").write_text(f"{quota} {period}")
        yield ("sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "limited")
    finally:
        group.rmdir()
