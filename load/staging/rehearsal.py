"""The rehearsal itself: step after step, on a local Lambda with a real PostgreSQL."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from lambda_migrate.local.runtime.environment import InvocationResult
from lambda_migrate.local.servers.postgresql import find_binaries
from load.emulators.cloudwatch import Alarm
from load.staging.checks import Answer, Check, Moment, ask
from load.staging.dry_run import dry_run, of_dry_run
from load.staging.faults import (
    NAMESPACE,
    SERVICE,
    Reached,
    alarms_of,
    break_in_turn,
    measured_of,
    reached_of,
)
from load.staging.phases import deployment, play, way_back
from load.staging.records import Kept, Records, Run, Size, compare, freeze, read_shape, read_sizes
from load.staging.release import Release
from load.staging.restore import TUNING, connected, fill, migrate, restore, runner
from load.staging.shop import Shop
from load.staging.steps import Deed, Halted, Told, played
from load.staging.verdicts import (
    Limits,
    Step,
    judge,
    of_alarms,
    of_checks,
    of_faults,
    of_lines,
    of_orders,
    of_phase,
    of_records,
    of_shape,
)
from load.storm.evidence import Evidence
from load.storm.scenarios import Processes, Scenario
from load.storm.stage import StormStage, start_demo_servers
from load.storm.verdicts import Verdict

__all__ = ["TEMPLATE", "Rehearsal", "Wanted", "rehearse"]


TEMPLATE = Path(__file__).parents[2] / "template.yaml"


@dataclass(frozen=True, slots=True)
class Wanted:
    """How a release is to be rehearsed.

    Attributes:
        environments: Cold starts of each storm.
        clients: Who use the old version meanwhile.
        processes: See `Scenario`.
        limits: What is borne.
        shop: Data of the example; None for another function.
        dump: Schema and data, restored before the old version's migrations.
        data: Data alone, read after them.
        checks: A team's own questions.
        may_change: Columns that the release may change, as ``table.column``.
        template: Whose alarms are looked at.
        postgresql: Major version; None: the newest that needs no installing.
        parameters: Of the template.
    """

    environments: int = 40
    clients: int = 6
    processes: Processes = "separate"
    limits: Limits = field(default_factory=Limits)
    shop: Shop | None = None
    dump: Path | None = None
    data: Path | None = None
    checks: tuple[Check, ...] = ()
    may_change: frozenset[str] = frozenset()
    template: Path = TEMPLATE
    postgresql: int | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Rehearsal:
    """What was seen.

    Attributes:
        name: Of what was rehearsed.
        pending: Names of the migrations that it brings.
        wanted: How.
        steps: In order.
        sizes: Of the tables, before anything was migrated.
        phases: The storms, by their names.
        records: What became of the data, by moment.
        answers: Of the checks, by moment and name.
        faults: What came of each, and which alarms were reached.
    """

    name: str
    pending: tuple[str, ...]
    wanted: Wanted
    steps: tuple[Step, ...]
    sizes: tuple[Size, ...] = ()
    phases: dict[str, Evidence] = field(default_factory=dict)
    records: dict[Moment, Records] = field(default_factory=dict)
    answers: dict[Moment, dict[str, Answer]] = field(default_factory=dict)
    faults: tuple[Reached, ...] = ()


def rehearse(
    release: Release,
    wanted: Wanted,
    out: Path,
    *,
    on_step: Callable[[Step], object] = lambda _: None,
    last: str = "",
) -> Rehearsal:
    """From an empty database to a decision's grounds; everything that was started is ended.

    Args:
        release: What.
        wanted: How.
        out: The folder for the storms' reports.
        on_step: Told of each step when it is done.
        last: The name of the step after which to end; "" for all of them.

    Raises:
        ConfigurationError: The machine has too little memory, or something cannot be read.
        ProcessError: A server did not start, or Locust failed.
    """
    alarms_of(wanted.template, target=release.database, **wanted.parameters)  # or else too late
    binaries = find_binaries(wanted.postgresql)
    scenario = _scenario("deployment", release, wanted)
    with (
        tempfile.TemporaryDirectory(prefix="lm-staging-") as home,
        start_demo_servers(
            scenario,
            release,
            Path(home),
            handler=release.handler,
            tuning=TUNING,
            binaries=binaries,
        ) as stage,
        connected(stage.server, release.database) as connection,
    ):
        stage.sampler.stop()  # each storm has its own
        scene = _Scene(release, wanted, stage, connection, runner(connection), out, Path(home))
        steps = tuple(played(_deeds(scene), on_step, last=last))
        return Rehearsal(
            name=release.name,
            pending=tuple(migration.name for migration in release.pending),
            wanted=wanted,
            steps=steps,
            sizes=scene.sizes,
            phases=scene.phases,
            records=scene.records,
            answers=scene.answers,
            faults=scene.faults,
        )


def _scenario(name: str, release: Release, wanted: Wanted) -> Scenario:
    metrics = {"POWERTOOLS_METRICS_NAMESPACE": NAMESPACE, "POWERTOOLS_SERVICE_NAME": SERVICE}
    make = deployment if name == "deployment" else way_back
    scenario = make(wanted.environments, wanted.clients, {**metrics, **release.variables})
    return replace(scenario, processes=wanted.processes)


@dataclass
class _Scene:
    """What the steps hand to one another."""

    release: Release
    wanted: Wanted
    stage: StormStage
    connection: Any
    run: Run
    out: Path
    home: Path
    faults: tuple[Reached, ...] = ()
    kept: Sequence[Kept] = ()
    sizes: tuple[Size, ...] = ()
    phases: dict[str, Evidence] = field(default_factory=dict)
    records: dict[Moment, Records] = field(default_factory=dict)
    answers: dict[Moment, dict[str, Answer]] = field(default_factory=dict)


# -- the steps ------------------------------------------------------------------------------------


def _restored(scene: _Scene) -> Told:
    wanted, stage = scene.wanted, scene.stage
    if wanted.dump is not None:
        restore(stage.server, scene.release.database, wanted.dump)
    migrated = migrate(stage)
    if wanted.shop is not None:
        fill(scene.connection, wanted.shop)
    if wanted.data is not None:
        restore(stage.server, scene.release.database, wanted.data)
    scene.run("VACUUM (ANALYZE)")
    scene.sizes = tuple(read_sizes(scene.run))
    scene.kept = freeze(scene.run)
    scene.records["before"] = Records(compare(scene.run, scene.kept).tables, read_shape(scene.run))
    scene.answers["before"] = ask(scene.run, wanted.checks, "before")
    rows = sum(kept.rows for kept in scene.kept)
    found = [
        judge("there is data", rows > 0, f"{rows:,} rows in {len(scene.kept)} tables"),
        of_checks(wanted.checks, scene.answers, "before"),
    ]
    return found, {"migrated": list(migrated)}


def _goes_on(scene: _Scene) -> Told:
    faults = scene.release.faults()
    names = [migration.name for migration in scene.release.pending]
    what = "the new migrations go on from the old ones"
    found = [judge(what, not faults, "; ".join(faults) or ", ".join(names))]
    ways = [m.name for m in scene.release.pending if m.down is None]
    told = ", ".join(ways) or f"{len(names)} of {len(names)}"
    found.append(judge("each has a way back", not ways, told))
    if faults:
        raise Halted((found, {"pending": names}))
    return found, {"pending": names}


def _dry_run(scene: _Scene) -> Told:
    found = dry_run(scene.stage)
    # What it wrote and took back is in the tables' files still, and would slow the real thing down.
    scene.run("VACUUM (ANALYZE)")
    told: Told = list(of_dry_run(found, scene.wanted.limits)), {"dry_run": found}
    if found["error"] is not None:
        raise Halted(told)
    return told


def _deployed(scene: _Scene) -> Told:
    evidence = _play(scene, "deployment")
    counts = scene.release.example is not None
    found = [*of_phase(evidence, scene.wanted.limits, counts=counts), of_lines(evidence)]
    told: Told = found, {}
    if any(times != 1 for times in evidence.effects.values()):
        raise Halted(told)
    return told


def _taken_back(scene: _Scene) -> Told:
    evidence = _play(scene, "rollback")
    counts = scene.release.example is not None
    found = [*of_phase(evidence, scene.wanted.limits, counts=counts), of_lines(evidence)]
    if evidence.rolled_back is not None:
        found.insert(0, judge("the way back", True, f"{evidence.rolled_back:.2f} s"))
    return found, {}


def _play(scene: _Scene, name: str) -> Evidence:
    scenario = _scenario(name, scene.release, scene.wanted)
    evidence = play(scene.stage, scenario, scene.out / name)
    scene.phases[name] = evidence
    return evidence


def _compared(scene: _Scene) -> Told:
    return _look(scene, "after"), {}


def _compared_again(scene: _Scene) -> Told:
    found = _look(scene, "rolled-back")
    found.append(of_shape(scene.records["before"].shape, scene.records["rolled-back"].shape))
    return found, {}


def _paged(scene: _Scene) -> Told:
    """Who would be paged by the release, and by each fault."""
    wanted = scene.wanted
    alarms = alarms_of(wanted.template, target=scene.release.database, **wanted.parameters)
    quiet = measured_of(*scene.stage.functions.values())
    scene.faults = tuple(break_in_turn(scene.stage, wanted.template, scene.home))
    reads = {name: _told_by_us(alarm) for name, alarm in alarms.items()}
    told = {metric.name for metric in quiet.metrics()}
    for one in scene.faults:
        told |= one.metrics
    return [
        of_alarms(reached_of(quiet, alarms), len(alarms)),
        *of_faults(scene.faults, reads, frozenset(told)),
    ], {}


def _told_by_us(alarm: Alarm) -> frozenset[str]:
    """Names of the metrics that it reads, but for those that AWS itself tells."""
    read = (query.metric for query in alarm.queries.values() if query.metric is not None)
    return frozenset(one.name for one in read if not one.namespace.startswith("AWS/"))


def _look(scene: _Scene, moment: Moment) -> list[Verdict]:
    wanted = scene.wanted
    scene.records[moment] = compare(scene.run, scene.kept)
    scene.answers[moment] = ask(scene.run, wanted.checks, moment)
    told = scene.release.orders_told(_all_results(scene))
    return [
        *of_records(scene.records[moment], wanted.may_change),
        of_checks(wanted.checks, scene.answers, moment),
        *([of_orders(told, _count_orders(scene, told))] if told else []),
    ]


def _all_results(scene: _Scene) -> list[InvocationResult]:
    return [one.result for phase in scene.phases.values() for one in phase.observed]


def _count_orders(scene: _Scene, told: Sequence[int]) -> int:
    rows = scene.connection.run("SELECT count(*) FROM orders WHERE id = ANY (:ids)", ids=list(told))
    return int(rows[0][0])


def _deeds(scene: _Scene) -> list[Deed]:
    return [
        Deed("restore the data", partial(_restored, scene)),
        Deed("plan", partial(_goes_on, scene)),
        Deed("dry run", partial(_dry_run, scene)),
        Deed("deploy under traffic", partial(_deployed, scene), "deployment"),
        Deed("check the data", partial(_compared, scene)),
        Deed("roll back under traffic", partial(_taken_back, scene), "rollback"),
        Deed("check the data again", partial(_compared_again, scene)),
        Deed("see who would be paged", partial(_paged, scene)),
    ]
