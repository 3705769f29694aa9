"""Rendered results at different widths of a terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console, RenderableType

from lambda_migrate.cli.errors import render_error
from lambda_migrate.cli.render import render_findings, render_plan, render_question, render_status
from lambda_migrate.cli.times import format_duration, format_time_until
from lambda_migrate.commands.documents import build_plan_document, build_status_document
from lambda_migrate.commands.errors import build_error_document, parse_error_document
from lambda_migrate.commands.preview import build_preview
from lambda_migrate.commands.prompt import Question
from lambda_migrate.commands.status_entries import OmittedEntries, StatusEntry, truncate_entries
from lambda_migrate.engine.operations import SchemaStatus
from lambda_migrate.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    FlagsUnavailable,
    LeaseHeld,
    LeaseLost,
    LeaseStoreUnavailable,
    MigrateError,
    MigrationFailed,
    NotReady,
)
from lambda_migrate.lease.record import LeaseState
from lambda_migrate.manifest_digest import compute_checksum
from lambda_migrate.migrations import HistoryRow, Manifest, Migration, Script

LOCATION = {
    "target": "default",
    "database": "db:5432/orders",
    "environment": "",
    "schema": "lambda_migrate",
    "directory": "migrations",
}
WIDTHS = (60, 80, 160)


def render_lines(views: list[RenderableType], *, width: int) -> list[str]:
    file = io.StringIO()
    console = Console(file=file, width=width, markup=False, highlight=False)
    for view in views:
        console.print(view)
    return file.getvalue().splitlines()


def make_manifest(count: int) -> Manifest:
    return Manifest(
        Migration(
            version=n,
            name=f"{n:04d}_a_migration_with_quite_a_long_name_{n}",
            up=Script(f"create table t{n} (id int);\ninsert into t{n} values (1)"),
            down=None,
            checksum=compute_checksum(str(n)),
        )
        for n in range(1, count + 1)
    )


def make_row(migration: Migration, manifest: Manifest) -> HistoryRow:
    return HistoryRow(
        version=migration.version,
        name=migration.name,
        checksum=migration.checksum,
        digest=manifest.digest_at(migration.version),
        applied_at="2026-01-02T03:04:05.678901Z",
        duration_ms=1234,
        owner="orders-api/8/0123456789abcdef",
    )


def render_status_lines(
    count: int, applied: int, *, width: int, show_all: bool = False
) -> list[str]:
    manifest = make_manifest(count)
    history = tuple(make_row(m, manifest) for m in manifest.migrations[:applied])
    status = SchemaStatus(history, manifest.make_plan(history), LeaseState(), is_marked_ready=False)
    document = build_status_document(status, manifest, LOCATION, has_table=False)
    views = render_status(document, now_ms=0, width=width, show_all=show_all)
    return render_lines(views, width=width)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("count", [0, 1, 25, 500])
def test_no_line_of_status_is_wider_than_the_terminal(count: int, width: int) -> None:
    lines = render_status_lines(count, count // 2, width=width, show_all=True)
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize("width", WIDTHS)
def test_state_and_time_are_never_cut(width: int) -> None:
    lines = [line for line in render_status_lines(5, 3, width=width) if line.startswith("000")]
    assert sum("applied" in line and "2026-01-02 " in line for line in lines) == 3
    assert sum("pending" in line for line in lines) == 2


@pytest.mark.parametrize("applied", [0, 1, 250, 499, 500])
def test_five_hundred_migrations_fit_one_screen(applied: int) -> None:
    lines = render_status_lines(500, applied, width=80)
    assert len(lines) <= 40
    assert any("(--all)" in line for line in lines)
    assert len(render_status_lines(500, applied, width=80, show_all=True)) > 500


def test_the_newest_applied_and_the_next_pending_are_kept() -> None:
    entries = [StatusEntry(n, str(n), "applied" if n <= 400 else "pending") for n in range(1, 501)]
    lines = truncate_entries(entries)
    assert lines[0] == OmittedEntries(397, "applied")
    kept = [line.version for line in lines if isinstance(line, StatusEntry)]
    assert kept == [398, 399, 400, *range(401, 411), 500]
    assert sum(line.count if isinstance(line, OmittedEntries) else 1 for line in lines) == 500


def test_a_short_list_is_not_shortened() -> None:
    entries = [StatusEntry(n, str(n), "applied") for n in range(25)]
    assert truncate_entries(entries) == entries


def test_contradictions_are_kept_in_a_long_list() -> None:
    entries = [StatusEntry(n, str(n), "edited" if n == 7 else "applied") for n in range(500)]
    assert entries[7] in truncate_entries(entries)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("count", [0, 1, 500])
def test_no_line_of_plan_is_wider_than_the_terminal(count: int, width: int) -> None:
    manifest = make_manifest(count)
    preview = build_preview(manifest.make_plan([]), manifest, {})
    document = build_plan_document(preview, LOCATION, with_sql=False)
    for show_all in (False, True):
        lines = render_lines(render_plan(document, width=width, show_all=show_all), width=width)
        assert max(map(len, lines)) <= width
    assert show_all


def test_statements_in_full_keep_their_indentation_and_are_wrapped_between_words() -> None:
    sql = "CREATE TABLE orders (\n  id bigint PRIMARY KEY,\n  note text DEFAULT 'nothing to say'\n)"
    step = {
        "name": "0001_orders",
        "statements": 1,
        "transactional": True,
        "has_down_script": True,
        "faults": [],
        "warnings": [],
        "sql": [sql],
    }
    document = {
        **LOCATION,
        "divergences": [],
        "in_doubt": [],
        "pending": [step],
        "can_be_applied": True,
    }
    lines = render_lines(render_plan(document, width=36, show_all=False), width=36)
    first = lines.index("    CREATE TABLE orders (")
    assert lines[first : first + 5] == [
        "    CREATE TABLE orders (",
        "      id bigint PRIMARY KEY,",
        "      note text DEFAULT 'nothing to",
        "        say'",
        "    );",
    ]


def test_a_long_plan_is_shortened() -> None:
    manifest = make_manifest(500)
    preview = build_preview(manifest.make_plan([]), manifest, {})
    document = build_plan_document(preview, LOCATION, with_sql=False)
    lines = render_lines(render_plan(document, width=80, show_all=False), width=80)
    assert len(lines) <= 40
    assert "485 more" in lines[-1]


@pytest.mark.parametrize("width", [30, 40, 60, 100])
def test_the_caret_stays_under_its_place(width: int) -> None:
    code = "  3 | create table orders (id bigint primary key, placed_at timestamptz nott null);"
    caret = " " * code.index("nott") + "^"
    error = MigrationFailed(
        "no",
        migration="m",
        detail=f"m failed: no [42601]\n  m.sql:3:78\n{code}\n{caret}\n  hint: h",
    )
    lines = render_lines(render_error(error, committed_migrations=[], width=width), width=width)
    at = next(n for n, line in enumerate(lines) if line.strip() == "^")
    column = lines[at].index("^")
    assert lines[at - 1][column : column + 4] == "nott"
    assert lines[at - 1].startswith("  3 | ")
    assert "  hint: h" in [line.rstrip() for line in lines]


DOWN_SCRIPT = "0002_m failed: no\n  0002_m (stored down script):3"
STILL_APPLIED = "the rollback failed, so 0002_m is still applied; "


def render_as_of_function(
    error: MigrateError, *, committed: list[str], command: str, function: str | None
) -> str:
    """The last line of an error that may have come from the admin function."""
    received = parse_error_document(build_error_document(error))
    rendered = render_error(
        received,
        committed_migrations=committed,
        width=400,
        command=command,
        function=function,
    )
    return render_lines(rendered, width=400)[-1].rstrip()


@pytest.mark.parametrize(
    ("command", "failure", "advice"),
    [
        ("up", {}, "it was rolled back; fix the migration and run the command again"),
        (
            "up",
            {"sqlstate": "55P03"},
            "it was rolled back; run the command again when no other session holds that lock",
        ),
        ("plan", {}, "it was rolled back; fix the migration and run the command again"),
        (
            "up",
            {"is_partly_committed": True},
            "fix the migration and run the command again; it continues after the part that is "
            "committed, or reports what to repair",
        ),
        (
            "up",
            {"is_timeout": True},
            "it was rolled back; run the command again with a longer `--timeout`",
        ),
        (
            "down",
            {"detail": DOWN_SCRIPT},
            f"{STILL_APPLIED}correct the down script in the file, accept it with `lambda-migrate "
            "repair 0002 --as edited`, and run the command again",
        ),
        ("down", {}, f"{STILL_APPLIED}fix the cause and run the command again"),
        (
            "down",
            {"detail": DOWN_SCRIPT, "is_timeout": True},
            f"{STILL_APPLIED}run the command again with a longer `--timeout`",
        ),
        (
            "down",
            {"is_partly_committed": True},
            "fix the cause and run the command again; it continues after the part that is "
            "committed, or reports what to repair",
        ),
    ],
)
def test_the_advice_after_a_failure_fits_the_command_and_what_was_committed(
    command: str, failure: dict[str, Any], advice: str
) -> None:
    error = MigrationFailed("no", migration="0002_m", **failure)
    for committed, stay in (([], ""), (["0001_a"], "; 1 migration before it stays {state}")):
        line = render_as_of_function(error, committed=committed, command=command, function=None)
        state = "rolled back" if command == "down" else "applied"
        assert line == f"next: {advice}{stay.format(state=state)}"


def test_a_function_that_ran_out_of_time_needs_a_longer_timeout() -> None:
    error = MigrationFailed("no", migration="0002_m", is_timeout=True)
    line = render_as_of_function(error, committed=[], command="up", function="admin")
    assert line.endswith("give the function a longer timeout, then run the command again")


HELD = LeaseHeld("another process holds the lease: orders/8/ab holds the lease")
AGAIN = "run the command again when the other process is done"


@pytest.mark.parametrize(
    ("error", "command", "function", "advice"),
    [
        (HELD, "down", None, f"{AGAIN}; `lambda-migrate lease show` shows it"),
        (HELD, "up", None, f"{AGAIN}, or now with `--wait`; `lambda-migrate lease show` shows it"),
        (HELD, "repair", "f", f"{AGAIN}; `lambda-migrate --function f lease show` shows it"),
        (
            LeaseHeld("another process is migrating this database: backend 7 (x, since now)"),
            "down",
            None,
            f"{AGAIN}; look it up in pg_stat_activity",
        ),
        (
            FlagsUnavailable("x"),
            "up",
            None,
            "fix the access to the flags, or run `lambda-migrate up --despite-flags`",
        ),
        (
            FlagsUnavailable("x"),
            "plan",
            None,
            "fix the access to the flags, then run the command again",
        ),
        (
            LeaseStoreUnavailable("DynamoDB did not respond for table 't'"),
            "up",
            None,
            "check AWS_REGION and that this machine reaches DynamoDB; then run the command again",
        ),
        (
            LeaseStoreUnavailable("DynamoDB did not respond for table 't'"),
            "up",
            "f",
            "check AWS_REGION and that the function reaches DynamoDB; then run the command again",
        ),
        (
            LeaseStoreUnavailable("DynamoDB, table 't': ThrottlingException"),
            "up",
            None,
            "run the command again",
        ),
        (
            DatabaseUnavailable("the deadline has passed"),
            "up",
            "f",
            "run the command again; if it still fails, `lambda-migrate --function f doctor` shows "
            "what to fix",
        ),
    ],
)
def test_the_next_step_fits_the_command_and_where_it_ran(
    error: MigrateError, command: str, function: str | None, advice: str
) -> None:
    line = render_as_of_function(error, committed=[], command=command, function=function)
    assert line == f"next: {advice}"


def test_what_names_its_next_step_itself_gets_no_other() -> None:
    message = "another process had the lease a moment ago; try again"
    error = LeaseHeld(message)
    assert render_as_of_function(error, committed=[], command="up", function=None) == message


@pytest.mark.parametrize(
    ("error", "first"),
    [
        (ConfigurationError("set it"), "error: set it"),
        (ConfigurationError(["a", "b"]), "2 things are wrong:"),
        (LeaseHeld("x"), "busy"),
        (LeaseLost("x"), "lost the lease"),
        (DatabaseUnavailable("x"), "the database is not available"),
        (LeaseStoreUnavailable("x"), "the lease table is not available"),
        (NotReady("x"), "failed: try again later"),
        (MigrateError("x"), "failed"),
    ],
)
def test_an_error_starts_with_its_title(error: MigrateError, first: str) -> None:
    assert (
        render_lines(render_error(error, committed_migrations=[], width=80), width=80)[0].rstrip()
        == first
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.0042, "4 ms"),
        (1.24, "1.2 s"),
        (34.4, "34 s"),
        (200, "3 min 20 s"),
        (7_500, "2 h 5 min"),
        (400_000, "4 days"),
    ],
)
def test_durations_are_formatted_for_reading(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_times_are_formatted_relative_to_now() -> None:
    assert format_time_until(34_000, now_ms=0) == "in 34 s"
    assert format_time_until(0, now_ms=120_000) == "2 min 0 s ago"


# --- questions of baseline


def test_a_policy_in_the_advice_of_doctor_keeps_its_lines() -> None:
    finding = {"check": "role", "status": "failed", "result": "no", "milliseconds": None}
    document = {"checks": [{**finding, "advice": 'add:\n  {"Effect": "Allow"}'}]}
    lines = [line.strip() for line in render_lines(render_findings(document), width=80)]
    assert lines[1:3] == ["next: add:", '{"Effect": "Allow"}']


@pytest.mark.parametrize(
    ("status", "summary"),
    [
        ("ok", "ready for cold starts"),
        ("skipped", "no check failed; the lease table was not checked"),
        ("failed", "1 check failed"),
    ],
)
def test_doctor_calls_nothing_ready_whose_lease_table_it_did_not_check(
    status: str, summary: str
) -> None:
    finding = {"check": "lease table: read", "status": status, "result": "", "advice": ""}
    document = {"checks": [{**finding, "milliseconds": None}]}
    assert render_lines(render_findings(document), width=80)[-1].rstrip() == summary


def test_a_long_comparison_shows_the_differences_and_the_newest_versions() -> None:
    compared = [
        {
            "version": str(n),
            "file": f"{n}_m",
            "tool_state": "applied",
            "state": "pending" if n == 3 else "recorded",
        }
        for n in range(1, 101)
    ]
    question = Question("baseline", "?", heading="h", location=LOCATION, compared=compared)
    lines = [each.split() for each in render_lines([render_question(question, now_ms=0)], width=80)]
    assert ["3", "3_m", "applied", "stays", "pending"] in lines
    assert lines[-2][:2] == ["100", "100_m"]
    assert lines[-1] == ["…", "and", "85", "more"]
