"""Each outcome is one structured line and valid metrics; the function's own stay unchanged."""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import replace
from typing import Any

import pytest
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

from lambda_migrate.aws.telemetry import METRICS, NAMESPACE, PowertoolsObserver
from lambda_migrate.events import (
    CheckFailed,
    CheckSucceeded,
    CommandFinished,
    Event,
    FlagsIgnored,
    LeaseHeldTime,
    LeaseTakenOver,
    MigrationApplied,
    MigrationAttemptFailed,
    MigrationNotice,
    MigrationRolledBack,
    MigrationStarted,
    RenewalFailed,
    TargetShared,
    WaitingForLease,
)
from tests.unit.entrypoints.lines import Lines

MIGRATED = CheckSucceeded("orders-db", "d1", "MIGRATED", 2.5, 0.5, 3, ("0001_m", "0002_m"), 7, "me")
UP_TO_DATE = CheckSucceeded("orders-db", "d1", "UP_TO_DATE", 0.01, 0.0, 1, (), 0, "me")
WAITED = CheckSucceeded("orders-db", "d1", "WAITED", 4.0, 3.9, 9, (), 0, "me")
SHARED = TargetShared("orders-db", "db-a:5432/orders", "db-b:5432/billing", "billing/8/f")
UNCHECKED = CheckSucceeded("orders-db", "d1", "UNCHECKED", 0.2, 0.0, 1, (), 0, "me")
FAILED = CheckFailed(
    target="orders-db",
    digest="d1",
    error="MigrationFailed",
    message="0002_m: division by zero [22012]",
    retryable=False,
    migration="0002_m",
    sqlstate="22012",
    attempts=2,
    retry_at_ms=1_700_000_020_000,
    seconds=1.25,
    waited_seconds=0.0,
    lease_calls=3,
    applied=("0001_m",),
    fence=7,
    owner="me",
)


def observe(*events: Event) -> None:
    observer = PowertoolsObserver()
    for event in events:
        observer.observe(event)


def values(emf: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Metric -> its values, over all lines."""
    found: dict[str, list[float]] = {}
    for line in emf:
        for metric in line["_aws"]["CloudWatchMetrics"][0]["Metrics"]:
            found.setdefault(metric["Name"], []).extend(line[metric["Name"]])
    return found


def test_a_shared_target_is_a_warning_that_names_both_databases_and_who_checked_the_other(
    lines: Lines,
) -> None:
    observe(SHARED, MIGRATED)
    (warning, _), _ = lines.read()
    assert warning["level"] == "WARNING"
    for named in ("orders-db", "db-a:5432/orders", "db-b:5432/billing", "billing/8/f"):
        assert named in warning["message"]
    assert "LAMBDA_MIGRATE_TARGET" in warning["message"]


def test_ignored_flags_are_reported_once_in_a_check(lines: Lines) -> None:
    ignored = FlagsIgnored("orders-db", "no answer")
    observe(ignored, ignored, MIGRATED, ignored)
    written, _ = lines.read()
    assert [line["level"] for line in written] == ["WARNING", "INFO", "WARNING"]


@pytest.mark.parametrize(
    ("event", "level", "message"),
    [
        (MIGRATED, "INFO", "schema was migrated by this instance"),
        (UP_TO_DATE, "INFO", "schema is up to date"),
        (WAITED, "INFO", "schema was migrated by another instance"),
        (
            UNCHECKED,
            "INFO",
            "schema is not ready; served without a check: a feature flag sets mode off",
        ),
        (
            FlagsIgnored("orders-db", "the feature flags a/b/c cannot be used: no answer"),
            "WARNING",
            "continuing without feature flags: the feature flags a/b/c cannot be used: no answer",
        ),
        (
            RenewalFailed("orders-db", 7, "ConfigurationError", "the table vanished", 12.3),
            "ERROR",
            "the lease cannot be renewed: the table vanished; the running migration is cancelled "
            "in 12 s unless this is fixed",
        ),
        (FAILED, "ERROR", "schema not ready: 0002_m: division by zero [22012]"),
    ],
)
def test_each_outcome_is_one_line(lines: Lines, event: Event, level: str, message: str) -> None:
    observe(MigrationStarted("orders-db", "0001_m", 1, 2), event)
    ((line,), _) = lines.read()
    assert (line["level"], line["message"]) == (level, message)


COMMAND = CommandFinished("orders-db", "up", "r1", 0, "", "", 2.5, ("0001_m",), False)


@pytest.mark.parametrize(
    ("event", "level", "message"),
    [
        (COMMAND, "INFO", "up ended with exit code 0"),
        (replace(COMMAND, exit_code=4, message="busy"), "INFO", "up ended with exit code 4: busy"),
        (replace(COMMAND, exit_code=1, message="no"), "ERROR", "up ended with exit code 1: no"),
        (replace(COMMAND, command="", exit_code=2), "INFO", "no command ended with exit code 2"),
    ],
)
def test_each_command_is_one_line(
    lines: Lines, event: CommandFinished, level: str, message: str
) -> None:
    observe(event)
    ((line,), _) = lines.read()
    assert (line["level"], line["message"]) == (level, message)
    assert line["lambda_migrate"]["request_id"] == "r1"
    assert line["lambda_migrate"]["duration_ms"] == 2500


def test_a_command_ends_with_the_metrics_of_what_it_did(lines: Lines) -> None:
    observe(
        MigrationApplied("orders-db", "0001_m", 1, 2, 1.5),
        MigrationAttemptFailed("orders-db", "0002_m", "22012", "division by zero", 0.5),
        replace(COMMAND, exit_code=1),
    )
    _, emf = lines.read()
    assert values(emf) == {
        "MigrationTime": [1500],
        "MigrationFailed": [1],
        "MigrationsApplied": [1],
    }


def test_a_command_that_only_read_has_no_metrics(lines: Lines) -> None:
    observe(replace(COMMAND, command="status", applied=()))
    assert lines.read()[1] == []


def test_a_retryable_error_is_a_warning(lines: Lines) -> None:
    observe(replace(FAILED, error="NotReady", message="busy", retryable=True))
    ((line,), _) = lines.read()
    assert (line["level"], line["message"]) == ("WARNING", "schema not ready: busy")


def test_the_line_has_all_fields_of_the_check(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", "orders")
    observe(FAILED)
    ((line,), _) = lines.read()
    assert line["service"] == "orders"
    assert line["lambda_migrate"] == {
        "target": "orders-db",
        "digest": "d1",
        "error": "MigrationFailed",
        "retryable": False,
        "migration": "0002_m",
        "sqlstate": "22012",
        "attempts": 2,
        "retry_at_ms": 1_700_000_020_000,
        "lease_calls": 3,
        "applied": ["0001_m"],
        "fence": 7,
        "owner": "me",
        "duration_ms": 1250,
        "waited_ms": 0,
    }


def test_lambdas_own_handler_on_the_root_logger_does_not_write_the_line_again(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", "orders")
    logging.root.addHandler(logging.StreamHandler(sys.stdout))
    observe(MIGRATED)
    logging.root.addHandler(logging.StreamHandler(sys.stdout))
    observe(MIGRATED)
    logged, _ = lines.read()
    assert len(logged) == 2


@pytest.mark.parametrize("function_first", [True, False])
def test_the_functions_logger_keeps_its_keys_and_its_level(
    lines: Lines, monkeypatch: pytest.MonkeyPatch, function_first: bool
) -> None:
    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", "orders")
    if not function_first:
        observe(UP_TO_DATE)
        lines.read()
    logger = Logger(level="WARNING")
    logger.append_keys(order_id="o-1")
    observe(MIGRATED)
    logger.info("too quiet")
    logger.warning("the function's")
    (ours, theirs), _ = lines.read()
    assert ours["message"] == "schema was migrated by this instance"
    assert "order_id" not in ours
    assert theirs["message"] == "the function's"
    assert theirs["order_id"] == "o-1"
    assert theirs["service"] == "orders"
    assert "location" in theirs
    assert not {"lambda_migrate", "name"} & theirs.keys()


def test_a_plain_logger_of_the_services_name_is_not_silenced(
    lines: Lines, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", "orders")
    logging.root.addHandler(logging.StreamHandler(sys.stdout))
    observe(MIGRATED)
    lines.read()
    logging.getLogger("orders.checkout").warning("plain")
    assert capsys.readouterr().out == "plain\n"


def test_the_functions_metrics_keep_their_values_dimensions_and_flush(lines: Lines) -> None:
    metrics = Metrics(namespace="shop", service="orders")
    metrics.set_default_dimensions(stage="test")
    metrics.add_dimension("region", "eu")
    metrics.add_metric("Orders", MetricUnit.Count, 3)
    observe(MIGRATED)
    _, (ours,) = lines.read()
    assert not {"stage", "region", "Orders"} & ours.keys()
    metrics.flush_metrics()
    _, (theirs,) = lines.read()
    assert (theirs["Orders"], theirs["stage"], theirs["region"]) == ([3.0], "test", "eu")
    assert theirs["_aws"]["CloudWatchMetrics"][0]["Namespace"] == "shop"
    assert not set(METRICS) & theirs.keys()


def test_the_metrics_of_a_check_are_one_valid_emf_line(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", "orders")
    observe(
        LeaseTakenOver("orders-db", "dead", 7),
        MigrationStarted("orders-db", "0001_m", 1, 2),
        MigrationApplied("orders-db", "0001_m", 1, 2, 0.25),
        MigrationApplied("orders-db", "0002_m", 2, 2, 0.75),
        MIGRATED,
    )
    _, (emf,) = lines.read()
    (directive,) = emf["_aws"]["CloudWatchMetrics"]
    assert isinstance(emf["_aws"]["Timestamp"], int)
    assert directive["Namespace"] == NAMESPACE
    assert [set(dimensions) for dimensions in directive["Dimensions"]] == [{"service", "target"}]
    assert (emf["service"], emf["target"]) == ("orders", "orders-db")
    assert {metric["Name"]: metric["Unit"] for metric in directive["Metrics"]} == {
        "ColdStartCheckTime": "Milliseconds",
        "LeaseTakeover": "Count",
        "LeaseWaitTime": "Milliseconds",
        "MigrationTime": "Milliseconds",
        "MigrationsApplied": "Count",
    }
    assert values([emf]) == {
        "ColdStartCheckTime": [2500.0],
        "LeaseTakeover": [1.0],
        "LeaseWaitTime": [500.0],
        "MigrationTime": [250.0, 750.0],
        "MigrationsApplied": [2.0],
    }


def test_a_warning_of_a_migration_is_a_line_of_its_own(lines: Lines) -> None:
    observe(
        MigrationApplied("t", "0001_m", 1, 2, 0.25),
        MigrationNotice("t", "0001_m", "WARNING", "3 orders were skipped"),
        MigrationNotice("t", "0001_m", "NOTICE", "relation exists"),
        MIGRATED,
    )
    written, _ = lines.read()
    assert [(line["level"], line["message"]) for line in written[:2]] == [
        ("WARNING", "0001_m: WARNING: 3 orders were skipped"),
        ("INFO", "0001_m: NOTICE: relation exists"),
    ]


def test_all_the_metrics_that_alarms_may_name_are_written(lines: Lines) -> None:
    observe(
        SHARED,
        LeaseTakenOver("t", "dead", 7),
        MigrationApplied("t", "0001_m", 1, 2, 0.25),
        MigrationAttemptFailed("t", "0002_m", "22012", "division by zero", 0.1),
        LeaseHeldTime("t", 7, 2.0, is_final=True),
        TargetShared("t", "mine:5432/a", "other:5432/b", "billing/7/x"),
        FAILED,
        WAITED,
    )
    _, emf = lines.read()
    assert tuple(sorted(values(emf))) == METRICS
    assert tuple(sorted(METRICS)) == METRICS


def test_a_shared_target_is_a_warning_that_names_both_databases(lines: Lines) -> None:
    observe(TargetShared("t", "mine:5432/a", "other:5432/b", "billing/7/x"), MIGRATED)
    (warning, *_), _ = lines.read()
    assert warning["level"] == "WARNING"
    for part in ("'t'", "mine:5432/a", "other:5432/b", "billing/7/x", "LAMBDA_MIGRATE_TARGET"):
        assert part in warning["message"]


def test_a_failure_of_another_instance_counts_only_as_not_ready(lines: Lines) -> None:
    observe(FAILED)
    _, emf = lines.read()
    found = values(emf)
    assert found["NotReady"] == [1.0]
    assert "MigrationFailed" not in found


def test_metrics_belong_to_the_check_that_they_came_from(lines: Lines) -> None:
    observe(MigrationApplied("t", "0001_m", 1, 1, 0.25), MIGRATED, UP_TO_DATE)
    _, (first, second) = lines.read()
    assert "MigrationTime" in first
    assert set(values([second])) == {"ColdStartCheckTime"}


def test_more_migrations_than_one_emf_line_may_hold_are_all_counted(lines: Lines) -> None:
    applied = [MigrationApplied("t", f"{n:04d}_m", n, 250, 0.001) for n in range(250)]
    observe(*applied, MIGRATED)
    _, emf = lines.read()
    assert len(values(emf)["MigrationTime"]) == 250
    for line in emf:
        assert len(line.get("MigrationTime", [])) <= 100
        assert (line["target"], line["service"]) == ("orders-db", "service_undefined")


def test_other_events_write_nothing(lines: Lines) -> None:
    observe(
        WaitingForLease("t", "other", 1.0, 0.5, ""),
        MigrationStarted("t", "0001_m", 1, 1),
        MigrationRolledBack("t", "0001_m", 1, 1, 0.5),
        LeaseTakenOver("t", "dead", 1),
    )
    assert lines.read() == ([], [])


def test_the_held_time_is_reported_while_the_lease_is_held(lines: Lines) -> None:
    observe(LeaseHeldTime("orders-db", 7, 6.5, is_final=False))
    _, (emf,) = lines.read()
    assert values([emf]) == {"LeaseHeldTime": [6500.0]}
    assert emf["_aws"]["CloudWatchMetrics"][0]["Metrics"] == [
        {"Name": "LeaseHeldTime", "Unit": "Milliseconds"}
    ]
    assert emf["target"] == "orders-db"


def test_a_heartbeat_does_not_flush_the_metrics_of_the_check(lines: Lines) -> None:
    observe(
        MigrationApplied("t", "0001_m", 1, 1, 0.25),
        LeaseHeldTime("t", 7, 0.5, is_final=False),
        MIGRATED,
    )
    _, (held, check) = lines.read()
    assert values([held]) == {"LeaseHeldTime": [500.0]}
    assert "LeaseHeldTime" not in check
    assert values([check])["MigrationTime"] == [250.0]


def test_the_metrics_namespace_is_the_functions_if_it_names_one(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POWERTOOLS_METRICS_NAMESPACE", "Shop")
    observe(MIGRATED)
    _, (emf,) = lines.read()
    assert emf["_aws"]["CloudWatchMetrics"][0]["Namespace"] == "Shop"
    assert emf["service"] == "service_undefined"


# --- the lines that are written without Powertools


@pytest.mark.parametrize("event", [UP_TO_DATE, WAITED], ids=["up to date", "waited"])
@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"POWERTOOLS_SERVICE_NAME": "orders", "POWERTOOLS_METRICS_NAMESPACE": "Shop"},
        {"_X_AMZN_TRACE_ID": "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=5;Sampled=1"},
        {"POWERTOOLS_LOG_LEVEL": "INFO", "AWS_LAMBDA_LOG_LEVEL": "INFO", "TZ": "Asia/Kolkata"},
        {"POWERTOOLS_SERVICE_NAME": "Bestellungen für Ümläute"},
    ],
    ids=["nothing", "names", "trace", "levels", "letters"],
)
def test_a_line_written_without_powertools_is_the_line_that_powertools_would_write(
    lines: Lines, monkeypatch: pytest.MonkeyPatch, event: CheckSucceeded, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    time.tzset()
    monkeypatch.setattr("time.time", lambda: 1_790_000_000.25)
    monkeypatch.setattr("time.time_ns", lambda: 1_790_000_000_250_000_000)
    observe(event)
    (plain,), (plain_emf,) = lines.read()
    monkeypatch.setenv("POWERTOOLS_SOMETHING_NEW", "1")  # which only Powertools may know
    observe(event)
    (rich,), (rich_emf,) = lines.read()
    monkeypatch.undo()
    time.tzset()
    assert list(plain.items()) == list(rich.items())
    rich_emf["_aws"]["Timestamp"] = plain_emf["_aws"]["Timestamp"]
    assert sorted(plain_emf["_aws"]["CloudWatchMetrics"][0].pop("Dimensions")[0]) == sorted(
        rich_emf["_aws"]["CloudWatchMetrics"][0].pop("Dimensions")[0]
    )
    assert plain_emf == rich_emf


@pytest.mark.parametrize(
    "variables",
    [
        {"POWERTOOLS_LOG_LEVEL": "WARNING"},
        {"AWS_LAMBDA_LOG_LEVEL": "ERROR"},
        {"LOG_LEVEL": "CRITICAL"},
    ],
)
def test_a_higher_log_level_silences_the_line_and_not_the_metrics(
    lines: Lines, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    observe(UP_TO_DATE)
    logged, emf = lines.read()
    assert logged == []
    assert values(emf) == {"ColdStartCheckTime": [10.0]}


def test_switching_powertools_metrics_off_switches_ours_off(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POWERTOOLS_METRICS_DISABLED", "true")
    observe(LeaseHeldTime("t", 7, 2.0, is_final=True), UP_TO_DATE)
    logged, emf = lines.read()
    assert (len(logged), emf) == (1, [])
