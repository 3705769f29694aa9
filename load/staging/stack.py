"""The same questions to a stack that is deployed, as far as it can be seen from outside.

The pipeline has deployed the new code; nobody has called it yet, so that its migrations are
pending. They are asked for through the admin function, executed and taken back there, and applied
by the first cold starts. What a stack does not show is called "not measured".
"""

from __future__ import annotations

import csv
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from lambda_migrate.cli.remote import RemoteFunction
from lambda_migrate.clock import Deadline
from lambda_migrate.commands.registry import COMMANDS
from lambda_migrate.commands.request import CommandRequest
from lambda_migrate.errors import ConfigurationError, MigrateError
from lambda_migrate.local.runtime.process import ProcessError
from load.staging.dry_run import of_dry_run
from load.staging.rehearsal import Rehearsal, Wanted
from load.staging.steps import Deed, Halted, Told, played
from load.staging.verdicts import Limits, Step, judge
from load.storm.verdicts import Verdict

__all__ = ["Named", "find", "rehearse_stack"]

FUNCTION, ADMIN, ALIAS = "OrdersFunction", "AdminFunction", "OrdersFunctionAliaslive"
"""Logical ids in template.yaml."""

_LOCUSTFILE = Path(__file__).parents[1] / "locustfile.py"
_STORM_SECONDS = 1_800.0
_ADMIN_SECONDS = 900.0

Ask = Callable[..., Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Named:
    """What is deployed.

    Attributes:
        function: Name, with an alias if it is to be called by one; "" if nobody named it.
        admin: Of the admin function; "" if there is none.
        alarms: Names of the stack's alarms.
        stack: Its name; "" if only functions were named.
    """

    function: str = ""
    admin: str = ""
    alarms: tuple[str, ...] = ()
    stack: str = ""


def find(*, stack: str = "", function: str = "", admin: str = "") -> Named:
    """Look a stack up; names that are given win.

    Args:
        stack: Of CloudFormation.
        function: See `Named`.
        admin: See `Named`.

    Raises:
        ConfigurationError: There is no such stack, or it may not be read.
    """
    if not stack:
        return Named(function, admin)
    resources = {each["LogicalResourceId"]: each for each in _resources(stack)}
    names = {logical: str(each["PhysicalResourceId"]) for logical, each in resources.items()}
    found = names.get(FUNCTION, "")
    if found and ALIAS in names:
        found += ":live"
    return Named(
        function or found, admin or names.get(ADMIN, ""), _alarm_names(stack, resources), stack
    )


def _resources(stack: str) -> list[Mapping[str, Any]]:
    return _read(
        "cloudformation", "list_stack_resources", "StackResourceSummaries", StackName=stack
    )


def _alarms(**which: Any) -> list[Mapping[str, Any]]:
    return _read("cloudwatch", "describe_alarms", "MetricAlarms", **which)


def _read(service: str, operation: str, key: str, **which: Any) -> list[Mapping[str, Any]]:
    """All pages of an answer.

    Raises:
        ConfigurationError: With what AWS or the SDK said.
    """
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    make: Any = boto3.client  # typed by the names of services, each its own
    try:
        pages = make(service).get_paginator(operation).paginate(**which)
        return [each for page in pages for each in page[key]]
    except (BotoCoreError, ClientError) as error:
        asked = ", ".join(f"{name} {value}" for name, value in which.items())
        raise ConfigurationError(f"{operation} of {asked}: {error}") from error


def _alarm_names(stack: str, resources: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    own = [
        str(each["PhysicalResourceId"])
        for each in resources.values()
        if each["ResourceType"] == "AWS::CloudWatch::Alarm"
    ]
    if not own:  # CloudFormation names them after the stack
        own = [each["AlarmName"] for each in _alarms(AlarmNamePrefix=f"{stack}-")]
    return tuple(sorted(own))


# -- the steps ------------------------------------------------------------------------------------


@dataclass
class _Scene:
    named: Named
    wanted: Wanted
    event: str
    roll_back_to: int | None
    out: Path
    ask: Ask
    pending: tuple[str, ...] = ()
    before: dict[str, str] = field(default_factory=dict)


def rehearse_stack(
    named: Named,
    wanted: Wanted,
    out: Path,
    *,
    event: str = "{}",
    roll_back_to: int | None = None,
    on_step: Callable[[Step], object] = lambda _: None,
) -> Rehearsal:
    """Ask a deployed stack everything that can be asked from here.

    Args:
        named: See `find`.
        wanted: How many cold starts are asked for, and what is borne.
        out: The folder for Locust's report.
        event: JSON that the function is called with.
        roll_back_to: A version to take the schema back to, and up again; None: leave it alone.
        on_step: Told of each step when it is done.
    """
    scene = _Scene(named, wanted, event, roll_back_to, out, _asker(named.admin))
    steps = tuple(played(_deeds(scene), on_step))
    title = f"stack {named.stack}" if named.stack else f"function {named.function}"
    return Rehearsal(title, scene.pending, wanted, steps)


def _asker(admin: str) -> Ask:
    def ask(command: str, **options: Any) -> Mapping[str, Any]:
        request = CommandRequest(
            command=COMMANDS[command],
            options={key: value for key, value in options.items() if key != "yes"},
            request_id=uuid.uuid4().hex,
            yes=bool(options.get("yes")),
        )
        return RemoteFunction(admin, Deadline.after(_ADMIN_SECONDS)).run(request)

    return ask


def _unseen(what: str, why: str) -> Verdict:
    return Verdict(what, "not measured", why)


_NO_ADMIN = "no admin function was named (--admin-function)"


def _looked(scene: _Scene) -> Told:
    named = scene.named
    scene.before = {each["AlarmName"]: each["StateValue"] for each in _named_alarms(scene)}
    told = f"function {named.function or '-'}, admin function {named.admin or '-'}"
    found = [
        judge("there is something to rehearse", bool(named.function or named.admin), told),
        *_quiet(scene, "no alarm is on before it begins"),
    ]
    return found, {"alarms_before": scene.before}


def _planned(scene: _Scene) -> Told:
    if not scene.named.admin:
        return [_unseen("the plan", _NO_ADMIN)], {}
    document = _document(scene.ask("plan"))
    pending = document["pending"]
    scene.pending = tuple(step["name"] for step in pending)
    divergences = [f"{each['name']}: {each['advice']}" for each in document["divergences"]]
    what = "the new migrations go on from the old ones"
    told = "; ".join(divergences) or ", ".join(scene.pending) or "nothing is pending"
    ways = [step["name"] for step in pending if not step["has_down_script"]]
    found = [judge(what, not divergences, told)]
    if pending:
        there = ", ".join(ways) or f"{len(pending)} of {len(pending)}"
        found.append(judge("each has a way back", not ways, there))
    if divergences:
        raise Halted((found, {}))
    return found, {"pending": list(scene.pending)}


def _dry_run(scene: _Scene) -> Told:
    if not scene.pending:
        why = _NO_ADMIN if not scene.named.admin else "nothing is pending: it is applied already"
        return [_unseen("each pending migration runs on this data", why)], {}
    rehearsed = _document(scene.ask("plan", dry_run=True, yes=True))["dry_run"]
    told: Told = list(of_dry_run(rehearsed, scene.wanted.limits)), {"dry_run": rehearsed}
    if rehearsed["error"] is not None:
        raise Halted(told)
    return told


def _document(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a command answered.

    Raises:
        MigrateError: It failed; with what the function said.
    """
    document: Mapping[str, Any] | None = answer.get("document")
    if document is None:
        raise MigrateError(str(answer.get("error", {}).get("message", "it gave no answer")))
    return document


def _stormed(scene: _Scene) -> Told:
    hidden = [
        _unseen("clients of the old version", "the traffic of a stack is its own"),
        _unseen("each migration took effect once", "its database is not visible from here"),
        _unseen("never two PostgreSQL connections of ours at once", "nor are its connections"),
    ]
    if not scene.named.function:
        return [_unseen("the storm", "no function was named (--function)"), *hidden], {}
    statistics = _drive(scene)
    return [*of_statistics(statistics, scene.wanted.limits), *hidden], {"locust": statistics}


def _drive(scene: _Scene) -> dict[str, dict[str, float]]:
    scene.out.mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-m", "locust", "-f", str(_LOCUSTFILE), "--headless", "--only-summary"),
        *("--storm", "together", "-n", str(scene.wanted.environments), "--warm", "2"),
        *("--function", scene.named.function, "--event", scene.event),
        *("--csv", str(scene.out / "locust"), "--html", str(scene.out / "locust.html")),
        *("--exit-code-on-error", "0", "--loglevel", "WARNING"),
    ]
    log = scene.out / "locust.log"
    with log.open("w") as output:
        done = subprocess.run(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=_STORM_SECONDS,
            check=False,
            cwd=_LOCUSTFILE.parents[1],
        )
    if done.returncode != 0:
        raise ProcessError(f"Locust failed ({done.returncode}):\n{log.read_text()[-2000:]}")
    return _statistics(scene.out / "locust_stats.csv")


def _statistics(path: Path) -> dict[str, dict[str, float]]:
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["Name"] != "Aggregated"]
    return {
        row["Name"]: {
            "requests": float(row["Request Count"]),
            "failures": float(row["Failure Count"]),
            "slowest_seconds": round(float(row["Max Response Time"]) / 1000, 3),
        }
        for row in rows
    }


def of_statistics(
    statistics: Mapping[str, Mapping[str, float]], limits: Limits
) -> Iterator[Verdict]:
    """What Locust has seen of a storm, held against the limits.

    Args:
        statistics: By name of the request: ``cold``, ``warm``, and ``init``, which is none.
        limits: What is borne.
    """
    asked = {name: row for name, row in statistics.items() if name != "init"}
    requests = int(sum(row["requests"] for row in asked.values()))
    failures = int(sum(row["failures"] for row in asked.values()))
    told = f"{failures} of {requests} (limit {limits.failed})"
    yield judge("requests that failed", bool(requests) and failures <= limits.failed, told)
    for name, what, limit in (
        ("cold", "longest cold start, its wait included", limits.wait),
        ("warm", "slowest warm request", limits.request),
    ):
        row = asked.get(name)
        if row is None:
            yield _unseen(what, f"Lambda reported no {name} invocation")
        else:
            slowest, count = row["slowest_seconds"], int(row["requests"])
            told = f"{slowest:.2f} s of {count} (limit {limit:g} s)"
            yield judge(what, slowest <= limit, told)


def _checked(scene: _Scene) -> Told:
    found = [
        _unseen("rows and values that were there before", "its database is not visible from here")
    ]
    if not scene.named.admin:
        return [*found, _unseen("the schema is current", _NO_ADMIN)], {}
    return [*_current(scene), *found], {}


def _current(scene: _Scene) -> Iterator[Verdict]:
    status = _document(scene.ask("status"))
    counts = ", ".join(f"{number} {state}" for state, number in status["counts"].items() if number)
    yield judge("the schema is current", bool(status["is_current"]), counts)
    ready = bool(status["is_marked_ready"])
    yield judge("the lease table says so", ready, "this code is marked ready" if ready else "no")
    problems = _document(scene.ask("verify"))["problems"]
    told = "; ".join(problems) or "no problem"
    yield judge("files, history and lease table agree", not problems, told)


def _taken_back(scene: _Scene) -> Told:
    version = scene.roll_back_to
    if version is None:
        why = "a stack is left as it is, unless --roll-back-to VERSION is given"
        return [_unseen("the way back", why)], {}
    if not scene.named.admin:
        return [_unseen("the way back", _NO_ADMIN)], {}
    began = time.monotonic()
    reverted = _document(scene.ask("down", to=version, yes=True))["reverted"]
    seconds = time.monotonic() - began
    highest = _highest_applied(_document(scene.ask("status")))
    told = f"{', '.join(reverted) or 'nothing'} in {seconds:.2f} s, the way to Lambda included"
    found = [judge("the way back", highest == version, told)]
    _document(scene.ask("up"))
    return [*found, *_current(scene)], {"reverted": list(reverted), "seconds": round(seconds, 2)}


def _highest_applied(status: Mapping[str, Any]) -> int:
    applied = [each["version"] for each in status["migrations"] if each["state"] == "applied"]
    return max(applied, default=0)


def _paged(scene: _Scene) -> Told:
    faults = _unseen(
        "each alarm is reached by its fault", "nobody breaks a stack; `make staging` does it here"
    )
    return [*_quiet(scene, "no alarm is on after it"), *_actions(scene), faults], {
        "alarms_after": {each["AlarmName"]: each["StateValue"] for each in _named_alarms(scene)}
    }


def _named_alarms(scene: _Scene) -> Sequence[Mapping[str, Any]]:
    names = scene.named.alarms
    return _alarms(AlarmNames=list(names)) if names else ()


def _quiet(scene: _Scene, what: str) -> Iterator[Verdict]:
    alarms = _named_alarms(scene)
    if not alarms:
        yield _unseen(what, "no alarms are known: name the stack (--stack)")
        return
    on = sorted(each["AlarmName"] for each in alarms if each["StateValue"] == "ALARM")
    yield judge(what, not on, ", ".join(on) or f"none of {len(alarms)}")


def _actions(scene: _Scene) -> Iterator[Verdict]:
    alarms = _named_alarms(scene)
    if alarms:
        silent = sorted(
            each["AlarmName"]
            for each in alarms
            if not (each.get("ActionsEnabled", True) and each.get("AlarmActions"))
        )
        told = ", ".join(silent) or f"{len(alarms)} of {len(alarms)}"
        yield judge("each alarm tells somebody", not silent, told)


def _deeds(scene: _Scene) -> list[Deed]:
    return [
        Deed("look at the stack", partial(_looked, scene)),
        Deed("plan", partial(_planned, scene)),
        Deed("dry run", partial(_dry_run, scene)),
        Deed("cold starts", partial(_stormed, scene)),
        Deed("check the schema", partial(_checked, scene)),
        Deed("roll back", partial(_taken_back, scene)),
        Deed("see who would be paged", partial(_paged, scene)),
    ]
