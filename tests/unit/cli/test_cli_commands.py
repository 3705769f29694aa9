"""The commands on the in-memory fakes: results, exit codes, questions."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lambda_migrate.cli import main
from lambda_migrate.errors import MigrationFailed
from lambda_migrate.lease.memory import InMemoryLeaseStore
from lambda_migrate.lease.progress import Failure, Progress
from lambda_migrate.lease.record import LeaseState
from lambda_migrate.migrations import read_manifest
from lambda_migrate.migrations.baseline import ToolHistory, ToolHistoryEntry
from lambda_migrate.testing import InMemoryDatabase

NOW_MS = 1_700_000_000_000
Run = Callable[..., tuple[int, str, str]]


def run_json(run: Run, *arguments: str) -> tuple[int, Mapping[str, Any]]:
    code, out, err = run(*arguments, "--format", "json")
    assert err == ""
    document: dict[str, Any] = json.loads(out)
    return code, document


def make_dbmate_history(*versions: int) -> ToolHistory:
    """Make a history of dbmate with these versions applied."""
    entries = (ToolHistoryEntry(f"{version:04d}", version=version) for version in versions)
    return ToolHistory("dbmate", "public.schema_migrations", tuple(entries))


def join_lines(text: str) -> str:
    return " ".join(text.split())


# --- status and plan


def test_status_distinguishes_pending_from_applied(run: Run) -> None:
    run("up", "--to", "2")
    code, out, _ = run("status")
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines() if line.startswith("000")] == [
        ["0001_orders", "applied"],
        ["0002_status", "applied"],
        ["0003_index", "pending"],
    ]
    assert "2 applied, 1 pending" in out


@pytest.mark.parametrize(("applied", "code"), [(0, 3), (2, 3), (3, 0)])
def test_status_exits_with_three_while_something_is_pending(
    run: Run, applied: int, code: int
) -> None:
    if applied:
        run("up", "--to", str(applied))
    assert run("status", "--exit-code")[0] == code
    assert run("status")[0] == 0


@pytest.mark.parametrize(
    "command",
    [
        ("status",),
        ("status", "--exit-code"),
        ("plan",),
        ("plan", "--dry-run", "--yes"),
        ("verify",),
        ("verify", "--resync"),
        ("up",),
        ("baseline", "1", "--yes"),
    ],
)
def test_no_migrations_are_an_error_of_every_command_that_needs_them(
    run: Run, tmp_path: Path, database: InMemoryDatabase, command: tuple[str, ...]
) -> None:
    for name in ("20240101000000_first", "20240102000000_second"):
        (tmp_path / "prisma" / name).mkdir(parents=True)
        (tmp_path / "prisma" / name / "migration.sql").write_text("SELECT 1;")
    code, out, err = run(*command, "--directory", str(tmp_path / "prisma"))
    assert (code, out) == (2, "")
    assert "2 folders that contain .sql files; this looks like a Prisma layout" in join_lines(err)
    assert database.connections == 0


@pytest.mark.parametrize("command", [("lease", "show"), ("new", "first")])
def test_commands_that_need_no_migrations_work_without_any(
    run: Run, tmp_path: Path, command: tuple[str, ...]
) -> None:
    (tmp_path / "none").mkdir()
    assert run(*command, "--directory", str(tmp_path / "none"))[0] == 0


def test_status_without_migrations_names_the_next_step(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "none").mkdir()
    monkeypatch.setenv("LAMBDA_MIGRATE_ALLOW_EMPTY", "true")
    for command in ("plan", "up", "verify"):
        assert run(command, "--directory", str(tmp_path / "none"))[0] == 0
    code, out, _ = run("status", "--directory", str(tmp_path / "none"))
    assert code == 0
    assert "no migrations yet" in out
    assert "lambda-migrate new" in out


def test_status_shows_holder_progress_and_failure(run: Run, store: InMemoryLeaseStore) -> None:
    failure = Failure("d", "0002_status", "2", "42P01", "no such table", 2, NOW_MS, NOW_MS + 1)
    store.state = LeaseState(
        fence=7,
        owner="orders/8/ab",
        lease_until_ms=NOW_MS,
        progress=Progress("0002_status", 1, 3, NOW_MS),
        failure=failure,
    )
    _, out, _ = run("status")
    assert "held by orders/8/ab, fence 7, expired" in out
    assert "applying 0002_status" in out
    assert "1 of 3 done" in out
    assert "0002_status: no such table [42P01]" in out
    assert "attempt 2" in out


def test_an_edited_file_is_reported_with_its_repair(run: Run, folder: Path) -> None:
    run("up")
    path = folder / "0002_status.sql"
    path.write_text(path.read_text() + "-- changed\n")
    code, out, _ = run("plan")
    assert code == 1
    assert "repair 2 --as edited" in out
    assert run("up")[0] == 1
    assert run("repair", "2", "--as", "edited", "--yes")[0] == 0
    assert run("plan")[0] == 0


def test_plan_shows_statements_and_whether_they_are_transactional(run: Run, folder: Path) -> None:
    (folder / "0004_late.sql").write_text(
        "-- migrate:up transaction:false\ncreate index concurrently i on orders (id);\n"
    )
    code, document = run_json(run, "plan")
    assert code == 0
    assert [(step["name"], step["transactional"]) for step in document["pending"]] == [
        ("0001_orders", True),
        ("0002_status", True),
        ("0003_index", True),
        ("0004_late", False),
    ]
    assert document["pending"][3]["first_statements"] == [
        "create index concurrently i on orders (id)"
    ]
    assert "1 statement outside a transaction, no down script" in run("plan")[1]


def test_plan_stops_at_the_version_of_to(run: Run) -> None:
    _, document = run_json(run, "plan", "--to", "2")
    assert [step["version"] for step in document["pending"]] == [1, 2]


def test_plan_hides_passwords_in_statements(run: Run, folder: Path) -> None:
    (folder / "0004_role.sql").write_text(
        "-- migrate:up\ncreate role app password 'hunter2';\n-- migrate:down\n"
    )
    assert "password '***'" in run("plan")[1] or "***" in run("plan")[1]


def test_a_script_that_cannot_run_fails_the_plan(run: Run, folder: Path) -> None:
    (folder / "0004_commit.sql").write_text("-- migrate:up\nselect 1; commit;\n")
    code, out, _ = run("plan")
    assert code == 1
    assert "0004_commit.sql:2" in out
    assert run("up")[0] == 2


# --- up and down


def test_up_applies_in_order_and_marks_ready(run: Run, database: InMemoryDatabase) -> None:
    code, document = run_json(run, "up")
    assert code == 0
    assert document["applied"] == ["0001_orders", "0002_status", "0003_index"] == database.effects
    assert run_json(run, "status")[1]["is_marked_ready"] is True
    assert run_json(run, "up")[1]["applied"] == []


def test_up_without_pending_migrations_reports_it(run: Run) -> None:
    run("up")
    assert "nothing to do" in run("up")[1]


def test_a_failed_migration_is_reported_with_what_was_committed(
    run: Run, database: InMemoryDatabase
) -> None:
    report = "0002_status failed: no [42601]\n  f.sql:3:4\n  3 | select nott\n             ^"
    database.fail_on(
        2, MigrationFailed("no", migration="0002_status", sqlstate="42601", detail=report)
    )
    code, _, err = run("up")
    assert code == 1
    assert "  3 | select nott\n             ^\n" in err
    assert "1 migration before it stays applied" in err
    code, document = run_json(run, "up")
    assert document["error"]["sqlstate"] == "42601"
    assert document["error"]["exit_code"] == code == 1


def test_up_exits_with_four_while_another_process_holds_the_lease(
    run: Run, store: InMemoryLeaseStore
) -> None:
    store.acquire("orders/8/ab")
    code, _, err = run("up")
    assert code == 4
    assert "orders/8/ab" in err
    assert "or now with `--wait`" in join_lines(err)
    assert run_json(run, "up")[1]["error"]["retryable"] is True


def test_a_command_that_is_refused_while_busy_is_not_advised_to_migrate(
    run: Run, store: InMemoryLeaseStore
) -> None:
    run("up")
    store.acquire("orders/8/ab")
    code, _, err = run("down", "--steps", "1", "--yes")
    assert code == 4
    assert "next: run the command again when the other process is done; " in join_lines(err)
    assert "--wait" not in err


def test_a_rollback_that_loses_its_connection_stays_applied(
    run: Run, database: InMemoryDatabase
) -> None:
    run("up")
    database.fail_on(2, MigrationFailed("the connection broke", migration="0002_status"))
    err = join_lines(run("down", "--to", "1", "--yes")[2])
    assert (
        "next: the rollback failed, so 0002_status is still applied; fix the cause and run the "
        "command again; 1 migration before it stays rolled back"
    ) in err


def test_up_wait_waits_for_the_holder(
    run: Run, store: InMemoryLeaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = store.acquire("orders/8/ab")
    slept: list[float] = []

    def sleep(_self: object, seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            store.release(lease)  # type: ignore[arg-type]  # it was free, so this is a lease

    monkeypatch.setattr("lambda_migrate.clock.Clock.sleep", sleep)
    code, out, _ = run("up", "--wait")
    assert code == 0
    assert len(slept) == 3
    assert min(slept) >= 0.2
    assert out.count("waiting") == 1


@pytest.mark.parametrize(
    ("arguments", "message", "see"),
    [
        (["new"], "Missing argument 'NAME'", "new --help"),
        (["up", "--to"], "requires an argument", "up --help"),
        (["lease", "show", "--table"], "requires an argument", "lease show --help"),
        (["--target", "x", "up"], "--target. Write --target after the command.", "--help"),
        (["up", "--timeout", "x"], "Invalid value for '--timeout': write a number", "up --help"),
        (["down", "--steps", "x"], "Invalid value for '--steps': write a whole number", "down"),
        (["up", "--format", "x"], "--format': 'x' is not one of 'table', 'json'", "up --help"),
    ],
)
def test_wrong_usage_names_the_option_and_the_help_of_its_command(
    run: Run, arguments: list[str], message: str, see: str
) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert f"see `lambda-migrate {see}" in err
    assert len(err.splitlines()) == 2


def test_down_without_a_choice_explains_the_three_forms(
    run: Run, database: InMemoryDatabase
) -> None:
    code, out, err = run("down")
    assert (code, out, database.connections) == (2, "", 0)
    for form in ("--steps N rolls", "--to VERSION rolls", "--only VERSION rolls"):
        assert form in join_lines(err)


@pytest.mark.parametrize(
    ("choice", "mode", "warning"),
    [
        (("--to", "1"), "migrate", "apply 0002_status and 1 more again at their next cold start"),
        (("--to", "1"), "migrate", "before that, deploy code that ends at 0001_orders, or set"),
        (("--to", "0"), "migrate", "before that, deploy code without these migrations, or"),
        (("--only", "2"), "migrate", "do not start without 0002_status: deploy code that ends at"),
        (("--steps", "1"), "require", "do not start without 0003_index"),
    ],
)
def test_down_warns_of_what_the_next_cold_start_of_the_same_files_does(
    run: Run, monkeypatch: pytest.MonkeyPatch, choice: tuple[str, ...], mode: str, warning: str
) -> None:
    monkeypatch.setenv("LAMBDA_MIGRATE_MODE", mode)
    run("up")
    assert warning in join_lines(run("down", *choice)[2])
    assert warning in join_lines(run("down", *choice, "--yes")[1])


def test_down_does_not_warn_if_the_files_at_hand_do_not_have_the_migration(
    run: Run, folder: Path
) -> None:
    run("up")
    (folder / "0003_index.sql").unlink()
    assert "warning" not in run("down", "--steps", "1", "--yes")[1]


def test_down_names_the_empty_down_scripts(run: Run, folder: Path) -> None:
    (folder / "0004_row.sql").write_text("-- migrate:up\nSELECT 1;\n-- migrate:down\n-- none\n")
    run("up")
    code, out, _ = run("down", "--steps", "2", "--yes")
    assert code == 0
    assert "the down script of 0004_row is empty: only its history row is removed" in join_lines(
        out
    )
    assert out.count("is empty") == 1


def test_plan_warns_of_a_time_limit_that_is_switched_off_and_hides_a_begin(
    run: Run, folder: Path
) -> None:
    script = "-- migrate:up\nBEGIN;\nSET lock_timeout = 0;\nCOMMIT;\n"
    (folder / "0004_limit.sql").write_text(script)
    code, out, _ = run("plan", "--all")
    assert code == 0
    assert "0004_limit.sql:3: this switches off lock_timeout" in join_lines(out)
    assert "BEGIN" not in out


def test_down_without_a_terminal_needs_yes(run: Run, database: InMemoryDatabase) -> None:
    run("up")
    code, out, err = run("down", "--steps", "1")
    assert (code, out) == (2, "")
    assert "0003_index" in err
    assert "--yes" in err
    assert database.rolled_back == []
    code, document = run_json(run, "down", "--steps", "1", "--yes")
    assert (code, document["rolled_back"]) == (0, ["0003_index"])


@pytest.mark.parametrize(
    ("choice", "reverted"),
    [
        (("--to", "1"), ["0003_index", "0002_status"]),
        (("--to", "0"), ["0003_index", "0002_status", "0001_orders"]),
        (("--steps", "2"), ["0003_index", "0002_status"]),
        (("--only", "2"), ["0002_status"]),
        (("--steps", "9"), ["0003_index", "0002_status", "0001_orders"]),
    ],
)
def test_down_rolls_back_what_its_options_select(
    run: Run, choice: tuple[str, ...], reverted: list[str]
) -> None:
    run("up")
    assert run_json(run, "down", *choice, "--yes")[1]["rolled_back"] == reverted


@pytest.mark.parametrize("choice", [(), ("--to", "1", "--steps", "1"), ("--to", "77")])
def test_down_needs_exactly_one_selection(run: Run, choice: tuple[str, ...]) -> None:
    run("up")
    assert run("down", *choice, "--yes")[0] == 2


@pytest.mark.parametrize(("said", "code"), [("y", 0), ("yes", 0), ("", 1), ("n", 1)])
def test_a_question_is_answered_at_the_terminal(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    database: InMemoryDatabase,
    said: str,
    code: int,
) -> None:
    run("up")

    class Keyboard:
        def isatty(self) -> bool:
            return True

        def readline(self) -> str:
            return said + "\n"

    monkeypatch.setattr("sys.stdin", Keyboard())
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    assert main(("down", "--steps", "1")) == code
    assert database.rolled_back == (["0003_index"] if code == 0 else [])


# --- baseline and repair


def test_baseline_runs_nothing(run: Run, database: InMemoryDatabase) -> None:
    assert run("baseline", "2")[0] == 2
    code, document = run_json(run, "baseline", "2", "--yes")
    assert (code, document["marked_as_applied"]) == (0, ["0001_orders", "0002_status"])
    assert database.effects == []
    assert [row["baseline"] for row in run_json(run, "status")[1]["migrations"]] == [
        True,
        True,
        False,
    ]


def test_baseline_shows_both_histories_and_records_what_was_applied(
    run: Run, database: InMemoryDatabase
) -> None:
    database.other_histories = [make_dbmate_history(1, 3, 0)]
    code, _, err = run("baseline")
    assert code == 2
    assert "from dbmate's history table public.schema_migrations" in join_lines(err)
    assert [line.split() for line in err.splitlines() if line.startswith("000")] == [
        ["0001", "0001_orders", "applied", "will", "be", "marked"],
        ["0003", "0003_index", "applied", "will", "be", "marked"],
        ["0000", "-", "applied", "no", "file"],
    ]
    assert "2 0002_status not applied stays pending" in join_lines(err)
    assert "LAMBDA_MIGRATE_ALLOW_OUT_OF_ORDER=true lambda-migrate up" in join_lines(err)
    code, out, _ = run("baseline", "--yes")
    assert code == 0
    assert "marked 2 migrations as applied, as in dbmate's history; nothing was run" in out
    assert "versions without a migration file: 0000" in out
    assert "0002_status stays pending below a version that is marked as applied" in join_lines(out)
    assert database.effects == []


def test_commands_that_migrate_refuse_another_tools_database(
    run: Run, database: InMemoryDatabase
) -> None:
    database.other_histories = [make_dbmate_history(1)]
    for command in (("up",), ("plan",), ("plan", "--dry-run", "--yes")):
        code, out, err = run(*command)
        assert (code, out) == (2, "")
        assert "Record them: `lambda-migrate baseline`" in join_lines(err)
    assert run("baseline", "2", "--yes")[0] == 2
    assert database.effects == []
    assert run("plan", "--ignore-other-history")[0] == 0
    assert run("up", "--ignore-other-history")[0] == 0
    assert len(database.effects) == 3


def test_plan_shows_every_statement_in_full_on_request(run: Run, folder: Path) -> None:
    body = "\n".join(f"create table t{n} (\n  id int\n);" for n in range(5))
    (folder / "0004_five.sql").write_text(f"-- migrate:up\n{body}\n")
    _, out, _ = run("plan", "--sql")
    lines = [line.strip() for line in out.splitlines()]
    assert all(f"create table t{n} (" in lines for n in range(5))
    [*_, last] = run_json(run, "plan", "--sql")[1]["pending"]
    assert last["sql"][4] == "create table t4 (\n  id int\n)"
    assert "sql" not in run_json(run, "plan")[1]["pending"][0]


@pytest.mark.parametrize("command", [("lease", "show"), ("lease", "release", "--yes")])
def test_the_lease_of_an_unknown_target_is_reported_as_unknown(
    run: Run, command: tuple[str, ...]
) -> None:
    code, out, _ = run(*command)
    assert code == 0
    assert "target default is not in the lease table leases" in out
    assert run_json(run, *command)[1]["is_known"] is False
    run("up")
    assert run_json(run, *command)[1]["is_known"] is True


def test_baseline_refuses_a_version_without_a_file(run: Run) -> None:
    code, _, err = run("baseline", "9", "--yes")
    assert code == 2
    assert "no migration file of version 9" in err


def test_repair_as_pending_needs_force_for_a_migration_that_is_not_in_doubt(run: Run) -> None:
    run("up")
    code, _, err = run("repair", "3", "--as", "pending", "--yes")
    assert code == 2
    assert "0003_index is applied, not in doubt" in join_lines(err)
    assert "`lambda-migrate down --only 3`" in join_lines(err)
    assert run_json(run, "status")[1]["migrations"][2]["state"] == "applied"


def test_repair_as_pending_removes_the_row(run: Run) -> None:
    run("up")
    command = ("repair", "3", "--as", "pending", "--force")
    assert run(*command)[0] == 2
    assert run_json(run, *command, "--yes")[1]["repaired"] == "0003_index"
    assert run_json(run, "status")[1]["migrations"][2]["state"] == "pending"


def test_repair_as_pending_marks_a_repeatable_migration(run: Run, folder: Path) -> None:
    (folder / "R__view.sql").write_text("SELECT 1")
    run("up")
    code, out, err = run("repair", "R__view", "--as", "pending", "--yes")
    assert code == 0
    assert "marked R__view as pending" in out
    assert "the next `up` applies the text of its file" in join_lines(
        run("repair", "R__view", "--as", "pending")[2]
    )
    assert "from the history" not in out + err


def test_repair_explains_each_answer_for_a_script_of_several_statements(
    run: Run, database: InMemoryDatabase, folder: Path
) -> None:
    run("up", "--to", "2")
    manifest = read_manifest(folder)
    last = manifest.migrations[2]
    database.leave_in_doubt(last, manifest.digest, took_effect=None)
    rows = database._rows
    rows[last.version] = replace(rows[last.version], completed_statements=2)
    err = join_lines(run("repair", "3", "--as", "applied")[2])
    assert "this applies to the whole script, 2 of whose statements have taken effect" in err


def test_plan_warns_of_a_hook_that_switches_off_a_time_limit(run: Run, folder: Path) -> None:
    (folder / "beforeMigrate.sql").write_text("SET lock_timeout = 0")
    [warning] = run_json(run, "plan")[1]["pending"][0]["warnings"]
    assert "beforeMigrate.sql:1: this switches off lock_timeout" in warning


@pytest.mark.parametrize(("version", "in_json"), [(2**53 - 1, 2**53 - 1), (2**53, str(2**53))])
def test_a_version_that_a_double_cannot_hold_is_text_in_json(
    run: Run, folder: Path, version: int, in_json: int | str
) -> None:
    (folder / f"{version}_long.sql").write_text("-- migrate:up\nSELECT 1\n")
    assert run_json(run, "plan")[1]["pending"][-1]["version"] == in_json
    assert run_json(run, "status")[1]["migrations"][-1]["version"] == in_json


def test_repair_resolves_a_migration_in_doubt(
    run: Run, database: InMemoryDatabase, folder: Path
) -> None:
    run("up", "--to", "2")
    manifest = read_manifest(folder)
    last = manifest.migrations[2]
    database.leave_in_doubt(last, manifest.digest, took_effect=None)
    assert run_json(run, "status")[1]["migrations"][2]["state"] == "in_doubt"
    assert run("up")[0] == 1
    assert run("repair", "3", "--as", "applied", "--yes")[0] == 0
    assert run_json(run, "status")[1]["is_current"] is True


@pytest.mark.parametrize("arguments", [(), ("3",), ("--as", "applied"), ("3", "--as", "odd")])
def test_repair_refuses_incomplete_options(run: Run, arguments: tuple[str, ...]) -> None:
    assert run("repair", *arguments, "--yes")[0] == 2


def test_repair_environment_stamps_a_copy(
    run: Run, database: InMemoryDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("up", "--environment", "production")
    assert run("up", "--environment", "staging")[0] == 2
    assert run("repair", "--environment", "staging", "--yes")[0] == 0
    assert database.environment == "staging"
    monkeypatch.setenv("LAMBDA_MIGRATE_ENVIRONMENT", "test")
    assert run("repair", "--environment", "--yes")[0] == 0
    assert database.environment == "test"


def test_repair_environment_needs_a_name(run: Run) -> None:
    code, _, err = run("repair", "--environment", "--yes")
    assert code == 2
    assert "--environment NAME" in err


# --- verify, lease


def test_verify_finds_a_restored_database_and_resync_corrects_the_item(
    run: Run, database: InMemoryDatabase
) -> None:
    run("up")
    database._rows.clear()  # as a restore to a moment before the first migration does
    code, document = run_json(run, "verify")
    assert code == 1
    assert "verify --resync" in document["problems"][0]
    assert run_json(run, "verify", "--resync")[1]["agree"] is True
    assert run_json(run, "status")[1]["is_marked_ready"] is False
    assert "agree" in run("verify")[1]


def test_lease_release_releases_the_lease_only_when_confirmed(
    run: Run, store: InMemoryLeaseStore
) -> None:
    store.acquire("orders/8/ab")
    assert run_json(run, "lease", "show")[1]["owner"] == "orders/8/ab"
    assert run("lease", "release")[0] == 2
    code, document = run_json(run, "lease", "release", "--yes")
    assert (code, document["released"], document["owner"]) == (0, True, "orders/8/ab")
    assert store.state.owner is None
    assert run_json(run, "lease", "release")[1]["released"] is False


@pytest.mark.parametrize(
    "arguments",
    [("lease", "show"), ("lease", "release"), ("table", "create"), ("verify", "--resync")],
)
def test_commands_that_need_a_table_report_its_absence(
    run: Run, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.delenv("LAMBDA_MIGRATE_TABLE")
    code, _, err = run(*arguments)
    assert code == 2
    assert "LAMBDA_MIGRATE_TABLE" in err


@pytest.mark.parametrize(("host", "notes"), [("localhost", 0), ("db.example.com", 1)])
def test_a_remote_database_without_a_table_is_noted_once(
    run: Run, monkeypatch: pytest.MonkeyPatch, host: str, notes: int
) -> None:
    monkeypatch.delenv("LAMBDA_MIGRATE_TABLE")
    code, _, err = run("up", "--database-url", f"postgresql://app:hunter2@{host}/orders")
    assert code == 0
    assert err.count("no lease table is configured") == notes
    assert join_lines(err).count("functions do not see a change") == notes


@pytest.mark.parametrize("command", ["status", "plan", "verify"])
def test_a_command_that_only_shows_mentions_no_change_of_its_own(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.delenv("LAMBDA_MIGRATE_TABLE")
    err = join_lines(run(command, "--database-url", "postgresql://app@db.example.com/orders")[2])
    assert "LAMBDA_MIGRATE_TABLE): only the database is shown" in err
    assert "change" not in err


def test_cloudformation_keeps_the_table_when_the_stack_goes(run: Run) -> None:
    code, out, _ = run("table", "create", "--cloudformation")
    assert code == 0
    assert "DeletionPolicy: Retain" in out
    assert 'TableName: "leases"' in out
    document = run_json(run, "table", "create", "--cloudformation")[1]
    assert document["LeaseTable"]["DeletionPolicy"] == "Retain"


# --- usage


@pytest.mark.parametrize(
    "arguments",
    [
        ("status", "--nope"),
        ("staus",),
        ("status", "--timeout", "soon"),
        ("status", "--timeout", "0"),
        ("status", "--timeout", "nan"),
        ("status", "--format", "xml"),
        ("baseline",),
        ("baseline", "one"),
        ("status", "postgresql://app:hunter2@h/db"),
        ("--target", "x", "status"),
        ("lease",),
        (),
    ],
)
def test_wrong_usage_exits_with_two(run: Run, arguments: tuple[str, ...]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err


def test_a_common_option_before_the_command_is_a_usage_error(run: Run) -> None:
    assert "Write --target after the command" in run("--target", "x", "status")[2]


def test_wrong_usage_is_json_with_format_json(run: Run) -> None:
    code, document = run_json(run, "status", "--nope")
    assert code == 2
    assert document["error"]["kind"] == "UsageError"


def test_every_wrong_setting_is_listed(run: Run) -> None:
    code, _, err = run("status", "--schema", "pg_x", "--database-url", "mysql://app:hunter2@h/x")
    assert code == 2
    assert "2 settings are wrong:" in err
    assert "pg_x" in err
    assert "postgresql://" in err


def test_unexpected_errors_are_one_sentence_without_their_text(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(_settings: object) -> None:
        raise RuntimeError("hunter2")

    monkeypatch.setattr("lambda_migrate.wiring.make_database", explode)
    code, out, err = run("status")
    assert (code, out) == (1, "")
    assert "RuntimeError" in err
    assert "LAMBDA_MIGRATE_TRACEBACK=1" in err
    monkeypatch.setenv("LAMBDA_MIGRATE_TRACEBACK", "1")
    with pytest.raises(RuntimeError, match="hunter2"):
        main(("status",))


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_exits_with_the_shells_exit_code(
    run: Run, monkeypatch: pytest.MonkeyPatch, signum: int
) -> None:
    def interrupt(_settings: object) -> None:
        signal.raise_signal(signum)

    monkeypatch.setattr("lambda_migrate.wiring.make_database", interrupt)
    code, _, err = run("status")
    assert code == 128 + signum
    assert "interrupted" in err


def test_a_missing_extra_is_one_sentence() -> None:
    program = (
        "import sys; sys.modules['typer'] = None\n"
        "from lambda_migrate.cli import main; sys.exit(main(['status']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'lambda-migrate[cli]'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "missing", "command"),
    [
        (["demo"], ["moto"], "pip install 'lambda-migrate[local]'"),
        (
            ["demo", "--app", "alembic"],
            ["fastapi", "mangum"],
            "pip install -r examples/fastapi-alembic/requirements.txt",
        ),
    ],
)
def test_a_demo_without_its_packages_is_one_sentence(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    missing: list[str],
    command: str,
) -> None:
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name in missing else object()
    )
    code, _, err = run(*arguments)
    assert code == 2
    assert f"the demo needs {' and '.join(missing)}, not installed here: {command}" in err
