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
from lambda_migrate.migrations import EMPTY_DIGEST, read_manifest
from tests.stage import COUNTERS, HANDLER, Stage, effect, ends, until

INDEX = """
-- migrate:up transaction:false
CREATE INDEX CONCURRENTLY orders_amount ON orders (amount);
-- migrate:down transaction:false
DROP INDEX CONCURRENTLY orders_amount;
"""
V1 = {"1_counters": COUNTERS, "2_more": effect(2)}
V2 = {**V1, "3_slow": effect(3, "SELECT pg_sleep(1);"), "4_index": INDEX, "5_last": effect(5)}


def _outcomes(function: LocalFunction) -> Counter[str]:
    return Counter(str(end.get("outcome", end.get("error"))) for end in ends(function))


def _statuses(results: list[InvocationResult]) -> Counter[str]:
    return Counter(f"{result.status} {result.error_type}".strip() for result in results)


@contextmanager
def sampled_connections(stage: Stage) -> Iterator[list[int]]:
    """How many connections of ours are open, every 20 ms, while the block runs."""
    samples: list[int] = []
    over = threading.Event()

    def sample() -> None:
        while not over.wait(0.02):
            samples.append(len(stage.holders()))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield samples
    finally:
        over.set()
        sampler.join()


def test_one_environment_migrates_the_next_reads_once_and_warm_ones_make_no_request(
    stage: Stage,
) -> None:
    # Renewed after 20 s at the earliest, so that the requests can be counted.
    with stage.function(stage.code(V2), lease_seconds="60") as function:
        assert function.invoke().ok
        (first,) = function.environments()
        after_first = stage.dynamodb.requests(first.access_key)
        assert all(function.invoke().ok for _ in range(5))
        assert stage.dynamodb.requests(first.access_key) == after_first, "warm: no request"
        assert function.storm(1)[0].ok
        second = function.environments()[1]
        assert stage.dynamodb.requests(second.access_key) == Counter({"GetItem": 1})
        assert [end["outcome"] for end in ends(function)] == ["MIGRATED", "UP_TO_DATE"]
    assert after_first == Counter({"GetItem": 1, "UpdateItem": 3})
    assert stage.effects() == {1: 1, 2: 1, 3: 1, 5: 1}
    assert [state for _, state in stage.history()] == ["applied"] * 5
    assert stage.holders() == []


def test_100_runtimes_at_once_migrate_once_over_one_connection(stage: Stage) -> None:
    with stage.function(stage.code(V2)) as function, sampled_connections(stage) as samples:
        results = function.storm(100)
        assert _statuses(results) == Counter({"ok": 100})
        outcomes = _outcomes(function)
        assert outcomes["MIGRATED"] == 1
        assert outcomes.total() == 100, "one line for each environment"
        assert outcomes["WAITED"] > 0
        assert {"MIGRATED", "WAITED", "UP_TO_DATE"} >= set(outcomes)
    assert max(samples) == 1
    assert stage.effects() == {1: 1, 2: 1, 3: 1, 5: 1}
    assert stage.history() == [(version, "applied") for version in (1, 2, 3, 4, 5)]


def test_two_code_versions_at_once_both_serve_and_nothing_runs_twice(stage: Stage) -> None:
    with (
        stage.function(stage.code(V1)) as older,
        stage.function(stage.code(V2)) as newer,
        sampled_connections(stage) as samples,
    ):
        older.start_environments(8)
        newer.start_environments(8)
        invocations = [f.submit() for _ in range(8) for f in (older, newer)]
        results = [invocation.result() for invocation in invocations]
        assert _statuses(results) == Counter({"ok": 16})
    assert max(samples) == 1
    assert stage.effects() == {1: 1, 2: 1, 3: 1, 5: 1}
    (record,) = stage.item().databases.values()
    digests = [read_manifest(stage.code(each) / "migrations").digest for each in (V1, V2)]
    (address,) = record.addresses
    assert all(record.is_ready(digest, address) for digest in digests)


def test_a_failing_migration_is_tried_once_reported_to_all_and_fixed_by_a_new_deployment(
    stage: Stage,
) -> None:
    failing = {"1_counters": COUNTERS, "2_bad": effect(2, "SELECT nextval('attempts') / 0;")}
    with stage.function(stage.code(failing), failure_pause_seconds="300") as function:
        results = function.storm(50)
        assert _statuses(results) == Counter({"error MigrationFailed": 50})
        assert all("2_bad: division by zero [22012]" in _told(result) for result in results)
        assert stage.attempts() == 1
        stage.end_the_pause()
        assert _statuses(function.storm(5)) == Counter({"error MigrationFailed": 5})
        assert stage.attempts() == 2, "one more attempt after the pause"
        failure = stage.item().failure
        assert failure is not None
        assert failure.attempts == 2
    assert stage.effects() == {1: 1}, "what was committed before stays"
    fixed = {"1_counters": COUNTERS, "2_bad": effect(2)}
    with stage.function(stage.code(fixed)) as function:
        assert _statuses(function.storm(5)) == Counter({"ok": 5})
    assert stage.effects() == {1: 1, 2: 1}
    assert stage.item().failure is None


def _told(result: InvocationResult) -> str:
    """The instance that tried has the whole report, the others have its first line."""
    return result.error_message.replace("2_bad failed:", "2_bad:")


# --- rollback


def test_a_rollback_by_version_lets_older_code_serve_and_newer_code_migrate_again(
    stage: Stage,
) -> None:
    older, newer = stage.code(V1), stage.code(V2)
    with stage.function(newer) as function:
        assert function.invoke().ok
    names = stage.operations(newer).down(Deadline.after(60), to=2)
    assert names == ("5_last", "4_index", "3_slow")
    assert stage.effects() == {1: 1, 2: 1}
    assert stage.query("SELECT count(*) FROM pg_indexes WHERE indexname = 'orders_amount'") == [[0]]
    with stage.function(older) as function:
        assert function.invoke().ok
        assert _outcomes(function) == Counter({"UP_TO_DATE": 1}), "marked ready by the rollback"
    with stage.function(newer) as function:
        assert function.invoke().ok
    assert stage.effects() == {1: 1, 2: 1, 3: 1, 5: 1}


def test_older_code_rolls_back_what_it_does_not_know_by_the_stored_scripts(stage: Stage) -> None:
    with stage.function(stage.code(V2)) as function:
        assert function.invoke().ok
    operator = stage.operations(stage.code(V1))
    assert operator.down(Deadline.after(60), steps=3) == ("5_last", "4_index", "3_slow")
    assert stage.history() == [(1, "applied"), (2, "applied")]
    assert operator.verify(Deadline.after(60)).problems == ()


def test_a_rollback_does_not_disturb_older_code_that_serves(stage: Stage) -> None:
    older = stage.code(V1)
    with stage.function(older) as function:
        assert function.invoke().ok
        with stage.function(stage.code(V2)) as newer:
            assert newer.invoke().ok
        stage.operations(older).down(Deadline.after(60), to=2)
        assert function.invoke().ok, "warm"
        assert function.storm(1)[0].ok, "cold"


def test_everything_can_be_rolled_back_and_applied_again(stage: Stage) -> None:
    code = stage.code(V2)
    operator = stage.operations(code)
    assert len(operator.up(Deadline.after(60))) == 5
    assert len(operator.down(Deadline.after(60), to=0)) == 5
    assert stage.history() == []
    (record,) = stage.item().databases.values()
    assert record.ready == join_digests([EMPTY_DIGEST])
    assert len(operator.up(Deadline.after(60))) == 5


# --- every way to be configured


def _zipped(stage: Stage, code: Path) -> None:
    with zipfile.ZipFile(code / "bundle.zip", "w") as bundle:
        for file in sorted((code / "migrations").iterdir()):
            bundle.write(file, f"sql/{file.name}")


def test_migrations_come_from_a_zip(stage: Stage) -> None:
    code = stage.code(V1)
    _zipped(stage, code)
    with stage.function(code, directory="bundle.zip/sql") as function:
        assert function.invoke().ok
    assert stage.effects() == {1: 1, 2: 1}


def test_migrations_come_from_a_package(stage: Stage) -> None:
    code = stage.code(V1)
    package = code / "orders_schema"
    package.mkdir()
    (package / "__init__.py").touch()
    (code / "migrations").rename(package / "migrations")
    with stage.function(code, directory="package:orders_schema/migrations") as function:
        assert function.invoke().ok
    assert stage.effects() == {1: 1, 2: 1}


def test_the_database_is_reached_over_tcp(stage: Stage) -> None:
    url = stage.postgresql.tcp_url(stage.name)
    with stage.function(stage.code(V1), database_url=url) as function:
        assert function.invoke().ok
    assert stage.effects() == {1: 1, 2: 1}


def test_a_function_without_ddl_rights_waits_for_one_that_migrates(stage: Stage) -> None:
    code = stage.code(V2)
    with (
        stage.function(code, mode="require") as requiring,
        stage.function(code) as migrating,
    ):
        requiring.start_environments(3)
        waiting = [requiring.submit() for _ in range(3)]
        until(
            lambda: all(
                stage.dynamodb.requests(view.access_key)["GetItem"]
                for view in requiring.environments()
            ),
            what="all three have read the item",
        )
        assert not any(invocation.done() for invocation in waiting)
        assert migrating.invoke().ok
        assert all(invocation.result().ok for invocation in waiting)
        assert _outcomes(requiring) == Counter({"WAITED": 3})


def test_mode_off_serves_without_a_request(stage: Stage) -> None:
    with stage.function(stage.code(V1), mode="off") as function:
        assert function.invoke().ok
        (view,) = function.environments()
        assert stage.dynamodb.requests(view.access_key) == Counter()
    assert stage.query("SELECT to_regclass('effects') IS NULL") == [[True]]


def test_another_environments_function_is_refused(stage: Stage) -> None:
    with stage.function(stage.code(V1), environment="production") as function:
        assert function.invoke().ok
    with stage.function(stage.code(V2), environment="staging") as function:
        result = function.invoke()
    assert result.error_type == "ConfigurationError"
    assert "'production'" in result.error_message
    assert stage.effects() == {1: 1, 2: 1}


def test_two_schemas_of_one_database_do_not_see_each_other(stage: Stage) -> None:
    other = {"1_other": "-- migrate:up\nCREATE TABLE other (id int);\n"}
    theirs = f"{stage.name}_other"
    with stage.function(stage.code(V1)) as function:
        assert function.invoke().ok
    with stage.function(stage.code(other), target=theirs, schema="Other Schema") as function:
        assert function.invoke().ok
    assert stage.query('SELECT name FROM "Other Schema".history') == [["1_other"]]
    assert stage.effects() == {1: 1, 2: 1}


def test_wrong_settings_are_reported_in_one_line(stage: Stage) -> None:
    with stage.function(stage.code(V1), mode="maybe", lease_seconds="soon") as function:
        result = function.invoke()
        (end,) = ends(function)
    assert result.error_type == "ConfigurationError"
    assert "LAMBDA_MIGRATE_MODE" in result.error_message
    assert "LAMBDA_MIGRATE_LEASE_SECONDS" in result.error_message
    assert end["error"] == "ConfigurationError"


def test_a_missing_table_is_named_with_what_to_do(stage: Stage) -> None:
    with stage.function(stage.code(V1), table="nowhere") as function:
        result = function.invoke()
    assert result.error_type == "ConfigurationError"
    assert "'nowhere'" in result.error_message
    assert "lambda-migrate table create" in result.error_message


def test_a_handler_answers_503_while_the_schema_is_not_ready(stage: Stage) -> None:
    handler = HANDLER.replace(
        "import migrate_on_cold_start", "import migrate_on_cold_start, service_unavailable"
    ).replace("@migrate_on_cold_start", "@migrate_on_cold_start(on_not_ready=service_unavailable)")
    failing = {"1_bad": "-- migrate:up\nSELECT 1/0;\n"}
    with stage.function(stage.code(failing, handler=handler)) as function:
        result = function.invoke({"requestContext": {"http": {"method": "GET"}}})
        queued = function.invoke({"Records": [{"eventSource": "aws:sqs", "body": "an order"}]})
    assert result.ok
    assert result.payload["statusCode"] == 503
    assert int(result.payload["headers"]["Retry-After"]) >= 1
    assert queued.error_type == "MigrationFailed", "an answer would delete the message"


def test_no_line_of_any_log_holds_the_password(stage: Stage) -> None:
    secret = "correct-horse-battery"
    url = stage.postgresql.tcp_url(stage.name, password=secret)
    for migrations in (V1, {**V1, "9_bad": "-- migrate:up\nSELECT nowhere;\n"}):
        with stage.function(stage.code(migrations), database_url=url) as function:
            result = function.invoke()
            logs = "".join(function.logs(view.environment_id) for view in function.environments())
            assert secret not in logs + str(result)
    assert secret not in str(stage.item())
