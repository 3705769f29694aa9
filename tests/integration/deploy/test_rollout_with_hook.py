"""A rollout in which a hook migrates first: no request waits, and none reaches unready code."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from lambda_migrate.local.runtime.function import LocalFunction
from tests.callback_server import CallbackServer, read_statuses, run_callback_server
from tests.integration.deploy.hooks import BAD, LIBRARY, V1, V2, deployment, hook
from tests.stage import HANDLER, Stage, ends


@contextmanager
def version(
    stage: Stage, name: str, migrations: Mapping[str, str], **settings: str
) -> Iterator[LocalFunction]:
    """Run one version of the function that serves requests."""
    code = stage.code(migrations, handler=HANDLER)
    environment = {
        **stage.environment(lease_seconds="60", **settings),
        "PYTHONPATH": os.pathsep.join([str(code), str(LIBRARY)]),
    }
    with LocalFunction(
        code=code, environment=environment, timeout=90, name=f"{name}{stage.name}"
    ) as deployed:
        yield deployed


def deploy(stage: Stage, migrations: Mapping[str, str], callbacks: CallbackServer) -> str:
    """Run the hook for a version and return the status that it reports."""
    with hook(
        stage, "codedeploy", migrations, callbacks=callbacks, failure_pause_seconds="300"
    ) as function:
        assert function.invoke(deployment()).ok
    return read_statuses(callbacks.list_deliveries())[-1]


@pytest.fixture
def callbacks() -> Iterator[CallbackServer]:
    with run_callback_server() as callback_server:
        yield callback_server


def test_after_the_traffic_shift_every_cold_start_finds_the_schema_ready(
    stage: Stage, callbacks: CallbackServer
) -> None:
    with (
        version(stage, "old", V1) as old,
        version(stage, "new", V2, mode="require") as new,
    ):
        assert old.invoke().ok, "the first deployment has no hook: a cold start migrates"
        assert deploy(stage, V2, callbacks) == "Succeeded"
        assert all(result.ok for result in new.storm(20))
        assert {end["outcome"] for end in ends(new)} == {"UP_TO_DATE"}
        for environment in new.environments():
            asked = stage.dynamodb.requests(environment.access_key)
            assert asked == Counter({"GetItem": 1})
        assert all(result.ok for result in old.storm(5)), "the old version serves, ahead of it"
    assert stage.effects() == {1: 1, 2: 1}


def test_when_the_hook_fails_the_old_version_serves_on_with_what_was_committed(
    stage: Stage, callbacks: CallbackServer
) -> None:
    with version(stage, "old", V1) as old:
        assert old.invoke().ok
        assert deploy(stage, BAD, callbacks) == "Failed"
        assert all(result.ok for result in old.storm(10))
        assert {end["outcome"] for end in ends(old)} == {"MIGRATED", "UP_TO_DATE"}
    assert stage.effects() == {1: 1, 2: 1}
    with version(stage, "new", BAD, mode="require") as new:
        results = new.storm(5)
        assert {result.error_type for result in results} == {"MigrationFailed"}, "told at once"
