"""Servers shared by the tests with real processes, and the selection of quick tests."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from lambda_migrate.local.servers.dynamodb import AmazonDynamoDBLocal, LocalDynamoDB
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL
from tests.callback_server import CallbackServer, run_callback_server
from tests.sandbox import TABLE, Sandbox


def _restore_signals() -> None:
    """Restore the handlers of signals that `nohup` and background jobs of a shell ignore.

    Child processes inherit ignored signals, but the tests of the command line send them.
    """
    for signum, handler in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGTERM, signal.SIG_DFL),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(signum) is signal.SIG_IGN:
            signal.signal(signum, handler)


_restore_signals()

gc.set_threshold(200_000, 20, 100)
"""Thousands of collected tests stay in memory; scanning them again and again took a seventh of the
time of the unit tests."""


@pytest.fixture(scope="session")
def shared_postgresql() -> Iterator[LocalPostgreSQL]:
    with LocalPostgreSQL(tcp_port=0) as server:
        yield server


@pytest.fixture(scope="session")
def shared_dynamodb() -> Iterator[LocalDynamoDB | AmazonDynamoDBLocal]:
    use_dynamodb_local = os.environ.get("LAMBDA_MIGRATE_TEST_DYNAMODB") == "dynamodb-local"
    with AmazonDynamoDBLocal() if use_dynamodb_local else LocalDynamoDB() as api:
        api.create_table(TABLE)
        yield api


@pytest.fixture
def sandbox(
    shared_postgresql: LocalPostgreSQL,
    shared_dynamodb: LocalDynamoDB | AmazonDynamoDBLocal,
    tmp_path: Path,
) -> Sandbox:
    """A new database and target on the shared servers."""
    return Sandbox(shared_postgresql, shared_dynamodb, tmp_path)


@pytest.fixture
def own_sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    """New servers, for tests that stop them."""
    durable = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
    with LocalPostgreSQL(settings=durable) as server, LocalDynamoDB() as api:
        api.create_table(TABLE)
        yield Sandbox(server, api, tmp_path)


QUICK = (
    "tests/unit/",
    "tests/integration/postgresql/test_catalog_lookup.py",
    "tests/integration/postgresql/test_history.py",
    "tests/integration/postgresql/test_mirror.py",
    "tests/integration/postgresql/test_other_tools.py::test_a_table_that_we_may_not_read",
    "tests/integration/postgresql/test_other_tools.py::test_two_services_with_a_tool_each",
    "tests/integration/postgresql/test_other_tools.py::test_what_is_found_is_the_same",
    "tests/integration/postgresql/test_non_transactional.py::test_each_kind_applies",
    "tests/integration/postgresql/test_non_transactional.py::test_a_statement_that_cannot_have",
    "tests/integration/postgresql/test_non_transactional.py::test_what_is_declared_idempotent",
    "tests/integration/postgresql/test_dry_run.py",
    "tests/integration/postgresql/test_several_statements.py::test_each",
    "tests/integration/postgresql/test_several_statements.py::test_after_a_failure",
    "tests/integration/postgresql/test_several_statements.py::test_a_statement",
    "tests/integration/postgresql/test_several_statements.py::test_settings_apply",
    "tests/integration/postgresql/test_hooks.py::test_a_failing_hook",
    "tests/integration/postgresql/test_fence.py::test_a_stale",
    "tests/integration/postgresql/test_fence.py::test_an_idle_older",
    "tests/integration/postgresql/test_fence.py::test_an_older",
    "tests/integration/postgresql/test_fence.py::test_a_live_older",
    "tests/integration/postgresql/test_fence.py::test_a_superseded_holder_records",
    "tests/integration/postgresql/test_fence.py::test_our_own_abort",
    "tests/integration/postgresql/test_takeover_errors.py::test_a_grant",
)
NOT_THE_LIBRARY = (
    # Tests of pages, of local servers, of load/ and of the mutants.
    "tests/unit/deploy/test_pages.py",
    "tests/unit/docs",
    "tests/unit/load",
    "tests/unit/local",
    "tests/unit/test_mutants.py",
)
NOT_QUICK = (
    *NOT_THE_LIBRARY,
    "tests/unit/cli/test_cli_render.py",
    "tests/unit/entrypoints/test_cheap_starts.py",
    # Together a sixth of the time, and no line that another quick test does not run.
    "tests/unit/lease/test_dynamodb.py::test_a_repeated_",
    "tests/unit/lease/test_readiness.py::TestReadiness",
    "tests/unit/postgresql/test_credentials.py::test_a_secret_in_another_format",
    "tests/unit/lease/test_fast_client_endpoint.py::test_an_endpoint_setting_is_used_as",
    "tests/unit/cli/test_cli_reference.py::test_help_names_every_option_within",
    "tests/unit/entrypoints/test_decorator.py::test_it_stacks_with_powertools",
    "tests/unit/lease/test_decision.py::test_an_instance_that_just_lost",
    "tests/unit/lease/test_decision.py::test_an_observed_expiry_changes_a_step",
    "tests/unit/lease/test_decision.py::test_while_paused_only_an_acquisition",
    "tests/unit/lease/test_decision.py::test_mode_off_serves_unchecked",
    "tests/unit/lease/test_dynamodb.py::test_a_failed_condition_is_a_lost_lease",
    "tests/unit/lease/test_dynamodb.py::test_every_call_is_retryable_while",
    "tests/unit/migrations/test_sql.py::test_nothing_quoted_commented_or_bracketed",
    "tests/unit/lease/test_codec.py::test_a_state_is_read_as_it_was_written",
    "tests/unit/test_manifest_digest.py::test_what_both_ways_read_has_one_digest",
    "tests/unit/entrypoints/test_decorator.py::test_service_unavailable_fails_every_other",
    "tests/unit/deploy/test_truncate.py::test_long_lists_are_cut_and_counted",
    "tests/unit/sources/test_alembic_files.py::test_locations_are_those",  # imports Alembic
    # Hundreds of cold starts; test_readiness.py tests the same without them.
    "however_many_manifests_came_after[250]",
    "[pg14",
    "[pg15",
    "[pg16",
    "[pg17",
)

# Two storms at the same time on two cores would slow each other down.
STORMS = (
    "tests/integration/flow/",
    "tests/integration/demo/",
    "tests/integration/load/",
    "tests/integration/local/",
    "tests/integration/stacks/test_pages.py::test_a_hundred",
    "exam",
)


settings.register_profile("quick", max_examples=20)


def pytest_configure(config: pytest.Config) -> None:
    """Try fewer random examples in the quick tests; `make test-real` uses Hypothesis' default."""
    if _is_quick(config):
        settings.load_profile("quick")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not import what the quick tests leave out."""
    if not _is_quick(config):
        return None
    place = collection_path.relative_to(config.rootpath).as_posix()
    is_test_file = collection_path.name.startswith("test_") and collection_path.is_file()
    has_quick_tests = place.startswith("tests/unit/") or any(
        name.partition("::")[0] == place for name in QUICK
    )
    return True if place in NOT_THE_LIBRARY or (is_test_file and not has_quick_tests) else None


def _is_quick(config: pytest.Config) -> bool:
    return bool(config.getoption("markexpr") == "quick")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `make test-unit` runs: the unit tests, and some tests on one PostgreSQL."""
    for item in items:
        name = item.nodeid
        is_slow = item.get_closest_marker("slow") or any(part in name for part in NOT_QUICK)
        if name.startswith(QUICK) and not is_slow:
            item.add_marker(pytest.mark.quick)


class _GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]  # it publishes no types
    """Sends the tests of one file to one worker, and all storms to one.

    xdist 3.8 stores its groups in an attribute that pytest 9 removed, so every test would be a
    group.
    """

    def _split_scope(self, nodeid: str) -> str:
        return "storms" if nodeid.startswith(STORMS) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _GroupScheduling | None:
    """Use it for ``--dist loadgroup``."""
    return _GroupScheduling(config, log) if config.getvalue("dist") == "loadgroup" else None


@pytest.fixture
def callbacks() -> Iterator[CallbackServer]:
    """A server that accepts every response of a deployment hook."""
    with run_callback_server() as callback_server:
        yield callback_server


@pytest.fixture
def mocked_aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """AWS in this process by moto, and nothing of any other."""
    from moto import mock_aws  # few tests need it, and its import takes long

    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with mock_aws():
        yield
