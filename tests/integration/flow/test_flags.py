"""Feature flags from AppConfig, by extension and by API, changed while real functions run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from lambda_migrate.engine.flags import HOLD_BACK_AT, MODE, PAUSED
from lambda_migrate.local.runtime.function import LocalFunction
from tests.local_appconfig import LocalAppConfig
from tests.sandbox import COUNTERS, HANDLER, Sandbox, effect, ends, until

PROFILE = "orders/staging/lambda-migrate"
WAYS = ("extension", "api")
MIGRATIONS = {"1_counters": COUNTERS, "2_more": effect(2), "3_last": effect(3)}


def make_flag(default: object) -> dict[str, Any]:
    return {"default": default, "boolean_type": isinstance(default, bool)}


GO = {PAUSED: make_flag(False)}
STOP = {PAUSED: make_flag(True)}


@pytest.fixture
def appconfig() -> Iterator[LocalAppConfig]:
    with LocalAppConfig(PROFILE, GO) as served:
        yield served


@contextmanager
def deploy_function(
    sandbox: Sandbox,
    appconfig: LocalAppConfig,
    migrations: Mapping[str, str] = MIGRATIONS,
    *,
    way: str = "extension",
    timeout: float = 90.0,
    **settings: str,
) -> Iterator[LocalFunction]:
    """A function that asks this AppConfig."""
    variables = sandbox.variables(flags=PROFILE, **settings)
    variables |= getattr(appconfig, way)()
    code = sandbox.code(migrations, handler=HANDLER)
    with LocalFunction(
        code=code, variables=variables, timeout=timeout, name=f"{sandbox.name}{way}"
    ) as function:
        yield function


def _count_outcomes(function: LocalFunction) -> Counter[str]:
    return Counter(str(end.get("outcome", end.get("error"))) for end in ends(function))


@pytest.mark.parametrize("way", WAYS)
def test_while_paused_all_are_not_ready_and_afterwards_all_serve(
    sandbox: Sandbox, appconfig: LocalAppConfig, way: str
) -> None:
    appconfig.document = STOP
    with deploy_function(sandbox, appconfig, way=way) as function:
        refused = function.storm(10)
        assert Counter(result.error_type for result in refused) == Counter({"NotReady": 10})
        assert all(PAUSED in str(result.payload) for result in refused)
        assert sandbox.item().fence == 0, "no instance acquired"
        reported = ends(function)
        assert all(end["retryable"] for end in reported)
        assert len(reported) == 10
        appconfig.document = GO
        assert all(result.ok for result in function.storm(10))
        everywhere = [function.submit() for _ in range(20)]
        assert all(invocation.result().ok for invocation in everywhere), "those of before as well"
        ended = _count_outcomes(function)
    assert ended["MIGRATED"] == 1
    assert sandbox.effects() == {1: 1, 2: 1, 3: 1}


def test_the_fast_path_reads_no_flags_from_appconfig(
    sandbox: Sandbox, appconfig: LocalAppConfig
) -> None:
    with deploy_function(sandbox, appconfig) as function:
        assert function.invoke().ok
        asked = appconfig.requests.total()
        assert asked > 0
        assert all(result.ok for result in function.storm(3))
        assert appconfig.requests.total() == asked


@pytest.mark.parametrize("way", WAYS)
def test_functions_held_back_at_a_version_apply_nothing_beyond_it(
    sandbox: Sandbox, appconfig: LocalAppConfig, way: str
) -> None:
    appconfig.document = {HOLD_BACK_AT: make_flag(2)}
    older = {name: MIGRATIONS[name] for name in ("1_counters", "2_more")}
    with deploy_function(sandbox, appconfig, way=way) as function:
        result = function.invoke()
        assert result.error_type == "NotReady"
        assert HOLD_BACK_AT in str(result.payload)
        assert sandbox.effects() == {1: 1, 2: 1}
    with deploy_function(sandbox, appconfig, older, way=way) as function:
        assert function.invoke().ok, "code that needs no more than version 2 is served"
        assert [end["outcome"] for end in ends(function)] == ["UP_TO_DATE"]
    appconfig.document = {HOLD_BACK_AT: make_flag(0)}
    with deploy_function(sandbox, appconfig, way=way) as function:
        assert function.invoke().ok
    assert sandbox.effects() == {1: 1, 2: 1, 3: 1}


def test_a_pause_stops_a_long_list_of_migrations_between_two(
    sandbox: Sandbox, appconfig: LocalAppConfig
) -> None:
    many = {f"{n}_slow": effect(n, "SELECT pg_sleep(0.5);") for n in range(2, 22)}
    with deploy_function(sandbox, appconfig, {"1_counters": COUNTERS, **many}) as function:
        invocation = function.submit()
        until(lambda: _count_applied(sandbox) >= 2, what="migrations that run")
        appconfig.document = STOP
        result = invocation.result()
        assert result.error_type == "NotReady"
        assert PAUSED in str(result.payload)
        stopped_at = _count_applied(sandbox)
        (end,) = ends(function)
        assert len(end["applied"]) == stopped_at
        assert 2 <= stopped_at < 21
        assert sandbox.holders() == []
        assert sandbox.item().owner is None
        appconfig.document = GO
        until(lambda: function.invoke().ok, what="an environment that continues", seconds=90)
    assert sandbox.effects() == dict.fromkeys(range(1, 22), 1)


def _count_applied(sandbox: Sandbox) -> int:
    found = sandbox.query("SELECT to_regclass('lambda_migrate.history') IS NOT NULL")
    return len(sandbox.history()) if found[0][0] else 0


def test_mode_off_serves_unchecked_until_it_is_lifted(
    sandbox: Sandbox, appconfig: LocalAppConfig
) -> None:
    appconfig.document = {MODE: make_flag("off")}
    with deploy_function(sandbox, appconfig) as function:
        assert function.invoke().ok
        assert function.invoke().ok
        assert [end["outcome"] for end in ends(function)] == ["UNCHECKED"] * 2
        assert sandbox.item().fence == 0
        appconfig.document = GO
        until(lambda: function.invoke().ok and sandbox.item().fence, what="a migration")
        assert len(function.environments()) == 1, "the same environment all along"
    assert sandbox.effects() == {1: 1, 2: 1, 3: 1}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("behaviour", ["fails", "hangs"])
def test_an_unusable_appconfig_stops_migrating_or_is_ignored_by_setting(
    sandbox: Sandbox, appconfig: LocalAppConfig, behaviour: str, way: str
) -> None:
    appconfig.behaviour = behaviour
    with deploy_function(sandbox, appconfig, way=way) as function:
        assert function.invoke().error_type == "FlagsUnavailable"
        assert sandbox.item().fence == 0
    with deploy_function(sandbox, appconfig, way=way, on_flags_unavailable="ignore") as function:
        assert function.invoke().ok
        assert [end["outcome"] for end in ends(function)] == ["MIGRATED"]
        (view,) = function.environments()
        assert "continuing without feature flags" in function.logs(view.environment_id)
    assert sandbox.effects() == {1: 1, 2: 1, 3: 1}


@pytest.mark.parametrize("way", WAYS)
def test_a_hanging_appconfig_times_out_before_the_invocations_end(
    sandbox: Sandbox, appconfig: LocalAppConfig, way: str
) -> None:
    appconfig.behaviour = "hangs"
    # Without a deadline asking takes up to 4 s; here 3 are left. Lambda kills what overstays.
    with deploy_function(
        sandbox, appconfig, way=way, timeout=8, safety_margin_seconds="5", lease_seconds="12"
    ) as function:
        result = function.invoke()
    assert result.status == "error", "not a timeout"
    assert result.error_type == "FlagsUnavailable"
