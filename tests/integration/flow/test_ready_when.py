"""Functions whose schema another tool migrates, on real runtimes and servers."""

from __future__ import annotations

import io
import json
import os
import threading
import time
from collections import Counter
from contextlib import AbstractContextManager, redirect_stderr, redirect_stdout
from typing import Any
from unittest.mock import patch

from lambda_migrate.cli import main
from lambda_migrate.local.runtime.function import LocalFunction
from tests.sandbox import Sandbox, ends, until

PRISMA = """
CREATE TABLE _prisma_migrations (id varchar(36) PRIMARY KEY, checksum varchar(64) NOT NULL,
    finished_at timestamptz, migration_name varchar(255) NOT NULL, logs text,
    rolled_back_at timestamptz, started_at timestamptz NOT NULL DEFAULT now(),
    applied_steps_count integer NOT NULL DEFAULT 0)
"""
REQUIRED = "prisma:20260101_add_status"
ENVIRONMENTS = 20


def start(
    sandbox: Sandbox, required: str = REQUIRED, *, failure_pause_seconds: str = "10"
) -> AbstractContextManager[LocalFunction]:
    """Deploy a function without migration files."""
    code = sandbox.code({})
    (code / "migrations").rmdir()
    return sandbox.function(
        code, mode="require", ready_when=required, failure_pause_seconds=failure_pause_seconds
    )


def begin(sandbox: Sandbox, name: str = "20260101_add_status") -> None:
    """Write the row as Prisma does before it runs a migration."""
    sandbox.query(
        "INSERT INTO _prisma_migrations (id, checksum, migration_name)"
        f" VALUES (gen_random_uuid(), '', '{name}')"
    )


def finish(sandbox: Sandbox) -> None:
    """Write the row as Prisma does when all of its migrations are applied."""
    sandbox.query("UPDATE _prisma_migrations SET finished_at = now()")


def count_sessions(sandbox: Sandbox) -> int:
    """How many connections to the database have ended since it was created, and none is open.

    PostgreSQL counts a session when it ends; this one is to another database.
    """

    def read() -> list[list[Any]]:
        return sandbox.postgresql.execute(
            "SELECT sessions::int, numbackends FROM pg_stat_database"
            f" WHERE datname = '{sandbox.name}'",
            database="postgres",
        )

    until(lambda: read()[0][1] == 0, what="every connection has ended")
    time.sleep(0.1)
    return int(read()[0][0])


def outcomes(function: LocalFunction) -> Counter[str]:
    return Counter(str(end.get("outcome", end.get("error"))) for end in ends(function))


def test_functions_wait_for_prisma_and_connect_one_at_a_time(sandbox: Sandbox) -> None:
    sandbox.query(PRISMA)
    sessions = count_sessions(sandbox)
    most = [0]
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            [[open_now]] = sandbox.postgresql.execute(
                "SELECT count(*)::int FROM pg_stat_activity WHERE datname = "
                f"'{sandbox.name}' AND application_name LIKE 'lambda-migrate%'",
                database="postgres",
            )
            most[0] = max(most[0], open_now)
            time.sleep(0.005)

    watching = threading.Thread(target=watch)
    with start(sandbox) as function:
        function.start_environments(ENVIRONMENTS)
        watching.start()
        invocations = [function.submit() for _ in range(ENVIRONMENTS)]
        until(lambda: sandbox.item().failure, what="one has found that it is not applied")
        begin(sandbox)
        until(lambda: "not finished it" in failure_cause(sandbox), what="one has found it begun")
        finish(sandbox)
        results = [invocation.result() for invocation in invocations]
        stop.set()
        watching.join()
        assert all(result.ok for result in results), results[0].error_message
        assert outcomes(function) <= Counter(WAITED=ENVIRONMENTS, UP_TO_DATE=ENVIRONMENTS)
        # Two of them are this test's.
        waiting_sessions = count_sessions(sandbox) - sessions - 2
        assert function.storm(ENVIRONMENTS)[0].ok
    assert 3 <= waiting_sessions <= 12
    assert most[0] <= 1, "one environment at a time"
    assert count_sessions(sandbox) - sessions - 2 == waiting_sessions, "ready: none connects"
    assert sandbox.query("SELECT to_regnamespace('lambda_migrate') IS NULL") == [[True]]
    assert sandbox.item().failures == ()


def failure_cause(sandbox: Sandbox) -> str:
    failure = sandbox.item().failure
    return "" if failure is None else failure.cause


def test_functions_of_several_releases_share_one_target(sandbox: Sandbox) -> None:
    sandbox.query(PRISMA)
    begin(sandbox)
    finish(sandbox)
    with start(sandbox) as older, start(sandbox, "prisma:20260202_add_total") as newer:
        assert older.invoke().ok
        newer.start_environments(2)
        waiting = newer.submit()
        until(lambda: sandbox.item().failure, what="the newer release has to wait")
        assert older.storm(5)[0].ok
        begin(sandbox, "20260202_add_total")
        finish(sandbox)
        assert waiting.result().ok


def test_a_failed_migration_of_flyway_fails_functions_at_once_with_its_cause(
    sandbox: Sandbox,
) -> None:
    sandbox.query(
        "CREATE TABLE flyway_schema_history (installed_rank int, version varchar(50),"
        " description varchar(200), type varchar(20), script varchar(1000), checksum int,"
        " success boolean)"
    )
    sandbox.query(
        "INSERT INTO flyway_schema_history VALUES (1, '1.7', 'add', 'SQL', 'V1_7__add.sql', 1,"
        " false)"
    )
    sessions = count_sessions(sandbox)
    with start(sandbox, "flyway:1.7", failure_pause_seconds="300") as function:
        results = function.storm(10)
    assert {result.error_type for result in results} == {"MigrationFailed"}
    assert all(
        "flyway:1.7: it failed in Flyway (public.flyway_schema_history)" in result.error_message
        for result in results
    )
    assert count_sessions(sandbox) == sessions + 1


def test_commands_show_what_is_required_and_refuse_to_migrate(sandbox: Sandbox) -> None:
    sandbox.query(PRISMA)
    environ = {
        **sandbox.variables(mode="require", ready_when=REQUIRED),
        **sandbox.dynamodb.variables(),
        "PATH": os.environ["PATH"],
    }

    def run(*arguments: str) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        environment = patch.dict(os.environ, environ, clear=True)
        with environment, redirect_stdout(out), redirect_stderr(err):
            code = main(arguments)
        return code, out.getvalue(), err.getvalue()

    def answer(*arguments: str) -> tuple[int, dict[str, Any]]:
        code, out, _ = run(*arguments, "--format", "json")
        assert out, arguments
        return code, json.loads(out)

    code, status = answer("status", "--exit-code")
    assert (code, status["is_current"], status["is_marked_ready"]) == (3, False, False)
    [required] = status["requirements"]
    assert required["requirement"] == REQUIRED
    assert "Prisma has not applied it (public._prisma_migrations)" in required["reason"]
    assert "not applied: Prisma has not applied it" in run("status")[1]
    for command in (
        *(("plan",), ("up",), ("down", "--steps", "1", "--yes")),
        *(("baseline", "--yes"), ("adopt", "--yes")),
    ):
        code, _, error = run(*command)
        assert (code, "another tool migrates this database" in error) == (2, True), error
    code, findings = answer("doctor")
    [schema] = [each for each in findings["checks"] if each["check"] == "schema"]
    assert (code, schema["status"]) == (0, "warning")
    assert run("wait", "--timeout", "10")[0] == 0
    begin(sandbox)
    finish(sandbox)
    assert answer("status", "--exit-code")[0] == 0
    with start(sandbox) as function:
        assert function.invoke().ok
    assert answer("status")[1]["is_marked_ready"] is True
    sandbox.query("DELETE FROM _prisma_migrations")
    code, verification = answer("verify")
    assert (code, verification["agree"]) == (1, False)
    assert "run `lambda-migrate verify --resync`" in verification["problems"][0]
    assert answer("verify", "--resync")[0] == 0
    assert answer("status")[1]["is_marked_ready"] is False
    environ["LAMBDA_MIGRATE_MODE"] = "migrate"
    code, _, error = run("status")
    assert (code, "LAMBDA_MIGRATE_READY_WHEN" in error) == (2, True)
