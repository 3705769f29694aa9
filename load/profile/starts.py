"""The kinds of cold start: each is set up separately, and measured in its own process."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lambda_migrate.local.runtime.loop_thread import LoopThread
from lambda_migrate.local.runtime.plain_http import (
    LocalHTTPRequest,
    LocalHTTPResponse,
    LocalHTTPServer,
    json_response,
)
from lambda_migrate.local.servers.dynamodb import DynamoDBEndpoint
from load.bench.processes import ProcessResult, Program, read_figures, run
from load.bench.tools import LAMBDA_MIGRATE, SLEEPING_SQL, MigrationSource, make_small_migrations
from load.bench.workspace import LEASE_TABLE, ROLE, Workspace, wait_until
from load.profile.tcp_proxy import CertificateAuthority, make_certificate_authority, open_proxy

LEASE_SECONDS = 5
MEASURED_PROCESS = ("-m", "load.profile.measured_process")
_SECRET_NAME = "database"  # noqa: S105 - its name
_CREATE_COUNTER_SQL = "CREATE SEQUENCE tries; GRANT ALL ON SEQUENCE tries TO PUBLIC"
_SLOW_SCRIPT = "SELECT pg_sleep(CASE WHEN nextval('tries') = 1 THEN 2 ELSE 0 END)"
_COUNT_CONNECTIONS_AND_LOCKS_SQL = """
SELECT (SELECT count(*) FROM pg_stat_activity
        WHERE datname LIKE 'bench%' AND backend_type = 'client backend'),
       (SELECT count(*) FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database
        WHERE d.datname LIKE 'bench%')
"""
MEMORY_SIZES = (128, 512, 1_769)  # megabytes; at the last one Lambda gives a whole processor

ROUNDS_BY_KIND: Mapping[str, int] = {
    "current": 7,
    "waiting": 5,
    "migrating one file": 7,
    "migrating 1,000 files": 3,
    "taking over": 2,
}
"""Each kind of cold start, and how many are measured."""


async def _serve_secret(_request: LocalHTTPRequest) -> LocalHTTPResponse:
    """Secrets Manager, as far as one secret that names the role goes."""
    secret = json.dumps({"username": ROLE, "password": "unused"})
    return json_response({"Name": _SECRET_NAME, "SecretString": secret})


@dataclass(frozen=True, slots=True)
class ColdStartProfiler:
    """Servers behind proxies that delay each round trip."""

    workspace: Workspace
    secrets_port: int
    authority: CertificateAuthority

    @classmethod
    @contextmanager
    def open(cls, dynamodb: DynamoDBEndpoint | None = None) -> Iterator[ColdStartProfiler]:
        """All servers running."""
        secrets = LocalHTTPServer(_serve_secret)
        with (
            Workspace.open(dynamodb) as workspace,
            make_certificate_authority() as authority,
            LoopThread("secrets") as loop,
        ):
            address = loop.run(secrets.open())
            yield cls(workspace, int(address.rpartition(":")[2]), authority)
            loop.run(secrets.close())

    def measure(
        self,
        kind: str,
        command: Sequence[str] = (*MEASURED_PROCESS, "time"),
        *,
        delay_seconds: float = 0.0,
        prefix: Sequence[str] = (),
    ) -> tuple[ProcessResult, str]:
        """One cold start of a kind; its result, and its database, which is gone.

        The interpreter runs ``command``; its own command is given to the program ``prefix``.
        """
        with (
            self.workspace.create_database() as database,
            self._open_proxies(database, delay_seconds) as variables,
        ):
            whole = (*prefix, sys.executable, *command)
            if kind == "migrating 1,000 files":
                return run(Program(whole, self._make_project(1000), variables)), database
            migrating = (sys.executable, *MEASURED_PROCESS, "run")
            run(Program(migrating, self._make_project(50), variables))
            if kind in ("current", "migrating one file"):
                project = self._make_project(50 if kind == "current" else 51)
                return run(Program(whole, project, variables)), database
            self.workspace.server.execute(_CREATE_COUNTER_SQL, database)
            with self._hold_lease(variables, is_killed=kind == "taking over"):
                return run(Program(whole, self._make_project(50, slow=True), variables)), database

    def _make_project(self, count: int, *, slow: bool = False) -> Path:
        migrations = make_small_migrations(count)
        if slow:
            migrations.append(MigrationSource(count + 1, "slow", (_SLOW_SCRIPT,)))
        return self.workspace.make_project(LAMBDA_MIGRATE, migrations, "slow" * slow)

    @contextmanager
    def _open_proxies(self, database: str, delay_seconds: float) -> Iterator[Mapping[str, str]]:
        """The variables of a function whose round trips take longer."""
        dynamodb = int(self.workspace.dynamodb.endpoint_url.rpartition(":")[2])
        tls = self.authority.server_context
        with (
            open_proxy(dynamodb, tls=tls, delay_seconds=delay_seconds) as lease_port,
            open_proxy(self.secrets_port, delay_seconds=delay_seconds) as secret_port,
            open_proxy(self.workspace.server.port, delay_seconds=delay_seconds) as database_port,
        ):
            url = f"postgresql://127.0.0.1:{database_port}/{database}?sslmode=disable"
            common = self.workspace.variables(database)
            yield {name: value for name, value in common.items() if name != "DATABASE_URL"} | {
                "AWS_CA_BUNDLE": str(self.authority.full_bundle),
                "AWS_ENDPOINT_URL_DYNAMODB": f"https://127.0.0.1:{lease_port}",
                "AWS_ENDPOINT_URL_SECRETS_MANAGER": f"http://127.0.0.1:{secret_port}",
                "LAMBDA_MIGRATE_DATABASE_SECRET": _SECRET_NAME,
                "LAMBDA_MIGRATE_DATABASE_URL": url,
                "LAMBDA_MIGRATE_LEASE_SECONDS": str(LEASE_SECONDS),
                "LAMBDA_MIGRATE_WAIT_SECONDS": "60",
            }

    @contextmanager
    def _hold_lease(self, variables: Mapping[str, str], *, is_killed: bool) -> Iterator[None]:
        """Another process in the middle of a migration, or killed there."""
        project = self._make_project(50, slow=True)
        with self.workspace.make_function(LAMBDA_MIGRATE, project, variables) as holder:
            holder.submit()
            database = variables["LAMBDA_MIGRATE_TARGET"]
            query = partial(self.workspace.server.execute, SLEEPING_SQL, database)
            wait_until(holder, query, "the holder did not begin to migrate")
            if is_killed:
                os.kill(holder.environments()[0].pid, signal.SIGKILL)
            yield


@contextmanager
def limit_cpu(share: float) -> Iterator[Sequence[str]]:
    """A command prefix that gives a process a share of one processor; an OSError without root."""
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


def measure_limited_cpu(profiler: ColdStartProfiler, kind: str) -> dict[int, float]:
    """Wall seconds of a start with the processor share of each memory size."""
    found = {}
    for size in MEMORY_SIZES:
        with limit_cpu(size / MEMORY_SIZES[-1]) as prefix:
            result, _ = profiler.measure(kind, prefix=prefix)
        found[size] = sum(wall for _, wall in read_figures(result.output).values())
    return found


def measure_holder(profiler: ColdStartProfiler, kind: str) -> Sequence[int]:
    """Connections and locks at most during a start, and the bytes of the state item after it."""
    workspace = profiler.workspace
    with workspace.sample_query(_COUNT_CONNECTIONS_AND_LOCKS_SQL) as samples:
        _, database = profiler.measure(kind)
    key = {"target": {"S": database}}
    item = workspace.dynamodb.client().get_item(TableName=LEASE_TABLE, Key=key, ConsistentRead=True)
    return (*map(max, zip(*samples, strict=True)), count_item_bytes({"M": item["Item"]}))


def count_item_bytes(value: Mapping[str, Any]) -> int:
    """Bytes of a DynamoDB value, as its Developer Guide counts them."""
    ((kind, content),) = value.items()
    if kind == "M":
        return 3 + sum(1 + len(name) + count_item_bytes(each) for name, each in content.items())
    if kind == "L":
        return 3 + sum(1 + count_item_bytes(each) for each in content)
    if kind == "N":
        return len(content) // 2 + 1
    return len(content) if kind in ("S", "B") else 1
