"""The events of a check that does not migrate, and their log line and metrics without Powertools.

Every cold start imports this module, so it defines no more than these, and the events are no
dataclasses: to define one takes half a millisecond of CPU. `lambda_migrate.events` has all events.

Importing Powertools takes 50 ms of CPU, and every cold start writes a line. The log line and the
metrics of a check that found the schema ready, or waited until it was, are therefore written here,
byte for byte as Powertools writes them (a test compares the two). All others are written by
Powertools, and so are these if a variable of Powertools changes their format; see `aws.telemetry`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    Metric = tuple[str, str, float]

__all__ = [
    "MESSAGES_BY_OUTCOME",
    "NAMESPACE",
    "CheckSucceeded",
    "Event",
    "WaitingForLease",
    "format_emf",
    "has_default_log_format",
    "make_log_fields",
    "make_time_metrics",
    "read_namespace",
    "read_service",
    "write_check_succeeded",
    "write_lines",
]


class Event:
    """Something that happened. `lambda_migrate.events` lists what."""

    __slots__: tuple[str, ...] = ()

    def __repr__(self) -> str:
        values = (f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"{type(self).__name__}({', '.join(values)})"


class CheckSucceeded(Event):
    """The schema is ready. Each check ends with one `CheckSucceeded` or one `CheckFailed`.

    Attributes:
        target: The database's item.
        digest: The manifest of the code that serves.
        outcome: ``UP_TO_DATE``, ``MIGRATED``, ``WAITED`` or ``UNCHECKED``.
        seconds: Duration of the check.
        waited_seconds: The part of it that was spent waiting for another instance.
        lease_calls: Requests to the lease table.
        applied: Names of the migrations that this instance applied.
        fence: The fencing token under which it migrated; 0 if it did not.
        owner: This instance's owner id in the lease table.
    """

    __slots__ = (
        "applied",
        "digest",
        "fence",
        "lease_calls",
        "outcome",
        "owner",
        "seconds",
        "target",
        "waited_seconds",
    )

    def __init__(
        self,
        target: str,
        digest: str,
        outcome: str,
        seconds: float,
        waited_seconds: float,
        lease_calls: int,
        applied: tuple[str, ...],
        fence: int,
        owner: str,
    ) -> None:
        self.target = target
        self.digest = digest
        self.outcome = outcome
        self.seconds = seconds
        self.waited_seconds = waited_seconds
        self.lease_calls = lease_calls
        self.applied = applied
        self.fence = fence
        self.owner = owner


class WaitingForLease(Event):
    """Another instance holds the lease; one event for each delay before the next read."""

    __slots__ = ("delay_seconds", "holder", "progress", "target", "waited_seconds")

    def __init__(
        self, target: str, holder: str, waited_seconds: float, delay_seconds: float, progress: str
    ) -> None:
        self.target = target
        self.holder = holder
        self.waited_seconds = waited_seconds
        self.delay_seconds = delay_seconds
        self.progress = progress


NAMESPACE = "lambda-migrate"
"""The namespace of the metrics, unless ``POWERTOOLS_METRICS_NAMESPACE`` is set."""

MESSAGES_BY_OUTCOME = {
    "UP_TO_DATE": "schema is up to date",
    "MIGRATED": "schema was migrated by this instance",
    "WAITED": "schema was migrated by another instance",
    "UNCHECKED": "schema is not ready; served without a check: a feature flag sets mode off",
}


def make_time_metrics(seconds: float, waited_seconds: float) -> list[Metric]:
    """How long the check took, and how long it waited."""
    times = [("ColdStartCheckTime", "Milliseconds", seconds * 1000)]
    if waited_seconds:
        times.append(("LeaseWaitTime", "Milliseconds", waited_seconds * 1000))
    return times


def read_namespace() -> str:
    """The namespace of the metrics."""
    return os.environ.get("POWERTOOLS_METRICS_NAMESPACE") or NAMESPACE


def read_service() -> str:
    """The service's name, in the log and as a dimension."""
    return os.environ.get("POWERTOOLS_SERVICE_NAME") or "service_undefined"


def make_log_fields(event: Event, seconds: float) -> dict[str, Any]:
    """The event's fields under one key, with times in milliseconds."""
    facts = {name: getattr(event, name) for name in event.__slots__}
    facts.pop("message", None)
    times = {"duration_ms": round(seconds * 1000)}
    if "waited_seconds" in facts:
        times["waited_ms"] = round(facts["waited_seconds"] * 1000)
    rest = {key: value for key, value in facts.items() if not key.endswith("seconds")}
    return {"lambda_migrate": {**rest, **times}}


_LEVELS = ("POWERTOOLS_LOG_LEVEL", "LOG_LEVEL", "AWS_LAMBDA_LOG_LEVEL")
_PREFIXES_UNRELATED_TO_FORMAT = (
    "POWERTOOLS_SERVICE_NAME",
    "POWERTOOLS_METRICS_NAMESPACE",
    "POWERTOOLS_LOG_LEVEL",
    "POWERTOOLS_TRACE",
    "POWERTOOLS_PARAMETERS_",
    "POWERTOOLS_IDEMPOTENCY_",
)
"""Prefixes of Powertools' variables that do not change the format, or are read here."""


def has_default_log_format(environ: Mapping[str, str]) -> bool:
    """Whether no variable sets another log level or format, or disables the output."""
    levels = {environ.get(name, "").upper() for name in _LEVELS}
    return levels <= {"", "INFO"} and not any(
        name.startswith("POWERTOOLS_") and not name.startswith(_PREFIXES_UNRELATED_TO_FORMAT)
        for name in environ
    )


def write_check_succeeded(event: CheckSucceeded) -> None:
    """Write the log line and the metrics of a check that did not migrate."""
    now = time.time()
    times = make_time_metrics(event.seconds, event.waited_seconds)
    write_lines([_format_line(event, now), format_emf(event.target, times, now)])


def write_lines(lines: list[str]) -> None:
    """Write all lines in one call: the heartbeat's thread writes as well."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def _format_line(event: CheckSucceeded, now: float) -> str:
    """The log line; keys and their order are those of Powertools' formatter."""
    local = time.localtime(now)
    milliseconds = f"{int(now * 1000) % 1000:03d}"
    line = {
        "level": "INFO",
        "message": MESSAGES_BY_OUTCOME[event.outcome],
        "timestamp": time.strftime(f"%Y-%m-%d %H:%M:%S,{milliseconds}%z", local),
        "service": read_service(),
        "name": "lambda_migrate",
        **make_log_fields(event, event.seconds),
    }
    trace = os.environ.get("_X_AMZN_TRACE_ID", "")
    if trace:
        line["xray_trace_id"] = trace.split(";")[0].replace("Root=", "")
    return json.dumps(line, ensure_ascii=False, separators=(",", ":"))


def format_emf(target: str, metrics: list[Metric], now: float) -> str:
    """The metrics in CloudWatch's embedded metric format."""
    directive = {
        "Namespace": read_namespace(),
        "Dimensions": [["target", "service"]],
        "Metrics": [{"Name": name, "Unit": unit} for name, unit, _ in metrics],
    }
    return json.dumps(
        {
            "_aws": {"Timestamp": int(now * 1000), "CloudWatchMetrics": [directive]},
            "target": target,
            "service": read_service(),
            **{name: [value] for name, _, value in metrics},
        },
        separators=(",", ":"),
    )
