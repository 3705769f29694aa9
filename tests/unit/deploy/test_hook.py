"""What a hook does before it answers, as a value, whatever happens."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from lambda_migrate.clock import Deadline
from lambda_migrate.deploy.hook import Ending, ending_of, look, migrate, tell
from lambda_migrate.engine.flags import Flags
from lambda_migrate.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    LeaseLost,
    ManifestError,
    MigrationFailed,
    NotReady,
)
from lambda_migrate.runner import Outcome
from lambda_migrate.testing import InMemoryFlags
from tests.unit.deploy.conftest import Deploy, unexpected
from tests.unit.engine.scene import Scene, manifest, raises
from tests.unit.entrypoints.lines import Lines

V1, V2 = manifest(1), manifest(1, 2)


@pytest.fixture
def run(scene: Scene) -> Callable[..., Ending]:
    """`migrate`, with so many seconds."""

    def run(seconds: float = 60.0) -> Ending:
        return migrate(scene.deadline(seconds), request_id="request-1")

    return run


# --- migrating


def test_it_migrates_as_a_cold_start_does(
    scene: Scene, deploy: Deploy, run: Callable[..., Ending]
) -> None:
    deploy(V2)
    assert run() == Ending("MIGRATED")
    assert scene.database.effects == ["0001_m", "0002_m"]
    assert run() == Ending("UP_TO_DATE")
    assert run().is_ready
    assert not run().failed


def test_every_event_looks_anew_at_what_is_ready(
    scene: Scene, deploy: Deploy, run: Callable[..., Ending]
) -> None:
    deploy(V1)
    run()
    scene.table.log.clear()
    run()
    assert scene.table.log == ["read"]


def test_it_waits_for_another_holder_for_as_long_as_it_has_time(
    scene: Scene, deploy: Deploy, run: Callable[..., Ending]
) -> None:
    deploy(V1)
    lease = scene.held_by("another")
    for seconds in range(5, 300, 5):
        scene.clock.at(seconds, lambda: scene.table.renew(lease))
    scene.clock.at(300, lambda: scene.finish(lease, V1))
    assert run(800) == Ending("WAITED")


def test_a_wait_that_is_set_is_kept(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, deploy: Deploy
) -> None:
    asked: list[object] = []

    def from_settings(*, observer: object, wait_seconds: object) -> object:
        asked.append(wait_seconds)
        raise ConfigurationError("enough")

    monkeypatch.setattr("lambda_migrate.runner.MigrationRunner.from_settings", from_settings)
    for setting in ("7", ""):
        monkeypatch.setenv("LAMBDA_MIGRATE_WAIT_SECONDS", setting)
        with pytest.raises(ConfigurationError):
            migrate(scene.deadline(), request_id="")
    assert asked == [None, 900.0]


def test_switched_off_it_does_nothing_and_fails_nobody(deploy: Deploy, scene: Scene) -> None:
    deploy(V2, mode="off")
    for ending in (migrate(scene.deadline(), request_id=""), look(scene.deadline())):
        assert ending.outcome == "UNCHECKED"
        assert not ending.failed
        assert not ending.is_ready
    assert scene.table.log == scene.database.effects == []


def test_switched_off_by_a_feature_flag_it_says_so(
    scene: Scene, deploy: Deploy, run: Callable[..., Ending]
) -> None:
    scene.flags = InMemoryFlags(Flags(mode="off"))
    deploy(V2)
    ending = run()
    assert (ending.outcome, ending.failed) == ("UNCHECKED", False)
    assert "lambda_migrate_mode" in ending.cause
    assert scene.database.effects == []


def test_paused_by_a_feature_flag_it_fails_and_names_it(
    scene: Scene, deploy: Deploy, run: Callable[..., Ending]
) -> None:
    scene.flags = InMemoryFlags(Flags(paused=True))
    deploy(V2)
    ending = ending_of(lambda _until: run(), scene.deadline())
    assert ending.failed
    assert "lambda_migrate_paused" in ending.cause


def test_a_function_without_its_migrations_is_not_ready_wherever_it_leads(
    scene: Scene, deploy: Deploy, run: Callable[..., Ending]
) -> None:
    deploy(manifest())
    with pytest.raises(ManifestError, match="holds no migrations"):
        run()
    with pytest.raises(ManifestError, match="holds no migrations"):
        look(scene.deadline())
    assert (scene.table.log, scene.database.connections) == ([], 0)


# --- what may pass is tried again: nobody calls a hook a second time


class _Unsteady:
    """A runner whose first attempts end so."""

    def __init__(self, scene: Scene, *errors: Exception, seconds: float = 0.0) -> None:
        self.target = scene.target()
        self.errors = list(errors)
        self.calls = 0
        self.seconds = seconds

    def ensure(self, deadline: Deadline, *, request_id: str) -> Outcome:
        self.calls += 1
        self.target.clock.sleep(self.seconds)
        if self.errors:
            raise self.errors.pop(0)
        return Outcome.MIGRATED


def _use(monkeypatch: pytest.MonkeyPatch, runner: _Unsteady) -> _Unsteady:
    monkeypatch.setattr("lambda_migrate.runner.MigrationRunner.from_settings", lambda **_: runner)
    return runner


def test_a_database_that_wakes_up_is_waited_for(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Ending]
) -> None:
    away = [DatabaseUnavailable("asleep")] * 5
    runner = _use(monkeypatch, _Unsteady(scene, *away))
    assert run() == Ending("MIGRATED")
    assert runner.calls == 6
    pauses = [seconds for seconds in scene.clock.slept if seconds]
    assert pauses == [0.75, 1.5, 3.0, 6.0, 7.5]


def test_one_that_does_not_is_given_up_after_a_minute(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Ending]
) -> None:
    _use(monkeypatch, _Unsteady(scene, *[DatabaseUnavailable("gone")] * 100))
    began = scene.clock.monotonic()
    with pytest.raises(DatabaseUnavailable):
        run(800)
    assert 45 <= scene.clock.monotonic() - began <= 60


def test_nothing_is_begun_again_without_time_for_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Ending]
) -> None:
    runner = _use(monkeypatch, _Unsteady(scene, *[DatabaseUnavailable("gone")] * 100))
    with pytest.raises(DatabaseUnavailable):
        run(0.5)
    assert runner.calls == 1


def test_whoever_took_the_lease_over_is_waited_for_however_long_we_held_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Ending]
) -> None:
    _use(monkeypatch, _Unsteady(scene, LeaseLost("taken over"), seconds=300))
    assert run(800) == Ending("MIGRATED")


def test_what_a_person_has_stopped_is_not_tried_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Ending]
) -> None:
    runner = _use(monkeypatch, _Unsteady(scene, NotReady("a feature flag says so")))
    with pytest.raises(NotReady):
        run()
    assert runner.calls == 1


def test_a_migration_that_failed_is_not_tried_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Ending]
) -> None:
    runner = _use(monkeypatch, _Unsteady(scene, MigrationFailed("no column")))
    with pytest.raises(MigrationFailed):
        run()
    assert runner.calls == 1


# --- looking


def test_looking_changes_nothing_and_takes_ahead_for_ready(scene: Scene, deploy: Deploy) -> None:
    scene.migrated(V2)
    deploy(V1)
    assert look(scene.deadline()) == Ending("UP_TO_DATE", "the schema is ahead of this code")
    deploy(V2)
    assert look(scene.deadline()) == Ending("UP_TO_DATE")
    deploy(manifest(1, 2, 3))
    assert look(scene.deadline()).failed
    assert scene.table.log == []
    assert scene.database.effects == ["0001_m", "0002_m"]


# --- every end is a value


def test_work_that_never_ends_is_an_ending_too(scene: Scene, lines: Lines) -> None:
    let_go = threading.Event()

    def hang(_: Deadline) -> Ending:
        let_go.wait()
        return Ending("MIGRATED")

    ending = ending_of(hang, Deadline.after(0.05))
    let_go.set()
    assert ending.failed
    assert "had not ended when its time was over" in ending.cause
    assert lines.read() == ([], []), "nothing is written before the answer is delivered"
    tell(ending)
    [line], [metrics] = lines.read()
    assert line["lambda_migrate"]["error"] == "NotReady"
    assert metrics["NotReady"] == [1.0]


def test_metrics_that_cannot_be_written_fail_nothing_that_is_over(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("hunter2-s3cr3t")

    monkeypatch.setattr("lambda_migrate.wiring.report_check_failure", broken)
    tell(Ending("NOT_READY", "it hung", is_untold=True))
    assert "could not be written: RuntimeError" in caplog.text
    assert "hunter2" not in caplog.text


def test_an_ending_that_the_runner_told_of_is_not_told_again(lines: Lines) -> None:
    tell(Ending("MIGRATED"))
    tell(Ending("NOT_READY", "no column"))
    assert lines.read() == ([], [])


@pytest.mark.parametrize("error", unexpected(), ids=lambda error: type(error).__name__)
def test_what_nobody_expected_is_told_without_its_words(
    error: BaseException, scene: Scene, deploy: Deploy, caplog: pytest.LogCaptureFixture
) -> None:
    deploy(V1)
    scene.table.before["read"] = raises(error)
    ending = ending_of(lambda until: migrate(until, request_id=""), scene.deadline())
    assert ending.failed
    assert type(error).__name__ in ending.cause or str(error) == ending.cause
    assert "hunter2" not in ending.cause + caplog.text


def test_what_a_person_can_mend_is_told_in_one_line(
    scene: Scene, deploy: Deploy, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAMBDA_MIGRATE_MODE", "sometimes")
    ending = ending_of(lambda until: migrate(until, request_id=""), scene.deadline())
    assert "LAMBDA_MIGRATE_MODE" in ending.cause
    assert "\n" not in ending.cause
    [line], [metrics] = lines.read()
    assert line["lambda_migrate"]["error"] == "ConfigurationError"
    assert metrics["NotReady"] == [1.0]


def test_a_failed_migration_is_told_by_its_summary(scene: Scene) -> None:
    def fail(_: Deadline) -> Ending:
        raise MigrationFailed(
            "no column z", migration="0002_m", sqlstate="42703", detail="LINE 1: ...\n  ^"
        )

    assert ending_of(fail, scene.deadline()).cause == "0002_m: no column z [42703]"
