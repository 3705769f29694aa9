"""Several functions on one database behave as their page describes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from lambda_migrate.local.runtime.function import LocalFunction
from tests.integration.deploy.hooks import LIBRARY, V1, V2
from tests.sandbox import HANDLER, Sandbox, effect, ends

V3 = {**V2, "3_more": effect(3)}


@pytest.fixture
def layer(sandbox: Sandbox) -> Path:
    """Write migrations to a directory outside every function's code, like a layer."""
    return sandbox.code(V2) / "migrations"


@contextmanager
def function(
    sandbox: Sandbox, name: str, migrations: Mapping[str, str] | None = None, **settings: str
) -> Iterator[LocalFunction]:
    """Run a function of a service, with its own files or those of the layer."""
    code = sandbox.code(migrations or {}, handler=HANDLER)
    variables = {
        **sandbox.variables(**settings),
        "PYTHONPATH": os.pathsep.join([str(code), str(LIBRARY)]),
    }
    with LocalFunction(
        code=code, variables=variables, timeout=90, name=f"{name}{sandbox.name}"
    ) as deployed:
        yield deployed


def read_statuses(deployed: LocalFunction) -> list[str]:
    return [str(end.get("outcome", end.get("error"))) for end in ends(deployed)]


def test_functions_that_share_a_layer_migrate_once_whichever_starts_first(
    sandbox: Sandbox, layer: Path
) -> None:
    with (
        function(sandbox, "orders", directory=str(layer)) as orders,
        function(sandbox, "billing", directory=str(layer)) as billing,
    ):
        orders.start_environments(5)
        billing.start_environments(5)
        invocations = [each.submit() for _ in range(5) for each in (orders, billing)]
        assert all(invocation.result().ok for invocation in invocations)
        counted = Counter(read_statuses(orders) + read_statuses(billing))
    assert counted["MIGRATED"] == 1
    assert counted.total() == 10
    assert sandbox.effects() == {1: 1, 2: 1}


def test_a_function_in_mode_require_only_reads_and_waits_for_another(
    sandbox: Sandbox, layer: Path
) -> None:
    with (
        function(sandbox, "web", directory=str(layer), mode="require") as web,
        function(sandbox, "migrator", directory=str(layer)) as migrator,
    ):
        waiting = web.submit()
        assert migrator.invoke().ok
        assert waiting.result().ok
        (environment,) = web.environments()
        assert set(sandbox.dynamodb.requests(environment.access_key)) == {"GetItem"}
    assert sandbox.effects() == {1: 1, 2: 1}


def test_a_function_with_older_files_is_served_while_the_schema_is_ahead(sandbox: Sandbox) -> None:
    with function(sandbox, "older", V1) as older, function(sandbox, "newer", V2) as newer:
        assert newer.invoke().ok
        assert older.invoke().ok
        assert read_statuses(older) == ["UP_TO_DATE"], (
            "the beginning of the history is ready as well"
        )
    assert sandbox.effects() == {1: 1, 2: 1}


def test_an_older_version_in_mode_require_is_served_by_a_newer_schema(
    sandbox: Sandbox,
) -> None:
    with function(sandbox, "migrator", V3) as migrator:
        assert migrator.invoke().ok
    with function(sandbox, "web", V2, mode="require", wait_seconds="1") as web:
        assert web.invoke().ok
        assert read_statuses(web) == ["UP_TO_DATE"]


def test_unrelated_directories_need_a_target_and_a_schema_each(
    sandbox: Sandbox,
) -> None:
    # One history, two directories: each lacks what the other has applied.
    with function(sandbox, "orders", {"1_orders": "-- migrate:up\nCREATE TABLE a ();\n"}) as orders:
        assert orders.invoke().ok
    others = {"2_billing": "-- migrate:up\nCREATE TABLE b ();\n"}
    with function(sandbox, "billing", others) as billing:
        assert billing.invoke().error_type == "Diverged"
    with function(sandbox, "billing", others, target=f"{sandbox.name}/wrong") as billing:
        assert billing.invoke().error_type == "Diverged"
    with function(
        sandbox, "billing", others, target=f"{sandbox.name}/billing", schema="billing_migrations"
    ) as billing:
        result = billing.invoke()
        assert result.ok, result.error_message
    [[tables]] = sandbox.query("SELECT count(*) FROM pg_tables WHERE tablename IN ('a', 'b')")
    assert tables == 2


def test_a_new_address_is_ready_after_one_check_and_the_old_one_stays_ready(
    sandbox: Sandbox,
) -> None:
    """The database has two names, its socket and its port."""
    with function(sandbox, "orders", V1) as orders:
        assert orders.invoke().ok
        other = sandbox.postgresql.tcp_url(sandbox.name)
        with function(sandbox, "web", V1, mode="require", database_url=other) as web:
            assert all(result.ok for result in web.storm(3))
            looked = [end for end in ends(web) if end["fence"]]
            assert len(looked) <= 1, "one inspects the database for all"
        assert orders.storm(1)[0].ok
        assert read_statuses(orders)[-1] == "UP_TO_DATE"
    [record] = sandbox.item().databases.values()
    assert len(record.addresses) == 2
    assert sandbox.effects() == {1: 1}
