"""The default observer: log lines and metrics in the formats of Powertools for AWS Lambda.

Powertools writes them, except for those of a check that did not migrate; see `check_events`.

Each check ends with one log line. Metrics (dimensions ``service`` and ``target``):

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
``TargetShared``         count         each check that held the lease and found another database,
                                       with other migrations, under the same target
=======================  ============  =============================================================
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from lambda_migrate.check_events import (
    MESSAGES_BY_OUTCOME,
    NAMESPACE,
    CheckSucceeded,
    WaitingForLease,
    format_emf,
    has_default_log_format,
    make_log_fields,
    make_time_metrics,
    read_namespace,
    read_service,
    write_check_succeeded,
    write_lines,
)

if TYPE_CHECKING:
    from typing import Any

    from lambda_migrate.check_events import Event, Metric
    from lambda_migrate.events import CheckFailed, CommandFinished, LeaseHeldTime

__all__ = ["METRICS", "NAMESPACE", "PowertoolsObserver"]

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
        if isinstance(event, CheckSucceeded):
            if not (event.applied or self._metrics) and has_default_log_format(os.environ):
                write_check_succeeded(event)
                return
            self._log_check_succeeded(event)
            self._flush_metrics(event, make_time_metrics(event.seconds, event.waited_seconds))
        elif not isinstance(event, WaitingForLease):
            self._observe_other(event)

    def _observe_other(self, event: Event) -> None:
        from lambda_migrate.events import (
            CheckFailed,
            CommandFinished,
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
            self._flush_metrics(event, make_time_metrics(event.seconds, event.waited_seconds))
        elif isinstance(event, CommandFinished):
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
        """Write immediately, so that a migration that hangs is noticed before its check ends."""
        held: list[Metric] = [("LeaseHeldTime", "Milliseconds", event.held_seconds * 1000)]
        if has_default_log_format(os.environ):
            write_lines([format_emf(event.target, held, time.time())])
        else:
            self._write_metrics(event.target, held)

    def _log_check_succeeded(self, event: CheckSucceeded) -> None:
        _make_logger().info(
            MESSAGES_BY_OUTCOME[event.outcome], extra=make_log_fields(event, event.seconds)
        )

    def _log_check_failed(self, event: CheckFailed) -> None:
        log = _make_logger().warning if event.retryable else _make_logger().error
        log(f"schema not ready: {event.message}", extra=make_log_fields(event, event.seconds))

    def _log_command(self, event: CommandFinished) -> None:
        log = _make_logger().error if event.exit_code == _EXIT_FAILED else _make_logger().info
        what = event.command or "no command"
        ended = f"{what} ended with exit code {event.exit_code}"
        log(
            f"{ended}: {event.message}" if event.message else ended,
            extra=make_log_fields(event, event.seconds),
        )

    def _flush_metrics(
        self, event: CheckSucceeded | CheckFailed | CommandFinished, times: list[Metric]
    ) -> None:
        collected, self._metrics = self._metrics + times, []
        self._warned.clear()
        if event.applied:
            collected.append(("MigrationsApplied", "Count", len(event.applied)))
        if collected:
            self._write_metrics(event.target, collected)

    def _write_metrics(self, target_name: str, collected_metrics: list[Metric]) -> None:
        from aws_lambda_powertools.metrics import EphemeralMetrics

        metrics = EphemeralMetrics(namespace=read_namespace(), service=read_service())
        metrics.add_dimension("target", target_name)
        for name, unit, value in collected_metrics:
            metrics.add_metric(name=name, unit=unit, value=value)
        metrics.flush_metrics()


_EXIT_FAILED = 1
"""The exit code of a command that failed; others stand for wrong usage or a held lease."""


def _make_logger() -> Any:
    """A logger of the library, so that the function's Logger keeps its keys, level and handler.

    Powertools names the logger behind a Logger after its service: with the function's service it
    would be the function's own logger. This one has another name, and the service as a key.
    """
    import logging

    from aws_lambda_powertools import Logger

    logger = Logger(service=_LOGGER, name="lambda_migrate", location=None)
    logger.append_keys(service=read_service())
    # Lambda's handler on the root logger would write the line a second time.
    logging.getLogger(_LOGGER).propagate = False
    return logger


_LOGGER = "lambda_migrate.aws.telemetry"
