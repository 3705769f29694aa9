"""The kinds of cold start: each is set up separately, and measured in its own process."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from load.bench.migrations import MigrationSource, small_migrations
from load.bench.processes import MeasurementFailed, Process, ProcessResult, Program, run
from load.bench.tools import LAMBDA_MIGRATE
from load.bench.workspace import ROLE, Workspace
from load.profile.latency_relay import CertificateAuthority, open_relay

LEASE_SECONDS = 5
MEASURED = ("-m", "load.profile.measured_process")
_SECRET_NAME = "database"  # noqa: S105 - its name
_CREATE_COUNTER = "CREATE SEQUENCE tries; GRANT ALL ON SEQUENCE tries TO PUBLIC"
_SLOW_SCRIPT = "SELECT pg_sleep(CASE WHEN nextval('tries') = 1 THEN 2 ELSE 0 END)"
_IS_HOLDING = """
SELECT 1 FROM pg_stat_activity
WHERE pid <> pg_backend_pid() AND state = 'active' AND query LIKE '%pg_sleep(CASE%'
"""

KINDS: Mapping[str, int] = {
    "current": 7,
    "waiting": 5,
    "migrating one file": 7,
    "migrating 1,000 files": 3,
    "taking over": 2,
}
"""Each kind of cold start, and how many are measured."""

_Variables = Callable[[str], Mapping[str, str]]


class _SecretsManager(BaseHTTPRequestHandler):
    """Secrets Manager, as far as one secret that names the role goes."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answer GetSecretValue."""
        self.rfile.read(int(self.headers["Content-Length"]))
        secret = json.dumps({"username": ROLE, "password": "unused"})
        body = json.dumps({"Name": _SECRET_NAME, "SecretString": secret}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Write nothing."""


class ColdStartProfiler:
    """Servers behind relays that delay each round trip."""

    def __init__(
        self, workspace: Workspace, secrets_port: int, authority: CertificateAuthority
    ) -> None:
        self.workspace = workspace
        self._secrets_port = secrets_port
        self._authority = authority

    @classmethod
    @contextmanager
    def open(cls) -> Iterator[ColdStartProfiler]:
        """All servers running."""
        secrets = ThreadingHTTPServer(("127.0.0.1", 0), _SecretsManager)
        Thread(target=secrets.serve_forever, name="secrets", daemon=True).start()
        try:
            with Workspace.open() as workspace, CertificateAuthority.create() as authority:
                yield cls(workspace, secrets.server_port, authority)
        finally:
            secrets.shutdown()
            secrets.server_close()

    @contextmanager
    def delay_round_trips(self, seconds: float) -> Iterator[_Variables]:
        """The variables of a function, by database, when each round trip takes longer."""
        dynamodb = int(self.workspace.dynamodb.endpoint_url.rpartition(":")[2])
        tls = self._authority.server_context
        with (
            open_relay(dynamodb, tls=tls, delay_seconds=seconds) as lease_port,
            open_relay(self._secrets_port, delay_seconds=seconds) as secret_port,
            open_relay(self.workspace.server.port, delay_seconds=seconds) as database_port,
        ):

            def variables(database: str) -> Mapping[str, str]:
                url = f"postgresql://127.0.0.1:{database_port}/{database}?sslmode=disable"
                own = {
                    "AWS_CA_BUNDLE": str(self._authority.among_all),
                    "AWS_ENDPOINT_URL_DYNAMODB": f"https://127.0.0.1:{lease_port}",
                    "AWS_ENDPOINT_URL_SECRETS_MANAGER": f"http://127.0.0.1:{secret_port}",
                    "LAMBDA_MIGRATE_DATABASE_SECRET": _SECRET_NAME,
                    "LAMBDA_MIGRATE_DATABASE_URL": url,
                    "LAMBDA_MIGRATE_LEASE_SECONDS": str(LEASE_SECONDS),
                    "LAMBDA_MIGRATE_WAIT_SECONDS": "60",
                }
                common = self.workspace.environment(database).items()
                return {name: v for name, v in common if name != "DATABASE_URL"} | own

            yield variables

    def start(
        self,
        kind: str,
        variables: _Variables,
        command: Sequence[str] = (*MEASURED, "time"),
        prefix: Sequence[str] = (),
    ) -> tuple[ProcessResult, str]:
        """One cold start of a kind; its result, and its database, which is gone.

        Args:
            kind: Of `KINDS`.
            variables: The function's, by database.
            command: What the interpreter runs.
            prefix: What the interpreter's command is given to.
        """
        with self.workspace.new_database() as database:
            environment = variables(database)

            def program(count: int, *, slow: bool = False, measured: bool = True) -> Program:
                interpreter = (sys.executable, *(command if measured else (*MEASURED, "run")))
                whole = (*prefix, *interpreter) if measured else interpreter
                return Program(whole, self._project(count, slow=slow), environment)

            if kind == "migrating 1,000 files":
                return run(program(1000)), database
            run(program(50, measured=False))
            if kind in ("current", "migrating one file"):
                return run(program(50 if kind == "current" else 51)), database
            self.workspace.query(database, _CREATE_COUNTER)
            holder = program(50, slow=True, measured=False)
            with self._hold_lease(holder, is_killed=kind == "taking over"):
                return run(program(50, slow=True)), database

    def _project(self, count: int, *, slow: bool) -> Path:
        migrations = small_migrations(count)
        if slow:
            migrations.append(MigrationSource(count + 1, "slow", (_SLOW_SCRIPT,)))
        return self.workspace.project(LAMBDA_MIGRATE, migrations, "slow" if slow else "")

    @contextmanager
    def _hold_lease(self, program: Program, *, is_killed: bool) -> Iterator[None]:
        """Another process in the middle of a migration, or killed there."""
        with ExitStack() as stack:
            holder = Process(stack, program)
            while not self.workspace.query("postgres", _IS_HOLDING):
                if holder.has_ended():
                    raise MeasurementFailed(f"the holder did not migrate:\n{holder.read_output()}")
                time.sleep(0.01)
            if is_killed:
                holder.kill()
            yield
            holder.wait(0.0)


@contextmanager
def limit_cpu(share: float) -> Iterator[Sequence[str]]:
    """A command prefix that gives a process a share of one processor, by the kernel's quota.

    Raises:
        OSError: Control groups cannot be changed here: that takes root.
    """
    period = 20_000
    quota = max(1_000, round(share * period))
    version_1 = Path("/sys/fs/cgroup/cpu")
    parent = version_1 if version_1.is_dir() else Path("/sys/fs/cgroup")
    group = parent / f"lm-profile-{os.getpid()}"
    group.mkdir()
    try:
        if version_1.is_dir():
            (group / "cpu.cfs_period_us").write_text(str(period))
            (group / "cpu.cfs_quota_us").write_text(str(quota))
        else:
            (group / "cpu.max").write_text(f"{quota} {period}")
        yield ("sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "limited")
    finally:
        group.rmdir()
