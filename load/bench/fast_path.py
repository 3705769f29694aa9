"""What the check costs a fresh process when the schema is current: processor time and memory.

Measured as in AWS: above Lambda's own runtime client, and over TLS. The processor time is taken
within each process, from the end of its baseline on.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from textwrap import dedent

from load.bench.migrations import small_migrations
from load.bench.output import read_figures
from load.bench.processes import Program, run, run_alternating
from load.bench.results import Limit, Section, Table, format_number, format_spread, ratios
from load.bench.tools import ALEMBIC, DBMATE, DJANGO, HAND_WRITTEN, LAMBDA_MIGRATE, YOYO
from load.bench.workspace import TABLE, Workspace
from load.profile.latency_relay import CertificateAuthority, open_relay

__all__ = ["measure"]

MIGRATIONS = 50
"""How many there are, all of them applied."""

_MEASURED_PROGRAM = """{baseline}
import time
started = time.process_time()
{code}
cpu = time.process_time() - started
from load.bench.output import print_figures
with open("/proc/self/status") as status:
    peak = next(line.split()[1] for line in status if line.startswith("VmHWM"))
print_figures({{"cpu_ms": cpu * 1000, "peak_mb": int(peak) / 1024}})
"""

_RUNTIME, _SERVICE = "the bare runtime", "a usual service"
_RUNTIME_IMPORTS = "import awslambdaric.bootstrap"
_BASELINES = {
    # What Lambda has imported in every function before it imports the handler's module.
    _RUNTIME: _RUNTIME_IMPORTS,
    # What a usual service has imported anyway.
    _SERVICE: f"""{_RUNTIME_IMPORTS}
import dataclasses, decimal, hashlib, json, logging, typing, urllib.parse, uuid
import boto3
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.event_handler import APIGatewayRestResolver
logger, metrics, app = Logger(), Metrics(namespace="shop"), APIGatewayRestResolver()
del app
""",
}

_CHECK, _BOTO3, _TLS = "lambda-migrate", "boto3: client and get_item", "TLS"
_IMPORT, _IMPORT_BOTO3 = "import lambda_migrate, decorate", "import boto3"
_CODE = {
    _CHECK: "import app\napp.handler({}, app.Context())",
    _BOTO3: f"""import boto3
client = boto3.client("dynamodb")
client.get_item(TableName={TABLE!r}, Key={{"target": {{"S": "absent"}}}})""",
    _TLS: "import os, ssl\nssl.create_default_context(cafile=os.environ['AWS_CA_BUNDLE'])",
}
_ALL_AUTHORITIES = ", all authorities"
_TOOLS = {
    ALEMBIC.title: ALEMBIC,
    YOYO.title: YOYO,
    DJANGO.title: DJANGO,
    "a pg8000 script": HAND_WRITTEN,
    DBMATE.title: DBMATE,
    _CHECK: LAMBDA_MIGRATE,
}

_Measurements = Mapping[str, Sequence[float]]


def measure(workspace: Workspace, *, rounds: int) -> Section:
    """Import, check and serve, against boto3's one read and other tools with nothing to do."""
    port = int(workspace.dynamodb.endpoint_url.rpartition(":")[2])
    with (
        CertificateAuthority.create() as authority,
        open_relay(port, tls=authority.server_context) as tls_port,
    ):
        programs, databases = _tool_programs(workspace)
        for suffix, bundle in (("", authority.only), (_ALL_AUTHORITIES, authority.among_all)):
            variables = {
                "AWS_ENDPOINT_URL_DYNAMODB": f"https://127.0.0.1:{tls_port}",
                "AWS_CA_BUNDLE": str(bundle),
            }
            programs |= _tls_programs(programs[_CHECK], variables, suffix)
        before = {name: workspace.sessions(database)[0] for name, database in databases.items()}
        results = run_alternating(programs, rounds=rounds)
        after = {name: workspace.sessions(database)[0] for name, database in databases.items()}
    connections = {name: (after[name] - before[name]) / (rounds + 1) for name in before}
    printed = {
        name: [read_figures(one.output) for one in each]
        for name, each in results.items()
        if name != DBMATE.title
    }
    cpu = {name: [one["cpu_ms"] for one in each] for name, each in printed.items()}
    cpu[DBMATE.title] = [one.cpu * 1000 for one in results[DBMATE.title]]
    peaks = {name: [one["peak_mb"] for one in each] for name, each in printed.items()}
    return _section(cpu, peaks, connections)


def _tool_programs(workspace: Workspace) -> tuple[dict[str, Program], dict[str, str]]:
    """Each tool with nothing to do, without TLS; and the database of each."""
    programs, databases = {}, {}
    for title, tool in _TOOLS.items():
        databases[title] = database = workspace.create_database()
        project = workspace.project(tool, small_migrations(MIGRATIONS))
        run(workspace.program(tool, project, database))
        code = f"{dedent(tool.import_code)}\n{dedent(tool.migrate_code)}"
        command = _command(_RUNTIME, code) if tool.migrate_code else tool.command()
        programs[title] = workspace.program(tool, project, database, command)
    own = programs[_CHECK]
    for title, code in ((_IMPORT, "import app"), (_IMPORT_BOTO3, "import boto3")):
        programs[title] = own._replace(command=_command(_RUNTIME, code))
    return programs, databases


def _tls_programs(own: Program, variables: Mapping[str, str], suffix: str) -> Mapping[str, Program]:
    environment = {**own.environment, **variables}
    return {
        _name(what, baseline, suffix): Program(_command(baseline, code), own.directory, environment)
        for baseline in _BASELINES
        for what, code in {**_CODE, "": ""}.items()
    }


def _name(what: str, baseline: str, suffix: str = "") -> str:
    return f"{what} in {baseline}{suffix}" if what else f"{baseline}{suffix}"


def _command(baseline: str, code: str) -> Sequence[str]:
    program = _MEASURED_PROGRAM.format(baseline=_BASELINES[baseline], code=code)
    return (sys.executable, "-c", program)


def _section(cpu: _Measurements, peaks: _Measurements, connections: Mapping[str, float]) -> Section:
    def compare(baseline: str, suffix: str = "") -> list[float]:
        return ratios(cpu[_name(_CHECK, baseline, suffix)], cpu[_name(_BOTO3, baseline, suffix)])

    what, client = "processor time that import, check and serve add", "boto3.client(...).get_item"
    own, tls = _name(_CHECK, _RUNTIME), _name(_TLS, _RUNTIME)
    memory = [a - b for a, b in zip(peaks[own], peaks[tls], strict=True)]
    shown = [name for name in cpu if not name.startswith((_TLS, *_BASELINES))]
    shown.sort(key=lambda name: statistics.median(cpu[name]))
    header = ("over TLS with all the authorities that boto3 ships", "ratio", "TLS alone, ms")
    return Section(
        limits=[
            *(
                Limit(f"{what} to {base} / what {client} adds to it", limit, compare(base))
                for base, limit in ((_RUNTIME, 0.15), (_SERVICE, 0.1))
            ),
            *(
                Limit(
                    f"{what} / what {tool} with nothing to do adds, both without TLS",
                    limit,
                    ratios(cpu[_CHECK], cpu[tool]),
                )
                for tool, limit in ((ALEMBIC.title, 0.12), (YOYO.title, 0.4))
            ),
            Limit("PostgreSQL connections of one fast path", 0, [connections[_CHECK]]),
            Limit(
                f"peak memory that the check adds to {_RUNTIME} with a TLS context",
                3,
                memory,
                "MB",
            ),
            Limit(
                "processor time of the import with the decorator applied / of import boto3",
                0.1,
                ratios(cpu[_IMPORT], cpu[_IMPORT_BOTO3]),
            ),
        ],
        tables=[
            Table(
                ("process", "CPU ms added", "PostgreSQL connections"),
                [
                    (name, format_spread(cpu[name]), format_number(connections.get(name, 0)))
                    for name in shown
                ],
            ),
            Table(
                header,
                [
                    (
                        f"{_CHECK} / boto3 in {base}",
                        format_spread(compare(base, _ALL_AUTHORITIES)),
                        format_spread(cpu[_name(_TLS, base, _ALL_AUTHORITIES)]),
                    )
                    for base in _BASELINES
                ],
            ),
            Table(
                ("process", "peak memory, MB"),
                [
                    (name, format_spread(peaks[name]))
                    for name in (_RUNTIME, tls, own, _name(_BOTO3, _RUNTIME))
                ],
            ),
        ],
        bars={name: cpu[name] for name in shown},
        data={"cpu_ms": cpu, "peak_mb": peaks, "connections": connections},
    )
