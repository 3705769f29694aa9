"""The result of a hook's work in every case."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from lambda_migrate.clock import Deadline
from lambda_migrate.deploy.hook import HookResult, check_schema, log_result, migrate, run_hook
from lambda_migrate.engine.flags import Flags
from lambda_migrate.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    LeaseLost,
    ManifestError,
    MigrationFailed,
    NotReady,
)
from lambda_migrate.outcome import Outcome
from lambda_migrate.testing import InMemoryFlags
from tests.unit.deploy.conftest import Deploy, make_unexpected_errors
from tests.unit.engine.fakes import Fakes, manifest, raises
from tests.unit.entrypoints.lines import Lines

V1, V2 = manifest(1), manifest(1, 2)


@pytest.fixture
def run(fakes: Fakes) -> Callable[..., HookResult]:
    """Return `migrate` with a deadline in seconds."""

    def run(seconds: float = 60.0) -> HookResult:
        return migrate(fakes.deadline(seconds), request_id="request-1")

    return run


# --- migrating


def test_the_hook_migrates_like_a_cold_start(
    fakes: Fakes, deploy: Deploy, run: Callable[..., HookResult]
) -> None:
    deploy(V2)
    assert run() == HookResult("MIGRATED")
    assert fakes.database.effects == ["0001_m", "0002_m"]
    assert run() == HookResult("UP_TO_DATE")
    assert run().is_ready
    assert not run().has_failed


def test_every_event_checks_readiness_again(
    fakes: Fakes, deploy: Deploy, run: Callable[..., HookResult]
) -> None:
    deploy(V1)
    run()
    fakes.table.log.clear()
    run()
    assert fakes.table.log == ["read"]


def test_the_hook_waits_for_another_holder_as_long_as_it_has_time(
    fakes: Fakes, deploy: Deploy, run: Callable[..., HookResult]
) -> None:
    deploy(V1)
    lease = fakes.held_by("another")
    for seconds in range(5, 300, 5):
        fakes.clock.at(seconds, lambda: fakes.table.renew(lease))
    fakes.clock.at(300, lambda: fakes.finish(lease, V1))
    assert run(800) == HookResult("WAITED")


def test_a_configured_wait_is_used(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch, deploy: Deploy
) -> None:
    asked: list[object] = []

    def from_settings(*, observer: object, wait_seconds: object) -> object:
        asked.append(wait_seconds)
        raise ConfigurationError("enough")

    monkeypatch.setattr("lambda_migrate.runner.MigrationRunner.from_settings", from_settings)
    for setting in ("7", ""):
        monkeypatch.setenv("LAMBDA_MIGRATE_WAIT_SECONDS", setting)
        with pytest.raises(ConfigurationError):
            migrate(fakes.deadline(), request_id="")
    assert asked == [None, 900.0]


def test_mode_off_does_nothing_and_fails_no_deployment(deploy: Deploy, fakes: Fakes) -> None:
    deploy(V2, mode="off")
    for result in (migrate(fakes.deadline(), request_id=""), check_schema(fakes.deadline())):
        assert result.outcome == "UNCHECKED"
        assert not result.has_failed
        assert not result.is_ready
    assert fakes.table.log == fakes.database.effects == []


def test_a_feature_flag_that_switches_off_is_named(
    fakes: Fakes, deploy: Deploy, run: Callable[..., HookResult]
) -> None:
    fakes.flags = InMemoryFlags(Flags(mode="off"))
    deploy(V2)
    result = run()
    assert (result.outcome, result.has_failed) == ("UNCHECKED", False)
    assert "lambda_migrate_mode" in result.cause
    assert fakes.database.effects == []


def test_a_pausing_feature_flag_fails_the_hook_and_is_named(
    fakes: Fakes, deploy: Deploy, run: Callable[..., HookResult]
) -> None:
    fakes.flags = InMemoryFlags(Flags(paused=True))
    deploy(V2)
    result = run_hook(lambda _until: run(), fakes.deadline())
    assert result.has_failed
    assert "lambda_migrate_paused" in result.cause


def test_a_function_without_migrations_is_never_ready(
    fakes: Fakes, deploy: Deploy, run: Callable[..., HookResult]
) -> None:
    deploy(manifest())
    with pytest.raises(ManifestError, match="contains no migrations"):
        run()
    with pytest.raises(ManifestError, match="contains no migrations"):
        check_schema(fakes.deadline())
    assert (fakes.table.log, fakes.database.connections) == ([], 0)


# --- temporary failures are retried, because a hook is not invoked again


class _FlakyRunner:
    """A runner whose first attempts fail with these errors."""

    def __init__(self, fakes: Fakes, *errors: Exception, seconds: float = 0.0) -> None:
        self.target = fakes.target()
        self.errors = list(errors)
        self.calls = 0
        self.seconds = seconds

    def ensure(self, deadline: Deadline, *, request_id: str) -> Outcome:
        self.calls += 1
        self.target.clock.sleep(self.seconds)
        if self.errors:
            raise self.errors.pop(0)
        return Outcome.MIGRATED


def _use_runner(monkeypatch: pytest.MonkeyPatch, runner: _FlakyRunner) -> _FlakyRunner:
    monkeypatch.setattr("lambda_migrate.runner.MigrationRunner.from_settings", lambda **_: runner)
    return runner


def test_a_database_that_resumes_is_waited_for(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch, run: Callable[..., HookResult]
) -> None:
    away = [DatabaseUnavailable("asleep")] * 5
    runner = _use_runner(monkeypatch, _FlakyRunner(fakes, *away))
    assert run() == HookResult("MIGRATED")
    assert runner.calls == 6
    pauses = [seconds for seconds in fakes.clock.slept if seconds]
    assert pauses == [0.75, 1.5, 3.0, 6.0, 7.5]


def test_a_database_that_stays_unavailable_is_given_up_after_a_minute(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch, run: Callable[..., HookResult]
) -> None:
    _use_runner(monkeypatch, _FlakyRunner(fakes, *[DatabaseUnavailable("gone")] * 100))
    began = fakes.clock.monotonic()
    with pytest.raises(DatabaseUnavailable):
        run(800)
    assert 45 <= fakes.clock.monotonic() - began <= 60


def test_nothing_is_retried_without_enough_time(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch, run: Callable[..., HookResult]
) -> None:
    runner = _use_runner(monkeypatch, _FlakyRunner(fakes, *[DatabaseUnavailable("gone")] * 100))
    with pytest.raises(DatabaseUnavailable):
        run(0.5)
    assert runner.calls == 1


def test_a_process_that_took_over_the_lease_is_waited_for(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch, run: Callable[..., HookResult]
) -> None:
    _use_runner(monkeypatch, _FlakyRunner(fakes, LeaseLost("taken over"), seconds=300))
    assert run(800) == HookResult("MIGRATED")


def test_a_migration_paused_by_a_flag_is_not_retried(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch, run: Callable[..., HookResult]
) -> None:
    runner = _use_runner(monkeypatch, _FlakyRunner(fakes, NotReady("a feature flag says so")))
    with pytest.raises(NotReady):
        run()
    assert runner.calls == 1


def test_a_failed_migration_is_not_retried(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch, run: Callable[..., HookResult]
) -> None:
    runner = _use_runner(monkeypatch, _FlakyRunner(fakes, MigrationFailed("no column")))
    with pytest.raises(MigrationFailed):
        run()
    assert runner.calls == 1


# --- checking the schema


def test_checking_the_schema_changes_nothing_and_accepts_a_schema_that_is_ahead(
    fakes: Fakes, deploy: Deploy
) -> None:
    fakes.migrated(V2)
    deploy(V1)
    assert check_schema(fakes.deadline()) == HookResult(
        "UP_TO_DATE", "the schema is ahead of this code"
    )
    deploy(V2)
    assert check_schema(fakes.deadline()) == HookResult("UP_TO_DATE")
    deploy(manifest(1, 2, 3))
    assert check_schema(fakes.deadline()).has_failed
    assert fakes.table.log == []
    assert fakes.database.effects == ["0001_m", "0002_m"]


# --- every outcome is a value


def test_work_that_hangs_has_a_result(fakes: Fakes, lines: Lines) -> None:
    release = threading.Event()

    def hang(_: Deadline) -> HookResult:
        release.wait()
        return HookResult("MIGRATED")

    result = run_hook(hang, Deadline.after(0.05))
    release.set()
    assert result.has_failed
    assert "did not end before the hook had to respond" in result.cause
    assert lines.read() == ([], []), "nothing is written before the answer is delivered"
    log_result(result)
    [line], [metrics] = lines.read()
    assert line["lambda_migrate"]["error"] == "NotReady"
    assert metrics["NotReady"] == [1.0]


def test_a_failure_to_write_metrics_is_only_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("hunter2-s3cr3t")

    monkeypatch.setattr("lambda_migrate.wiring.report_check_failure", broken)
    log_result(HookResult("NOT_READY", "it hung", needs_logging=True))
    assert "cannot write metrics: RuntimeError" in caplog.text
    assert "hunter2" not in caplog.text


def test_a_result_that_the_runner_logged_is_not_logged_again(lines: Lines) -> None:
    log_result(HookResult("MIGRATED"))
    log_result(HookResult("NOT_READY", "no column"))
    assert lines.read() == ([], [])


@pytest.mark.parametrize("error", make_unexpected_errors(), ids=lambda error: type(error).__name__)
def test_unexpected_errors_are_reported_without_their_text(
    error: BaseException, fakes: Fakes, deploy: Deploy, caplog: pytest.LogCaptureFixture
) -> None:
    deploy(V1)
    fakes.table.before["read"] = raises(error)
    result = run_hook(lambda until: migrate(until, request_id=""), fakes.deadline())
    assert result.has_failed
    assert type(error).__name__ in result.cause or str(error) == result.cause
    assert "hunter2" not in result.cause + caplog.text


def test_a_configuration_error_is_reported_in_one_line(
    fakes: Fakes, deploy: Deploy, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAMBDA_MIGRATE_MODE", "sometimes")
    result = run_hook(lambda until: migrate(until, request_id=""), fakes.deadline())
    assert "LAMBDA_MIGRATE_MODE" in result.cause
    assert "\n" not in result.cause
    [line], [metrics] = lines.read()
    assert line["lambda_migrate"]["error"] == "ConfigurationError"
    assert metrics["NotReady"] == [1.0]


def test_a_failed_migration_is_reported_by_its_summary(fakes: Fakes) -> None:
    def fail(_: Deadline) -> HookResult:
        raise MigrationFailed(
            "no column z", migration="0002_m", sqlstate="42703", detail="LINE 1: ...\n  ^"
        )

    assert run_hook(fail, fakes.deadline()).cause == "0002_m: no column z [42703]"
