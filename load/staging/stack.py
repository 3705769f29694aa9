"""The same validation of a deployed stack, as far as it is visible from outside.

The pipeline has deployed the new code and not called it yet, so its migrations are pending. The
admin function plans them, executes them and rolls them back; the first cold starts apply them. What
a stack does not show is "not measured".
"""

from __future__ import annotations

import csv
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lambda_migrate.cli.remote import RemoteFunction
from lambda_migrate.clock import Deadline
from lambda_migrate.commands.registry import COMMANDS
from lambda_migrate.commands.request import CommandRequest
from lambda_migrate.errors import ConfigurationError, MigrateError
from load.staging.dry_run import verdicts_of_dry_run
from load.staging.steps import Findings, Halted, Step, StepResult, run_steps
from load.staging.validation import Options, Validation
from load.staging.verdicts import Limits
from load.storm.__main__ import run_locust
from load.storm.verdicts import Verdict, judge

__all__ = ["Stack", "find_stack", "validate_stack", "verdicts_of_statistics"]

FUNCTION, ADMIN, ALIAS = "OrdersFunction", "AdminFunction", "OrdersFunctionAliaslive"
"""Logical ids in template.yaml."""

_ADMIN_SECONDS = 900.0
_NO_ADMIN = "no admin function was named (--admin-function)"


@dataclass(frozen=True, slots=True)
class Stack:
    """What is deployed; "" is unknown."""

    function: str = ""  # name, with an alias if it is called by one
    admin: str = ""  # of the admin function
    alarms: tuple[str, ...] = ()
    name: str = ""


def find_stack(*, stack: str = "", function: str = "", admin: str = "") -> Stack:
    """Look a stack up; the names that are given win.

    Args:
        stack: Of CloudFormation.
        function: See `Stack`.
        admin: See `Stack`.

    Raises:
        ConfigurationError: There is no such stack, or it may not be read.
    """
    if not stack:
        return Stack(function, admin)
    summaries = _read(
        "cloudformation", "list_stack_resources", "StackResourceSummaries", StackName=stack
    )
    names = {one["LogicalResourceId"]: str(one["PhysicalResourceId"]) for one in summaries}
    found = names.get(FUNCTION, "")
    if found and ALIAS in names:
        found += ":live"
    kind = "AWS::CloudWatch::Alarm"
    alarms = [str(one["PhysicalResourceId"]) for one in summaries if one["ResourceType"] == kind]
    if not alarms:  # CloudFormation names them after the stack
        alarms = [one["AlarmName"] for one in _read_alarms(AlarmNamePrefix=f"{stack}-")]
    return Stack(function or found, admin or names.get(ADMIN, ""), tuple(sorted(alarms)), stack)


def _read_alarms(**which: Any) -> list[Mapping[str, Any]]:
    return _read("cloudwatch", "describe_alarms", "MetricAlarms", **which)


def _read(service: str, operation: str, key: str, **which: Any) -> list[Mapping[str, Any]]:
    """All pages of an answer.

    Raises:
        ConfigurationError: With the error of AWS or the SDK.
    """
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    make: Any = boto3.client  # typed by the names of services, each its own
    try:
        pages = make(service).get_paginator(operation).paginate(**which)
        return [each for page in pages for each in page[key]]
    except (BotoCoreError, ClientError) as error:
        arguments = ", ".join(f"{name} {value}" for name, value in which.items())
        raise ConfigurationError(f"{operation} of {arguments}: {error}") from error


def validate_stack(
    stack: Stack,
    options: Options,
    out: Path,
    *,
    event: str = "{}",
    roll_back_to: int | None = None,
    on_step: Callable[[StepResult], object] = lambda _: None,
) -> Validation:
    """Validate a deployed stack.

    Args:
        stack: See `find_stack`.
        options: How many cold starts are requested, and what is accepted.
        out: The folder for Locust's report.
        event: JSON that the function is called with.
        roll_back_to: A version to roll back to, and migrate up again; None: do not roll back.
        on_step: Called with the result of each step.
    """
    run = _StackRun(stack, options, event, roll_back_to, out)
    run.found.steps = tuple(run_steps(run.steps(), on_step))
    return run.found


class _StackRun:
    """The steps, and what they hand to one another."""

    def __init__(
        self, stack: Stack, options: Options, event: str, roll_back_to: int | None, out: Path
    ) -> None:
        self.stack = stack
        self.options = options
        self.event = event
        self.roll_back_to = roll_back_to
        self.out = out
        name = f"stack {stack.name}" if stack.name else f"function {stack.function}"
        self.found = Validation(name, options)

    def steps(self) -> list[Step]:
        return [
            Step("read the stack", self._read_stack),
            Step("plan", self._plan),
            Step("dry run", self._dry_run),
            Step("cold starts", self._start_cold),
            Step("check the schema", self._check_schema),
            Step("roll back", self._roll_back),
            Step("alarms", self._check_alarms),
        ]

    def _run_command(self, command: str, **options: Any) -> Mapping[str, Any]:
        """Run a command in the admin function; returns its document.

        Raises:
            MigrateError: It failed, with the function's error.
        """
        request = CommandRequest(
            command=COMMANDS[command],
            options={key: value for key, value in options.items() if key != "yes"},
            request_id=uuid.uuid4().hex,
            confirmation=bool(options.get("yes")),
        )
        answer = RemoteFunction(self.stack.admin, Deadline.after(_ADMIN_SECONDS)).run(request)
        document: Mapping[str, Any] | None = answer.get("document")
        if document is None:
            raise MigrateError(str(answer.get("error", {}).get("message", "it gave no answer")))
        return document

    def _read_stack(self) -> Findings:
        stack = self.stack
        found = f"function {stack.function or '-'}, admin function {stack.admin or '-'}"
        verdicts = [
            judge("a function to validate", bool(stack.function or stack.admin), found),
            *self._no_alarm("no alarm is on before"),
        ]
        return verdicts, {"alarms_before": self._alarm_states()}

    def _plan(self) -> Findings:
        if not self.stack.admin:
            return [_not_measured("the plan", _NO_ADMIN)], {}
        document = self._run_command("plan")
        pending = document["pending"]
        names = self.found.pending = tuple(step["name"] for step in pending)
        divergences = [f"{each['name']}: {each['advice']}" for each in document["divergences"]]
        what = "the new migrations follow the old ones"
        found = "; ".join(divergences) or ", ".join(names) or "nothing is pending"
        verdicts = [judge(what, not divergences, found)]
        if divergences:
            raise Halted((verdicts, {}))
        if pending:
            one_way = [step["name"] for step in pending if not step["has_down_script"]]
            found = ", ".join(one_way) or f"{len(pending)} of {len(pending)}"
            verdicts.append(judge("each has a down script", not one_way, found))
        return verdicts, {"pending": list(names)}

    def _dry_run(self) -> Findings:
        if not self.found.pending:
            why = "nothing is pending: it is applied already" if self.stack.admin else _NO_ADMIN
            return [_not_measured("each pending migration runs on this data", why)], {}
        document = self._run_command("plan", dry_run=True, yes=True)["dry_run"]
        verdicts = list(verdicts_of_dry_run(document, self.options.limits))
        if document["error"] is not None:
            raise Halted((verdicts, {"dry_run": document}))
        return verdicts, {"dry_run": document}

    def _start_cold(self) -> Findings:
        hidden = [
            _not_measured("clients of the old version", "a stack has its own traffic"),
            _not_measured("each migration took effect once", "the database is not visible"),
            _not_measured(
                "one PostgreSQL connection of the library at a time", "the server is not visible"
            ),
        ]
        if not self.stack.function:
            return [_not_measured("the storm", "no function was named (--function)"), *hidden], {}
        run_locust(
            *("--storm", "together", "-n", str(self.options.environments), "--warm", "2"),
            *("--function", self.stack.function, "--event", self.event),
            out=self.out,
        )
        statistics = _read_statistics(self.out / "locust_stats.csv")
        verdicts = verdicts_of_statistics(statistics, self.options.limits)
        return [*verdicts, *hidden], {"locust": statistics}

    def _check_schema(self) -> Findings:
        hidden = _not_measured("existing rows and values", "the database is not visible")
        if not self.stack.admin:
            return [hidden, _not_measured("the schema is current", _NO_ADMIN)], {}
        return [*self._current(), hidden], {}

    def _current(self) -> Iterator[Verdict]:
        status = self._run_command("status")
        counts = ", ".join(
            f"{number} {name}" for name, number in status["counts"].items() if number
        )
        yield judge("the schema is current", bool(status["is_current"]), counts)
        is_ready = bool(status["is_marked_ready"])
        yield judge("marked ready in the lease table", is_ready, "yes" if is_ready else "no")
        problems = self._run_command("verify")["problems"]
        found = "; ".join(problems) or "no problem"
        yield judge("files, history and lease table agree", not problems, found)

    def _roll_back(self) -> Findings:
        version = self.roll_back_to
        if version is None:
            return [_not_measured("rollback", "only with --roll-back-to VERSION")], {}
        if not self.stack.admin:
            return [_not_measured("rollback", _NO_ADMIN)], {}
        began = time.monotonic()
        names = self._run_command("down", to=version, yes=True)["reverted"]
        seconds = round(time.monotonic() - began, 2)
        migrations = self._run_command("status")["migrations"]
        highest = max((m["version"] for m in migrations if m["state"] == "applied"), default=0)
        found = f"{', '.join(names) or 'nothing'} in {seconds:.2f} s, with the call of Lambda"
        verdicts = [judge("rollback", highest == version, found)]
        self._run_command("up")
        return [*verdicts, *self._current()], {"reverted": list(names), "seconds": seconds}

    def _check_alarms(self) -> Findings:
        alarms = self._alarms()
        silent = sorted(
            one["AlarmName"]
            for one in alarms
            if not (one.get("ActionsEnabled", True) and one.get("AlarmActions"))
        )
        found = ", ".join(silent) or f"{len(alarms)} of {len(alarms)}"
        verdicts = [
            *self._no_alarm("no alarm is on after"),
            *([judge("each alarm has an action", not silent, found)] if alarms else []),
            _not_measured(
                "each alarm is reached by its fault", "no fault is applied to a stack, only locally"
            ),
        ]
        return verdicts, {"alarms_after": self._alarm_states()}

    def _alarms(self) -> Sequence[Mapping[str, Any]]:
        names = self.stack.alarms
        return _read_alarms(AlarmNames=list(names)) if names else ()

    def _alarm_states(self) -> dict[str, str]:
        return {one["AlarmName"]: one["StateValue"] for one in self._alarms()}

    def _no_alarm(self, what: str) -> Iterator[Verdict]:
        states = self._alarm_states()
        if not states:
            yield _not_measured(what, "no alarms are known: name the stack (--stack)")
            return
        on = sorted(name for name, state in states.items() if state == "ALARM")
        yield judge(what, not on, ", ".join(on) or f"none of {len(states)}")


def _not_measured(what: str, why: str) -> Verdict:
    return Verdict(what, "not measured", why)


def _read_statistics(path: Path) -> dict[str, dict[str, float]]:
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


def verdicts_of_statistics(
    statistics: Mapping[str, Mapping[str, float]], limits: Limits
) -> Iterator[Verdict]:
    """What Locust measured in a storm, against the limits.

    Args:
        statistics: By name of the request: ``cold``, ``warm``, and ``init``, which is not one.
        limits: What is accepted.
    """
    rows = [row for name, row in statistics.items() if name != "init"]
    requests = int(sum(row["requests"] for row in rows))
    failures = int(sum(row["failures"] for row in rows))
    found = f"{failures} of {requests} (limit {limits.failed})"
    yield judge("requests that failed", bool(requests) and failures <= limits.failed, found)
    for name, what, limit in (
        ("cold", "longest cold start, its wait included", limits.wait),
        ("warm", "slowest warm request", limits.request),
    ):
        row = statistics.get(name)
        if row is None:
            yield _not_measured(what, f"Lambda reported no {name} invocation")
        else:
            slowest, count = row["slowest_seconds"], int(row["requests"])
            yield judge(what, slowest <= limit, f"{slowest:.2f} s of {count} (limit {limit:g} s)")
