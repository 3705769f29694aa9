"""The whole flow with real runtimes, a real PostgreSQL and a DynamoDB API over HTTP."""

from __future__ import annotations

import threading
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lambda_migrate.clock import Deadline
from lambda_migrate.lease.record import join_digests
from lambda_migrate.local.runtime.function import InvocationResult, LocalFunction
from lambda_migrate.manifest_digest import EMPTY_DIGEST
from lambda_migrate.migrations import read_manifest
from tests.sandbox import COUNTERS, HANDLER, Sandbox, effect, ends, until

INDEX = """
-- migrate:up transaction:false
CREATE INDEX CONCURRENTLY orders_amount ON orders (amount);
-- migrate:down transaction:false
DROP INDEX CONCURRENTLY orders_amount;
"""
V1 = {"1_counters": COUNTERS, "2_more": effect(2)}
V2 = {**V1, "3_slow": effect(3, "SELECT pg_sleep(1);"), "4_index": INDEX, "5_last": effect(5)}


def _count_outcomes(function: LocalFunction) -> Counter[str]:
    return Counter(str(end.get("outcome", end.get("error"))) for end in ends(function))


def _count_statuses(results: list[InvocationResult]) -> Counter[str]:
    return Counter(f"{result.status} {result.error_type}".strip() for result in results)


@contextmanager
def sampled_connections(sandbox: Sandbox) -> Iterator[list[int]]:
    """How many connections of ours are open, every 20 ms, while the block runs."""
    samples: list[int] = []
    over = threading.Event()

    def sample() -> None:
        while not over.wait(0.02):
            samples.append(len(sandbox.holders()))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield samples
    finally:
        over.set()
        sampler.join()


def test_one_environment_migrates_the_next_reads_once_and_warm_ones_make_no_request(
    sandbox: Sandbox,
) -> None:
    # Renewed after 20 s at the earliest, so that the requests can be counted.
    with sandbox.function(sandbox.code(V2), lease_seconds="60") as function:
        assert function.invoke().ok
        (first,) = function.environments()
        after_first = sandbox.dynamodb.requests(first.access_key)
        assert all(function.invoke().ok for _ in range(5))
        assert sandbox.dynamodb.requests(first.access_key) == after_first, "warm: no request"
        assert function.storm(1)[0].ok
        second = function.environments()[1]
        assert sandbox.dynamodb.requests(second.access_key) == Counter({"GetItem": 1})
        assert [end["outcome"] for end in ends(function)] == ["MIGRATED", "UP_TO_DATE"]
    assert after_first == Counter({"GetItem": 1, "UpdateItem": 3})
    assert sandbox.effects() == {1: 1, 2: 1, 3: 1, 5: 1}
    assert [state for _, state in sandbox.history()] == ["applied"] * 5
    assert sandbox.holders() == []


def test_100_runtimes_at_once_migrate_once_over_one_connection(sandbox: Sandbox) -> None:
    with sandbox.function(sandbox.code(V2)) as function, sampled_connections(sandbox) as samples:
        results = function.storm(100)
        assert _count_statuses(results) == Counter({"ok": 100})
        outcomes = _count_outcomes(function)
        assert outcomes["MIGRATED"] == 1
        assert outcomes.total() == 100, "one line for each environment"
        assert outcomes["WAITED"] > 0
        assert {"MIGRATED", "WAITED", "UP_TO_DATE"} >= set(outcomes)
    assert max(samples) == 1
    assert sandbox.effects() == {1: 1, 2: 1, 3: 1, 5: 1}
    assert sandbox.history() == [(version, "applied") for version in (1, 2, 3, 4, 5)]


def test_two_code_versions_at_once_both_serve_and_nothing_runs_twice(sandbox: Sandbox) -> None:
    with (
        sandbox.function(sandbox.code(V1)) as older,
        sandbox.function(sandbox.code(V2)) as newer,
        sampled_connections(sandbox) as samples,
    ):
        older.start_environments(8)
        newer.start_environments(8)
        invocations = [f.submit() for _ in range(8) for f in (older, newer)]
        results = [invocation.result() for invocation in invocations]
        assert _count_statuses(results) == Counter({"ok": 16})
    assert max(samples) == 1
    assert sandbox.effects() == {1: 1, 2: 1, 3: 1, 5: 1}
    (record,) = sandbox.item().databases.values()
    digests = [read_manifest(sandbox.code(each) / "migrations").digest for each in (V1, V2)]
    (address,) = record.addresses
    assert all(record.is_ready(digest, address) for digest in digests)


def test_a_failing_migration_is_tried_once_reported_to_all_and_fixed_by_a_new_deployment(
    sandbox: Sandbox,
) -> None:
    failing = {"1_counters": COUNTERS, "2_bad": effect(2, "SELECT nextval('attempts') / 0;")}
    with sandbox.function(sandbox.code(failing), failure_pause_seconds="300") as function:
        results = function.storm(50)
        assert _count_statuses(results) == Counter({"error MigrationFailed": 50})
        assert all(
            "2_bad: division by zero [22012]" in _shorten_report(result) for result in results
        )
        assert sandbox.attempts() == 1
        sandbox.end_retry_pause()
        assert _count_statuses(function.storm(5)) == Counter({"error MigrationFailed": 5})
        assert sandbox.attempts() == 2, "one more attempt after the pause"
        failure = sandbox.item().failure
        assert failure is not None
        assert failure.attempts == 2
    assert sandbox.effects() == {1: 1}, "what was committed before stays"
    fixed = {"1_counters": COUNTERS, "2_bad": effect(2)}
    with sandbox.function(sandbox.code(fixed)) as function:
        assert _count_statuses(function.storm(5)) == Counter({"ok": 5})
    assert sandbox.effects() == {1: 1, 2: 1}
    assert sandbox.item().failure is None


def _shorten_report(result: InvocationResult) -> str:
    """The instance that tried has the whole report, the others have its first line."""
    return result.error_message.replace("2_bad failed:", "2_bad:")


# --- rollback


def test_a_rollback_by_version_lets_older_code_serve_and_newer_code_migrate_again(
    sandbox: Sandbox,
) -> None:
    older, newer = sandbox.code(V1), sandbox.code(V2)
    with sandbox.function(newer) as function:
        assert function.invoke().ok
    names = sandbox.operations(newer).down(Deadline.after(60), to=2)
    assert names == ("5_last", "4_index", "3_slow")
    assert sandbox.effects() == {1: 1, 2: 1}
    assert sandbox.query("SELECT count(*) FROM pg_indexes WHERE indexname = 'orders_amount'") == [
        [0]
    ]
    with sandbox.function(older) as function:
        assert function.invoke().ok
        assert _count_outcomes(function) == Counter({"UP_TO_DATE": 1}), (
            "marked ready by the rollback"
        )
    with sandbox.function(newer) as function:
        assert function.invoke().ok
    assert sandbox.effects() == {1: 1, 2: 1, 3: 1, 5: 1}


def test_older_code_rolls_back_newer_migrations_by_their_stored_scripts(
    sandbox: Sandbox,
) -> None:
    with sandbox.function(sandbox.code(V2)) as function:
        assert function.invoke().ok
    operator = sandbox.operations(sandbox.code(V1))
    assert operator.down(Deadline.after(60), steps=3) == ("5_last", "4_index", "3_slow")
    assert sandbox.history() == [(1, "applied"), (2, "applied")]
    assert operator.verify(Deadline.after(60)).problems == ()


def test_a_rollback_does_not_disturb_older_code_that_serves(sandbox: Sandbox) -> None:
    older = sandbox.code(V1)
    with sandbox.function(older) as function:
        assert function.invoke().ok
        with sandbox.function(sandbox.code(V2)) as newer:
            assert newer.invoke().ok
        sandbox.operations(older).down(Deadline.after(60), to=2)
        assert function.invoke().ok, "warm"
        assert function.storm(1)[0].ok, "cold"


def test_everything_can_be_rolled_back_and_applied_again(sandbox: Sandbox) -> None:
    code = sandbox.code(V2)
    operator = sandbox.operations(code)
    assert len(operator.up(Deadline.after(60))) == 5
    assert len(operator.down(Deadline.after(60), to=0)) == 5
    assert sandbox.history() == []
    (record,) = sandbox.item().databases.values()
    assert record.ready_digests == join_digests([EMPTY_DIGEST])
    assert len(operator.up(Deadline.after(60))) == 5


# --- every way to be configured


def _zip_migrations(sandbox: Sandbox, code: Path) -> None:
    with zipfile.ZipFile(code / "bundle.zip", "w") as bundle:
        for file in sorted((code / "migrations").iterdir()):
            bundle.write(file, f"sql/{file.name}")


def test_migrations_come_from_a_zip(sandbox: Sandbox) -> None:
    code = sandbox.code(V1)
    _zip_migrations(sandbox, code)
    with sandbox.function(code, directory="bundle.zip/sql") as function:
        assert function.invoke().ok
    assert sandbox.effects() == {1: 1, 2: 1}


def test_migrations_come_from_a_package(sandbox: Sandbox) -> None:
    code = sandbox.code(V1)
    package = code / "orders_schema"
    package.mkdir()
    (package / "__init__.py").touch()
    (code / "migrations").rename(package / "migrations")
    with sandbox.function(code, directory="package:orders_schema/migrations") as function:
        assert function.invoke().ok
    assert sandbox.effects() == {1: 1, 2: 1}


def test_the_database_is_reached_over_tcp(sandbox: Sandbox) -> None:
    url = sandbox.postgresql.tcp_url(sandbox.name)
    with sandbox.function(sandbox.code(V1), database_url=url) as function:
        assert function.invoke().ok
    assert sandbox.effects() == {1: 1, 2: 1}


def test_a_function_without_ddl_rights_waits_for_one_that_migrates(sandbox: Sandbox) -> None:
    code = sandbox.code(V2)
    with (
        sandbox.function(code, mode="require") as requiring,
        sandbox.function(code) as migrating,
    ):
        requiring.start_environments(3)
        waiting = [requiring.submit() for _ in range(3)]
        until(
            lambda: all(
                sandbox.dynamodb.requests(view.access_key)["GetItem"]
                for view in requiring.environments()
            ),
            what="all three have read the item",
        )
        assert not any(invocation.done() for invocation in waiting)
        assert migrating.invoke().ok
        assert all(invocation.result().ok for invocation in waiting)
        assert _count_outcomes(requiring) == Counter({"WAITED": 3})


def test_mode_off_serves_without_a_request(sandbox: Sandbox) -> None:
    with sandbox.function(sandbox.code(V1), mode="off") as function:
        assert function.invoke().ok
        (view,) = function.environments()
        assert sandbox.dynamodb.requests(view.access_key) == Counter()
    assert sandbox.query("SELECT to_regclass('effects') IS NULL") == [[True]]


def test_another_environments_function_is_refused(sandbox: Sandbox) -> None:
    with sandbox.function(sandbox.code(V1), environment="production") as function:
        assert function.invoke().ok
    with sandbox.function(sandbox.code(V2), environment="staging") as function:
        result = function.invoke()
    assert result.error_type == "ConfigurationError"
    assert "'production'" in result.error_message
    assert sandbox.effects() == {1: 1, 2: 1}


def test_two_schemas_of_one_database_do_not_see_each_other(sandbox: Sandbox) -> None:
    other = {"1_other": "-- migrate:up\nCREATE TABLE other (id int);\n"}
    theirs = f"{sandbox.name}_other"
    with sandbox.function(sandbox.code(V1)) as function:
        assert function.invoke().ok
    with sandbox.function(sandbox.code(other), target=theirs, schema="Other Schema") as function:
        assert function.invoke().ok
    assert sandbox.query('SELECT name FROM "Other Schema".history') == [["1_other"]]
    assert sandbox.effects() == {1: 1, 2: 1}


def test_wrong_settings_are_reported_in_one_line(sandbox: Sandbox) -> None:
    with sandbox.function(sandbox.code(V1), mode="maybe", lease_seconds="soon") as function:
        result = function.invoke()
        (end,) = ends(function)
    assert result.error_type == "ConfigurationError"
    assert "LAMBDA_MIGRATE_MODE" in result.error_message
    assert "LAMBDA_MIGRATE_LEASE_SECONDS" in result.error_message
    assert end["error"] == "ConfigurationError"


def test_a_missing_table_is_named_with_what_to_do(sandbox: Sandbox) -> None:
    with sandbox.function(sandbox.code(V1), table="nowhere") as function:
        result = function.invoke()
    assert result.error_type == "ConfigurationError"
    assert "'nowhere'" in result.error_message
    assert "lambda-migrate table create" in result.error_message


def test_a_handler_answers_503_while_the_schema_is_not_ready(sandbox: Sandbox) -> None:
    handler = HANDLER.replace(
        "import migrate_on_cold_start", "import migrate_on_cold_start, service_unavailable"
    ).replace("@migrate_on_cold_start", "@migrate_on_cold_start(on_not_ready=service_unavailable)")
    failing = {"1_bad": "-- migrate:up\nSELECT 1/0;\n"}
    with sandbox.function(sandbox.code(failing, handler=handler)) as function:
        result = function.invoke({"requestContext": {"http": {"method": "GET"}}})
        queued = function.invoke({"Records": [{"eventSource": "aws:sqs", "body": "an order"}]})
    assert result.ok
    assert result.payload["statusCode"] == 503
    assert int(result.payload["headers"]["Retry-After"]) >= 1
    assert queued.error_type == "MigrationFailed", "an answer would delete the message"


def test_no_line_of_any_log_holds_the_password(sandbox: Sandbox) -> None:
    secret = "correct-horse-battery"
    url = sandbox.postgresql.tcp_url(sandbox.name, password=secret)
    for migrations in (V1, {**V1, "9_bad": "-- migrate:up\nSELECT nowhere;\n"}):
        with sandbox.function(sandbox.code(migrations), database_url=url) as function:
            result = function.invoke()
            logs = "".join(function.logs(view.environment_id) for view in function.environments())
            assert secret not in logs + str(result)
    assert secret not in str(sandbox.item())
