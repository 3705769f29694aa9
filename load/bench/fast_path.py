"""What the check costs a fresh process when the schema is current: processor time and memory.

Measured as in AWS: above Lambda's own runtime client, and over TLS. The processor time is taken
within each process, from the end of its baseline on.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from load.bench import tools
from load.bench.processes import Program, read_figures, run, run_alternating
from load.bench.results import Limit, Section, Table, compute_ratios, format_number, format_spread
from load.bench.tools import make_small_migrations
from load.bench.workspace import LEASE_TABLE, Workspace
from load.profile.tcp_proxy import make_certificate_authority, open_proxy

_MIGRATIONS = make_small_migrations(50)  # all of them applied

_MEASURED_CODE = """{baseline}
import time
started = time.process_time()
{code}
cpu = time.process_time() - started
from load.bench.processes import print_figures
with open("/proc/self/status") as status:
    peak = next(line.split()[1] for line in status if line.startswith("VmHWM"))
print_figures({{"cpu_ms": cpu * 1000, "peak_mb": int(peak) / 1024}})
"""

# What Lambda has imported in every function before it imports the handler's module.
_RUNTIME_CODE = "import awslambdaric.bootstrap"
# What a usual service has imported anyway.
_SERVICE_CODE = f"""{_RUNTIME_CODE}
import dataclasses, decimal, hashlib, json, logging, typing, urllib.parse, uuid
import boto3
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.event_handler import APIGatewayRestResolver
logger, metrics, app = Logger(), Metrics(namespace="shop"), APIGatewayRestResolver()
del app
"""
_BASELINES = {"the bare runtime": _RUNTIME_CODE, "a usual service": _SERVICE_CODE}

_BOTO3_CODE = f"""import boto3
client = boto3.client("dynamodb")
client.get_item(TableName={LEASE_TABLE!r}, Key={{"target": {{"S": "absent"}}}})"""
_TLS_CODE = "import os, ssl\nssl.create_default_context(cafile=os.environ['AWS_CA_BUNDLE'])"
_CODE_OVER_TLS = {
    "lambda-migrate": tools.LAMBDA_MIGRATE.code,
    "boto3: client and get_item": _BOTO3_CODE,
    "TLS alone": _TLS_CODE,
}
_WITH_OTHER_SOURCES = {
    each.title: each for each in (tools.LAMBDA_MIGRATE_ALEMBIC, tools.LAMBDA_MIGRATE_DJANGO)
}
_IMPORT, _IMPORT_BOTO3 = "import lambda_migrate, decorate", "import boto3"

_Figures = Mapping[str, Sequence[float]]


def measure(workspace: Workspace, *, rounds: int) -> Section:
    """Import, check and serve, against boto3's one read and other tools with nothing to do."""
    port = int(workspace.dynamodb.endpoint_url.rpartition(":")[2])
    with ExitStack() as stack:
        authority = stack.enter_context(make_certificate_authority())
        tls_port = stack.enter_context(open_proxy(port, tls=authority.server_context))
        programs, databases = {}, {}
        for title, tool in {**tools.TOOLS, **_WITH_OTHER_SOURCES}.items():
            databases[title] = database = stack.enter_context(workspace.create_database())
            project = workspace.make_project(tool, _MIGRATIONS)
            run(workspace.make_program(tool, project, database))
            command = None if tool.program else _make_command(_RUNTIME_CODE, tool.code)
            programs[title] = workspace.make_program(tool, project, database, command)
        own = programs[tools.LAMBDA_MIGRATE.title]
        programs[_IMPORT] = own._replace(command=_make_command(_RUNTIME_CODE, "import app"))
        programs[_IMPORT_BOTO3] = own._replace(command=_make_command(_RUNTIME_CODE, "import boto3"))
        variables = {
            **own.variables,
            "AWS_ENDPOINT_URL_DYNAMODB": f"https://127.0.0.1:{tls_port}",
            "AWS_CA_BUNDLE": str(authority.own_bundle),
        }
        for base, imports in _BASELINES.items():
            for what, code in _CODE_OVER_TLS.items():
                command = _make_command(imports, code)
                programs[f"{what} in {base}"] = Program(command, own.directory, variables)
        before = {name: _count_sessions(workspace, each) for name, each in databases.items()}
        results = run_alternating(programs, rounds=rounds)
        connections = {
            name: (_count_sessions(workspace, each) - before[name]) / (rounds + 1)
            for name, each in databases.items()
        }
    printed = {
        name: [read_figures(one.output) for one in each]
        for name, each in results.items()
        if name != tools.DBMATE.title  # a program of its own, whose whole processor time is counted
    }
    cpu = {name: [one["cpu_ms"] for one in each] for name, each in printed.items()}
    cpu[tools.DBMATE.title] = [one.cpu_seconds * 1000 for one in results[tools.DBMATE.title]]
    peaks = {name: [one["peak_mb"] for one in each] for name, each in printed.items()}
    return _make_section(cpu, peaks, connections)


def _make_command(baseline: str, code: str) -> Sequence[str]:
    return (sys.executable, "-c", _MEASURED_CODE.format(baseline=baseline, code=code))


def _count_sessions(workspace: Workspace, database: str) -> int:
    """How many connections were ever made to a database; those still open are not counted."""
    statistics_of = f"SELECT sessions FROM pg_stat_database WHERE datname = '{database}'"  # noqa: S608 - our own name
    [[count]] = workspace.server.execute(statistics_of, "postgres")
    return int(count)


def _make_section(cpu: _Figures, peaks: _Figures, connections: Mapping[str, float]) -> Section:
    own, boto3, tls = _CODE_OVER_TLS
    what, client = "processor time that import, check and serve add", "boto3.client(...).get_item"
    compared = [
        (f"to {base} / what {client} adds to it", limit, f"{own} in {base}", f"{boto3} in {base}")
        for base, limit in zip(_BASELINES, (0.15, 0.1), strict=True)
    ]
    for limit, ours, other, how in (
        (0.12, tools.LAMBDA_MIGRATE, tools.ALEMBIC, "both without TLS"),
        (0.4, tools.LAMBDA_MIGRATE, tools.YOYO, "both without TLS"),
        (0.15, tools.LAMBDA_MIGRATE_ALEMBIC, tools.ALEMBIC, "on the same project"),
        (0.15, tools.LAMBDA_MIGRATE_DJANGO, tools.DJANGO, "on the same project"),
    ):
        text = f"/ what {other.title} with nothing to do adds, {how}"
        compared.append((text, limit, ours.title, other.title))
    limits = [
        Limit(f"{what} {text}", limit, compute_ratios(cpu[ours], cpu[other]))
        for text, limit, ours, other in compared
    ]
    limits += [
        Limit(f"PostgreSQL connections of one fast path, {title}", 0, [connections[title]])
        for title in (tools.LAMBDA_MIGRATE.title, *_WITH_OTHER_SOURCES)
    ]
    base = next(iter(_BASELINES))
    both = zip(peaks[f"{own} in {base}"], peaks[f"{tls} in {base}"], strict=True)
    memory = [with_check - without for with_check, without in both]
    imports = "processor time of the import with the decorator applied / of import boto3"
    limits += [
        Limit(f"peak memory that the check adds to {base} with a TLS context", 3, memory, "MB"),
        Limit(imports, 0.1, compute_ratios(cpu[_IMPORT], cpu[_IMPORT_BOTO3])),
    ]
    rows = [
        (
            name,
            format_spread(cpu[name]),
            format_spread(peaks.get(name, [])),
            format_number(connections.get(name, 0)),
        )
        for name in sorted(cpu, key=lambda name: statistics.median(cpu[name]))
    ]
    header = ("process", "CPU ms added", "peak memory, MB", "PostgreSQL connections")
    return Section(limits, [Table(header, rows)])
