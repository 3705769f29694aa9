"""Feature flags from AppConfig, by extension and by API: caching, time limits and errors."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lambda_migrate.aws import appconfig as adapter
from lambda_migrate.aws.appconfig import AppConfigFlags, evaluate_flags
from lambda_migrate.clock import Deadline
from lambda_migrate.engine.flags import HOLD_BACK_AT, MODE, PAUSED, Flags
from lambda_migrate.errors import FlagsUnavailable
from lambda_migrate.local.runtime.loopback import find_free_port
from lambda_migrate.migrations.version import parse_version
from lambda_migrate.testing import FakeClock
from tests.local_appconfig import LocalAppConfig

PROFILE = "orders/staging/lambda-migrate"
CONTEXT = {"target": "orders", "environment": "staging", "function": "orders-api"}

Source = Callable[..., AppConfigFlags]


def plain(default: object, **rules: Any) -> dict[str, Any]:
    """A flag; ``rules`` are values by the target that they are for."""
    flag: dict[str, Any] = {"default": default, "boolean_type": isinstance(default, bool)}
    if rules:
        flag["rules"] = {
            target: {
                "when_match": value,
                "conditions": [{"action": "EQUALS", "key": "target", "value": target}],
            }
            for target, value in rules.items()
        }
    return flag


GO = {PAUSED: plain(False)}
STOP = {PAUSED: plain(True)}


@pytest.fixture
def served() -> Iterator[LocalAppConfig]:
    with LocalAppConfig(PROFILE, GO) as appconfig:
        yield appconfig


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["extension", "api"])
def source(
    request: pytest.FixtureRequest,
    served: LocalAppConfig,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> Source:
    """Makes sources that ask one way; the profile can be another."""
    credentials = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "eu-x-1"}
    for name, value in {**credentials, "AWS_DEFAULT_REGION": "eu-x-1", **served.api()}.items():
        monkeypatch.setenv(name, value)

    def make(profile: str = PROFILE) -> AppConfigFlags:
        if request.param == "extension":
            port = served.extension()["AWS_APPCONFIG_EXTENSION_HTTP_PORT"]
            return AppConfigFlags(profile, CONTEXT, port=port, clock=clock)
        flags = AppConfigFlags(profile, CONTEXT, clock=clock)
        flags._uses_api = (
            True  # as after the first refused connection, whatever uses that port here
        )
        return flags

    return make


@pytest.fixture
def deadline() -> Deadline:
    return Deadline.after(30)


def refused(flags: AppConfigFlags, deadline: Deadline) -> str:
    with pytest.raises(FlagsUnavailable) as error:
        flags.read(deadline)
    return str(error.value)


# --- both ways


def test_what_is_deployed_is_what_is_read(
    source: Source, served: LocalAppConfig, deadline: Deadline
) -> None:
    assert source().read(deadline) == Flags()
    served.document = {
        MODE: plain("require"),
        HOLD_BACK_AT: plain("1.7"),
        PAUSED: plain(True),
        "checkout_v2": plain(True),
    }
    assert source().read(deadline) == Flags(
        mode="require", hold_back_at=parse_version("1.7"), paused=True
    )


@pytest.mark.slow
def test_a_document_is_cached_for_some_seconds_by_both_clocks(
    source: Source, served: LocalAppConfig, deadline: Deadline, clock: FakeClock
) -> None:
    flags = source()
    flags.read(deadline)
    served.document = STOP
    asked = served.requests.total()
    assert not flags.read(deadline).paused
    assert served.requests.total() == asked
    clock.step_wall_clock(3600)  # frozen for an hour, in which the monotonic clock may stand still
    assert flags.read(deadline).paused
    served.document = GO
    clock.advance(adapter.API_CACHE_SECONDS)
    assert not flags.read(deadline).paused


@pytest.mark.slow
def test_a_failed_read_is_cached(
    source: Source, served: LocalAppConfig, deadline: Deadline, clock: FakeClock
) -> None:
    served.behaviour = "garbage"
    flags = source()
    first = refused(flags, deadline)
    asked = served.requests.total()
    assert refused(flags, deadline) == first
    assert served.requests.total() == asked
    served.behaviour = "answers"
    clock.advance(adapter.API_CACHE_SECONDS)
    assert flags.read(deadline) == Flags()


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("fails", r"status 500|AppConfig responded with InternalServerException"),
        ("garbage", "sent no JSON"),
    ],
)
def test_an_appconfig_error_is_reported_with_its_code(
    source: Source, served: LocalAppConfig, deadline: Deadline, behaviour: str, reason: str
) -> None:
    served.behaviour = behaviour
    message = refused(source(), deadline)
    assert message.startswith(f"the feature flags {PROFILE} cannot be used: ")
    assert re.search(reason, message)


@pytest.mark.slow
@pytest.mark.parametrize("behaviour", ["hangs", "dribbles"])
def test_an_unresponsive_appconfig_is_waited_for_until_the_deadline(
    source: Source, served: LocalAppConfig, behaviour: str
) -> None:
    served.behaviour = behaviour
    deadline = Deadline.after(0.3)
    assert "no response within 0.3 s" in refused(source(), deadline)


@pytest.mark.slow
def test_an_unresponsive_appconfig_is_waited_for_at_most_four_seconds(
    source: Source, served: LocalAppConfig, deadline: Deadline, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert adapter.MAX_READ_SECONDS == 4
    monkeypatch.setattr(adapter, "MAX_READ_SECONDS", 0.2)
    served.behaviour = "dribbles"
    assert "no response within 0.2 s" in refused(source(), deadline)


@pytest.mark.slow
def test_a_missing_response_is_reported_without_the_sessions_token(
    source: Source, served: LocalAppConfig, deadline: Deadline, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_CONNECT_SECONDS", "_READ_SECONDS", "_EXTENSION_READ_SECONDS"):
        monkeypatch.setattr(adapter, name, 0.1)
    monkeypatch.setattr(adapter, "_ATTEMPTS", 1)
    served.hangs_at = "GetLatestConfiguration"
    served.behaviour = "hangs"
    reason = refused(source(), deadline)
    assert re.search(r"did not respond \((TimeoutError|ReadTimeoutError)\)", reason)
    assert "token" not in reason


def test_when_no_time_is_left_nothing_is_read(source: Source, served: LocalAppConfig) -> None:
    assert "not enough time is left" in refused(source(), Deadline.after(0))
    assert served.requests.total() == 0


@pytest.mark.parametrize(
    "document", [b"", b"{", b"\xff", b"[" * 100_000], ids=["nothing", "cut", "not UTF-8", "deep"]
)
def test_an_invalid_json_document_is_reported(
    source: Source, served: LocalAppConfig, deadline: Deadline, document: bytes
) -> None:
    served.document = document
    assert "no JSON" in refused(source(), deadline)


def test_a_missing_profile_is_reported(source: Source, deadline: Deadline) -> None:
    reason = refused(source("orders/staging/other"), deadline)
    assert re.search("status 404|ResourceNotFoundException: there is no such application", reason)


# --- one way


@pytest.mark.slow
def test_each_read_from_the_api_is_a_new_session(
    served: LocalAppConfig,
    clock: FakeClock,
    deadline: Deadline,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-x-1")
    monkeypatch.setenv(*next(iter(served.api().items())))
    monkeypatch.setattr(adapter, "EXTENSION_PORT", find_free_port())
    flags = AppConfigFlags(PROFILE, CONTEXT, clock=clock)
    for _ in range(2):
        assert flags.read(deadline) == Flags()
        clock.advance(adapter.API_CACHE_SECONDS)
    assert served.requests == {"StartConfigurationSession": 2, "GetLatestConfiguration": 2}


def test_a_missing_extension_is_reported(deadline: Deadline) -> None:
    port = find_free_port()
    flags = AppConfigFlags(PROFILE, CONTEXT, port=str(port))
    assert f"no AppConfig extension listens on port {port}" in refused(flags, deadline)


@pytest.mark.parametrize("port", ["http", "0", "99999", "\uff11"])
def test_an_invalid_port_is_reported(port: str, deadline: Deadline) -> None:
    reason = refused(AppConfigFlags(PROFILE, CONTEXT, port=port), deadline)
    assert "AWS_APPCONFIG_EXTENSION_HTTP_PORT is not a port number" in reason


def test_an_unreachable_api_is_reported(
    deadline: Deadline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "EXTENSION_PORT", find_free_port())
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    reason = refused(AppConfigFlags(PROFILE, CONTEXT), deadline)
    assert "AppConfig could not be reached: no AWS Region is set: set AWS_REGION" in reason
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-x-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "geheim")
    monkeypatch.setenv("AWS_ENDPOINT_URL_APPCONFIGDATA", f"http://127.0.0.1:{find_free_port()}")
    reason = refused(AppConfigFlags(PROFILE, CONTEXT), deadline)
    assert "AppConfig did not respond (EndpointConnectionError)" in reason
    assert "geheim" not in reason


def test_a_missing_permission_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from aws_lambda_powertools.utilities.feature_flags.exceptions import StoreClientError
    from botocore.exceptions import ClientError

    denied = ClientError({"Error": {"Code": "AccessDeniedException"}}, "StartConfigurationSession")
    error = StoreClientError("a whole traceback")
    error.__cause__ = denied
    assert "the role needs appconfig:StartConfigurationSession" in adapter._describe_error(error)


def test_reading_leaves_no_thread_behind(source: Source, deadline: Deadline) -> None:
    source().read(deadline)
    until = time.monotonic() + 10
    while any(each.name == "lambda-migrate-flags" for each in threading.enumerate()):
        assert time.monotonic() < until
        time.sleep(0.01)


# --- what a document says


@pytest.mark.parametrize(
    ("target", "flags"),
    [("orders", Flags(paused=True)), ("invoices", Flags(hold_back_at=4)), ("other", Flags())],
)
def test_rules_choose_by_target(target: str, flags: Flags) -> None:
    document = {PAUSED: plain(False, orders=True), HOLD_BACK_AT: plain(0, invoices=4)}
    assert evaluate_flags(document, {**CONTEXT, "target": target}) == flags


@pytest.mark.parametrize("key", ["environment", "function"])
def test_rules_choose_by_environment_and_function_too(key: str) -> None:
    condition = {"action": "STARTSWITH", "key": key, "value": CONTEXT[key][:4]}
    rule = {"when_match": "off", "conditions": [condition]}
    document = {MODE: {"default": "migrate", "boolean_type": False, "rules": {"some": rule}}}
    assert evaluate_flags(document, CONTEXT).mode == "off"
    assert evaluate_flags(document, {**CONTEXT, key: "other"}).mode == "migrate"


def test_other_flags_in_the_same_document_may_be_anything() -> None:
    assert evaluate_flags({**STOP, "theirs": 5, "other": {"enabled": True}}, CONTEXT).paused


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ([], "not a JSON object"),
        ({}, "has none of the flags"),
        ({"checkout_v2": plain(True)}, f"none of the flags {MODE}, {HOLD_BACK_AT}, {PAUSED}"),
        ({**GO, "lambda_migrate_pause": plain(True)}, "no flag 'lambda_migrate_pause'"),
        ({PAUSED: {"enabled": True}}, "format of Powertools' feature flags"),
        ({PAUSED: True}, "format of Powertools' feature flags"),
        ({MODE: plain("Off")}, f"{MODE} is 'Off'; write one of migrate, require, off"),
        ({MODE: plain(["off"])}, "write one of"),
        ({HOLD_BACK_AT: plain("v7")}, f"{HOLD_BACK_AT} is 'v7'; write a version number"),
        ({HOLD_BACK_AT: plain(-1)}, "write a version number"),
        ({HOLD_BACK_AT: plain(7.0)}, "write a version number"),
        ({HOLD_BACK_AT: plain(True)}, "write a version number"),
        ({PAUSED: {"default": "yes", "boolean_type": False}}, "write true or false"),
        (
            {
                PAUSED: {
                    "default": False,
                    "rules": {
                        "typo": {
                            "when_match": True,
                            "conditions": [
                                {"action": "EQUALS", "key": "enviroment", "value": "staging"}
                            ],
                        }
                    },
                }
            },
            "rule 'typo' of lambda_migrate_paused uses 'enviroment'",
        ),
        (
            {
                PAUSED: {
                    "default": False,
                    "rules": {
                        "odd": {
                            "when_match": True,
                            "conditions": [{"action": "IN", "key": "target", "value": 5}],
                        }
                    },
                }
            },
            "a rule cannot be evaluated: argument of type 'int' is not",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else json.dumps(value)[:40],
)
@pytest.mark.filterwarnings("ignore:Failed to evaluate feature flag")  # newer Powertools say so
def test_an_invalid_document_is_refused(document: object, reason: str) -> None:
    with pytest.raises(adapter._FlagsReadError) as error:
        evaluate_flags(document, CONTEXT)
    assert reason in str(error.value)
