"""The admin function on the fakes: events, responses, and repeated requests."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lambda_migrate import __version__
from lambda_migrate.clock import Deadline
from lambda_migrate.deploy.admin import AdminFunction
from lambda_migrate.deploy.request_log import RequestRecord
from lambda_migrate.errors import LeaseHeld, LeaseStoreUnavailable, MigrationFailed
from lambda_migrate.events import CommandFinished
from lambda_migrate.lease.memory import InMemoryLeaseStore
from lambda_migrate.migrations import HistoryRow
from lambda_migrate.testing import (
    FakeClock,
    InMemoryDatabase,
    InMemoryRequestLog,
    RecordingObserver,
)
from tests.unit.deploy.conftest import LambdaContext

SECRET = "hunter2"
RunCommand = Callable[..., dict[str, Any]]


class AdminFunctionUnderTest:
    """An admin function with its fakes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = FakeClock()
        self.store = InMemoryLeaseStore(clock=self.clock)
        self.database = InMemoryDatabase(clock=self.clock)
        self.log = InMemoryRequestLog()
        self.observer = RecordingObserver()
        self.environ = {
            "LAMBDA_MIGRATE_TABLE": "leases",
            "LAMBDA_MIGRATE_DIRECTORY": str(folder),
            "LAMBDA_MIGRATE_DATABASE_URL": f"postgresql://app:{SECRET}@localhost/orders",
            "LAMBDA_MIGRATE_SAFETY_MARGIN_SECONDS": "2",
        }
        self.invocations = 0

    def send(self, event: Any, *, seconds: float = 30.0, invocation: str = "") -> dict[str, Any]:
        self.invocations += 1
        context = LambdaContext(seconds, clock=self.clock)
        context.aws_request_id = invocation or f"invocation-{self.invocations}"
        function = AdminFunction(
            self.environ,
            make_log=lambda _settings: self.log,
            observer=self.observer,
            clock=self.clock,
        )
        answer = function.handle(event, context)
        assert SECRET not in json.dumps(answer)
        return answer

    def run(self, command: str, *, request: str = "", **options: Any) -> dict[str, Any]:
        event: dict[str, Any] = {"command": command, "options": options}
        return self.send({**event, "request": request} if request else event)


@pytest.fixture
def admin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AdminFunctionUnderTest:
    for version, name in enumerate(("orders", "status", "index"), 1):
        (tmp_path / f"{version:04d}_{name}.sql").write_text(
            f"-- migrate:up\ncreate table {name} (id int);\n-- migrate:down\ndrop table {name};\n"
        )
    made = AdminFunctionUnderTest(tmp_path)
    monkeypatch.setattr("lambda_migrate.wiring.make_database", lambda _settings: made.database)
    monkeypatch.setattr("lambda_migrate.wiring.make_store", lambda _settings, **_parts: made.store)
    return made


# --- commands


def test_every_command_returns_the_json_of_the_command_line(admin: AdminFunctionUnderTest) -> None:
    assert admin.run("status", exit_code=True)["exit_code"] == 3
    assert [each["version"] for each in admin.run("plan", to=2)["document"]["pending"]] == [1, 2]
    up = admin.run("up", to=2)
    assert (up["exit_code"], up["document"]["applied"]) == (0, ["0001_orders", "0002_status"])
    assert [each["action"] for each in up["progress"]] == ["applied", "applied"]
    assert admin.run("up")["document"]["applied"] == ["0003_index"]
    assert admin.run("verify")["document"]["agree"] is True
    assert admin.run("verify", resync=True)["document"]["resynced"] is True
    assert admin.run("down", steps=1, yes=True)["document"]["rolled_back"] == ["0003_index"]
    assert admin.run("baseline", version=3, yes=True)["document"]["marked_as_applied"] == [
        "0003_index"
    ]
    repaired = admin.run("repair", version=3, force=True, yes=True, **{"as": "pending"})
    assert repaired["document"]["repaired"] == "0003_index"
    assert (
        admin.run("repair", environment="staging", yes=True)["document"]["recorded_environment"]
        == "staging"
    )
    assert admin.database.environment == "staging"
    assert admin.run("lease show")["document"]["owner"] is None
    assert admin.run("lease release", yes=True)["document"]["released"] is False


@pytest.mark.parametrize("command", ["status", "plan", "verify", "up"])
def test_a_function_without_migrations_responds_with_an_error(
    admin: AdminFunctionUnderTest, command: str
) -> None:
    for file in admin.folder.glob("*.sql"):
        file.unlink()
    answer = admin.run(command)
    assert (answer["exit_code"], answer["error"]["kind"]) == (2, "ManifestError")
    assert "there are no migrations in" in answer["error"]["message"]
    assert admin.database.connections == 0


def test_every_response_has_the_library_version_and_the_request_id(
    admin: AdminFunctionUnderTest,
) -> None:
    for answer in (admin.run("status", request="abc"), admin.run("nothing", request="abc")):
        assert answer["library"] == __version__
    assert admin.run("status", request="abc")["request"] == "abc"
    assert admin.send({"command": "status"}, invocation="lambda-1")["request"] == "lambda-1"


def test_a_dry_run_runs_once_per_request_and_leaves_nothing(admin: AdminFunctionUnderTest) -> None:
    asked = admin.run("plan", dry_run=True)
    assert (asked["exit_code"], asked["error"]["question"]["command"]) == (2, "plan --dry-run")
    done = admin.run("plan", dry_run=True, yes=asked["error"]["confirmation"], request="dry-run")
    found = done["document"]["dry_run"]
    assert (done["exit_code"], found["outcome"], len(found["migrations"])) == (0, "passed", 3)
    again = admin.run("plan", dry_run=True, yes=asked["error"]["confirmation"], request="dry-run")
    assert again["document"] == done["document"]
    assert (admin.database.effects, admin.store.state.owner) == ([], None)
    assert admin.store.state.fence == 1


def test_a_dry_run_in_production_needs_its_option_or_its_mark(
    admin: AdminFunctionUnderTest,
) -> None:
    admin.environ["LAMBDA_MIGRATE_ENVIRONMENT"] = admin.database.environment = "production"
    refused = admin.run("plan", dry_run=True, yes=True)
    assert (refused["exit_code"], admin.store.state.fence) == (2, 0)
    assert '"in_production": true' in refused["error"]["message"]
    assert refused["error"]["question"]["required_word"] == "production"
    assert admin.run("plan", dry_run=True, yes=refused["error"]["confirmation"])["exit_code"] == 0
    assert admin.run("plan", dry_run=True, yes=True, in_production=True)["exit_code"] == 0
    assert admin.run("plan", dry_run=True, in_production=True)["exit_code"] == 2


def test_a_failed_migration_is_a_response_with_what_was_committed(
    admin: AdminFunctionUnderTest,
) -> None:
    admin.database.fail_on(2, MigrationFailed("no", migration="0002_status", sqlstate="42601"))
    answer = admin.run("up")
    assert answer["exit_code"] == 1
    assert answer["error"]["sqlstate"] == "42601"
    assert answer["error"]["committed"] == ["0001_orders"]
    assert [each["action"] for each in answer["progress"]] == ["applied", "failed"]


def test_up_returns_four_while_another_process_holds_the_lease(
    admin: AdminFunctionUnderTest,
) -> None:
    admin.store.acquire("orders/8/ab")
    answer = admin.run("up")
    assert answer["exit_code"] == answer["error"]["exit_code"] == 4


def test_every_command_ends_before_the_safety_margin(admin: AdminFunctionUnderTest) -> None:
    admin.store.acquire("orders/8/ab")
    answer = admin.send({"command": "up", "options": {"wait": True}}, seconds=10.0)
    assert answer["exit_code"] in (0, 4)
    assert sum(admin.clock.slept) <= 8.5


def test_the_timeout_of_an_event_limits_the_command(admin: AdminFunctionUnderTest) -> None:
    admin.store.acquire("orders/8/ab")
    admin.send({"command": "up", "options": {"wait": True, "timeout": 3}})
    assert sum(admin.clock.slept) <= 3.5


def test_every_command_ends_with_one_event(admin: AdminFunctionUnderTest) -> None:
    admin.run("up", request="abc")
    admin.run("dwon")
    first, second = admin.observer.events_of(CommandFinished)
    assert (first.command, first.request_id, first.exit_code) == ("up", "abc", 0)
    assert first.applied == ("0001_orders", "0002_status", "0003_index")
    assert (second.command, second.exit_code, second.error) == ("", 2, "ConfigurationError")


# --- invalid events


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (None, "not a JSON object"),
        ([], "not a JSON object"),
        ("up", "not a JSON object"),
        ({}, "missing or not a string"),
        ({"command": 3}, "missing or not a string"),
        ({"command": "dwon"}, "no command 'dwon'"),
        ({"command": "up", "options": []}, '"options" is not a JSON object'),
        ({"command": "up", "options": {"too": 3}}, "no option 'too'"),
        ({"command": "up", "options": {"to": "three"}}, "write a version"),
        ({"command": "up", "options": {"to": True}}, "write a version"),
        ({"command": "up", "options": {"to": 3.5}}, "write a version"),
        ({"command": "up", "options": {"wait": "yes"}}, "write true or false"),
        ({"command": "up", "options": {"yes": True}}, "no option 'yes'"),
        ({"command": "up", "options": {"timeout": 0}}, "seconds above 0"),
        ({"command": "up", "options": {"timeout": True}}, "seconds above 0"),
        ({"command": "down", "options": {"yes": 1}}, "`yes`: write true"),
        ({"command": "baseline", "options": {"yes": True}}, "`lambda-migrate baseline VERSION`"),
        ({"command": "baseline", "options": {"version": "0x3"}}, "write a version"),
        ({"command": "repair", "options": {"version": 1, "as": "odd"}}, "write one of applied"),
        ({"command": "repair", "options": {}}, "`repair` needs a version or an environment"),
        ({"command": "up", "request": 7}, '"request"'),
        ({"command": "up", "request": "a b"}, '"request"'),
        ({"command": "up", "ended": "x"}, '"ended"'),
        ({"command": "up", "optoins": {}}, "unknown key 'optoins'"),
    ],
)
def test_an_invalid_event_gets_an_error_that_names_what_to_write(
    admin: AdminFunctionUnderTest, event: Any, expected: str
) -> None:
    answer = admin.send(event)
    assert answer["exit_code"] == 2
    assert expected in answer["error"]["message"]
    assert admin.database.effects == []


def test_every_error_of_an_event_is_listed(admin: AdminFunctionUnderTest) -> None:
    answer = admin.run("up", to="x", wait="y", table="t")
    assert len(answer["error"]["faults"]) == 3


@pytest.mark.parametrize(
    "event",
    [
        {"command": f"postgresql://app:{SECRET}@h/d"},
        {"command": "up", "options": {"database_url": f"postgresql://app:{SECRET}@h/d"}},
        {"command": "up", "options": {f"password={SECRET}": 1}},
        {"command": "up", "options": {"to": SECRET}},
        {"command": "up", "request": f"{SECRET} {SECRET}"},
    ],
)
def test_no_value_of_an_event_is_repeated(
    admin: AdminFunctionUnderTest, event: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    admin.send(event)
    written = capsys.readouterr()
    assert SECRET not in written.out + written.err


def test_wrong_settings_are_a_response(admin: AdminFunctionUnderTest) -> None:
    del admin.environ["LAMBDA_MIGRATE_TABLE"]
    answer = admin.run("status")
    assert answer["exit_code"] == 2
    assert "LAMBDA_MIGRATE_TABLE" in answer["error"]["message"]


def test_unexpected_errors_are_a_response_without_their_text(
    admin: AdminFunctionUnderTest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def explode(_settings: object) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr("lambda_migrate.wiring.make_database", explode)
    answer = admin.run("status")
    assert answer["exit_code"] == 1
    assert "RuntimeError" in answer["error"]["message"]
    written = capsys.readouterr().err
    assert "test_admin.py" in written
    assert SECRET not in written
    admin.environ["LAMBDA_MIGRATE_TRACEBACK"] = "1"
    with pytest.raises(RuntimeError, match=SECRET):
        admin.run("status")


# --- questions


def test_destructive_commands_need_yes_and_report_what_they_would_do(
    admin: AdminFunctionUnderTest,
) -> None:
    admin.run("up")
    answer = admin.run("down", steps=1)
    assert answer["exit_code"] == 2
    assert answer["error"]["kind"] == "ConfigurationError"
    assert "0003_index" in answer["error"]["message"]
    assert '"yes": true' in answer["error"]["message"]
    assert answer["error"]["question"]["migrations"][0]["name"] == "0003_index"
    assert admin.database.rolled_back == []


def test_a_mark_confirms_only_its_question(admin: AdminFunctionUnderTest) -> None:
    admin.run("up")
    mark = admin.run("down", steps=1)["error"]["confirmation"]
    assert admin.run("down", steps=1, yes=mark)["document"]["rolled_back"] == ["0003_index"]
    answer = admin.run("down", steps=1, yes=mark)
    assert answer["exit_code"] == 4
    assert "try again" in answer["error"]["message"]
    assert admin.database.rolled_back == ["0003_index"]


# --- repeated requests


def test_a_repeated_request_returns_the_first_response(admin: AdminFunctionUnderTest) -> None:
    admin.run("up")
    first = admin.run("down", request="r1", steps=1, yes=True)
    again = admin.run("down", request="r1", steps=1, yes=True)
    assert again == {**first, "repeated": True}
    assert admin.database.rolled_back == ["0003_index"]


def test_a_failure_is_not_retried_by_the_same_request(admin: AdminFunctionUnderTest) -> None:
    admin.database.fail_on(2, MigrationFailed("no", migration="0002_status"))
    first = admin.run("up", request="r1")
    assert admin.run("up", request="r1") == {**first, "repeated": True}
    assert admin.store.state.failure is not None
    assert admin.store.state.failure.attempts == 1
    admin.run("up", request="r2")
    assert admin.store.state.failure.attempts == 2


def test_a_refused_request_may_be_sent_again(admin: AdminFunctionUnderTest) -> None:
    lease = admin.store.acquire("orders/8/ab")
    assert admin.run("up", request="r1")["exit_code"] == 4
    assert admin.run("baseline", request="r2", version=1)["exit_code"] == 2
    assert admin.log.records == {}
    admin.store.release(lease)  # type: ignore[arg-type]  # it was free, so this is a lease
    assert len(admin.run("up", request="r1")["document"]["applied"]) == 3


def test_a_request_that_has_committed_something_is_not_run_again(
    admin: AdminFunctionUnderTest,
) -> None:
    error: Any = LeaseHeld("another process holds the lease")
    admin.database.fail_on(2, error)
    first = admin.run("up", request="r1")
    assert (first["exit_code"], first["error"]["committed"]) == (4, ["0001_orders"])
    assert admin.run("up", request="r1") == {**first, "repeated": True}


def test_a_run_counts_as_killed_only_some_time_after_its_deadline(
    admin: AdminFunctionUnderTest,
) -> None:
    """Clocks differ, and Lambda takes a moment to end an invocation."""
    before_ms = admin.clock.wall_ms()
    admin.run("up", request="r1")
    assert admin.log.records["r1"].ends_by_ms == before_ms + 33_000


def test_the_detail_of_a_failure_is_returned_once_and_not_stored(
    admin: AdminFunctionUnderTest,
) -> None:
    """PostgreSQL's DETAIL may quote a row."""
    failed = MigrationFailed(
        "duplicate key", migration="0002_status", detail="Key (email)=(ann@example.com)"
    )
    admin.database.fail_on(2, failed)
    assert "ann@example.com" in admin.run("up", request="r1")["error"]["detail"]
    assert "ann@example.com" not in str(admin.log.records["r1"])
    again = admin.run("up", request="r1")["error"]
    assert (again["detail"], again["cause"]) == ("", "duplicate key")


def test_a_retry_by_lambda_is_the_same_request(admin: AdminFunctionUnderTest) -> None:
    admin.run("up")
    event = {"command": "down", "options": {"steps": 1, "yes": True}}
    admin.send(event, invocation="async")
    assert admin.send(event, invocation="async")["repeated"] is True
    assert admin.database.rolled_back == ["0003_index"]


def test_read_only_commands_run_again(admin: AdminFunctionUnderTest) -> None:
    admin.run("status", request="r1")
    admin.run("up")
    assert admin.run("status", request="r1")["document"]["is_current"] is True
    assert "r1" not in admin.log.records


def test_each_event_without_an_id_is_a_new_request(admin: AdminFunctionUnderTest) -> None:
    function = AdminFunction(admin.environ, make_log=lambda _settings: admin.log, clock=admin.clock)
    for command in ("up", "up"):
        assert "repeated" not in function.handle({"command": command}, object())
    assert len(admin.log.records) == 2


def test_a_repeatable_migration_is_named_in_a_request(admin: AdminFunctionUnderTest) -> None:
    (admin.folder / "R__view.sql").write_text("SELECT 1")
    assert admin.run("up")["document"]["applied"][-1] == "R__view"
    repaired = admin.run("repair", version="R__view", yes=True, **{"as": "pending"})
    assert repaired["document"]["repaired"] == "R__view"
    assert admin.run("status")["document"]["migrations"][-1]["state"] == "pending"
    assert admin.run("up")["document"]["applied"] == ["R__view"]


def test_an_id_cannot_be_used_for_two_commands(admin: AdminFunctionUnderTest) -> None:
    admin.run("up", request="r1", to=1)
    answer = admin.run("up", request="r1", to=2)
    assert answer["exit_code"] == 2
    assert "another command" in answer["error"]["message"]


def record_running(admin: AdminFunctionUnderTest, event: dict[str, Any], **changes: Any) -> None:
    """Record a request as if another invocation had begun it and not ended it."""
    from lambda_migrate.commands.request import CommandRequest

    request = CommandRequest.parse(event, default_id="-")
    record = RequestRecord(
        command_text=request.command_text,
        attempt_id="a",
        invocation_id="earlier",
        ends_by_ms=admin.clock.wall_ms() + 20_000,
    )
    admin.log.records[request.request_id] = replace(record, **changes)


def test_a_running_command_is_waited_for(admin: AdminFunctionUnderTest) -> None:
    event = {"command": "up", "request": "r1"}
    record_running(admin, event)
    reported = {"exit_code": 0, "document": {"applied": ["0001_orders"]}}
    sleep = admin.clock.sleep

    def end_meanwhile(seconds: float) -> None:
        sleep(seconds)
        if len(admin.clock.slept) == 3:
            admin.log.records["r1"] = replace(admin.log.records["r1"], response=reported)

    admin.clock.sleep = end_meanwhile  # type: ignore[method-assign]  # the world moves on
    answer = admin.send(event)
    assert answer["document"] == reported["document"]
    assert len(admin.clock.slept) == 3
    assert admin.database.effects == []


def test_a_command_that_outlasts_the_invocation_is_still_running(
    admin: AdminFunctionUnderTest,
) -> None:
    event = {"command": "up", "request": "r1"}
    record_running(admin, event)
    answer = admin.send(event, seconds=10.0)
    assert (answer["exit_code"], answer["running"]) == (4, True)
    assert answer["error"]["kind"] == "LeaseHeld"
    assert answer["error"]["message"] == (
        "`up` is still running in the function: check `status` and `lease show` with --function "
        "before you run it again (with an event: send request r1 again to get its result)"
    )
    assert sum(admin.clock.slept) <= 8.0


def test_a_killed_command_is_reported_from_the_history(admin: AdminFunctionUnderTest) -> None:
    admin.run("up", request="r1", to=2)
    event = {"command": "up", "request": "r1", "options": {"to": 2}}
    record_running(admin, event)
    answer = admin.send(event)
    assert answer["exit_code"] == 1
    assert answer["error"]["kind"] == "Interrupted"
    assert answer["error"]["committed"] == ["0001_orders", "0002_status"]
    assert answer["error"]["message"].endswith(
        "This request is not run again: check `status`, then run the command again (with an event: "
        "as a new request)"
    )
    assert sum(admin.clock.slept) >= 20


def test_an_invocation_known_to_have_ended_is_not_waited_for(admin: AdminFunctionUnderTest) -> None:
    event = {"command": "up", "request": "r1", "ended": ["earlier"]}
    record_running(admin, event)
    assert admin.send(event)["error"]["kind"] == "Interrupted"
    assert sum(admin.clock.slept) == 2  # for PostgreSQL to miss its client


def test_a_killed_rollback_reports_what_was_rolled_back(admin: AdminFunctionUnderTest) -> None:
    admin.run("up", to=2)
    event = {"command": "down", "request": "r1", "options": {"to": 0, "yes": True}}
    rollback = ("0003_index", "0002_status", "0001_orders")
    record_running(admin, event, rollback_migrations=rollback, ends_by_ms=0)
    answer = admin.send(event)
    assert answer["error"]["committed"] == ["0003_index"]
    assert "1 of 3 migrations" in answer["error"]["message"].lower()
    assert admin.database.rolled_back == []


def test_the_names_of_a_rollback_are_recorded_before_it_starts(
    admin: AdminFunctionUnderTest,
) -> None:
    admin.run("up")
    seen: list[tuple[str, ...]] = []
    write = admin.log.write_record

    def observe(request_id: str, record: RequestRecord, deadline: Deadline) -> RequestRecord | None:
        if record.response is None:
            seen.append(record.rollback_migrations)
            assert admin.database.rolled_back == []
        return write(request_id, record, deadline)

    admin.log.write_record = observe  # type: ignore[method-assign]  # to see what is recorded by then
    admin.run("down", to=1, yes=True)
    assert seen == [(), ("0003_index", "0002_status")]


def test_no_rollback_starts_whose_names_cannot_be_recorded(admin: AdminFunctionUnderTest) -> None:
    admin.run("up")
    write = admin.log.write_record

    def fail(request_id: str, record: RequestRecord, deadline: Deadline) -> RequestRecord | None:
        if record.rollback_migrations:
            raise LeaseStoreUnavailable("DynamoDB is away")
        return write(request_id, record, deadline)

    admin.log.write_record = fail  # type: ignore[method-assign]  # a fault
    answer = admin.run("down", to=1, yes=True)
    assert (answer["exit_code"], answer["error"]["kind"]) == (1, "LeaseStoreUnavailable")
    assert admin.database.rolled_back == []


def test_no_command_starts_that_cannot_be_recorded(admin: AdminFunctionUnderTest) -> None:
    def fail(*_: object) -> None:
        raise LeaseStoreUnavailable("DynamoDB is away")

    admin.log.write_record = fail  # type: ignore[assignment]  # a fault
    answer = admin.run("up")
    assert (answer["exit_code"], answer["error"]["retryable"]) == (1, True)
    assert admin.database.effects == []


def test_a_response_that_cannot_be_recorded_is_returned(admin: AdminFunctionUnderTest) -> None:
    write = admin.log.write_record

    def fail(request_id: str, record: RequestRecord, deadline: Deadline) -> RequestRecord | None:
        if record.response:
            raise LeaseStoreUnavailable("DynamoDB is away")
        return write(request_id, record, deadline)

    admin.log.write_record = fail  # type: ignore[method-assign]  # a fault
    assert len(admin.run("up")["document"]["applied"]) == 3


def test_a_running_command_is_waited_for_while_the_log_cannot_be_read(
    admin: AdminFunctionUnderTest,
) -> None:
    event = {"command": "up", "request": "r1"}
    record_running(admin, event)
    write = admin.log.write_record
    calls: list[str] = []

    def fail_once(
        request_id: str, record: RequestRecord, deadline: Deadline
    ) -> RequestRecord | None:
        calls.append(request_id)
        if len(calls) == 2:
            raise LeaseStoreUnavailable("DynamoDB is away")
        return write(request_id, record, deadline)

    admin.log.write_record = fail_once  # type: ignore[method-assign]  # a fault
    assert admin.send(event, seconds=10.0)["running"] is True
    assert len(calls) > 2


def test_the_handler_reads_the_process_environment(
    admin: AdminFunctionUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lambda_migrate.deploy.admin import handler

    for name, value in admin.environ.items():
        monkeypatch.setenv(name, value)
    answer = handler({"command": "status"}, LambdaContext())
    assert answer["document"]["counts"]["pending"] == 3
    assert logging.getLogger("lambda_migrate.aws.telemetry").propagate is False


@pytest.mark.slow
def test_a_response_that_lambda_would_refuse_is_shortened(admin: AdminFunctionUnderTest) -> None:
    count = 25_000
    for version in range(10_000, 10_000 + count):
        admin.database._rows[version] = HistoryRow(
            version, f"{version}_{'x' * 60}", "c", "d", owner="orders/8/" + "0" * 32
        )
    document = admin.run("status")["document"]
    assert len(json.dumps(document)) < 6_291_556
    assert len(document["migrations"]) + document["abridged"]["migrations"] == count + 3
    assert document["migrations"][-1]["version"] == 10_000 + count - 1
    assert document["counts"]["ahead"] == count
