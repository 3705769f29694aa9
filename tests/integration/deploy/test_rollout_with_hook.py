"""When a hook migrates first, no request waits, and none reaches code that is not ready."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from lambda_migrate.local.runtime.function import LocalFunction
from tests.callback_server import CallbackServer, read_statuses
from tests.integration.deploy.hooks import BAD, LIBRARY, V1, V2, deployment, hook
from tests.sandbox import HANDLER, Sandbox, ends


@contextmanager
def version(
    sandbox: Sandbox, name: str, migrations: Mapping[str, str], **settings: str
) -> Iterator[LocalFunction]:
    """Run one version of the function that serves requests."""
    code = sandbox.code(migrations, handler=HANDLER)
    variables = {
        **sandbox.variables(lease_seconds="60", **settings),
        "PYTHONPATH": os.pathsep.join([str(code), str(LIBRARY)]),
    }
    with LocalFunction(
        code=code, variables=variables, timeout=90, name=f"{name}{sandbox.name}"
    ) as deployed:
        yield deployed


def deploy(sandbox: Sandbox, migrations: Mapping[str, str], callbacks: CallbackServer) -> str:
    """Run the hook for a version and return the status that it reports."""
    with hook(
        sandbox, "codedeploy", migrations, callbacks=callbacks, failure_pause_seconds="300"
    ) as function:
        assert function.invoke(deployment()).ok
    return read_statuses(callbacks.list_deliveries())[-1]


def test_after_the_traffic_shift_every_cold_start_finds_the_schema_ready(
    sandbox: Sandbox, callbacks: CallbackServer
) -> None:
    with (
        version(sandbox, "old", V1) as old,
        version(sandbox, "new", V2, mode="require") as new,
    ):
        assert old.invoke().ok, "the first deployment has no hook: a cold start migrates"
        assert deploy(sandbox, V2, callbacks) == "Succeeded"
        assert all(result.ok for result in new.storm(20))
        assert {end["outcome"] for end in ends(new)} == {"UP_TO_DATE"}
        for environment in new.environments():
            asked = sandbox.dynamodb.requests(environment.access_key)
            assert asked == Counter({"GetItem": 1})
        assert all(result.ok for result in old.storm(5)), "the old version serves, ahead of it"
    assert sandbox.effects() == {1: 1, 2: 1}


def test_when_the_hook_fails_the_old_version_serves_on_with_what_was_committed(
    sandbox: Sandbox, callbacks: CallbackServer
) -> None:
    with version(sandbox, "old", V1) as old:
        assert old.invoke().ok
        assert deploy(sandbox, BAD, callbacks) == "Failed"
        assert all(result.ok for result in old.storm(10))
        assert {end["outcome"] for end in ends(old)} == {"MIGRATED", "UP_TO_DATE"}
    assert sandbox.effects() == {1: 1, 2: 1}
    with version(sandbox, "new", BAD, mode="require") as new:
        results = new.storm(5)
        assert {result.error_type for result in results} == {"MigrationFailed"}, "told at once"
