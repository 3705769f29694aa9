"""The admin function on the fakes: events, answers, and requests that come more than once."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lambda_migrate import __version__
from lambda_migrate.deploy.admin import AdminFunction
from lambda_migrate.deploy.request_log import Run
from lambda_migrate.errors import LeaseStoreUnavailable, MigrationFailed
from lambda_migrate.events import CommandEnded
from lambda_migrate.lease.memory import InMemoryLeaseTable
from lambda_migrate.migrations import HistoryRow
from lambda_migrate.testing import (
    FakeClock,
    InMemoryDatabase,
    InMemoryRequestLog,
    RecordingObserver,
)
from tests.unit.deploy.conftest import LambdaContext

SECRET = "hunter2"
Ask = Callable[..., dict[str, Any]]


class Room:
    """An admin function and everything that it touches."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = FakeClock()
        self.store = InMemoryLeaseTable(clock=self.clock)
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
        answer = function.answer(event, context)
        assert SECRET not in json.dumps(answer)
        return answer

    def ask(self, command: str, *, request: str = "", **options: Any) -> dict[str, Any]:
        event: dict[str, Any] = {"command": command, "options": options}
        return self.send({**event, "request": request} if request else event)


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Room:
    for version, name in enumerate(("orders", "status", "index"), 1):
        (tmp_path / f"{version:04d}_{name}.sql").write_text(
            f"-- migrate:up\ncreate table {name} (id int);\n-- migrate:down\ndrop table {name};\n"
        )
    made = Room(tmp_path)
    monkeypatch.setattr("lambda_migrate.wiring.make_database", lambda _settings: made.database)
    monkeypatch.setattr("lambda_migrate.wiring.make_store", lambda _settings, **_parts: made.store)
    return made


# --- commands


def test_every_command_answers_as_the_command_line_does_in_json(room: Room) -> None:
    assert room.ask("status", exit_code=True)["exit_code"] == 3
    assert [each["version"] for each in room.ask("plan", to=2)["document"]["pending"]] == [1, 2]
    up = room.ask("up", to=2)
    assert (up["exit_code"], up["document"]["applied"]) == (0, ["0001_orders", "0002_status"])
    assert [each["what"] for each in up["told"]] == ["applied", "applied"]
    assert room.ask("up")["document"]["applied"] == ["0003_index"]
    assert room.ask("verify")["document"]["agree"] is True
    assert room.ask("verify", resync=True)["document"]["resynced"] is True
    assert room.ask("down", steps=1, yes=True)["document"]["reverted"] == ["0003_index"]
    assert room.ask("baseline", version=3, yes=True)["document"]["declared"] == ["0003_index"]
    repaired = room.ask("repair", version=3, yes=True, **{"as": "pending"})
    assert repaired["document"]["repaired"] == "0003_index"
    assert room.ask("repair", environment="staging", yes=True)["document"]["stamped"] == "staging"
    assert room.database.environment == "staging"
    assert room.ask("lease show")["document"]["owner"] is None
    assert room.ask("lease release", yes=True)["document"]["released"] is False


@pytest.mark.parametrize("command", ["status", "plan", "verify", "up"])
def test_a_function_without_its_migrations_answers_so(room: Room, command: str) -> None:
    for file in room.folder.glob("*.sql"):
        file.unlink()
    answer = room.ask(command)
    assert (answer["exit_code"], answer["error"]["kind"]) == (2, "ManifestError")
    assert "there are no migrations in" in answer["error"]["message"]
    assert room.database.connections == 0


def test_every_answer_says_which_library_and_which_request_it_was(room: Room) -> None:
    for answer in (room.ask("status", request="abc"), room.ask("nothing", request="abc")):
        assert answer["library"] == __version__
    assert room.ask("status", request="abc")["request"] == "abc"
    assert room.send({"command": "status"}, invocation="lambda-1")["request"] == "lambda-1"


def test_a_rehearsal_is_asked_for_once_run_once_and_leaves_nothing(room: Room) -> None:
    asked = room.ask("plan", execute=True)
    assert (asked["exit_code"], asked["error"]["question"]["verb"]) == (2, "plan --execute")
    done = room.ask("plan", execute=True, yes=asked["error"]["mark"], request="rehearsal")
    found = done["document"]["rehearsal"]
    assert (done["exit_code"], found["outcome"], len(found["migrations"])) == (0, "passed", 3)
    again = room.ask("plan", execute=True, yes=asked["error"]["mark"], request="rehearsal")
    assert again["document"] == done["document"]
    assert (room.database.effects, room.store.state.owner) == ([], None)
    assert room.store.state.fence == 1


def test_production_is_rehearsed_on_only_by_who_has_named_it_or_seen_the_question(
    room: Room,
) -> None:
    room.environ["LAMBDA_MIGRATE_ENVIRONMENT"] = room.database.environment = "production"
    refused = room.ask("plan", execute=True, yes=True)
    assert (refused["exit_code"], room.store.state.fence) == (2, 0)
    assert '"in_production": true' in refused["error"]["message"]
    assert refused["error"]["question"]["word"] == "production"
    assert room.ask("plan", execute=True, yes=refused["error"]["mark"])["exit_code"] == 0
    assert room.ask("plan", execute=True, yes=True, in_production=True)["exit_code"] == 0
    assert room.ask("plan", execute=True, in_production=True)["exit_code"] == 2


def test_a_failed_migration_is_an_answer_with_what_stays(room: Room) -> None:
    room.database.fail(2, MigrationFailed("no", migration="0002_status", sqlstate="42601"))
    answer = room.ask("up")
    assert answer["exit_code"] == 1
    assert answer["error"]["sqlstate"] == "42601"
    assert answer["error"]["committed"] == ["0001_orders"]
    assert [each["what"] for each in answer["told"]] == ["applied", "failed"]


def test_whoever_meets_a_holder_is_answered_with_four(room: Room) -> None:
    room.store.acquire("orders/8/ab")
    answer = room.ask("up")
    assert answer["exit_code"] == answer["error"]["exit_code"] == 4


def test_everything_ends_before_the_margin_of_the_invocation(room: Room) -> None:
    room.store.acquire("orders/8/ab")
    answer = room.send({"command": "up", "options": {"wait": True}}, seconds=10.0)
    assert answer["exit_code"] in (0, 4)
    assert sum(room.clock.slept) <= 8.5


def test_a_timeout_of_the_event_ends_it_earlier(room: Room) -> None:
    room.store.acquire("orders/8/ab")
    room.send({"command": "up", "options": {"wait": True, "timeout": 3}})
    assert sum(room.clock.slept) <= 3.5


def test_every_command_ends_with_one_event(room: Room) -> None:
    room.ask("up", request="abc")
    room.ask("dwon")
    first, second = room.observer.events_of(CommandEnded)
    assert (first.command, first.request, first.exit_code) == ("up", "abc", 0)
    assert first.applied == ("0001_orders", "0002_status", "0003_index")
    assert (second.command, second.exit_code, second.error) == ("", 2, "ConfigurationError")


# --- events that are wrong


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (None, "no JSON object"),
        ([], "no JSON object"),
        ("up", "no JSON object"),
        ({}, "names no command"),
        ({"command": 3}, "names no command"),
        ({"command": "dwon"}, "no command 'dwon'"),
        ({"command": "up", "options": []}, '"options" is no JSON object'),
        ({"command": "up", "options": {"too": 3}}, "no option 'too'"),
        ({"command": "up", "options": {"to": "3"}}, "write a whole number"),
        ({"command": "up", "options": {"to": True}}, "write a whole number"),
        ({"command": "up", "options": {"to": 3.5}}, "write a whole number"),
        ({"command": "up", "options": {"wait": "yes"}}, "write true or false"),
        ({"command": "up", "options": {"yes": True}}, "no option 'yes'"),
        ({"command": "up", "options": {"timeout": 0}}, "seconds above 0"),
        ({"command": "up", "options": {"timeout": True}}, "seconds above 0"),
        ({"command": "down", "options": {"yes": 1}}, "`yes`: write true"),
        ({"command": "baseline", "options": {"yes": True}}, "`lambda-migrate baseline VERSION`"),
        ({"command": "baseline", "options": {"version": "3"}}, "write a whole number"),
        ({"command": "repair", "options": {"version": 1, "as": "odd"}}, "write one of applied"),
        ({"command": "repair", "options": {}}, "say what to repair"),
        ({"command": "up", "request": 7}, '"request"'),
        ({"command": "up", "request": "a b"}, '"request"'),
        ({"command": "up", "ended": "x"}, '"ended"'),
        ({"command": "up", "optoins": {}}, "key 'optoins'"),
    ],
)
def test_a_wrong_event_is_told_what_to_write(room: Room, event: Any, told: str) -> None:
    answer = room.send(event)
    assert answer["exit_code"] == 2
    assert told in answer["error"]["message"]
    assert room.database.effects == []


def test_everything_that_is_wrong_is_told_at_once(room: Room) -> None:
    answer = room.ask("up", to="x", wait="y", table="t")
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
    room: Room, event: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    room.send(event)
    written = capsys.readouterr()
    assert SECRET not in written.out + written.err


def test_settings_that_are_wrong_are_an_answer(room: Room) -> None:
    del room.environ["LAMBDA_MIGRATE_TABLE"]
    answer = room.ask("status")
    assert answer["exit_code"] == 2
    assert "LAMBDA_MIGRATE_TABLE" in answer["error"]["message"]


def test_what_nobody_foresaw_is_an_answer_without_its_text(
    room: Room, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def explode(_settings: object) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr("lambda_migrate.wiring.make_database", explode)
    answer = room.ask("status")
    assert answer["exit_code"] == 1
    assert "RuntimeError" in answer["error"]["message"]
    written = capsys.readouterr().err
    assert "test_admin.py" in written
    assert SECRET not in written
    room.environ["LAMBDA_MIGRATE_TRACEBACK"] = "1"
    with pytest.raises(RuntimeError, match=SECRET):
        room.ask("status")


# --- questions


def test_what_destroys_needs_yes_and_says_what_it_would_do(room: Room) -> None:
    room.ask("up")
    answer = room.ask("down", steps=1)
    assert answer["exit_code"] == 2
    assert answer["error"]["kind"] == "ConfigurationError"
    assert "0003_index" in answer["error"]["message"]
    assert '"yes": true' in answer["error"]["message"]
    assert answer["error"]["question"]["migrations"][0]["name"] == "0003_index"
    assert room.database.rolled_back == []


def test_yes_to_one_question_is_yes_to_nothing_else(room: Room) -> None:
    room.ask("up")
    mark = room.ask("down", steps=1)["error"]["mark"]
    assert room.ask("down", steps=1, yes=mark)["document"]["reverted"] == ["0003_index"]
    answer = room.ask("down", steps=1, yes=mark)
    assert answer["exit_code"] == 4
    assert "look and try again" in answer["error"]["message"]
    assert room.database.rolled_back == ["0003_index"]


# --- the same request once more


def test_a_request_that_has_ended_is_answered_as_it_was(room: Room) -> None:
    room.ask("up")
    first = room.ask("down", request="r1", steps=1, yes=True)
    again = room.ask("down", request="r1", steps=1, yes=True)
    assert again == {**first, "repeated": True}
    assert room.database.rolled_back == ["0003_index"]


def test_a_failure_is_not_tried_again_by_the_same_request(room: Room) -> None:
    room.database.fail(2, MigrationFailed("no", migration="0002_status"))
    first = room.ask("up", request="r1")
    assert room.ask("up", request="r1") == {**first, "repeated": True}
    assert room.store.state.failure is not None
    assert room.store.state.failure.attempts == 1
    room.ask("up", request="r2")
    assert room.store.state.failure.attempts == 2


def test_who_was_turned_away_may_come_again(room: Room) -> None:
    lease = room.store.acquire("orders/8/ab")
    assert room.ask("up", request="r1")["exit_code"] == 4
    assert room.ask("baseline", request="r2", version=1)["exit_code"] == 2
    assert room.log.runs == {}
    room.store.release(lease)  # type: ignore[arg-type]  # it was free, so this is a lease
    assert len(room.ask("up", request="r1")["document"]["applied"]) == 3


def test_the_report_of_a_failure_is_told_once_and_not_stored(room: Room) -> None:
    """PostgreSQL's DETAIL may quote a row."""
    failed = MigrationFailed(
        "duplicate key", migration="0002_status", detail="Key (email)=(ann@example.com)"
    )
    room.database.fail(2, failed)
    assert "ann@example.com" in room.ask("up", request="r1")["error"]["detail"]
    assert "ann@example.com" not in str(room.log.runs["r1"])
    again = room.ask("up", request="r1")["error"]
    assert (again["detail"], again["cause"]) == ("", "duplicate key")


def test_a_try_of_lambdas_own_is_the_same_request(room: Room) -> None:
    room.ask("up")
    event = {"command": "down", "options": {"steps": 1, "yes": True}}
    room.send(event, invocation="async")
    assert room.send(event, invocation="async")["repeated"] is True
    assert room.database.rolled_back == ["0003_index"]


def test_looking_is_done_anew_each_time(room: Room) -> None:
    room.ask("status", request="r1")
    room.ask("up")
    assert room.ask("status", request="r1")["document"]["is_current"] is True
    assert "r1" not in room.log.runs


def test_an_event_without_any_id_is_a_request_of_its_own(room: Room) -> None:
    function = AdminFunction(room.environ, make_log=lambda _settings: room.log, clock=room.clock)
    for command in ("up", "up"):
        assert "repeated" not in function.answer({"command": command}, object())
    assert len(room.log.runs) == 2


def test_one_id_is_not_for_two_commands(room: Room) -> None:
    room.ask("up", request="r1", to=1)
    answer = room.ask("up", request="r1", to=2)
    assert answer["exit_code"] == 2
    assert "another command" in answer["error"]["message"]


def begun(room: Room, event: dict[str, Any], **facts: Any) -> None:
    """As if an invocation had begun with ``event``, and nothing were known of its end."""
    from lambda_migrate.commands.request import Errand

    now_ms = room.clock.wall_ms()
    errand = Errand.read(event, request="-")
    run = Run(
        asked=errand.asked,
        attempt="a",
        invocation="earlier",
        began_ms=now_ms,
        until_ms=now_ms + 20_000,
    )
    room.log.runs[errand.request] = replace(run, **facts)


def test_a_run_that_goes_on_is_waited_for(room: Room) -> None:
    event = {"command": "up", "request": "r1"}
    begun(room, event)
    answered = {"exit_code": 0, "document": {"applied": ["0001_orders"]}}
    sleep = room.clock.sleep

    def end_meanwhile(seconds: float) -> None:
        sleep(seconds)
        if len(room.clock.slept) == 3:
            room.log.runs["r1"] = replace(room.log.runs["r1"], answer=answered)

    room.clock.sleep = end_meanwhile  # type: ignore[method-assign]  # the world moves on
    answer = room.send(event)
    assert answer["document"] == answered["document"]
    assert len(room.clock.slept) == 3
    assert room.database.effects == []


def test_a_run_that_outlasts_the_asker_still_runs(room: Room) -> None:
    event = {"command": "up", "request": "r1"}
    begun(room, event)
    answer = room.send(event, seconds=10.0)
    assert (answer["exit_code"], answer["running"]) == (4, True)
    assert answer["error"]["kind"] == "LeaseHeld"
    assert sum(room.clock.slept) <= 8.0


def test_a_run_that_was_killed_is_told_by_the_history(room: Room) -> None:
    room.ask("up", request="r1", to=2)
    event = {"command": "up", "request": "r1", "options": {"to": 2}}
    begun(room, event)
    answer = room.send(event)
    assert answer["exit_code"] == 1
    assert answer["error"]["kind"] == "Interrupted"
    assert answer["error"]["committed"] == ["0001_orders", "0002_status"]
    assert sum(room.clock.slept) >= 20


def test_an_invocation_known_to_have_ended_is_not_waited_for(room: Room) -> None:
    event = {"command": "up", "request": "r1", "ended": ["earlier"]}
    begun(room, event)
    assert room.send(event)["error"]["kind"] == "Interrupted"
    assert sum(room.clock.slept) == 2  # for PostgreSQL to miss its client


def test_a_rollback_that_was_killed_says_what_is_gone(room: Room) -> None:
    room.ask("up", to=2)
    event = {"command": "down", "request": "r1", "options": {"to": 0, "yes": True}}
    concerned = ("0003_index", "0002_status", "0001_orders")
    begun(room, event, concerned=concerned, until_ms=0)
    answer = room.send(event)
    assert answer["error"]["committed"] == ["0003_index"]
    assert "1 of 3 migrations" in answer["error"]["message"].lower()
    assert room.database.rolled_back == []


def test_what_a_rollback_sets_out_to_do_is_written_down_before_it_begins(room: Room) -> None:
    room.ask("up")
    seen: list[tuple[str, ...]] = []
    concern = room.log.concern

    def look(request: str, run: Run) -> None:
        concern(request, run)
        seen.append(run.concerned)
        assert room.database.rolled_back == []

    room.log.concern = look  # type: ignore[method-assign]  # to see what is there by then
    room.ask("down", to=1, yes=True)
    assert seen == [("0003_index", "0002_status")]


def test_nothing_begins_that_cannot_be_written_down(room: Room) -> None:
    def gone(_request: str, _run: Run) -> None:
        raise LeaseStoreUnavailable("DynamoDB is away")

    room.log.begin = gone  # type: ignore[assignment]  # a fault
    answer = room.ask("up")
    assert (answer["exit_code"], answer["error"]["retryable"]) == (1, True)
    assert room.database.effects == []


def test_the_handler_reads_the_process_environment(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lambda_migrate.deploy.admin import handler

    for name, value in room.environ.items():
        monkeypatch.setenv(name, value)
    answer = handler({"command": "status"}, LambdaContext())
    assert answer["document"]["counts"]["pending"] == 3
    assert logging.getLogger("lambda_migrate.aws.telemetry").propagate is False


def test_an_answer_that_lambda_would_refuse_is_abridged_and_says_so(room: Room) -> None:
    count = 25_000
    for version in range(10_000, 10_000 + count):
        room.database._rows[version] = HistoryRow(
            version, f"{version}_{'x' * 60}", "c", "d", owner="orders/8/" + "0" * 32
        )
    document = room.ask("status")["document"]
    assert len(json.dumps(document)) < 6_291_556
    assert len(document["migrations"]) + document["abridged"]["migrations"] == count + 3
    assert document["migrations"][-1]["version"] == 10_000 + count - 1
    assert document["counts"]["ahead"] == count
