"""Functions with provisioned concurrency or SnapStart start as their page describes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from lambda_migrate.local.runtime.function import LocalFunction
from tests.integration.deploy.hooks import BAD, LIBRARY, V2
from tests.sandbox import HANDLER, Sandbox, ends

LONG = ["provisioned-concurrency", "snap-start", "lambda-managed-instances"]


@contextmanager
def function(
    sandbox: Sandbox, migrations: Mapping[str, str], kind: str, **settings: str
) -> Iterator[LocalFunction]:
    """Run a function with this kind of initialization."""
    code = sandbox.code(migrations, handler=HANDLER)
    variables = {
        **sandbox.variables(init="when-long", lease_seconds="60", **settings),
        "AWS_LAMBDA_INITIALIZATION_TYPE": kind,
        "PYTHONPATH": os.pathsep.join([str(code), str(LIBRARY)]),
    }
    name = f"{kind}{sandbox.name}"
    with LocalFunction(code=code, variables=variables, timeout=90, name=name) as deployed:
        yield deployed


def read_statuses(deployed: LocalFunction) -> list[str]:
    return [str(end.get("outcome", end.get("error"))) for end in ends(deployed)]


@pytest.mark.parametrize("kind", LONG)
def test_initialisation_migrates_before_the_first_request(sandbox: Sandbox, kind: str) -> None:
    with function(sandbox, V2, kind) as deployed:
        deployed.start_environments(4)
        assert sandbox.effects() == {1: 1, 2: 1}
        counted = Counter(read_statuses(deployed))
        assert counted["MIGRATED"] == 1
        assert counted.total() == 4


def test_on_demand_nothing_happens_before_the_first_invocation(sandbox: Sandbox) -> None:
    with function(sandbox, V2, "on-demand") as deployed:
        deployed.start_environments(1)
        assert read_statuses(deployed) == []
        assert deployed.invoke().ok
        assert read_statuses(deployed) == ["MIGRATED"]


def test_a_provisioned_environment_checks_nothing_more(sandbox: Sandbox) -> None:
    with function(sandbox, V2, "provisioned-concurrency") as deployed:
        deployed.start_environments(1)
        (environment,) = deployed.environments()
        before = sandbox.dynamodb.requests(environment.access_key)
        assert deployed.invoke().ok
        assert sandbox.dynamodb.requests(environment.access_key) == before


def test_a_restored_snapshot_checks_once_more(sandbox: Sandbox) -> None:
    with function(sandbox, V2, "snap-start") as deployed:
        deployed.start_environments(1)
        (environment,) = deployed.environments()
        before = sandbox.dynamodb.requests(environment.access_key)
        assert all(deployed.invoke().ok for _ in range(2))
        after = sandbox.dynamodb.requests(environment.access_key)
        assert after - before == Counter({"GetItem": 1})
        assert read_statuses(deployed) == ["MIGRATED", "UP_TO_DATE"]


@pytest.mark.parametrize("kind", LONG)
def test_a_failure_during_initialisation_is_raised_in_the_first_invocation(
    sandbox: Sandbox, kind: str
) -> None:
    with function(sandbox, BAD, kind, failure_pause_seconds="300") as deployed:
        deployed.start_environments(1)
        assert read_statuses(deployed) == ["MigrationFailed"]
        result = deployed.invoke()
        assert result.error_type == "MigrationFailed"
        assert "3_bad: division by zero" in result.error_message
    assert sandbox.effects() == {1: 1, 2: 1}
