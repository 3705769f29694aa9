"""What the check costs a fresh process when the schema is current: processor time and memory."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from load.bench.figures import Spread, ratios, spread
from load.bench.findings import Chart, Check, Section, Table, number
from load.bench.migrations import simple
from load.bench.peers import ALEMBIC, BY_HAND, DBMATE, DJANGO, OURS, YOYO, Peer
from load.bench.processes import Program, by_turns
from load.bench.stage import TABLE, Stage

__all__ = ["measure_check", "measure_import"]

MIGRATIONS = 50
"""How many there are, all of them applied."""

_BARE = "a bare interpreter"
_BOTO3 = "boto3: client and get_item"
_PEERS = (ALEMBIC, DJANGO, YOYO, BY_HAND, DBMATE)

_GET_ITEM = f"""
import boto3
boto3.client("dynamodb").get_item(TableName={TABLE!r}, Key={{"target": {{"S": "nobody"}}}})
"""

_PEAK = """
with open("/proc/self/status") as status:
    print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""
"""The kernel's own figure of the process, in kB; a child's maxrss has its parent's in it."""

_RUNTIME = "import awslambdaric.bootstrap\n"
_TLS = "import ssl\nssl.create_default_context()\n"
_UNCHECKED = "the bare runtime"
_CHECKED = "the runtime with the check"
_WITH_TLS = "the same with a TLS context"
_SERVE = "import app\napp.handler({}, app.Context())\n"
_PLAIN = "import plain\nplain.handler({}, None)\n"


def measure_check(stage: Stage, *, rounds: int) -> Section:
    """Import, check and serve, against boto3's one read and the peers' nothing to do."""
    programs = _programs(stage)
    before = _sessions(stage, programs)
    finished = by_turns(programs, rounds=rounds)
    after = _sessions(stage, programs)
    cpu = {name: [one.cpu * 1000 for one in runs] for name, runs in finished.items()}
    connections = {
        name: (after[name] - before[name]) / (rounds + 1) for name in programs if name in before
    }
    peaks = _peaks(stage, rounds=max(3, rounds // 4))
    return Section(
        key="fast-path",
        title="A fresh process, the schema is current",
        checks=[
            _against(cpu, _BOTO3, 0.15, "what boto3.client(...).get_item adds"),
            _against(cpu, ALEMBIC.title, 0.12, "what Alembic's nothing to do adds"),
            _against(cpu, YOYO.title, 0.4, "what yoyo's nothing to do adds"),
            Check(
                "PostgreSQL connections of one fast path",
                bar=0,
                value=connections[OURS.title],
                note="pg_stat_database.sessions before and after",
            ),
            _memory(peaks),
        ],
        tables=[_table(cpu, peaks, connections)],
        charts=[_chart(cpu)],
        notes=[
            f"{MIGRATIONS} migrations, all applied. Processor time of whole processes (user and "
            "system), less that of a bare interpreter in the same round.",
            "The DynamoDB API speaks HTTP here, to boto3 and to us alike; what TLS adds in AWS (a "
            "context, OpenSSL's library) is in neither. In the runtime with the check, loading "
            f"`ssl` and making a context adds {_tls(peaks)} MB of memory.",
            "The bare runtime is a process that has imported `awslambdaric` and called a handler "
            "without the decorator; memory is the kernel's VmHWM.",
        ],
        data={"cpu_ms": cpu, "peak_kb": peaks, "connections": connections},
    )


def measure_import(stage: Stage, *, rounds: int) -> Section:
    """``import lambda_migrate`` and the decorator, against ``import boto3``."""
    project = stage.project(OURS, "fifty", simple(MIGRATIONS))
    ours, boto3 = "import lambda_migrate, decorate", "import boto3"
    programs = {
        _BARE: stage.python("pass"),
        ours: stage.program(OURS, project, "unused", command=_command("import app")),
        boto3: stage.python("import boto3"),
    }
    finished = by_turns(programs, rounds=rounds)
    cpu = {name: [one.cpu * 1000 for one in runs] for name, runs in finished.items()}
    found = spread(ratios(cpu[ours], cpu[boto3], base=cpu[_BARE]))
    return Section(
        key="import",
        title="Importing it",
        checks=[
            Check(
                "processor time of the import with the decorator applied / of import boto3",
                bar=0.1,
                value=found.median,
                range=(found.low, found.high),
            )
        ],
        tables=[
            Table(
                ("process", "CPU ms over a bare interpreter"),
                [(name, _shown(_added(cpu, name))) for name in (ours, boto3)],
                caption=f"A bare interpreter: {_shown(spread(cpu[_BARE]))} ms.",
            )
        ],
        data={"cpu_ms": cpu},
    )


# -- processor time -------------------------------------------------------------------------------


def _programs(stage: Stage) -> dict[str, Program]:
    changes = simple(MIGRATIONS)
    programs = {_BARE: stage.python("pass"), _BOTO3: stage.python(_GET_ITEM)}
    for peer in (*_PEERS, OURS):
        database = stage.new_database()
        project = stage.project(peer, "fifty", changes)
        stage.bring_up(peer, project, database)
        programs[_title(peer)] = stage.program(peer, project, database)
    return programs


def _title(peer: Peer) -> str:
    return "a pg8000 script" if peer is BY_HAND else peer.title


def _sessions(stage: Stage, programs: Mapping[str, Program]) -> dict[str, int]:
    return {
        name: stage.sessions(program.environment["LAMBDA_MIGRATE_TARGET"])[0]
        for name, program in programs.items()
        if name not in (_BARE, _BOTO3)
    }


def _against(cpu: Mapping[str, Sequence[float]], other: str, bar: float, what: str) -> Check:
    found = spread(ratios(cpu[OURS.title], cpu[other], base=cpu[_BARE]))
    return Check(
        f"processor time that import, check and serve add / {what}",
        bar=bar,
        value=found.median,
        range=(found.low, found.high),
    )


def _added(cpu: Mapping[str, Sequence[float]], name: str) -> Spread:
    """What a process costs over a bare interpreter; dbmate is no Python program: all of it."""
    if name == DBMATE.title:
        return spread(cpu[name])
    return spread([one - bare for one, bare in zip(cpu[name], cpu[_BARE], strict=True)])


# -- memory ---------------------------------------------------------------------------------------


def _peaks(stage: Stage, *, rounds: int) -> dict[str, list[float]]:
    database = stage.new_database()
    project = stage.project(OURS, "fifty", simple(MIGRATIONS))
    (project / "plain.py").write_text("def handler(event, context):\n    return event\n")
    stage.bring_up(OURS, project, database)
    codes = {
        _BARE: "",
        "with the check": _SERVE,
        _UNCHECKED: _RUNTIME + _PLAIN,
        _CHECKED: _RUNTIME + _SERVE,
        _WITH_TLS: _RUNTIME + _TLS + _SERVE,
        _BOTO3: _GET_ITEM,
    }
    programs = {
        name: stage.program(OURS, project, database, command=_command(code + _PEAK))
        for name, code in codes.items()
    }
    return {
        name: [float(one.output.split()[-1]) for one in runs]
        for name, runs in by_turns(programs, rounds=rounds).items()
    }


def _command(code: str) -> Sequence[str]:
    return (sys.executable, "-c", code)


def _memory(peaks: Mapping[str, Sequence[float]]) -> Check:
    found = _megabytes(peaks, _CHECKED, over=_UNCHECKED)
    return Check(
        "peak memory that the check adds to the bare runtime",
        bar=3,
        value=found.median,
        unit="MB",
        range=(found.low, found.high),
    )


def _tls(peaks: Mapping[str, Sequence[float]]) -> str:
    return number(_megabytes(peaks, _WITH_TLS, over=_CHECKED).median)


def _megabytes(peaks: Mapping[str, Sequence[float]], name: str, *, over: str) -> Spread:
    return spread([(a - b) / 1024 for a, b in zip(peaks[name], peaks[over], strict=True)])


# -- for people -----------------------------------------------------------------------------------


def _table(
    cpu: Mapping[str, Sequence[float]],
    peaks: Mapping[str, Sequence[float]],
    connections: Mapping[str, float],
) -> Table:
    bare = spread(cpu[_BARE])
    rows = [
        (name, _shown(_added(cpu, name)), number(connections.get(name, 0)))
        for name in sorted(cpu, key=lambda name: _added(cpu, name).median)
        if name != _BARE
    ]
    memory = ", ".join(f"{name} {spread(kb).median / 1024:.1f}" for name, kb in peaks.items())
    return Table(
        ("process", "CPU ms over a bare interpreter", "PostgreSQL connections"),
        rows,
        caption=f"A bare interpreter: {_shown(bare)} ms. Peak memory in MB: {memory}.",
    )


def _shown(one: Spread) -> str:
    return f"{one.median:.1f} ({one.low:.1f} to {one.high:.1f})"


def _chart(cpu: Mapping[str, Sequence[float]]) -> Chart:
    added = {name: _added(cpu, name) for name in cpu if name != _BARE}
    return Chart(
        "fast-path",
        "Nothing to do: processor time that the check adds to a fresh process",
        "ms",
        [
            (name, one.median, one.low, one.high)
            for name, one in sorted(added.items(), key=lambda each: each[1].median)
        ],
    )
