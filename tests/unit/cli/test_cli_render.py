"""Rendered results at different widths of a terminal."""

from __future__ import annotations

import io

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
    LeaseHeld,
    LeaseLost,
    MigrateError,
    MigrationFailed,
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


@pytest.mark.parametrize(
    ("detail", "is_partly_committed", "advice"),
    [
        ("", False, "it was rolled back; fix the migration and run the command again; 1 "),
        ("", True, "fix the migration and run the command again; it continues after the part "),
        ("m failed: no\n  m (stored down script):3", False, "correct the down script in the file"),
    ],
)
def test_the_advice_after_a_failure_fits_what_was_committed(
    detail: str, is_partly_committed: bool, advice: str
) -> None:
    failure = MigrationFailed(
        "no", migration="m", detail=detail, is_partly_committed=is_partly_committed
    )
    error = parse_error_document(build_error_document(failure))  # as the admin function sends it
    lines = render_lines(render_error(error, committed_migrations=["a"], width=200), width=200)
    assert lines[-1].startswith(f"next: {advice}")
    state = "rolled back" if "down script" in detail else "applied"
    assert lines[-1].rstrip().endswith(f"1 migration before it stays {state}")


@pytest.mark.parametrize(
    ("error", "first"),
    [
        (ConfigurationError("set it"), "error: set it"),
        (ConfigurationError(["a", "b"]), "2 settings are wrong:"),
        (LeaseHeld("x"), "busy"),
        (LeaseLost("x"), "lost the lease"),
        (DatabaseUnavailable("x"), "the database cannot be reached"),
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
