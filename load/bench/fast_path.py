"""What the check costs a fresh process when the schema is current: processor time and memory.

Measured as in AWS: above Lambda's own runtime client, and over TLS. The processor time is taken
within each process, from the end of its baseline on.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from load.bench.charts import draw_bars
from load.bench.figures import format_number, format_spread, ratios, spread
from load.bench.migrations import simple
from load.bench.output import read_figures
from load.bench.peers import ALEMBIC, BY_HAND, DBMATE, DJANGO, LAMBDA_MIGRATE, YOYO
from load.bench.processes import Program, run_alternating
from load.bench.results import Check, Section, Table, check_spread
from load.bench.workspace import TABLE, Workspace
from load.profile.relay import Authority, open_relay

__all__ = ["RUNTIME", "SERVICE", "measure_check", "measure_import"]

MIGRATIONS = 50
"""How many there are, all of them applied."""

RUNTIME = "import awslambdaric.bootstrap"
"""What Lambda has imported in every function before it imports the handler's module."""

SERVICE = f"""{RUNTIME}
import dataclasses, decimal, hashlib, json, logging, typing, urllib.parse, uuid
import boto3
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.event_handler import APIGatewayRestResolver
logger, metrics, app = Logger(), Metrics(namespace="shop"), APIGatewayRestResolver()
del app
"""
"""What a usual service has imported anyway."""

_MEASURED = """{base}
import time
started = time.process_time()
{code}
cpu = time.process_time() - started
from load.bench.output import print_figures
with open("/proc/self/status") as status:
    peak = next(line.split()[1] for line in status if line.startswith("VmHWM"))
print_figures({{"cpu_ms": cpu * 1000, "peak_mb": int(peak) / 1024}})
"""

_LAMBDA_MIGRATE_PROGRAM = "import app\napp.handler({}, app.Context())"
_BOTO3 = f"""import boto3
client = boto3.client("dynamodb")
client.get_item(TableName={TABLE!r}, Key={{"target": {{"S": "absent"}}}})"""
_TLS = "import os, ssl\nssl.create_default_context(cafile=os.environ['AWS_CA_BUNDLE'])"

_CHECK, _CLIENT = "lambda-migrate", "boto3: client and get_item"
_RUNTIME, _SERVICE = "the bare runtime", "a usual service"
_BASES = {_RUNTIME: RUNTIME, _SERVICE: SERVICE}
_PEERS = {
    ALEMBIC.title: ALEMBIC,
    YOYO.title: YOYO,
    DJANGO.title: DJANGO,
    "a pg8000 script": BY_HAND,
    DBMATE.title: DBMATE,
}

Figures = Mapping[str, Sequence[float]]


def measure_check(workspace: Workspace, *, rounds: int) -> Section:
    """Import, check and serve, against boto3's one read and the peers with nothing to do."""
    with Authority.create() as authority:
        port = int(workspace.dynamodb.endpoint_url.rpartition(":")[2])
        with open_relay(port, tls=authority.server) as tls_port:
            variables = {"AWS_ENDPOINT_URL_DYNAMODB": f"https://127.0.0.1:{tls_port}"}
            bundles = {"": authority.only, ", all authorities": authority.among_all}
            programs = _programs(
                workspace,
                {k: variables | {"AWS_CA_BUNDLE": str(v)} for k, v in bundles.items()},
            )
            before = _sessions(workspace, programs)
            finished = run_alternating(programs, rounds=rounds)
            after = _sessions(workspace, programs)
    connections = {name: (after[name] - before[name]) / (rounds + 1) for name in before}
    printed = {
        name: [read_figures(one.output) for one in runs]
        for name, runs in finished.items()
        if name != DBMATE.title
    }
    cpu = {name: [one["cpu_ms"] for one in runs] for name, runs in printed.items()}
    cpu[DBMATE.title] = [one.cpu * 1000 for one in finished[DBMATE.title]]
    peaks = {name: [one["peak_mb"] for one in runs] for name, runs in printed.items()}
    return _section(cpu, peaks, connections)


def _programs(
    workspace: Workspace, variables: Mapping[str, Mapping[str, str]]
) -> dict[str, Program]:
    changes = simple(MIGRATIONS)
    programs = {}
    for title, peer in {_CHECK: LAMBDA_MIGRATE, **_PEERS}.items():
        database = workspace.new_database()
        project = workspace.project(peer, "fifty", changes)
        workspace.migrate(peer, project, database)
        command = _command(RUNTIME, peer.python) if peer.act else peer.command()
        programs[title] = workspace.program(peer, project, database, command=command)
    ours = programs[_CHECK]
    for base, base_code in _BASES.items():
        for authorities, extra in variables.items():
            environment = {**ours.environment, **extra}
            for what, code in (
                (_CHECK, _LAMBDA_MIGRATE_PROGRAM),
                (_CLIENT, _BOTO3),
                ("TLS", _TLS),
                ("", ""),
            ):
                program = Program(_command(base_code, code), ours.directory, environment)
                programs[_name(what, base, authorities)] = program
    return programs


def _name(what: str, base: str, authorities: str = "") -> str:
    return f"{what} in {base}{authorities}" if what else f"{base}{authorities}"


def _command(base: str, code: str) -> Sequence[str]:
    return (sys.executable, "-c", _MEASURED.format(base=base, code=code))


def _sessions(workspace: Workspace, programs: Mapping[str, Program]) -> dict[str, int]:
    return {
        name: workspace.sessions(program.environment["LAMBDA_MIGRATE_TARGET"])[0]
        for name, program in programs.items()
        if name in (_CHECK, *_PEERS)
    }


def _section(cpu: Figures, peaks: Figures, connections: Mapping[str, float]) -> Section:
    runtime, service = _RUNTIME, _SERVICE
    ours = _name(_CHECK, runtime)
    client = "what boto3.client(...).get_item adds"
    what = "processor time that import, check and serve add"

    def compare(base: str, authorities: str = "") -> list[float]:
        pair = (_name(each, base, authorities) for each in (_CHECK, _CLIENT))
        return ratios(*(cpu[name] for name in pair))

    memory = [a - b for a, b in zip(peaks[ours], peaks[_name("TLS", runtime)], strict=True)]
    measured = [name for name in cpu if not name.startswith(("TLS", runtime, service))]
    measured.sort(key=lambda name: spread(cpu[name]).median)
    return Section(
        key="fast-path",
        title="A fresh process, the schema is current",
        checks=[
            check_spread(f"{what} to {runtime} / {client} to it", 0.15, compare(runtime)),
            check_spread(f"{what} to {service} / {client} to it", 0.1, compare(service)),
            *(
                check_spread(
                    f"{what} / what {peer} with nothing to do adds, both without TLS",
                    bar,
                    ratios(cpu[_CHECK], cpu[peer]),
                )
                for peer, bar in ((ALEMBIC.title, 0.12), (YOYO.title, 0.4))
            ),
            Check(
                "PostgreSQL connections of one fast path",
                limit=0,
                value=connections[_CHECK],
                note="pg_stat_database.sessions before and after",
            ),
            check_spread(
                f"peak memory that the check adds to {runtime} with a TLS context",
                3,
                memory,
                unit="MB",
            ),
        ],
        tables=[
            Table(
                ("process", "CPU ms added", "PostgreSQL connections"),
                [
                    (name, format_spread(cpu[name]), format_number(connections.get(name, 0)))
                    for name in measured
                ],
            ),
            Table(
                ("over TLS with all the authorities that boto3 ships", "ratio", "TLS alone, ms"),
                [
                    (
                        f"lambda-migrate / boto3 in {base}",
                        format_spread(compare(base, ", all authorities")),
                        format_spread(cpu[_name("TLS", base, ", all authorities")]),
                    )
                    for base in _BASES
                ],
            ),
            Table(
                ("process", "peak memory, MB"),
                [
                    (name, format_spread(peaks[name]))
                    for name in (runtime, _name("TLS", runtime), ours, _name(_CLIENT, runtime))
                ],
            ),
        ],
        charts={
            "fast-path": draw_bars(
                "Nothing to do: processor time that it adds",
                "ms",
                [(name, spread(cpu[name])) for name in measured],
            )
        },
        notes=[
            f"{MIGRATIONS} migrations, all applied. The bare runtime has imported `awslambdaric`; "
            "a usual service also boto3, Powertools and what these import. Processor time (user "
            "and system) is counted from there on, in the process itself; for dbmate, which is not "
            "a Python program, it is that of the whole process. The peers run in the bare runtime, "
            "without TLS; so does `lambda-migrate` in the row of that name.",
            "In the other rows DynamoDB is reached over TLS. Its certificate is signed by "
            "an authority made for the run, the only one in AWS_CA_BUNDLE; OpenSSL reads every "
            "authority of a bundle, so that the second table has those that boto3 ships as well, "
            "as many as in Lambda.",
            "Memory is the kernel's VmHWM of the process.",
        ],
        data={"cpu_ms": cpu, "peak_mb": peaks, "connections": connections},
    )


def measure_import(workspace: Workspace, *, rounds: int) -> Section:
    """``import lambda_migrate`` and the decorator, against ``import boto3``."""
    project = workspace.project(LAMBDA_MIGRATE, "fifty", simple(MIGRATIONS))
    codes = {"import lambda_migrate, decorate": "import app", "import boto3": "import boto3"}
    programs = {
        name: workspace.program(LAMBDA_MIGRATE, project, "unused", command=_command(RUNTIME, code))
        for name, code in codes.items()
    }
    finished = run_alternating(programs, rounds=rounds)
    figures: dict[str, list[Any]] = {
        name: [read_figures(one.output) for one in runs] for name, runs in finished.items()
    }
    cpu = {name: [one["cpu_ms"] for one in found] for name, found in figures.items()}
    return Section(
        key="import",
        title="Importing it",
        checks=[
            check_spread(
                "processor time of the import with the decorator applied / of import boto3",
                0.1,
                ratios(*cpu.values()),
            )
        ],
        tables=[
            Table(
                ("in the bare runtime", "CPU ms"),
                [(name, format_spread(values)) for name, values in cpu.items()],
            )
        ],
        data={"cpu_ms": cpu},
    )
