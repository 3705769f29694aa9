"""The default observer: Powertools' Logger and Metrics. Only `wiring` knows it.

One line per outcome, whatever it is. Metrics (dimensions ``service`` and ``target``):

=======================  ============  =============================================================
``ColdStartCheckTime``   milliseconds  each check that ended, well or not
``LeaseWaitTime``        milliseconds  each check that waited
``MigrationsApplied``    count         each check that applied some
``MigrationTime``        milliseconds  each migration that was applied
``MigrationFailed``      count         each migration that failed here, not those told of it
``LeaseTakeover``        count         each lease taken from a holder that did not renew it
``NotReady``             count         each check that ended without a ready schema
=======================  ============  =============================================================
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lambda_migrate.events import (
    CheckFailed,
    CheckFinished,
    LeaseTakenOver,
    MigrationApplied,
    MigrationBroke,
)

if TYPE_CHECKING:
    from lambda_migrate.events import Event

__all__ = ["METRICS", "NAMESPACE", "PowertoolsObserver"]

NAMESPACE = "lambda-migrate"
"""Where the metrics go unless ``POWERTOOLS_METRICS_NAMESPACE`` says otherwise."""

METRICS = (
    "ColdStartCheckTime",
    "LeaseTakeover",
    "LeaseWaitTime",
    "MigrationFailed",
    "MigrationTime",
    "MigrationsApplied",
    "NotReady",
)


class PowertoolsObserver:
    """Collects the metrics of a check and writes them, and its line, when it ends.

    The Logger and the Metrics are our own, so that a function's own ones keep their keys,
    dimensions and flushing.
    """

    def __init__(self) -> None:
        self._metrics: list[tuple[str, str, float]] = []

    def observe(self, event: Event) -> None:
        """See `Observer.observe`."""
        if isinstance(event, CheckFinished):
            self._log_finished(event)
            self._end(event)
        elif isinstance(event, CheckFailed):
            self._log_failed(event)
            self._add("NotReady", "Count", 1)
            self._end(event)
        elif isinstance(event, MigrationApplied):
            self._add("MigrationTime", "Milliseconds", event.seconds * 1000)
        elif isinstance(event, MigrationBroke):
            self._add("MigrationFailed", "Count", 1)
        elif isinstance(event, LeaseTakenOver):
            self._add("LeaseTakeover", "Count", 1)

    def _add(self, name: str, unit: str, value: float) -> None:
        self._metrics.append((name, unit, value))

    def _log_finished(self, event: CheckFinished) -> None:
        _logger().info(_FINISHED[event.outcome], extra=_fields(event))

    def _log_failed(self, event: CheckFailed) -> None:
        log = _logger().warning if event.retryable else _logger().error
        log(f"schema not ready: {event.message}", extra=_fields(event))

    def _end(self, event: CheckFinished | CheckFailed) -> None:
        self._add("ColdStartCheckTime", "Milliseconds", event.seconds * 1000)
        if event.waited_seconds:
            self._add("LeaseWaitTime", "Milliseconds", event.waited_seconds * 1000)
        if event.applied:
            self._add("MigrationsApplied", "Count", len(event.applied))
        collected, self._metrics = self._metrics, []
        self._flush(event.target, collected)

    def _flush(self, target: str, collected: list[tuple[str, str, float]]) -> None:
        import os

        from aws_lambda_powertools.metrics import EphemeralMetrics

        namespace = os.environ.get("POWERTOOLS_METRICS_NAMESPACE") or NAMESPACE
        metrics = EphemeralMetrics(namespace=namespace, service=_service())
        metrics.add_dimension("target", target)
        for name, unit, value in collected:
            metrics.add_metric(name=name, unit=unit, value=value)
        metrics.flush_metrics()


_FINISHED = {
    "UP_TO_DATE": "schema is up to date",
    "MIGRATED": "schema was migrated by this instance",
    "WAITED": "schema was migrated by another instance",
}


def _service() -> str:
    import os

    return os.environ.get("POWERTOOLS_SERVICE_NAME") or "service_undefined"


def _logger() -> Any:
    """A logger of our own: a function's Logger keeps its keys, its level and its handler.

    Powertools names the logger behind a Logger after its service, so that one of the function's
    service would be the function's own; ours has another name and tells the service as a key.
    """
    import logging

    from aws_lambda_powertools import Logger

    logger = Logger(service=_LOGGER, name="lambda_migrate", location=None)
    logger.append_keys(service=_service())
    # Lambda's own handler hangs on the root logger and would write the line once more.
    logging.getLogger(_LOGGER).propagate = False
    return logger


_LOGGER = "lambda_migrate.telemetry"


def _fields(event: CheckFinished | CheckFailed) -> dict[str, Any]:
    """What an engineer wants to know at night, under one key, with times in milliseconds."""
    facts = asdict(event)
    facts.pop("message", None)
    return {
        "lambda_migrate": {
            **{key: value for key, value in facts.items() if not key.endswith("seconds")},
            "duration_ms": round(event.seconds * 1000),
            "waited_ms": round(event.waited_seconds * 1000),
        }
    }
