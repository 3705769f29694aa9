"""Servers that the tests with real processes share."""

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

from lambda_migrate.local.servers.dynamodb import DynamoDBLocal, LocalDynamoDB
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL
from tests.stage import TABLE, Stage


def _as_on_a_terminal() -> None:
    """Heed the signals that `nohup` and a shell's background jobs leave ignored.

    The command line keeps ignored what its caller ignores, and so would every process started
    here; its tests are about what a terminal sends.
    """
    for signum, handler in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGTERM, signal.SIG_DFL),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(signum) is signal.SIG_IGN:
            signal.signal(signum, handler)


_as_on_a_terminal()

gc.set_threshold(200_000, 20, 100)
"""Thousands of collected tests stay for good: to look through them over and over took a seventh of
the unit tests' time."""


@pytest.fixture(scope="session")
def stage_postgresql() -> Iterator[LocalPostgreSQL]:
    with LocalPostgreSQL(tcp_port=0) as server:
        yield server


@pytest.fixture(scope="session")
def stage_dynamodb() -> Iterator[LocalDynamoDB | DynamoDBLocal]:
    amazons = os.environ.get("LAMBDA_MIGRATE_TEST_DYNAMODB") == "dynamodb-local"
    with DynamoDBLocal() if amazons else LocalDynamoDB() as api:
        api.create_table(TABLE)
        yield api


@pytest.fixture
def stage(
    stage_postgresql: LocalPostgreSQL,
    stage_dynamodb: LocalDynamoDB | DynamoDBLocal,
    tmp_path: Path,
) -> Stage:
    """A database and a target of its own, on the shared servers."""
    return Stage(stage_postgresql, stage_dynamodb, tmp_path)


@pytest.fixture
def own_stage(tmp_path: Path) -> Iterator[Stage]:
    """Servers of its own, for tests that stop them."""
    durable = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
    with LocalPostgreSQL(settings=durable) as server, LocalDynamoDB() as api:
        api.create_table(TABLE)
        yield Stage(server, api, tmp_path)


QUICK = (
    "tests/unit/",
    "tests/integration/postgresql/test_history.py",
    "tests/integration/postgresql/test_other_tools.py::test_a_table_that_we_may_not_read",
    "tests/integration/postgresql/test_other_tools.py::test_two_services_with_a_tool_each",
    "tests/integration/postgresql/test_other_tools.py::test_what_is_found_is_the_same",
    "tests/integration/postgresql/test_non_transactional.py::test_each_kind_applies",
    "tests/integration/postgresql/test_non_transactional.py::test_reverting_a_row_in_doubt",
    "tests/integration/postgresql/test_non_transactional.py::test_what_cannot_have_done",
    "tests/integration/postgresql/test_non_transactional.py::test_what_is_declared_repeatable",
    "tests/integration/postgresql/test_non_transactional.py::test_an_index_that_stands_there",
    "tests/integration/postgresql/test_dry_run.py",
)
ELSEWHERE = (
    # Not about the library: its pages, its test bed, what loads it, its mutants.
    "tests/unit/deploy/test_pages.py",
    "tests/unit/docs",
    "tests/unit/load",
    "tests/unit/local",
    "tests/unit/test_mutants.py",
)
NOT_QUICK = (
    *ELSEWHERE,
    "tests/unit/cli/test_cli_render.py",
    # Every command once more, from afar.
    "test_cli_function.py::test_a_function_is_shown_as_if_it_were_here",
    "test_cli_function.py::test_whatever_happens_to_the_calls",
    # Fresh processes.
    "tests/unit/entrypoints/test_cheap_starts.py",
    # Servers that keep one waiting.
    "test_appconfig.py::test_an_appconfig_that_does_not_answer",
    "test_appconfig.py::test_with_all_time_in_the_world",
    "test_appconfig.py::test_an_answer_that_does_not_come",
    "test_codedeploy.py::test_a_creator_that_is_never_told",
    "test_codedeploy.py::test_an_answer_that_nobody_takes",
    "test_codedeploy.py::test_the_answer_is_sent_until",
    "test_custom_resource.py::test_https_verifies_whom_it_answers",
    # Hundreds of cold starts; test_readiness.py has the law without them.
    "however_many_manifests_came_after[250]",
    # A client of boto3 for each random environment.
    "test_fast_client_endpoint.py::test_wherever_it_answers",
    # Servers and observers that say nothing.
    "test_heartbeat.py::test_renewing_goes_on_while_an_observer_of_the_last_beat_hangs",
    "test_fast_client.py::test_silence_is_retryable",
    # Hundreds of kilobytes of each kind.
    "test_admin.py::test_an_answer_that_lambda_would_refuse",
    "test_sql.py::test_no_script_takes_more_than_a_pass",
    "[pg14",
    "[pg15",
    "[pg16",
    "[pg17",
)

# Two storms at once on two cores would only measure each other.
STORMS = (
    "tests/integration/flow/",
    "tests/integration/demo/",
    "tests/integration/load/",
    "tests/integration/local/",
    "exam",
)


settings.register_profile("quick", max_examples=20)


def pytest_configure(config: pytest.Config) -> None:
    """Let laws on random input try fewer examples where all must be done in 30 s.

    `make test-real` runs them once more, with as many as Hypothesis tries by default.
    """
    if _is_quick(config):
        settings.load_profile("quick")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not even import what the quick ones leave out."""
    place = collection_path.relative_to(config.rootpath).as_posix()
    return True if _is_quick(config) and place in ELSEWHERE else None


def _is_quick(config: pytest.Config) -> bool:
    return bool(config.getoption("markexpr") == "quick")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `make test-unit` runs.

    Quick are the unit tests, and as much of the PostgreSQL wing's as shows what it does on one
    server.
    """
    for item in items:
        name = item.nodeid
        if name.startswith(QUICK) and not any(part in name for part in NOT_QUICK):
            item.add_marker(pytest.mark.quick)


class _InGroups(LoadScopeScheduling):  # type: ignore[misc]  # it publishes no types
    """Sends the tests of one file to one worker, and all storms to one.

    xdist 3.8 writes its own groups behind a test's id, in an attribute that pytest 9 has no more:
    every test would be a group of its own.
    """

    def _split_scope(self, nodeid: str) -> str:
        return "storms" if nodeid.startswith(STORMS) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _InGroups | None:
    """Use it for ``--dist loadgroup``."""
    return _InGroups(config, log) if config.getvalue("dist") == "loadgroup" else None
