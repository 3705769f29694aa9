"""``@migrate_on_cold_start`` checks before the first invocation and only calls afterwards."""

from __future__ import annotations

import gc
import inspect
import itertools
import json
import tempfile
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import snapshot_restore_py
from aws_lambda_powertools import Logger, Metrics, Tracer
from aws_lambda_powertools.metrics import MetricUnit

from lambda_migrate import migrate_on_cold_start, service_unavailable
from lambda_migrate.clock import Deadline
from lambda_migrate.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    Diverged,
    LeaseHeld,
    MigrateError,
    MigrationFailed,
    NotReady,
)
from lambda_migrate.guard import LONG_INIT_TYPES
from lambda_migrate.outcome import Outcome
from lambda_migrate.runner import MigrationRunner
from tests.unit.engine.fakes import Fakes, manifest
from tests.unit.entrypoints.lines import Context, Lines

V1 = manifest(1)


class Runner:
    """A runner that returns or raises what a test has set.

    Args:
        answers: Errors to raise or outcomes, one for each call; None for the usual one, as at the
            end.
    """

    digest = "d" * 64

    def __init__(self, *answers: MigrateError | Outcome | None) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[Deadline | None, str]] = []
        self.forgotten = 0
        self.target = Fakes().target()
        self.clock = self.target.clock

    def ensure(self, deadline: Deadline | None = None, *, request_id: str = "") -> Outcome:
        self.asked.append((deadline, request_id))
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, BaseException):
            raise answer
        return answer or Outcome.UP_TO_DATE

    def forget_result(self) -> None:
        self.forgotten += 1


class UnreadCheck:
    """A first check that leaves everything to the runner."""

    def __init__(self, **settings: object) -> None:
        self.runner = Runner()
        self.runner.arguments = settings  # type: ignore[attr-defined]  # for the test to read
        self.clock = self.runner.clock

    def check_ready(self) -> bool:
        return False


def guard(runner: Any, handler: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """``handler`` behind a gate that asks ``runner``."""
    return migrate_on_cold_start(runner=runner, **options)(handler)


def served(event: Any, context: Any) -> Any:
    """A handler."""
    return {"event": event}


@pytest.fixture
def runners(monkeypatch: pytest.MonkeyPatch) -> list[Runner]:
    """The runners that the decorator creates."""
    runners: list[Runner] = []

    def from_first_check(check: UnreadCheck) -> Runner:
        runners.append(check.runner)
        return check.runner

    monkeypatch.setattr("lambda_migrate.first_check.FirstCheck.from_settings", UnreadCheck)
    monkeypatch.setattr("lambda_migrate.runner.MigrationRunner.from_first_check", from_first_check)
    return runners


# --- the shape of it


def test_it_works_with_and_without_arguments(runners: list[Runner]) -> None:
    @migrate_on_cold_start
    def bare(event: Any, context: Any) -> Any:
        return event

    @migrate_on_cold_start(target="orders")
    def with_arguments(event: Any, context: Any) -> Any:
        return event

    @migrate_on_cold_start()
    def with_none(event: Any, context: Any) -> Any:
        return event

    assert runners == []
    assert [each(n, Context()) for n, each in enumerate((bare, with_arguments, with_none))] == [
        0,
        1,
        2,
    ]
    assert [runner.arguments for runner in runners] == [{}, {"target": "orders"}, {}]  # type: ignore[attr-defined]  # see `runners`


def test_name_documentation_and_signature_stay(fakes: Fakes) -> None:
    guarded = guard(fakes.runner(V1), served)
    assert (guarded.__name__, guarded.__doc__) == ("served", "A handler.")
    assert inspect.signature(guarded) == inspect.signature(served)
    assert inspect.unwrap(guarded) is served


def test_every_argument_is_passed_on(fakes: Fakes) -> None:
    def handler(event: Any, context: Any, *more: Any, **named: Any) -> Any:
        return event, context, more, named

    guarded = guard(fakes.runner(V1), handler)
    context = Context()
    for _ in ("cold", "warm"):
        assert guarded("e", context, 1, 2, a=3) == ("e", context, (1, 2), {"a": 3})
        assert guarded(event="e", context=context, a=3) == ("e", context, (), {"a": 3})


def test_a_callable_object_can_be_guarded(fakes: Fakes) -> None:
    class Handler:
        def __call__(self, event: Any, context: Any) -> Any:
            return event

    assert guard(fakes.runner(V1), Handler())("e", Context()) == "e"


def test_a_runner_and_settings_are_not_mixed(fakes: Fakes) -> None:
    with pytest.raises(TypeError, match=r"a runner and settings \(table, target\)"):
        guard(fakes.runner(V1), served, table="t", target="x", init="when-long")


@pytest.mark.parametrize(
    "order", list(itertools.permutations(range(4))), ids=lambda order: "".join(map(str, order))
)
def test_it_stacks_with_powertools_in_any_order(
    lines: Lines, fakes: Fakes, order: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", "orders")
    monkeypatch.setenv("POWERTOOLS_TRACE_DISABLED", "1")
    logger, tracer = Logger(), Tracer()
    metrics = Metrics(namespace="shop", service="orders")
    decorators: list[Callable[[Any], Any]] = [
        migrate_on_cold_start(runner=fakes.runner(V1)),
        logger.inject_lambda_context,
        metrics.log_metrics(capture_cold_start_metric=False),
        tracer.capture_lambda_handler,
    ]

    def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
        metrics.add_metric("Orders", MetricUnit.Count, 1)
        logger.info("handled")
        return event

    stacked: Callable[..., Any] = handler
    for index in order:
        stacked = decorators[index](stacked)
    assert stacked.__name__ == "handler"
    for _ in ("cold", "warm"):
        assert stacked({"n": 1}, Context()) == {"n": 1}
        (line,), (emf,) = lines.read()
        assert (line["message"], line["function_request_id"]) == ("handled", "request-1")
        assert (emf["Orders"], emf["service"]) == ([1.0], "orders")
    assert fakes.database.effects == ["0001_m"]


# --- the first invocation and the next ones


def test_the_first_invocation_checks_within_its_own_deadline() -> None:
    runner = Runner()
    guard(runner, served)("e", Context(12))
    ((deadline, request_id),) = runner.asked
    assert deadline is not None
    assert (deadline.remaining(), request_id) == (12.0, "request-1")
    assert deadline.clock is runner.target.clock


def test_a_warm_invocation_makes_no_check() -> None:
    runner = Runner()
    guarded = guard(runner, served)
    for _ in range(5):
        guarded("e", Context())
    assert len(runner.asked) == 1


def test_a_warm_invocation_touches_neither_lease_nor_database_nor_clock(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    guarded = guard(fakes.runner(V1), served)
    guarded("e", Context())
    calls, connections = fakes.table.request_count, fakes.database.connections
    for name in ("monotonic", "wall_ms", "sleep"):
        monkeypatch.setattr(fakes.clock, name, lambda *_: pytest.fail("the clock was read"))
    context = Context()
    monkeypatch.setattr(
        context, "get_remaining_time_in_millis", lambda: pytest.fail("the context was asked")
    )
    assert guarded("e", context) == {"event": "e"}
    assert (fakes.table.request_count, fakes.database.connections) == (calls, connections)


@pytest.mark.slow
def test_ten_thousand_warm_invocations_leave_nothing_behind(fakes: Fakes) -> None:
    guarded = guard(fakes.runner(V1), lambda _event, _context: None)
    guarded(None, Context())
    # Not a byte for each. What pytest and coverage do meanwhile is a few hundred in all, but for
    # now and then; what a call leaves behind, it leaves behind every time.
    assert any(_growth(guarded, 10_000) < 10_000 for _ in range(3))


def _growth(guarded: Callable[..., object], calls: int) -> int:
    """Bytes that so many calls leave behind."""
    context = Context()
    tracemalloc.start()
    try:
        for _ in range(100):
            guarded(None, context)
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        for _ in itertools.repeat(None, calls):
            guarded(None, context)
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("error", [NotReady("busy"), MigrationFailed("boom"), RuntimeError("x")])
def test_a_check_that_failed_is_made_again_by_the_next_invocation(error: Exception) -> None:
    runner = Runner(error, error)  # type: ignore[arg-type]  # a bug raises other things
    guarded = guard(runner, served)
    for _ in range(2):
        with pytest.raises(type(error)):
            guarded("e", Context())
    assert guarded("e", Context()) == {"event": "e"}
    assert guarded("e", Context()) == {"event": "e"}
    assert len(runner.asked) == 3


def test_what_was_served_unchecked_is_checked_by_the_next_invocation() -> None:
    runner = Runner(Outcome.UNCHECKED, Outcome.UNCHECKED)
    guarded = guard(runner, served)
    for _ in range(5):
        assert guarded("e", Context()) == {"event": "e"}
    assert len(runner.asked) == 3


def test_what_initialization_left_unchecked_is_checked_by_the_first_invocation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", "provisioned-concurrency")
    runner = Runner(Outcome.UNCHECKED)
    guarded = guard(runner, served, init="when-long")
    guarded("e", Context())
    assert len(runner.asked) == 2


def test_the_handlers_own_errors_pass_and_do_not_close_the_gate() -> None:
    runner = Runner()

    def handler(event: Any, context: Any) -> Any:
        raise NotReady("of the handler's own")

    guarded = guard(runner, handler, on_not_ready=lambda *_: pytest.fail("not ours to answer"))
    for _ in range(2):
        with pytest.raises(NotReady, match="own"):
            guarded("e", Context())
    assert len(runner.asked) == 1


def test_of_two_concurrent_threads_one_checks_and_the_other_waits() -> None:
    runner = Runner()
    answers: list[Any] = []
    guarded = guard(runner, served)
    second = threading.Thread(target=lambda: answers.append(guarded("second", Context())))
    ensure = runner.ensure

    def slowly(*arguments: Any, **named: Any) -> Outcome:
        second.start()
        second.join(0.05)
        assert second.is_alive()
        assert answers == []
        return ensure(*arguments, **named)

    runner.ensure = slowly  # type: ignore[method-assign]  # as long as the second one needs
    answers.append(guarded("first", Context()))
    second.join(20)
    assert sorted(answer["event"] for answer in answers) == ["first", "second"]
    assert len(runner.asked) == 1


def test_a_second_thread_waits_no_longer_than_its_own_invocation_has() -> None:
    runner = Runner()
    errors: list[BaseException] = []
    guarded = guard(runner, served)
    margin = runner.target.policy.safety_margin_seconds

    def impatient() -> None:
        try:
            guarded("second", Context(margin + 0.05))
        except NotReady as error:
            errors.append(error)

    second = threading.Thread(target=impatient)
    ensure = runner.ensure

    def until_the_second_has_given_up(*arguments: Any, **named: Any) -> Outcome:
        second.start()
        second.join(20)
        assert not second.is_alive()
        return ensure(*arguments, **named)

    runner.ensure = until_the_second_has_given_up  # type: ignore[method-assign]  # as above
    assert guarded("first", Context()) == {"event": "first"}
    assert [type(error) for error in errors] == [NotReady]
    assert "another invocation in this process" in str(errors[0])
    assert len(runner.asked) == 1
    assert guarded("third", Context()) == {"event": "third"}


class Bare:
    """A minimal context, as in a hand-written test."""

    aws_request_id = None


@pytest.mark.parametrize("context", [None, Bare(), object()])
def test_a_context_without_a_deadline_is_accepted(context: object) -> None:
    runner = Runner()
    assert guard(runner, served)("e", context) == {"event": "e"}
    assert runner.asked == [(None, "")]


def test_an_invocation_without_time_left_is_not_ready(fakes: Fakes) -> None:
    guarded = guard(fakes.runner(V1), served)
    with pytest.raises(NotReady, match="not enough time is left"):
        guarded("e", Context(0))
    assert fakes.database.effects == []
    assert guarded("e", Context(30)) == {"event": "e"}


def test_waiting_in_a_decorated_handler_is_on_the_runners_clock(fakes: Fakes) -> None:
    fakes.held_by("holder", seconds=900)
    with pytest.raises(NotReady, match=r"waited 8\.0 s"):
        guard(fakes.runner(V1, lease_seconds=900), served)("e", Context(10))


# --- not ready


@pytest.mark.parametrize(
    "error",
    [
        NotReady("busy"),
        DatabaseUnavailable("down"),
        LeaseHeld("busy"),
        MigrationFailed("boom"),
        Diverged("edited"),
    ],
)
def test_on_not_ready_responds_instead_of_the_handler(error: MigrateError) -> None:
    seen: list[tuple[Any, Any, MigrateError]] = []

    def answer(event: Any, context: Any, error: MigrateError) -> str:
        seen.append((event, context, error))
        return "later"

    runner = Runner(error)
    guarded = guard(runner, lambda *_: "served", on_not_ready=answer)
    context = Context()
    assert guarded("e", context) == "later"
    assert seen == [("e", context, error)]
    assert guarded("e", context) == "served"


def test_on_not_ready_is_not_called_for_configuration_errors() -> None:
    guarded = guard(
        Runner(ConfigurationError("no table")), served, on_not_ready=lambda *_: pytest.fail("asked")
    )
    with pytest.raises(ConfigurationError, match="no table"):
        guarded("e", Context())


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (NotReady("busy", retry_after_seconds=7.4), "7"),
        (NotReady("busy", retry_after_seconds=0.1), "1"),
        (MigrationFailed("boom: secret"), "10"),
    ],
)
def test_service_unavailable_is_a_503_with_retry_after_and_no_cause(
    error: MigrateError, seconds: str
) -> None:
    answer = guard(Runner(error), served, on_not_ready=service_unavailable)(URL, Context())
    assert answer["statusCode"] == 503
    assert answer["headers"]["Retry-After"] == seconds
    assert answer["isBase64Encoded"] is False
    assert "secret" not in answer["body"]


# --- what is an HTTP request, by the events that AWS documents (their telling parts)

REST = {
    "resource": "/orders",
    "path": "/orders",
    "httpMethod": "GET",
    "headers": {"Host": "example.org"},
    "requestContext": {"resourcePath": "/orders", "httpMethod": "GET", "stage": "v1"},
    "body": None,
    "isBase64Encoded": False,
}
URL = {
    "version": "2.0",
    "routeKey": "$default",
    "rawPath": "/orders",
    "headers": {"host": "example.org"},
    "requestContext": {"http": {"method": "GET", "path": "/orders"}, "stage": "$default"},
    "isBase64Encoded": False,
}
BALANCER = {
    "requestContext": {"elb": {"targetGroupArn": "arn:aws:elasticloadbalancing:us-east-1:1:tg"}},
    "httpMethod": "GET",
    "path": "/orders",
    "headers": {"host": "example.org"},
    "body": "",
    "isBase64Encoded": False,
}
LATTICE = {
    "raw_path": "/orders",
    "method": "GET",
    "headers": {"host": "example.org"},
    "query_string_parameters": {},
    "body": "",
    "is_base64_encoded": False,
}
LATTICE_2 = {
    "version": "2.0",
    "path": "/orders",
    "method": "GET",
    "headers": {"host": ["example.org"]},
    "requestContext": {"serviceNetworkArn": "arn:aws:vpc-lattice:us-east-1:1:servicenetwork/sn"},
}


def websocket(kind: str) -> dict[str, Any]:
    return {
        "requestContext": {"routeKey": f"${kind.lower()}", "eventType": kind, "connectionId": "c="},
        "isBase64Encoded": False,
    }


REQUESTS = {
    "REST API": REST,
    "HTTP API, format 1.0": {"version": "1.0", **REST},
    "HTTP API, format 2.0, and function URL": URL,
    "WebSocket, connect": websocket("CONNECT"),
    "WebSocket, message": {**websocket("MESSAGE"), "body": "hello"},
    "WebSocket, disconnect": websocket("DISCONNECT"),
    "load balancer": BALANCER,
    "VPC Lattice, version 1": LATTICE,
    "VPC Lattice, version 2": LATTICE_2,
}
AUTHORIZER = "arn:aws:execute-api:us-east-1:1:api/v1/GET/orders"
OTHERS = {
    "SQS": {"Records": [{"messageId": "1", "eventSource": "aws:sqs", "body": json.dumps(REST)}]},
    "SNS": {"Records": [{"EventSource": "aws:sns", "Sns": {"Message": "m"}}]},
    "S3": {"Records": [{"eventSource": "aws:s3", "s3": {"bucket": {"name": "b"}}}]},
    "Kinesis": {"Records": [{"eventSource": "aws:kinesis", "kinesis": {"data": ""}}]},
    "CloudFront": {"Records": [{"cf": {"request": {"method": "GET", "uri": "/"}}}]},
    "Kafka": {"eventSource": "aws:kafka", "records": {"t-0": []}},
    "EventBridge": {"version": "0", "source": "aws.events", "detail-type": "x", "detail": REST},
    "EventBridge Pipes": [{"messageId": "1", "body": "m"}],
    "Step Functions": {"input": {"order": 1}},
    "destination": {
        "version": "1.0",
        "requestContext": {"requestId": "r", "functionArn": "f", "condition": "Success"},
        "requestPayload": REST,
    },
    "Cognito": {"version": "1", "triggerSource": "PreSignUp_SignUp", "request": {}, "response": {}},
    "AppSync": {"arguments": {}, "request": {"headers": {}}, "info": {"fieldName": "orders"}},
    "AppSync authorizer": {"authorizationToken": "t", "requestContext": {"apiId": "a"}},
    "Bedrock agent": {"messageVersion": "1.0", "apiPath": "/orders", "httpMethod": "GET"},
    "authorizer, token": {"type": "TOKEN", "methodArn": AUTHORIZER, "authorizationToken": "t"},
    "authorizer, request": {**REST, "type": "REQUEST", "methodArn": AUTHORIZER},
    "authorizer, format 2.0": {**URL, "type": "REQUEST", "routeArn": AUTHORIZER},
    "authorizer, WebSocket": {
        **websocket("CONNECT"),
        "type": "REQUEST",
        "methodArn": AUTHORIZER,
    },
    "direct, a dict": {"method": "GET", "path": "/orders", "requestContext": {"user": "me"}},
    "direct, an empty dict": {},
    "direct, a text": "e",
    "direct, nothing": None,
}


@pytest.mark.parametrize("event", REQUESTS.values(), ids=REQUESTS)
def test_service_unavailable_responds_to_every_kind_of_http_request(event: object) -> None:
    assert service_unavailable(event, Context(), NotReady("busy"))["statusCode"] == 503


@pytest.mark.parametrize("error", [NotReady("busy"), MigrationFailed("boom")])
@pytest.mark.parametrize("event", OTHERS.values(), ids=OTHERS)
def test_service_unavailable_fails_every_other_event_so_that_it_is_retried(
    event: object, error: MigrateError
) -> None:
    guarded = guard(Runner(error), served, on_not_ready=service_unavailable)
    with pytest.raises(type(error)) as caught:
        guarded(event, Context())
    assert caught.value is error


# --- initialisation


@pytest.mark.parametrize("as_argument", [True, False])
def test_mode_off_works_with_otherwise_wrong_settings(
    as_argument: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAMBDA_MIGRATE_LEASE_SECONDS", "soon")
    monkeypatch.setenv("LAMBDA_MIGRATE_MODE", "migrate" if as_argument else " Off ")
    settings: dict[str, Any] = {"mode": "off"} if as_argument else {}

    @migrate_on_cold_start(**settings)
    def handler(event: Any, context: Any) -> str:
        return "served"

    assert handler({}, None) == "served"


@pytest.mark.parametrize("kind", ["on-demand", *sorted(LONG_INIT_TYPES)])
@pytest.mark.parametrize(
    ("argument", "variable", "asked"),
    [
        (None, "", False),
        ("never", "", False),
        ("when-long", "", True),
        (None, "when-long", True),
        (None, " When-Long ", True),
        ("never", "when-long", False),
    ],
)
def test_initialization_checks_only_if_it_is_long_and_set(
    runners: list[Runner],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    argument: str | None,
    variable: str,
    asked: bool,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", kind)
    monkeypatch.setenv("LAMBDA_MIGRATE_INIT", variable)
    options: dict[str, Any] = {} if argument is None else {"init": argument}
    guarded = migrate_on_cold_start(**options)(served)
    checks = asked and kind != "on-demand"
    assert len(runners) == int(checks)
    assert guarded("e", Context()) == {"event": "e"}
    assert [len(runner.asked) for runner in runners] == [1]
    if checks:
        deadline = runners[0].asked[0][0]
        assert deadline is not None
        assert deadline.remaining() == 125


def test_without_an_initialization_type_it_is_on_demand(
    runners: list[Runner], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAMBDA_MIGRATE_INIT", "when-long")
    migrate_on_cold_start(served)
    assert runners == []


def test_an_error_during_initialization_is_left_to_the_first_invocation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", "provisioned-concurrency")
    runner = Runner(NotReady("busy"))
    guarded = guard(runner, served, init="when-long")
    assert len(runner.asked) == 1
    assert guarded("e", Context()) == {"event": "e"}
    assert len(runner.asked) == 2


@pytest.fixture
def restored(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """What was registered to run after a snapshot is restored."""
    hooks: list[Callable[[], None]] = []
    monkeypatch.setattr(snapshot_restore_py, "register_after_restore", hooks.append)
    monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", "snap-start")
    return hooks


def test_a_restored_snapshot_checks_again(
    runners: list[Runner], restored: list[Callable[[], None]]
) -> None:
    guarded = migrate_on_cold_start(init="when-long")(served)
    assert [len(runner.asked) for runner in runners] == [1]
    (hook,) = restored
    hook()
    guarded("e", Context())
    assert [len(runner.asked) for runner in runners] == [1, 1]


def test_a_users_own_runner_forgets_after_a_restore(
    restored: list[Callable[[], None]],
) -> None:
    runner = Runner()
    guarded = guard(runner, served)
    guarded("e", Context())
    restored[0]()
    assert runner.forgotten == 1
    guarded("e", Context())
    assert len(runner.asked) == 2


def test_no_hook_is_registered_without_snapshots(
    restored: list[Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand")
    guard(Runner(), served)
    assert restored == []


# --- settings


def test_faults_of_settings_are_one_line_and_one_error_that_lists_them_all(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "orders")
    monkeypatch.setenv("LAMBDA_MIGRATE_LEASE_SECONDS", "soon")
    monkeypatch.setenv("LAMBDA_MIGRATE_MODE", "sometimes")
    guarded = migrate_on_cold_start(served)  # as bare as it gets
    for _ in range(2):
        with pytest.raises(ConfigurationError) as caught:
            guarded("e", Context())
        assert len(caught.value.faults) == 2
        (line,), (emf,) = lines.read()
        assert line["level"] == "ERROR"
        assert "LAMBDA_MIGRATE_LEASE_SECONDS" in line["message"]
        assert "LAMBDA_MIGRATE_MODE" in line["message"]
        assert line["lambda_migrate"]["error"] == "ConfigurationError"
        assert emf["NotReady"] == [1.0]


@pytest.mark.parametrize(
    ("argument", "variable", "target"),
    [("given", "named", "given"), (None, "named", "named"), (None, "", "default")],
)
def test_the_line_of_a_fault_names_the_target(
    lines: Lines,
    monkeypatch: pytest.MonkeyPatch,
    argument: str | None,
    variable: str,
    target: str,
) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "orders-api")
    monkeypatch.setenv("LAMBDA_MIGRATE_TARGET", variable)
    guarded = migrate_on_cold_start(target=argument)(served)
    with pytest.raises(ConfigurationError, match="LAMBDA_MIGRATE_TABLE"):
        guarded("e", Context())
    (line,), (emf,) = lines.read()
    assert line["lambda_migrate"]["target"] == emf["target"] == target


def test_a_runner_is_made_once(runners: list[Runner]) -> None:
    guarded = migrate_on_cold_start(served)
    guarded("e", Context())
    guarded("e", Context())
    assert len(runners) == 1


def test_the_decorator_accepts_a_real_runner(fakes: Fakes) -> None:
    runner = fakes.runner(V1)
    assert isinstance(runner, MigrationRunner)
    assert guard(runner, served)("e", Context()) == {"event": "e"}
    assert fakes.database.effects == ["0001_m"]
