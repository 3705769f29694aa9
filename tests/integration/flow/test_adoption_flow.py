"""Cold starts refuse to serve without migrations, and where another tool has migrated."""

from __future__ import annotations

from collections import Counter

from lambda_migrate.clock import Deadline
from tests.sandbox import Sandbox, ends

ITEMS = {
    "0001_items": "-- migrate:up\nCREATE TABLE IF NOT EXISTS items (id int, price int);\n",
    "0002_cents": "-- migrate:up\nUPDATE items SET price = price * 100;\n",
}


def test_a_package_without_its_migrations_is_not_served_and_makes_no_request(
    sandbox: Sandbox,
) -> None:
    with sandbox.function(sandbox.code({})) as function:
        results = function.storm(5)
        assert Counter(result.error_type for result in results) == Counter({"ManifestError": 5})
        assert "found an empty folder" in results[0].error_message
        assert {end["error"] for end in ends(function)} == {"ManifestError"}
        for environment in function.environments():
            assert sandbox.dynamodb.requests(environment.access_key) == Counter()
    with sandbox.function(sandbox.code({}), allow_empty="true") as function:
        assert function.invoke().ok


def test_functions_run_nothing_on_a_database_that_dbmate_migrated_and_serve_after_a_baseline(
    sandbox: Sandbox,
) -> None:
    sandbox.query("CREATE TABLE items (id int, price int)")
    sandbox.query("INSERT INTO items VALUES (1, 500)")
    sandbox.query("CREATE TABLE schema_migrations (version varchar(128) PRIMARY KEY)")
    sandbox.query("INSERT INTO schema_migrations VALUES ('0001'), ('0002')")
    code = sandbox.code(ITEMS)
    with sandbox.function(code, failure_pause_seconds="300") as function:
        results = function.storm(20)
        errors = Counter(result.error_type for result in results)
        assert errors == Counter({"MigrationFailed": 19, "ConfigurationError": 1})
        assert all("lambda-migrate baseline" in result.error_message for result in results)
    sandbox.operations(code).baseline(None, Deadline.after(60))
    with sandbox.function(code) as function:
        assert Counter(result.ok for result in function.storm(5)) == Counter({True: 5})
    assert sandbox.query("SELECT price FROM items") == [[500]]
    assert sandbox.query("SELECT version::text FROM lambda_migrate.history WHERE baseline") == [
        ["1"],
        ["2"],
    ]
