"""`--function` with the admin function in this process, behind a Lambda API with faults."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import uuid
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from botocore import exceptions
from botocore.exceptions import ClientError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lambda_migrate._version import __version__
from lambda_migrate.cli import main, remote
from lambda_migrate.cli.app import COMMON_OPTIONS, app
from lambda_migrate.clock import Deadline
from lambda_migrate.commands.registry import COMMANDS
from lambda_migrate.deploy.admin import AdminFunction
from lambda_migrate.deploy.request_log import RequestRecord
from lambda_migrate.lease.memory import InMemoryLeaseStore
from lambda_migrate.testing import InMemoryDatabase, InMemoryRequestLog

SECRET = "hunter2"
Run = Callable[..., tuple[int, str, str]]
Fault = Callable[[], dict[str, Any]]


class Context:
    """The context of an invocation with 30 s left."""

    def __init__(self) -> None:
        self.aws_request_id = str(uuid.uuid4())

    def get_remaining_time_in_millis(self) -> int:
        return 30_000


class FakeLambda:
    """A boto3 client with the admin function behind it, and faults before, after or instead."""

    def __init__(self, log: InMemoryRequestLog) -> None:
        self.events: list[dict[str, Any]] = []
        self.names: list[str] = []
        self.faults: list[Exception | Fault] = []
        """Faults for the next calls, one each."""
        self.lost: list[Exception] = []
        """Raised instead of the next responses, after the function has run."""
        self.meta = SimpleNamespace(region_name="eu-central-1")
        self.change: Callable[[dict[str, Any]], Any] = lambda answer: answer
        self._log = log

    def invoke(self, *, FunctionName: str, InvocationType: str, Payload: bytes) -> dict[str, Any]:  # noqa: N803 - boto3's names
        assert InvocationType == "RequestResponse"
        self.names.append(FunctionName)
        self.events.append(json.loads(Payload))
        if self.faults:
            fault = self.faults.pop(0)
            if isinstance(fault, Exception):
                raise fault
            return fault()
        return self.invoke_function()

    def invoke_function(self) -> dict[str, Any]:
        """Let the function handle the newest event."""
        context = Context()
        function = AdminFunction(dict(os.environ), make_log=lambda _settings: self._log)
        answer = function.handle(self.events[-1], context)
        if self.lost:
            raise self.lost.pop(0)
        return make_response(self.change(answer), request_id=context.aws_request_id)


def make_response(payload: Any, *, request_id: str = "i-1", **more: Any) -> dict[str, Any]:
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return {
        "Payload": io.BytesIO(body),
        "ResponseMetadata": {"RequestId": request_id},
        **more,
    }


def make_crash(kind: str, message: str = "", request_id: str = "i-1") -> Fault:
    payload = {"errorType": kind, "errorMessage": message}
    return lambda: make_response(payload, request_id=request_id, FunctionError="Unhandled")


def make_refusal(code: str, status: int = 400, message: str = "no") -> ClientError:
    response: Any = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(response, "Invoke")


UNREACHABLE = exceptions.EndpointConnectionError(endpoint_url="https://lambda")
READ_TIMEOUT = exceptions.ReadTimeoutError(endpoint_url="https://lambda")
CLOSED = exceptions.ConnectionClosedError(endpoint_url="https://lambda")


@pytest.fixture
def log() -> InMemoryRequestLog:
    return InMemoryRequestLog()


@pytest.fixture
def aws(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    database: InMemoryDatabase,
    store: InMemoryLeaseStore,
    log: InMemoryRequestLog,
) -> FakeLambda:
    monkeypatch.setattr("lambda_migrate.wiring.make_database", lambda _settings: database)
    monkeypatch.setattr("lambda_migrate.wiring.make_store", lambda _settings, **_parts: store)
    monkeypatch.setattr("lambda_migrate.deploy.admin.default_observer", lambda: SilentObserver())
    monkeypatch.setattr("lambda_migrate.clock.Clock.sleep", lambda *_: None)
    monkeypatch.setenv("LAMBDA_MIGRATE_DIRECTORY", str(folder))
    monkeypatch.setenv("LAMBDA_MIGRATE_DATABASE_URL", f"postgresql://app:{SECRET}@h/orders")
    monkeypatch.setenv("LAMBDA_MIGRATE_TABLE", "leases")
    monkeypatch.delenv("LAMBDA_MIGRATE_ENVIRONMENT", raising=False)
    client = FakeLambda(log)
    monkeypatch.setattr("lambda_migrate.cli.remote.make_client", lambda: client)
    return client


class SilentObserver:
    def observe(self, event: object) -> None:
        """Ignore the event."""


@pytest.fixture
def run(aws: FakeLambda, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str) -> tuple[int, str, str]:
        code = main(("--function", "admin:live", *arguments))
        captured = capsys.readouterr()
        assert SECRET not in captured.out + captured.err
        return code, captured.out, captured.err

    return call


def document(run: Run, *arguments: str) -> tuple[int, dict[str, Any]]:
    code, out, _ = run(*arguments, "--format", "json")
    found: dict[str, Any] = json.loads(out)
    return code, found


# --- the same results as local commands


def run_locally(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def remove_times(text: str) -> str:
    return re.sub(r'"seconds": [\d.e-]+|\b\d+ ms\b', "", text)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["table", "json"])
@pytest.mark.parametrize(
    ("before", "command"),
    [
        ([], ["status"]),
        ([["up", "--to", "2"]], ["status", "--all", "--exit-code"]),
        ([], ["plan"]),
        ([], ["plan", "--to", "2", "--all"]),
        ([["up"]], ["plan"]),
        ([["up"]], ["up"]),
        ([], ["plan", "--dry-run", "--yes"]),
        ([["up"]], ["plan", "--dry-run", "--yes"]),
        ([["up"]], ["verify"]),
        ([["up"]], ["verify", "--resync"]),
        ([["up"]], ["down", "--steps", "1"]),
        ([["up"]], ["down", "--to", "77", "--yes"]),
        ([["up"]], ["down", "--steps", "1", "--yes"]),
        ([], ["baseline", "2"]),
        ([], ["baseline", "9", "--yes"]),
        ([], ["repair", "3", "--as", "pending", "--yes"]),
        ([], ["repair"]),
        ([], ["lease", "show"]),
        ([], ["lease", "release", "--yes"]),
    ],
)
def test_a_result_of_the_function_is_shown_like_a_local_one(
    run: Run,
    capsys: pytest.CaptureFixture[str],
    database: InMemoryDatabase,
    before: list[list[str]],
    command: list[str],
    form: str,
) -> None:
    for each in before:
        run_locally(capsys, *each)
    rows, reverted = dict(database._rows), list(database.rolled_back)
    local = run_locally(capsys, *command, "--format", form)
    database._rows.clear()
    database._rows.update(rows)
    database.rolled_back[:] = reverted
    remote_result = run(*command, "--format", form)
    if "down" not in command and "baseline" not in command:
        assert [remove_times(each) for each in remote_result[1:]] == [
            remove_times(each) for each in local[1:]
        ]
        assert remote_result[0] == local[0]
    else:  # the error that asks for --yes has another text
        assert remote_result[:2] == local[:2]
        assert ("0003_index" in remote_result[2]) == ("0003_index" in local[2])


def test_applied_migrations_are_shown_line_by_line(run: Run) -> None:
    _, out, _ = run("up", "--to", "2")
    assert [line.split()[:2] for line in out.splitlines()[:2]] == [
        ["applied", "0001_orders"],
        ["applied", "0002_status"],
    ]


def test_every_option_of_a_command_is_sent_or_belongs_to_the_terminal() -> None:
    root: Any = typer.main.get_command(app)
    for name, command in COMMANDS.items():
        found = root
        for word in name.split():
            found = found.commands[word]
        local = {"all", "yes", "help", *COMMON_OPTIONS}
        own = {each.name for each in found.params} - local
        known = {option.parameter_name for option in command.options if not option.is_common}
        assert own == known, name
        assert command.asks_to_confirm == ("yes" in {each.name for each in found.params})


def test_the_function_option_may_follow_the_command(run: Run, aws: FakeLambda) -> None:
    assert main(("status", "--function", "other")) == 0
    assert main(("--function=third", "lease", "show")) == 0
    assert aws.names == ["other", "third"]


# --- what is sent


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--target", "x"),
        ("--table", "x"),
        ("--database-url", f"postgresql://app:{SECRET}@h/d"),
        ("--directory", "x"),
        ("--schema", "x"),
        ("--environment", "x"),
    ],
)
def test_options_that_belong_to_the_functions_settings_are_refused(
    run: Run, aws: FakeLambda, option: str, value: str
) -> None:
    code, _, err = run("status", option, value)
    assert code == 2
    assert option in err
    assert aws.events == []


def test_all_refused_options_are_listed(run: Run) -> None:
    _, found = document(run, "up", "--target", "x", "--schema", "y")
    assert len(found["error"]["faults"]) == 2


@pytest.mark.parametrize("command", [("new", "x"), ("table", "create"), ("demo",)])
def test_local_commands_refuse_a_function(run: Run, command: tuple[str, ...]) -> None:
    code, _, err = run(*command)
    assert code == 2
    assert "remove --function" in err


def test_a_function_needs_a_name(aws: FakeLambda) -> None:
    assert main(("status", "--function", " ")) == 2


def test_the_timeout_is_sent(run: Run, aws: FakeLambda) -> None:
    run("status", "--timeout", "7")
    assert 6 < aws.events[0]["options"]["timeout"] <= 7


def test_stamping_without_a_name_uses_the_functions_environment(
    run: Run, aws: FakeLambda, database: InMemoryDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAMBDA_MIGRATE_ENVIRONMENT", "laptop")
    run("repair", "--environment", "--yes")
    assert aws.events[0]["options"]["environment"] == ""
    assert run("repair", "--environment", "staging", "--yes")[0] == 0
    assert database.environment == "staging"


# --- questions


class Keyboard:
    def __init__(self, said: str) -> None:
        self._said = said

    def isatty(self) -> bool:
        return True

    def readline(self) -> str:
        return self._said + "\n"


@pytest.mark.parametrize(("said", "code"), [("y", 0), ("n", 1)])
def test_a_question_of_the_function_is_asked_locally(
    run: Run,
    aws: FakeLambda,
    database: InMemoryDatabase,
    monkeypatch: pytest.MonkeyPatch,
    said: str,
    code: int,
) -> None:
    run("up")
    monkeypatch.setattr("sys.stdin", Keyboard(said))
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    got, _, err = run("down", "--steps", "1")
    assert got == code
    assert "0003_index" in err
    assert database.rolled_back == (["0003_index"] if said == "y" else [])
    requests = [each["request"] for each in aws.events[1:]]
    assert len(set(requests)) == len(requests) == (2 if said == "y" else 1)


@pytest.mark.parametrize(("said", "code"), [("production", 0), ("y", 1)])
def test_a_dry_run_by_a_function_in_production_asks_for_the_name(
    run: Run,
    aws: FakeLambda,
    database: InMemoryDatabase,
    monkeypatch: pytest.MonkeyPatch,
    said: str,
    code: int,
) -> None:
    monkeypatch.setenv("LAMBDA_MIGRATE_ENVIRONMENT", "production")
    database.environment = "production"
    monkeypatch.setattr("sys.stdin", Keyboard(said))
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    got, out, err = run("plan", "--dry-run", "--yes")
    assert got == code
    assert "type production to continue" in err
    assert ("ran 3 migrations" in out) is (code == 0)
    assert len(aws.events) == 2 - code
    assert database.effects == []


def test_a_confirmation_holds_only_for_what_was_shown(
    run: Run, aws: FakeLambda, database: InMemoryDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("up")

    class SlowReader(Keyboard):
        def readline(self) -> str:
            database._rows.pop(3)  # changed by another process meanwhile
            return "y\n"

    monkeypatch.setattr("sys.stdin", SlowReader(""))
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    code, _, err = run("down", "--steps", "1")
    assert code == 4
    assert "try again" in " ".join(err.split())
    assert database.rolled_back == []


# --- lost responses


@pytest.mark.parametrize("fault", [READ_TIMEOUT, CLOSED])
def test_a_lost_response_is_requested_again_with_the_same_id(
    run: Run, aws: FakeLambda, database: InMemoryDatabase, fault: Exception
) -> None:
    run("up")
    aws.lost = [fault, fault]
    code, found = document(run, "down", "--steps", "1", "--yes")
    assert (code, found["rolled_back"]) == (0, ["0003_index"])
    assert database.rolled_back == ["0003_index"]
    assert len({each["request"] for each in aws.events[1:]}) == 1
    assert len(aws.events) == 4


@pytest.mark.parametrize(
    "fault",
    [
        make_refusal("TooManyRequestsException", 429),
        make_refusal("ServiceException", 500),
        make_refusal("EC2ThrottledException", 502),
        make_refusal("ResourceConflictException", 409),
        UNREACHABLE,
    ],
)
def test_temporary_errors_are_retried(run: Run, aws: FakeLambda, fault: Exception) -> None:
    aws.faults = [fault, fault]
    code, out, _ = run("up")
    assert code == 0
    assert out.count("waiting: ") == 1
    assert len(aws.events) == 3


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (READ_TIMEOUT, "may still be running there"),
        (UNREACHABLE, "cannot be reached"),
        (make_refusal("ServiceException", 500), "ServiceException"),
    ],
)
def test_a_function_that_does_not_respond_is_given_up(
    run: Run, aws: FakeLambda, fault: Exception, expected: str
) -> None:
    aws.faults = [fault] * 50
    code, found = document(run, "up")
    assert (code, found["error"]["kind"]) == (1, "NotReady")
    assert expected in found["error"]["message"]
    assert len(aws.events) < 20


def test_throttled_calls_are_retried_until_the_timeout(
    run: Run, aws: FakeLambda, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("lambda_migrate.clock.Clock.monotonic", lambda _self: now[0])

    def sleep(_self: object, seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr("lambda_migrate.clock.Clock.sleep", sleep)
    aws.faults = [make_refusal("TooManyRequestsException", 429, "Rate Exceeded.")] * 10_000
    code, found = document(run, "up", "--timeout", "60")
    assert (code, found["error"]["retryable"]) == (1, True)
    assert now[0] >= 60


def test_a_running_command_is_requested_again(
    run: Run, aws: FakeLambda, database: InMemoryDatabase
) -> None:
    still = {
        "exit_code": 4,
        "running": True,
        "error": {"kind": "LeaseHeld", "message": "`up` still runs", "exit_code": 4},
    }
    aws.faults = [lambda: make_response(still)]
    code, found = document(run, "up")
    assert (code, len(found["applied"])) == (0, 3)
    assert len({each["request"] for each in aws.events}) == 1


def test_a_function_that_was_killed_gets_the_request_again(run: Run, aws: FakeLambda) -> None:
    aws.faults = [make_crash("Sandbox.Timedout", "Task timed out after 3.00 seconds", "dead")]
    assert document(run, "up")[0] == 0
    assert aws.events[1]["ended"] == ["dead"]
    assert aws.events[0]["request"] == aws.events[1]["request"]


def test_a_function_that_crashes_repeatedly_is_given_up(run: Run, aws: FakeLambda) -> None:
    aws.faults = [make_crash("Runtime.ExitError", "signal: killed", str(n)) for n in range(9)]
    code, _, err = run("up")
    assert code == 1
    assert "signal: killed" in err
    assert len(aws.events) < 5


@pytest.mark.parametrize(
    ("fault", "code", "expected"),
    [
        (make_crash("Sandbox.Timedout", "Task timed out after 3.00 seconds"), 1, "longer timeout"),
        (make_crash("", "x Task timed out after 3.00 seconds"), 1, "longer timeout"),
        (make_crash("Runtime.ImportModuleError", "No module named 'lambda_migrate'"), 2, "start"),
        (make_crash("KeyError", f"password={SECRET}"), 1, "KeyError"),
        (lambda: make_response(b"hello"), 2, "lambda_migrate.deploy.admin.handler"),
        (lambda: make_response({"statusCode": 200}), 2, "lambda_migrate.deploy.admin.handler"),
        (lambda: make_response({"exit_code": 0}), 2, "lambda_migrate.deploy.admin.handler"),
        (lambda: make_response([1]), 2, "lambda_migrate.deploy.admin.handler"),
        (lambda: make_response(b"\xff", FunctionError="Unhandled"), 1, "no reason"),
        (make_refusal("ResourceNotFoundException", 404), 2, "there is no function 'admin:live'"),
        (make_refusal("AccessDeniedException", 403), 2, "lambda:InvokeFunction"),
        (make_refusal("InvalidSubnetIDException", 502), 2, "fix the function's configuration"),
        (make_refusal("KMSAccessDeniedException", 502), 2, "fix the function's configuration"),
        (make_refusal("ExpiredTokenException", 403), 2, "sign in again"),
        (make_refusal("InvalidParameterValueException", 400), 2, "InvalidParameterValueException"),
        (exceptions.NoCredentialsError(), 2, "credentials"),
        (exceptions.NoRegionError(), 2, "region"),
    ],
)
def test_permanent_errors_are_reported_without_a_retry(
    run: Run, aws: FakeLambda, fault: Any, code: int, expected: str
) -> None:
    aws.faults = [fault] * 5
    got, _, err = run("status")
    assert got == code
    assert expected in " ".join(err.split())
    assert len(aws.events) == 1


# --- random outcomes


class InvokeOutcomes:
    """The possible outcomes of one Invoke call."""

    def __init__(self, aws: FakeLambda, log: InMemoryRequestLog) -> None:
        self._aws = aws
        self._log = log

    def well(self) -> dict[str, Any]:
        return self._aws.invoke_function()

    def lost(self) -> dict[str, Any]:
        self._aws.invoke_function()
        raise CLOSED

    def unreachable(self) -> dict[str, Any]:
        raise UNREACHABLE

    def throttled(self) -> dict[str, Any]:
        raise make_refusal("TooManyRequestsException", 429)

    def killed_before(self) -> dict[str, Any]:
        """The function is killed before it starts the command."""
        return make_crash("Sandbox.Timedout", "Task timed out", str(uuid.uuid4()))()

    def killed_after(self) -> dict[str, Any]:
        """The function is killed after the command, before its response is recorded or sent."""
        write = self._log.write_record

        def lose_response(
            request_id: str, record: RequestRecord, deadline: Deadline
        ) -> RequestRecord | None:
            return None if record.response else write(request_id, record, deadline)

        self._log.write_record = lose_response  # type: ignore[method-assign]  # a fault
        try:
            response = self._aws.invoke_function()
        finally:
            self._log.write_record = write  # type: ignore[method-assign]  # as it was
        dead = response["ResponseMetadata"]["RequestId"]
        return make_crash("Runtime.ExitError", "signal: killed", dead)()


KINDS = [name for name in vars(InvokeOutcomes) if not name.startswith("_")]


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(kinds=st.lists(st.sampled_from(KINDS), max_size=7))
def test_a_command_runs_at_most_once_whatever_happens_to_the_calls(
    run: Run,
    aws: FakeLambda,
    database: InMemoryDatabase,
    log: InMemoryRequestLog,
    kinds: list[str],
) -> None:
    log.records.clear()
    assert run("up")[0] == 0
    database.rolled_back.clear()
    calls = InvokeOutcomes(aws, log)
    aws.faults = [getattr(calls, kind) for kind in kinds]
    code, out, err = run("down", "--steps", "1", "--yes", "--format", "json")
    aws.faults = []
    answer = json.loads(out)
    assert database.rolled_back in ([], ["0003_index"]), err
    if code == 0:
        assert answer["rolled_back"] == ["0003_index"] == database.rolled_back
    elif answer["error"]["kind"] == "Interrupted":
        assert answer["error"]["committed"] == database.rolled_back


# --- other versions


def test_another_version_is_noted(run: Run, aws: FakeLambda) -> None:
    aws.change = lambda answer: {**answer, "library": "0.0.1"}
    code, _, err = run("status")
    assert code == 0
    note = f"admin:live runs lambda-migrate 0.0.1; this command line is version {__version__}"
    assert note in " ".join(err.split())


def test_a_document_of_another_version_is_shown_as_json(run: Run, aws: FakeLambda) -> None:
    aws.change = lambda answer: {**answer, "library": "9", "document": {"new": "shape"}}
    code, out, _ = run("status")
    assert code == 0
    assert json.loads(out) == {"new": "shape"}


def test_an_error_of_another_version_is_shown_by_its_message(run: Run, aws: FakeLambda) -> None:
    error = {"kind": "Newfangled", "message": "it is so", "committed": ["0001_orders"]}
    aws.change = lambda _answer: {"exit_code": 1, "error": error, "library": "9"}
    code, _, err = run("up")
    assert code == 1
    assert "it is so" in err
    assert "committed before: 0001_orders" in err


def test_a_shortened_response_is_noted(run: Run, aws: FakeLambda) -> None:
    def cut(answer: dict[str, Any]) -> dict[str, Any]:
        found = {**answer["document"], "abridged": {"migrations": 12}}
        return {**answer, "document": found}

    aws.change = cut
    assert "left out: 12 of migrations" in " ".join(run("status")[2].split())


# --- the client, and Ctrl-C


def test_the_client_waits_longer_than_a_function_may_run_and_does_not_retry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    config = remote.make_client().meta.config
    assert config.read_timeout > 900
    assert config.retries["total_max_attempts"] == 1
    assert config.tcp_keepalive is True


def test_a_client_without_a_region_is_a_configuration_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    assert main(("status", "--function", "admin")) == 2
    assert "region" in capsys.readouterr().err


def test_ctrl_c_reports_that_the_function_is_still_running(run: Run, aws: FakeLambda) -> None:
    def interrupt() -> dict[str, Any]:
        signal.raise_signal(signal.SIGINT)
        raise AssertionError

    aws.faults = [interrupt]
    code, _, err = run("up")
    assert code == 130
    assert "admin:live is still running the command" in " ".join(err.split())
