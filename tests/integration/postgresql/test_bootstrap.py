"""The schema of ours: made once, by whoever may, for one environment and one layout."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.postgresql.connection import connect
from lambda_migrate.postgresql.database import FenceStale, Grant

from .bench import Bench, Running, migration, soon


def test_twenty_that_start_at_once_make_one_schema_without_an_error(each_bench: Bench) -> None:
    barrier = threading.Barrier(20)

    def start(fence: int) -> str:
        barrier.wait()
        grant = Grant(target="shop", fence=fence, owner=f"o{fence}")
        try:
            held = each_bench.database().take_over(grant, soon())
        except FenceStale:
            return "stale"
        held.close()
        return "held"

    outcomes = [runner.outcome() for runner in [Running(partial(start, n)) for n in range(1, 21)]]
    assert set(outcomes) <= {"stale", "held"}
    assert "held" in outcomes
    assert each_bench.column("SELECT token FROM lambda_migrate.fence") == [20]
    assert each_bench.column(
        "SELECT relname FROM pg_class WHERE relnamespace = 'lambda_migrate'::regnamespace"
        " AND relkind = 'r' ORDER BY 1"
    ) == ["fence", "history"]


@pytest.mark.parametrize(
    "schema", ["Ours", 'a"b', "it's", "größe-schema ✓", "user", "back\\slash", "x" * 63]
)
def test_a_schema_may_have_any_name(bench: Bench, schema: str) -> None:
    with bench.holder(schema=schema) as held:
        held.apply(migration("CREATE TABLE t ()"), "d", soon())
        with_row = held.history()
    assert [row.version for row in with_row] == [1]
    assert [row.version for row in bench.database(schema=schema).read_history(soon())] == [1]
    assert schema in bench.column("SELECT nspname FROM pg_namespace")


def _as(bench: Bench, role: str) -> dict[str, Any]:
    address = replace(bench.address, user=role)
    return {"connect": lambda name, s: connect(address, application_name=name, timeout=s)}


@pytest.fixture
def role(bench: Bench) -> str:
    name = f"poor_{bench.address.database}"
    bench.execute(f"CREATE ROLE {name} LOGIN")
    return name


def test_a_role_that_owns_the_schema_needs_no_right_on_the_database(
    bench: Bench, role: str
) -> None:
    bench.execute(f"CREATE SCHEMA lambda_migrate AUTHORIZATION {role}")
    bench.apply(migration("SELECT 1"), **_as(bench, role))
    assert bench.versions() == [1]
    bench.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


def test_a_role_without_rights_is_told_what_to_grant(bench: Bench, role: str) -> None:
    with (
        pytest.raises(ConfigurationError, match="GRANT it CREATE on the database"),
        bench.holder(**_as(bench, role)),
    ):
        pass
    assert not bench.has("lambda_migrate.fence")
    bench.execute(f"DROP ROLE {role}")


def test_a_role_that_may_not_read_the_history_is_told_so(bench: Bench, role: str) -> None:
    bench.apply()
    with pytest.raises(ConfigurationError, match="permission denied"):
        bench.database(**_as(bench, role)).read_history(soon())
    bench.execute(f"DROP ROLE {role}")


def test_defaults_of_the_database_do_not_get_into_our_transactions(bench: Bench) -> None:
    name = bench.address.database
    bench.execute(
        f"ALTER DATABASE {name} SET default_transaction_read_only = on;"
        f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'"
    )
    bench.apply(migration("CREATE TABLE t ()"))
    assert bench.versions() == [1]


# --- environment


def test_the_first_run_stamps_its_environment(bench: Bench) -> None:
    bench.apply(grant={"environment": "staging"})
    assert bench.column("SELECT environment FROM lambda_migrate.fence") == ["staging"]


@pytest.mark.parametrize("other", ["production", ""])
def test_a_function_of_another_environment_is_refused(bench: Bench, other: str) -> None:
    bench.apply(grant={"environment": "staging"})
    with (
        pytest.raises(ConfigurationError, match=r"'staging'.*LAMBDA_MIGRATE_ENVIRONMENT=staging"),
        bench.holder(2, grant={"environment": other}),
    ):
        pass
    assert bench.column("SELECT token FROM lambda_migrate.fence") == [1]


def test_a_database_without_a_stamp_takes_the_first(bench: Bench) -> None:
    bench.apply()
    bench.apply(fence=2, grant={"environment": "production"})
    assert bench.column("SELECT environment FROM lambda_migrate.fence") == ["production"]


def test_restamping_is_said_by_name(bench: Bench) -> None:
    bench.apply(grant={"environment": "staging"})
    bench.apply(fence=2, grant={"environment": "production", "restamp": True})
    assert bench.column("SELECT environment FROM lambda_migrate.fence") == ["production"]


def test_of_two_first_runs_at_once_the_second_environment_is_refused(bench: Bench) -> None:
    """The stamp is compared where it is set, not only where it was read."""
    bench.apply()
    with bench.connect() as slow:
        slow.run("BEGIN; UPDATE lambda_migrate.fence SET environment = 'staging'")
        late = Running(lambda: bench.apply(fence=2, grant={"environment": "production"}))
        while not bench.is_running('UPDATE "lambda_migrate"'):
            assert late.is_alive()
        slow.run("COMMIT")
    assert isinstance(late.outcome(), ConfigurationError)
    assert bench.column("SELECT environment FROM lambda_migrate.fence") == ["staging"]


# --- layout and damage


def test_a_layout_from_the_future_is_refused(bench: Bench) -> None:
    bench.apply()
    bench.execute("UPDATE lambda_migrate.fence SET layout = 99")
    with pytest.raises(ConfigurationError, match=r"layout 99.*newer library"), bench.holder(2):
        pass
    with pytest.raises(ConfigurationError, match="layout 99"):
        bench.history()


def test_a_fence_row_that_was_deleted_is_made_anew(bench: Bench) -> None:
    bench.apply(migration("SELECT 1"), fence=4)
    bench.execute("DELETE FROM lambda_migrate.fence")
    bench.apply(migration("SELECT 2", 2), fence=5)
    assert bench.versions() == [1, 2]


def test_no_schema_reads_as_no_history(each_bench: Bench) -> None:
    assert each_bench.history() == []
    assert not each_bench.has("lambda_migrate.history")
