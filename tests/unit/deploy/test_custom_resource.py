"""CloudFormation gets a response in every case, and a rollback is never blocked."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from lambda_migrate.deploy.custom_resource import (
    CustomResourceRequest,
    DeploymentDirection,
    handle,
    handler,
)
from lambda_migrate.deploy.deliver import DeliveryFailed
from lambda_migrate.errors import ConfigurationError, DatabaseUnavailable, MigrationFailed
from lambda_migrate.migrations import Manifest
from lambda_migrate.testing import FakeClock
from tests.callback_server import REFUSE_ALL, CallbackServer, run_callback_server
from tests.unit.deploy.conftest import Deploy, LambdaContext, make_unexpected_errors
from tests.unit.engine.fakes import Fakes, manifest, raises

V1, V2 = manifest(1), manifest(1, 2)

STACK = "arn:aws:cloudformation:eu-central-1:123456789012:stack/shop/5c6d0e90-6e2a-11ef-8f5b-0a1b"
FUNCTION = "arn:aws:lambda:eu-central-1:123456789012:function:migrator"


def request(kind: str, callbacks: CallbackServer, *versions: Any, **more: Any) -> dict[str, Any]:
    """Make an event; ``versions`` are the property's value and its previous one."""
    event: dict[str, Any] = {
        "RequestType": kind,
        "ServiceToken": FUNCTION,
        "ResponseURL": callbacks.url(),
        "StackId": STACK,
        "RequestId": "2f6ae1a6-7d0c-4f8e-9d6a-2d2d5b1c3c55",
        "LogicalResourceId": "Migrations",
        "ResourceType": "Custom::Migrations",
    }
    for name, version in zip(
        ("ResourceProperties", "OldResourceProperties"), versions, strict=False
    ):
        event[name] = {"ServiceToken": FUNCTION, "ServiceTimeout": "900"} | (
            {} if version is None else {"Version": version}
        )
    if kind != "Create":
        event["PhysicalResourceId"] = "lambda-migrate:5c6d0e90-6e2a-11ef-8f5b-0a1b:Migrations"
    return event | more


def version(number: int, function: str = FUNCTION) -> str:
    return f"{function}:{number}"


def answer(event: Any, callbacks: CallbackServer) -> dict[str, Any]:
    """Return the only response that the handler sends."""
    before = len(callbacks.requests)
    handler(event, LambdaContext())
    [received] = callbacks.requests[before:]
    return dict(received.json)


@pytest.fixture
def broken(fakes: Fakes, deploy: Deploy) -> Manifest:
    """Let the second migration fail."""
    fakes.migrated(V1)
    deploy(V2)
    fakes.table.before["acquire"] = raises(
        MigrationFailed("no column z", migration="0002_m", sqlstate="42703")
    )
    return V2


# --- deployments that go forward


def test_create_migrates_and_responds_with_every_required_key(
    fakes: Fakes, deploy: Deploy, callbacks: CallbackServer
) -> None:
    deploy(V2)
    assert answer(request("Create", callbacks, version(1)), callbacks) == {
        "Status": "SUCCESS",
        "Reason": "MIGRATED (log stream 2026/11/27/[$LATEST]0123456789abcdef of "
        "/aws/lambda/migrator)",
        "PhysicalResourceId": "lambda-migrate:5c6d0e90-6e2a-11ef-8f5b-0a1b:Migrations",
        "StackId": STACK,
        "RequestId": "2f6ae1a6-7d0c-4f8e-9d6a-2d2d5b1c3c55",
        "LogicalResourceId": "Migrations",
        "Data": {"Outcome": "MIGRATED", "Ready": "true"},
    }
    assert fakes.database.effects == ["0001_m", "0002_m"]


def test_the_response_is_sent_as_its_url_was_signed(
    deploy: Deploy, callbacks: CallbackServer
) -> None:
    deploy(V1)
    answer(request("Create", callbacks, version(1)), callbacks)
    [received] = callbacks.requests
    assert received.method == "PUT"
    assert received.path == "/answer?X-Amz-Signature=hunter2-s3cr3t&X-Amz-Expires=7200"
    assert received.headers["Content-Type"] == ""


def test_an_update_whose_version_increases_migrates(
    fakes: Fakes, deploy: Deploy, callbacks: CallbackServer
) -> None:
    fakes.migrated(V1)
    deploy(V2)
    response = answer(request("Update", callbacks, version(10), version(9)), callbacks)
    assert (response["Status"], response["Data"]["Outcome"]) == ("SUCCESS", "MIGRATED")


@pytest.mark.parametrize("kind", ["Create", "Update"])
def test_a_failing_migration_fails_a_deployment_that_goes_forward(
    kind: str, broken: Manifest, callbacks: CallbackServer
) -> None:
    response = answer(request(kind, callbacks, version(2), version(1)), callbacks)
    assert response["Status"] == "FAILED"
    assert response["Reason"].startswith("NOT_READY: 0002_m: no column z [42703] (log stream")
    assert response["Data"] == {"Outcome": "NOT_READY", "Ready": "false"}


@pytest.mark.parametrize("error", make_unexpected_errors(), ids=lambda error: type(error).__name__)
def test_unexpected_errors_get_a_response_and_are_not_raised(
    error: BaseException, fakes: Fakes, deploy: Deploy, callbacks: CallbackServer
) -> None:
    deploy(V1)
    fakes.table.before["read"] = raises(error)
    response = answer(request("Create", callbacks, version(1)), callbacks)
    assert response["Status"] == "FAILED"
    assert "hunter2" not in json.dumps(response)


def test_wrong_settings_get_a_response(
    callbacks: CallbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAMBDA_MIGRATE_TABEL", "leases")
    response = answer(request("Create", callbacks, version(1)), callbacks)
    assert response["Status"] == "FAILED"
    assert "did you mean LAMBDA_MIGRATE_TABLE?" in response["Reason"]


def test_a_failing_import_gets_a_response(
    callbacks: CallbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lambda_migrate.wiring", None)
    response = answer(request("Create", callbacks, version(1)), callbacks)
    assert response["Status"] == "FAILED"
    assert "lambda_migrate.wiring could not be imported" in response["Reason"]


def test_work_that_hangs_gets_a_response_before_the_deadline(
    fakes: Fakes, deploy: Deploy, callbacks: CallbackServer, short_deadline: None
) -> None:
    release = threading.Event()
    deploy(V1)
    fakes.table.before["read"] = release.wait
    response = answer(request("Create", callbacks, version(1)), callbacks)
    release.set()
    assert response["Status"] == "FAILED"
    assert "did not end before the hook had to respond" in response["Reason"]
    assert len(callbacks.requests) == 1


# --- rollbacks


def test_a_rollback_migrates_nothing_and_ahead_is_ready(
    fakes: Fakes, deploy: Deploy, callbacks: CallbackServer
) -> None:
    fakes.migrated(V2)
    deploy(V1)
    response = answer(request("Update", callbacks, version(9), version(10)), callbacks)
    assert response["Status"] == "SUCCESS"
    assert response["Data"] == {"Outcome": "UP_TO_DATE", "Ready": "true"}
    assert "the schema is ahead of this code" in response["Reason"]
    assert fakes.table.log == []


def test_a_rollback_does_not_migrate_with_the_newer_code(
    broken: Manifest, fakes: Fakes, callbacks: CallbackServer
) -> None:
    response = answer(request("Update", callbacks, version(1), version(2)), callbacks)
    assert (response["Status"], response["Data"]["Ready"]) == ("SUCCESS", "false")
    assert fakes.database.effects == ["0001_m"]
    assert fakes.table.log == []


@pytest.mark.parametrize(
    "error",
    [*make_unexpected_errors(), DatabaseUnavailable("gone"), ConfigurationError("no table")],
)
def test_a_rollback_succeeds_whatever_error_the_hook_meets(
    error: BaseException, deploy: Deploy, callbacks: CallbackServer
) -> None:
    deploy(V1, error=error)
    response = answer(request("Update", callbacks, version(1), version(2)), callbacks)
    assert response["Status"] == "SUCCESS"
    assert response["Data"] == {"Outcome": "NOT_READY", "Ready": "false"}
    assert "This does not block a rollback" in response["Reason"]


def test_a_rollback_that_hangs_is_not_blocked_either(
    fakes: Fakes,
    deploy: Deploy,
    callbacks: CallbackServer,
    short_deadline: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    release = threading.Event()
    deploy(V1)
    monkeypatch.setattr(type(fakes.database), "read_history", lambda *_: release.wait())
    response = answer(request("Update", callbacks, version(1), version(2)), callbacks)
    release.set()
    assert response["Status"] == "SUCCESS"


# --- unknown direction


@pytest.mark.parametrize(
    ("now", "before"),
    [
        (version(2), version(2)),
        (version(2), None),
        (None, version(2)),
        (None, None),
        (version(2, "arn:another"), version(1)),
        ("2026-11-27", "2026-11-26"),
        ("1" * 5000, "1"),
    ],
)
def test_a_failure_blocks_nothing_unless_the_version_increased(
    now: Any, before: Any, broken: Manifest, callbacks: CallbackServer
) -> None:
    response = answer(request("Update", callbacks, now, before), callbacks)
    assert (response["Status"], response["Data"]["Ready"]) == ("SUCCESS", "false")
    assert "0002_m: no column z [42703]" in response["Reason"]
    assert "this may be a rollback" in response["Reason"]


def test_an_update_with_the_same_version_migrates(
    fakes: Fakes, deploy: Deploy, callbacks: CallbackServer
) -> None:
    deploy(V1)
    response = answer(request("Update", callbacks, version(2), version(2)), callbacks)
    assert response["Data"]["Outcome"] == "MIGRATED"


@pytest.mark.parametrize(
    ("now", "before", "direction"),
    [
        (version(10), version(9), DeploymentDirection.FORWARD),
        (version(9), version(10), DeploymentDirection.ROLLBACK),
        ("10", "9", DeploymentDirection.FORWARD),
        (10, 9, DeploymentDirection.FORWARD),
        ("9", "10", DeploymentDirection.ROLLBACK),
        ("٣", "2", DeploymentDirection.UNKNOWN),
        ({"a": 1}, "2", DeploymentDirection.UNKNOWN),
    ],
)
def test_numbers_are_compared_as_numbers(
    now: Any, before: Any, direction: DeploymentDirection
) -> None:
    with run_callback_server() as callbacks:
        assert (
            CustomResourceRequest.parse(request("Update", callbacks, now, before)).direction
            is direction
        )


def test_a_resource_without_a_version_is_not_created(
    fakes: Fakes, deploy: Deploy, callbacks: CallbackServer
) -> None:
    deploy(V1)
    response = answer(request("Create", callbacks, None), callbacks)
    assert response["Status"] == "FAILED"
    assert "write Version: !Ref MigratorFunction.Version" in response["Reason"]
    assert fakes.database.effects == []


# --- delete


def test_delete_changes_nothing_and_succeeds_without_configuration(
    fakes: Fakes, deploy: Deploy, callbacks: CallbackServer
) -> None:
    deploy(V1, error=ConfigurationError("no table"))
    response = answer(request("Delete", callbacks, version(1)), callbacks)
    assert response["Status"] == "SUCCESS"
    assert fakes.table.log == fakes.database.effects == []


def test_a_failed_create_is_deleted_under_the_same_id(
    broken: Manifest, callbacks: CallbackServer
) -> None:
    failed = answer(request("Create", callbacks, version(1)), callbacks)
    gone = answer(
        request("Delete", callbacks, version(1), PhysicalResourceId=failed["PhysicalResourceId"]),
        callbacks,
    )
    assert gone["Status"] == "SUCCESS"
    assert gone["PhysicalResourceId"] == failed["PhysicalResourceId"]


def test_the_id_never_changes(fakes: Fakes, deploy: Deploy, callbacks: CallbackServer) -> None:
    deploy(V1)
    events = [
        request("Create", callbacks, version(1)),
        request("Update", callbacks, version(2), version(1)),
        request("Update", callbacks, version(1), version(2)),
        request("Delete", callbacks, version(1)),
    ]
    assert len({answer(event, callbacks)["PhysicalResourceId"] for event in events}) == 1


# --- invalid events


@pytest.mark.parametrize("event", [None, [], "x", {}, {"ResponseURL": None}, {"ResponseURL": 7}])
def test_an_event_of_another_source_is_refused(event: Any) -> None:
    with pytest.raises(ConfigurationError, match="not a request of CloudFormation"):
        handler(event, LambdaContext())


@pytest.mark.parametrize(
    "url",
    [
        "http://answers.invalid/a",
        "ftp://127.0.0.1/a",
        "https://",
        "https://[::1",
        "https://a:x/",
        "a",
    ],
)
def test_nothing_is_sent_in_plaintext_beyond_loopback(url: str) -> None:
    with pytest.raises(ConfigurationError, match="not an https URL"):
        handler({"RequestType": "Delete", "ResponseURL": url}, LambdaContext())


@pytest.mark.parametrize("odd", [" ", "\n", "\x00", "\x7f", "é", "\ud800"])
def test_an_url_that_cannot_be_sent_is_not_shown(
    odd: str, deploy: Deploy, caplog: pytest.LogCaptureFixture
) -> None:
    deploy(V1)
    url = f"https://127.0.0.1/answer?X-Amz-Signature=hunter2{odd}"
    with pytest.raises(ConfigurationError, match="not an https URL") as raised:
        handler({"RequestType": "Delete", "ResponseURL": url}, LambdaContext())
    assert "hunter2" not in str(raised.value) + caplog.text


@pytest.mark.parametrize("kind", ["", "Read", None, 7])
def test_an_unknown_request_type_gets_a_response(
    kind: Any, callbacks: CallbackServer, deploy: Deploy
) -> None:
    deploy(V1)
    event = request("Update", callbacks, version(2), version(1)) | {"RequestType": kind}
    assert answer(event, callbacks)["Status"] == "FAILED"


@pytest.mark.parametrize("properties", [None, "x", [], 7])
def test_invalid_properties_get_a_response(
    properties: Any, callbacks: CallbackServer, deploy: Deploy
) -> None:
    deploy(V1)
    event = request("Update", callbacks, version(2), version(1))
    response = answer(event | {"ResourceProperties": properties}, callbacks)
    assert response["Status"] == "SUCCESS"


# --- the size of a response


@pytest.mark.parametrize("character", ["x", "é", "漢", "\U0001f4a5", "\ud800", '"', "\n"])
def test_a_response_stays_within_cloudformations_limit_and_names_the_log(
    character: str, fakes: Fakes, deploy: Deploy, callbacks: CallbackServer
) -> None:
    deploy(V1, error=MigrationFailed(character * 20_000, migration="0001_m"))
    response = answer(request("Create", callbacks, version(1)), callbacks)
    [put] = callbacks.requests
    assert len(put.body) <= 4096
    assert response["Reason"].endswith(
        "(log stream 2026/11/27/[$LATEST]0123456789abcdef of /aws/lambda/migrator)"
    )
    assert response["Reason"].startswith("NOT_READY: 0001_m:")


def test_a_context_without_a_log_gets_a_response(deploy: Deploy, callbacks: CallbackServer) -> None:
    deploy(V1)
    handle(request("Create", callbacks, version(1)), object())
    [received] = callbacks.requests
    assert received.json["Reason"] == "MIGRATED"


# --- delivery


def test_the_same_response_is_sent_until_it_is_accepted(deploy: Deploy, fakes: Fakes) -> None:
    deploy(V1)
    with run_callback_server("refuse", "drop") as callbacks:
        handle(request("Create", callbacks, version(1)), LambdaContext(), clock=FakeClock())
    assert len(callbacks.requests) == 3
    assert len({received.body for received in callbacks.requests}) == 1
    assert fakes.database.effects == ["0001_m"]


def test_a_url_that_always_refuses_makes_lambda_invoke_again(
    deploy: Deploy, caplog: pytest.LogCaptureFixture
) -> None:
    deploy(V1)
    with (
        run_callback_server(*REFUSE_ALL) as callbacks,
        pytest.raises(DeliveryFailed, match="HTTP status 403") as raised,
    ):
        handle(request("Create", callbacks, version(1)), LambdaContext(), clock=FakeClock())
    assert len(callbacks.requests) > 1
    assert "hunter2" not in str(raised.value) + caplog.text


def test_an_unreachable_url_is_not_shown(deploy: Deploy) -> None:
    deploy(V1)
    with run_callback_server() as callbacks:
        event = request("Create", callbacks, version(1))
    with pytest.raises(DeliveryFailed, match="ConnectionRefusedError") as raised:
        handle(event, LambdaContext(), clock=FakeClock())
    assert "hunter2" not in str(raised.value)


@pytest.mark.slow
def test_https_verifies_the_server(
    deploy: Deploy,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    import ssl

    import trustme

    authority = trustme.CA()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    deploy(V1)
    with run_callback_server(tls=tls) as callbacks:
        with pytest.raises(DeliveryFailed) as raised:
            handle(request("Create", callbacks, version(1)), LambdaContext(), clock=FakeClock())
        # The last attempt may be too short for a handshake on a slow machine.
        assert "CERTIFICATE_VERIFY_FAILED" in caplog.text + str(raised.value)
        assert callbacks.requests == []
        authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
        assert answer(request("Create", callbacks, version(1)), callbacks)["Status"] == "SUCCESS"
