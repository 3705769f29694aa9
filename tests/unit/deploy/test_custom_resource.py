"""CloudFormation is answered, whatever happens, and a rollback is never blocked."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from lambda_migrate.deploy.custom_resource import CustomResourceRequest, Direction, handle, handler
from lambda_migrate.deploy.deliver import DeliveryFailed
from lambda_migrate.errors import ConfigurationError, DatabaseUnavailable, MigrationFailed
from lambda_migrate.migrations import Manifest
from lambda_migrate.testing import FakeClock
from tests.answers import REFUSE_ALL, Office, office
from tests.unit.deploy.conftest import Deploy, LambdaContext, unexpected
from tests.unit.engine.fakes import Fakes, manifest, raises

V1, V2 = manifest(1), manifest(1, 2)

STACK = "arn:aws:cloudformation:eu-central-1:123456789012:stack/shop/5c6d0e90-6e2a-11ef-8f5b-0a1b"
FUNCTION = "arn:aws:lambda:eu-central-1:123456789012:function:migrator"


def request(kind: str, post: Office, *versions: Any, **more: Any) -> dict[str, Any]:
    """An event; ``versions`` are the property's value and the one before."""
    event: dict[str, Any] = {
        "RequestType": kind,
        "ServiceToken": FUNCTION,
        "ResponseURL": post.url(),
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


def answer(event: Any, post: Office) -> dict[str, Any]:
    """The one answer that the handler sends."""
    before = len(post.letters)
    handler(event, LambdaContext())
    [letter] = post.letters[before:]
    return dict(letter.json)


@pytest.fixture
def broken(scene: Fakes, deploy: Deploy) -> Manifest:
    """The second migration fails."""
    scene.migrated(V1)
    deploy(V2)
    scene.table.before["acquire"] = raises(
        MigrationFailed("no column z", migration="0002_m", sqlstate="42703")
    )
    return V2


# --- forward


def test_create_migrates_and_responds_with_every_required_key(
    scene: Fakes, deploy: Deploy, post: Office
) -> None:
    deploy(V2)
    assert answer(request("Create", post, version(1)), post) == {
        "Status": "SUCCESS",
        "Reason": "MIGRATED (log stream 2026/11/27/[$LATEST]0123456789abcdef of "
        "/aws/lambda/migrator)",
        "PhysicalResourceId": "lambda-migrate:5c6d0e90-6e2a-11ef-8f5b-0a1b:Migrations",
        "StackId": STACK,
        "RequestId": "2f6ae1a6-7d0c-4f8e-9d6a-2d2d5b1c3c55",
        "LogicalResourceId": "Migrations",
        "Data": {"Outcome": "MIGRATED", "Ready": "true"},
    }
    assert scene.database.effects == ["0001_m", "0002_m"]


def test_the_response_is_sent_as_its_url_was_signed(deploy: Deploy, post: Office) -> None:
    deploy(V1)
    answer(request("Create", post, version(1)), post)
    [letter] = post.letters
    assert letter.method == "PUT"
    assert letter.path == "/answer?X-Amz-Signature=hunter2-s3cr3t&X-Amz-Expires=7200"
    assert letter.headers["Content-Type"] == ""


def test_an_update_whose_version_increases_migrates(
    scene: Fakes, deploy: Deploy, post: Office
) -> None:
    scene.migrated(V1)
    deploy(V2)
    told = answer(request("Update", post, version(10), version(9)), post)
    assert (told["Status"], told["Data"]["Outcome"]) == ("SUCCESS", "MIGRATED")


@pytest.mark.parametrize("kind", ["Create", "Update"])
def test_a_failing_migration_fails_a_deployment_that_goes_forward(
    kind: str, broken: Manifest, post: Office
) -> None:
    told = answer(request(kind, post, version(2), version(1)), post)
    assert told["Status"] == "FAILED"
    assert told["Reason"].startswith("NOT_READY: 0002_m: no column z [42703] (log stream")
    assert told["Data"] == {"Outcome": "NOT_READY", "Ready": "false"}


@pytest.mark.parametrize("error", unexpected(), ids=lambda error: type(error).__name__)
def test_unexpected_errors_get_a_response_and_are_not_raised(
    error: BaseException, scene: Fakes, deploy: Deploy, post: Office
) -> None:
    deploy(V1)
    scene.table.before["read"] = raises(error)
    told = answer(request("Create", post, version(1)), post)
    assert told["Status"] == "FAILED"
    assert "hunter2" not in json.dumps(told)


def test_wrong_settings_get_a_response(post: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMBDA_MIGRATE_TABEL", "leases")
    told = answer(request("Create", post, version(1)), post)
    assert told["Status"] == "FAILED"
    assert "did you mean LAMBDA_MIGRATE_TABLE?" in told["Reason"]


def test_a_failing_import_gets_a_response(post: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lambda_migrate.wiring", None)
    told = answer(request("Create", post, version(1)), post)
    assert told["Status"] == "FAILED"
    assert "lambda_migrate.wiring could not be imported" in told["Reason"]


def test_work_that_hangs_gets_a_response_before_the_deadline(
    scene: Fakes, deploy: Deploy, post: Office, hasty: None
) -> None:
    let_go = threading.Event()
    deploy(V1)
    scene.table.before["read"] = let_go.wait
    told = answer(request("Create", post, version(1)), post)
    let_go.set()
    assert told["Status"] == "FAILED"
    assert "did not end before the hook had to respond" in told["Reason"]
    assert len(post.letters) == 1


# --- back


def test_a_rollback_migrates_nothing_and_ahead_is_ready(
    scene: Fakes, deploy: Deploy, post: Office
) -> None:
    scene.migrated(V2)
    deploy(V1)
    told = answer(request("Update", post, version(9), version(10)), post)
    assert told["Status"] == "SUCCESS"
    assert told["Data"] == {"Outcome": "UP_TO_DATE", "Ready": "true"}
    assert "the schema is ahead of this code" in told["Reason"]
    assert scene.table.log == []


def test_a_rollback_does_not_migrate_with_the_newer_code(
    broken: Manifest, scene: Fakes, post: Office
) -> None:
    told = answer(request("Update", post, version(1), version(2)), post)
    assert (told["Status"], told["Data"]["Ready"]) == ("SUCCESS", "false")
    assert scene.database.effects == ["0001_m"]
    assert scene.table.log == []


@pytest.mark.parametrize(
    "error", [*unexpected(), DatabaseUnavailable("gone"), ConfigurationError("no table")]
)
def test_no_error_blocks_a_rollback(error: BaseException, deploy: Deploy, post: Office) -> None:
    deploy(V1, error=error)
    told = answer(request("Update", post, version(1), version(2)), post)
    assert told["Status"] == "SUCCESS"
    assert told["Data"] == {"Outcome": "NOT_READY", "Ready": "false"}
    assert "This does not block a rollback" in told["Reason"]


def test_a_rollback_that_hangs_is_not_blocked_either(
    scene: Fakes, deploy: Deploy, post: Office, hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go = threading.Event()
    deploy(V1)
    monkeypatch.setattr(type(scene.database), "read_history", lambda *_: let_go.wait())
    told = answer(request("Update", post, version(1), version(2)), post)
    let_go.set()
    assert told["Status"] == "SUCCESS"


# --- neither can be told


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
    now: Any, before: Any, broken: Manifest, post: Office
) -> None:
    told = answer(request("Update", post, now, before), post)
    assert (told["Status"], told["Data"]["Ready"]) == ("SUCCESS", "false")
    assert "0002_m: no column z [42703]" in told["Reason"]
    assert "this may be a rollback" in told["Reason"]


def test_an_update_with_the_same_version_migrates(
    scene: Fakes, deploy: Deploy, post: Office
) -> None:
    deploy(V1)
    told = answer(request("Update", post, version(2), version(2)), post)
    assert told["Data"]["Outcome"] == "MIGRATED"


@pytest.mark.parametrize(
    ("now", "before", "direction"),
    [
        (version(10), version(9), Direction.FORWARD),
        (version(9), version(10), Direction.BACK),
        ("10", "9", Direction.FORWARD),
        (10, 9, Direction.FORWARD),
        ("9", "10", Direction.BACK),
        ("٣", "2", Direction.UNKNOWN),
        ({"a": 1}, "2", Direction.UNKNOWN),
    ],
)
def test_numbers_are_compared_as_numbers(now: Any, before: Any, direction: Direction) -> None:
    with office() as post:
        assert (
            CustomResourceRequest.parse(request("Update", post, now, before)).direction is direction
        )


def test_a_resource_without_a_version_is_not_created(
    scene: Fakes, deploy: Deploy, post: Office
) -> None:
    deploy(V1)
    told = answer(request("Create", post, None), post)
    assert told["Status"] == "FAILED"
    assert "write Version: !Ref MigratorFunction.Version" in told["Reason"]
    assert scene.database.effects == []


# --- delete


def test_delete_changes_nothing_and_succeeds_without_configuration(
    scene: Fakes, deploy: Deploy, post: Office
) -> None:
    deploy(V1, error=ConfigurationError("no table"))
    told = answer(request("Delete", post, version(1)), post)
    assert told["Status"] == "SUCCESS"
    assert scene.table.log == scene.database.effects == []


def test_a_failed_create_is_deleted_under_the_same_id(broken: Manifest, post: Office) -> None:
    failed = answer(request("Create", post, version(1)), post)
    gone = answer(
        request("Delete", post, version(1), PhysicalResourceId=failed["PhysicalResourceId"]), post
    )
    assert gone["Status"] == "SUCCESS"
    assert gone["PhysicalResourceId"] == failed["PhysicalResourceId"]


def test_the_id_never_changes(scene: Fakes, deploy: Deploy, post: Office) -> None:
    deploy(V1)
    events = [
        request("Create", post, version(1)),
        request("Update", post, version(2), version(1)),
        request("Update", post, version(1), version(2)),
        request("Delete", post, version(1)),
    ]
    assert len({answer(event, post)["PhysicalResourceId"] for event in events}) == 1


# --- odd events


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
def test_an_unknown_request_type_gets_a_response(kind: Any, post: Office, deploy: Deploy) -> None:
    deploy(V1)
    event = request("Update", post, version(2), version(1)) | {"RequestType": kind}
    assert answer(event, post)["Status"] == "FAILED"


@pytest.mark.parametrize("properties", [None, "x", [], 7])
def test_invalid_properties_get_a_response(properties: Any, post: Office, deploy: Deploy) -> None:
    deploy(V1)
    event = request("Update", post, version(2), version(1))
    told = answer(event | {"ResourceProperties": properties}, post)
    assert told["Status"] == "SUCCESS"


# --- the size of it


@pytest.mark.parametrize("letter", ["x", "é", "漢", "\U0001f4a5", "\ud800", '"', "\n"])
def test_a_response_stays_within_cloudformations_limit_and_names_the_log(
    letter: str, scene: Fakes, deploy: Deploy, post: Office
) -> None:
    deploy(V1, error=MigrationFailed(letter * 20_000, migration="0001_m"))
    told = answer(request("Create", post, version(1)), post)
    [put] = post.letters
    assert len(put.body) <= 4096
    assert told["Reason"].endswith(
        "(log stream 2026/11/27/[$LATEST]0123456789abcdef of /aws/lambda/migrator)"
    )
    assert told["Reason"].startswith("NOT_READY: 0001_m:")


def test_a_context_without_a_log_gets_a_response(deploy: Deploy, post: Office) -> None:
    deploy(V1)
    handle(request("Create", post, version(1)), object())
    [letter] = post.letters
    assert letter.json["Reason"] == "MIGRATED"


# --- delivering


def test_the_same_response_is_sent_until_it_is_accepted(deploy: Deploy, scene: Fakes) -> None:
    deploy(V1)
    with office("refuse", "drop") as post:
        handle(request("Create", post, version(1)), LambdaContext(), clock=FakeClock())
    assert len(post.letters) == 3
    assert len({letter.body for letter in post.letters}) == 1
    assert scene.database.effects == ["0001_m"]


def test_a_url_that_always_refuses_makes_lambda_invoke_again(
    deploy: Deploy, caplog: pytest.LogCaptureFixture
) -> None:
    deploy(V1)
    with (
        office(*REFUSE_ALL) as post,
        pytest.raises(DeliveryFailed, match="HTTP status 403") as raised,
    ):
        handle(request("Create", post, version(1)), LambdaContext(), clock=FakeClock())
    assert len(post.letters) > 1
    assert "hunter2" not in str(raised.value) + caplog.text


def test_an_unreachable_url_is_not_shown(deploy: Deploy) -> None:
    deploy(V1)
    with office() as post:
        event = request("Create", post, version(1))
    with pytest.raises(DeliveryFailed, match="ConnectionRefusedError") as raised:
        handle(event, LambdaContext(), clock=FakeClock())
    assert "hunter2" not in str(raised.value)


def test_https_verifies_the_server(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    import ssl

    import trustme

    authority = trustme.CA()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    deploy(V1)
    with office(tls=tls) as post:
        with pytest.raises(DeliveryFailed, match="CERTIFICATE_VERIFY_FAILED"):
            handle(request("Create", post, version(1)), LambdaContext(), clock=FakeClock())
        assert post.letters == []
        authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
        assert answer(request("Create", post, version(1)), post)["Status"] == "SUCCESS"
