"""The default observer: log lines and metrics in the formats of Powertools for AWS Lambda.

Importing Powertools takes 50 ms of CPU, and every cold start writes a line. The log line and the
metrics of a check that found the schema ready, or waited until it was, are therefore written here,
byte for byte as Powertools writes them (a test compares the two). All others are written by
Powertools, and so are these if a variable of Powertools changes their format.

One log line for each outcome. Metrics (dimensions ``service`` and ``target``):

=======================  ============  =============================================================
``ColdStartCheckTime``   milliseconds  each check, successful or not
``LeaseWaitTime``        milliseconds  each check that waited
``MigrationsApplied``    count         each check that applied some
``MigrationTime``        milliseconds  each migration that was applied
``MigrationFailed``      count         each migration that failed in this instance
``LeaseHeldTime``        milliseconds  each heartbeat of a holder, and its end: how long it has
                                       held the lease
``LeaseTakeover``        count         each expired lease that was acquired from its holder
``NotReady``             count         each check that ended without a ready schema
``TargetShared``         count         each full check that found another database, with other
                                       migrations, under the same target
=======================  ============  =============================================================
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lambda_migrate.check_events import CheckFinished, WaitingForLease

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from lambda_migrate.check_events import Event
    from lambda_migrate.events import CheckFailed, CommandEnded, LeaseHeldTime

    Metric = tuple[str, str, float]

__all__ = ["METRICS", "NAMESPACE", "PowertoolsObserver"]

NAMESPACE = "lambda-migrate"
"""The namespace of the metrics, unless ``POWERTOOLS_METRICS_NAMESPACE`` is set."""

METRICS = (
    "ColdStartCheckTime",
    "LeaseHeldTime",
    "LeaseTakeover",
    "LeaseWaitTime",
    "MigrationFailed",
    "MigrationTime",
    "MigrationsApplied",
    "NotReady",
    "TargetShared",
)


class PowertoolsObserver:
    """Collects the metrics of a check, and writes them and the log line when it ends.

    It uses its own Logger and Metrics, so that those of the function keep their keys, dimensions
    and flushing.
    """

    def __init__(self) -> None:
        self._metrics: list[Metric] = []
        self._warned: set[str] = set()

    def observe(self, event: Event) -> None:
        """See `Observer.observe`."""
        if isinstance(event, CheckFinished):
            if not (event.applied or self._metrics) and _has_default_format(os.environ):
                _write_check_finished(event)
                return
            self._log_check_finished(event)
            self._flush_metrics(event, _make_time_metrics(event))
        elif not isinstance(event, WaitingForLease):
            self._observe_other(event)

    def _observe_other(self, event: Event) -> None:
        from lambda_migrate.events import (
            CheckFailed,
            CommandEnded,
            FlagsIgnored,
            LeaseHeldTime,
            LeaseTakenOver,
            MigrationApplied,
            MigrationAttemptFailed,
            MigrationNotice,
            RenewalFailed,
            TargetShared,
        )

        if isinstance(event, CheckFailed):
            self._log_check_failed(event)
            self._add_metric("NotReady", "Count", 1)
            self._flush_metrics(event, _make_time_metrics(event))
        elif isinstance(event, CommandEnded):
            self._log_command(event)
            self._flush_metrics(event, [])
        elif isinstance(event, MigrationApplied):
            self._add_metric("MigrationTime", "Milliseconds", event.seconds * 1000)
        elif isinstance(event, MigrationAttemptFailed):
            self._add_metric("MigrationFailed", "Count", 1)
        elif isinstance(event, MigrationNotice):
            log = _make_logger().warning if event.severity == "WARNING" else _make_logger().info
            log(f"{event.migration}: {event.severity}: {event.message}")
        elif isinstance(event, LeaseTakenOver):
            self._add_metric("LeaseTakeover", "Count", 1)
        elif isinstance(event, LeaseHeldTime):
            self._write_held_time(event)
        elif isinstance(event, RenewalFailed):
            _make_logger().error(
                f"the lease cannot be renewed: {event.cause}; the running migration is cancelled "
                f"in {event.seconds_left:.0f} s unless this is fixed"
            )
        elif isinstance(event, FlagsIgnored):
            self._warn(f"continuing without feature flags: {event.reason}")
        elif isinstance(event, TargetShared):
            self._add_metric("TargetShared", "Count", 1)
            self._warn(
                f"target {event.target!r} is shared by databases with different migrations: "
                f"{event.address}, and {event.other_addresses} (last checked by "
                f"{event.other_owner}); give each its own LAMBDA_MIGRATE_TARGET"
            )

    def _warn(self, message: str) -> None:
        """Log it once in a check, even if it applies to a hundred migrations."""
        if message not in self._warned:
            self._warned.add(message)
            _make_logger().warning(message)

    def _add_metric(self, name: str, unit: str, value: float) -> None:
        self._metrics.append((name, unit, value))

    def _write_held_time(self, event: LeaseHeldTime) -> None:
        """Write at once, so that a migration that hangs is noticed before its check ends."""
        held: list[Metric] = [("LeaseHeldTime", "Milliseconds", event.held_seconds * 1000)]
        if _has_default_format(os.environ):
            _write([_format_emf(event.target, held, _now())])
        else:
            self._write_metrics(event.target, held)

    def _log_check_finished(self, event: CheckFinished) -> None:
        _make_logger().info(_MESSAGES_BY_OUTCOME[event.outcome], extra=_make_log_fields(event))

    def _log_check_failed(self, event: CheckFailed) -> None:
        log = _make_logger().warning if event.retryable else _make_logger().error
        log(f"schema not ready: {event.message}", extra=_make_log_fields(event))

    def _log_command(self, event: CommandEnded) -> None:
        log = _make_logger().error if event.exit_code == _EXIT_FAILED else _make_logger().info
        what = event.command or "no command"
        ended = f"{what} ended with exit code {event.exit_code}"
        log(f"{ended}: {event.message}" if event.message else ended, extra=_make_log_fields(event))

    def _flush_metrics(
        self, event: CheckFinished | CheckFailed | CommandEnded, times: list[Metric]
    ) -> None:
        collected, self._metrics = self._metrics + times, []
        self._warned.clear()
        if event.applied:
            collected.append(("MigrationsApplied", "Count", len(event.applied)))
        if collected:
            self._write_metrics(event.target, collected)

    def _write_metrics(self, target_name: str, collected_metrics: list[Metric]) -> None:
        from aws_lambda_powertools.metrics import EphemeralMetrics

        metrics = EphemeralMetrics(namespace=_read_namespace(), service=_read_service())
        metrics.add_dimension("target", target_name)
        for name, unit, value in collected_metrics:
            metrics.add_metric(name=name, unit=unit, value=value)
        metrics.flush_metrics()


_EXIT_FAILED = 1
"""The exit code of a command that failed; others stand for wrong usage or a held lease."""

_MESSAGES_BY_OUTCOME = {
    "UP_TO_DATE": "schema is up to date",
    "MIGRATED": "schema was migrated by this instance",
    "WAITED": "schema was migrated by another instance",
    "UNCHECKED": "schema is not ready; served without a check: a feature flag sets mode off",
}


def _make_time_metrics(event: CheckFinished | CheckFailed) -> list[Metric]:
    times = [("ColdStartCheckTime", "Milliseconds", event.seconds * 1000)]
    if event.waited_seconds:
        times.append(("LeaseWaitTime", "Milliseconds", event.waited_seconds * 1000))
    return times


def _read_namespace() -> str:
    return os.environ.get("POWERTOOLS_METRICS_NAMESPACE") or NAMESPACE


def _read_service() -> str:
    return os.environ.get("POWERTOOLS_SERVICE_NAME") or "service_undefined"


def _make_logger() -> Any:
    """A logger of the library, so that the function's Logger keeps its keys, level and handler.

    Powertools names the logger behind a Logger after its service: with the function's service it
    would be the function's own logger. This one has another name, and the service as a key.
    """
    import logging

    from aws_lambda_powertools import Logger

    logger = Logger(service=_LOGGER, name="lambda_migrate", location=None)
    logger.append_keys(service=_read_service())
    # Lambda's handler on the root logger would write the line a second time.
    logging.getLogger(_LOGGER).propagate = False
    return logger


_LOGGER = "lambda_migrate.aws.telemetry"


def _make_log_fields(event: CheckFinished | CheckFailed | CommandEnded) -> dict[str, Any]:
    """The event's fields under one key, with times in milliseconds."""
    facts = {name: getattr(event, name) for name in event.__slots__}
    facts.pop("message", None)
    times = {"duration_ms": round(event.seconds * 1000)}
    if "waited_seconds" in facts:
        times["waited_ms"] = round(facts["waited_seconds"] * 1000)
    rest = {key: value for key, value in facts.items() if not key.endswith("seconds")}
    return {"lambda_migrate": {**rest, **times}}


# --- the same without Powertools

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


def _has_default_format(environ: Mapping[str, str]) -> bool:
    """Whether no variable sets another log level or format, or disables the output."""
    levels = {environ.get(name, "").upper() for name in _LEVELS}
    return levels <= {"", "INFO"} and not any(
        name.startswith("POWERTOOLS_") and not name.startswith(_PREFIXES_UNRELATED_TO_FORMAT)
        for name in environ
    )


def _write_check_finished(event: CheckFinished) -> None:
    now = _now()
    _write([_format_line(event, now), _format_emf(event.target, _make_time_metrics(event), now)])


def _write(lines: list[str]) -> None:
    """Write all lines at once: the heartbeat's thread writes as well."""
    import sys

    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def _now() -> float:
    import time

    return time.time()


def _format_line(event: CheckFinished, now: float) -> str:
    """The log line; keys and their order are those of Powertools' formatter."""
    import json
    import time

    local = time.localtime(now)
    milliseconds = f"{int(now * 1000) % 1000:03d}"
    line = {
        "level": "INFO",
        "message": _MESSAGES_BY_OUTCOME[event.outcome],
        "timestamp": time.strftime(f"%Y-%m-%d %H:%M:%S,{milliseconds}%z", local),
        "service": _read_service(),
        "name": "lambda_migrate",
        **_make_log_fields(event),
    }
    trace = os.environ.get("_X_AMZN_TRACE_ID", "")
    if trace:
        line["xray_trace_id"] = trace.split(";")[0].replace("Root=", "")
    return json.dumps(line, ensure_ascii=False, separators=(",", ":"))


def _format_emf(target: str, metrics: list[Metric], now: float) -> str:
    """The metrics in CloudWatch's embedded metric format."""
    import json

    directive = {
        "Namespace": _read_namespace(),
        "Dimensions": [["target", "service"]],
        "Metrics": [{"Name": name, "Unit": unit} for name, unit, _ in metrics],
    }
    return json.dumps(
        {
            "_aws": {"Timestamp": int(now * 1000), "CloudWatchMetrics": [directive]},
            "target": target,
            "service": _read_service(),
            **{name: [value] for name, _, value in metrics},
        },
        separators=(",", ":"),
    )
