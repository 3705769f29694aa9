"""`plan --dry-run` at a terminal on the in-memory fakes: questions, results, output."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lambda_migrate.cli import main
from lambda_migrate.cli.render_dry_run import render_dry_run
from lambda_migrate.cli.terminal import Terminal
from lambda_migrate.commands.dry_run import build_dry_run_document, build_dry_run_question
from lambda_migrate.commands.dry_run_advice import advise
from lambda_migrate.commands.prompt import NonInteractivePrompter
from lambda_migrate.engine.dry_run import RAN, SKIPPED, DryRunResult, DryRunStep
from lambda_migrate.engine.operations import DryRunPlan
from lambda_migrate.errors import ConfigurationError, DatabaseUnavailable, MigrationFailed
from lambda_migrate.lease.memory import InMemoryLeaseStore
from lambda_migrate.migrations import Manifest, Migration, Plan, Script
from lambda_migrate.postgresql.dry_run_effects import (
    AdvancedSequence,
    MigrationEffects,
    RelationLock,
    TableChange,
)
from lambda_migrate.testing import InMemoryDatabase

Run = Callable[..., tuple[int, str, str]]
PLACE = {
    "target": "default",
    "database": "db:5432/orders",
    "environment": "",
    "schema": "lambda_migrate",
    "directory": "migrations",
}
ORDERS = "public.orders"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    scripts = ("create table orders ()", "select dblink('x', 'y')", "select 1")
    for version, script in enumerate(scripts, 1):
        (tmp_path / f"{version:04d}_m.sql").write_text(f"-- migrate:up\n{script};\n")
    (tmp_path / "0004_m.sql").write_text("-- migrate:up transaction:false\nvacuum;\n")
    return tmp_path


@pytest.fixture
def run(run: Run) -> Run:
    return partial(run, "plan", "--dry-run")


def run_json(run: Run, *arguments: str) -> tuple[int, dict[str, Any]]:
    code, out, _err = run(*arguments, "--format", "json")
    document: dict[str, Any] = json.loads(out)
    return code, document


# --- questions


def test_without_a_terminal_a_dry_run_needs_yes_and_reports_what_it_would_do(
    run: Run, database: InMemoryDatabase
) -> None:
    code, out, err = run()
    assert (code, out) == (2, "")
    assert "this runs 4 migrations on memory:5432/test in one transaction and rolls it" in err
    assert "not rolled back: 0002_m: dblink" in err
    assert "--yes" in err
    assert database.effects == []


def test_a_dry_run_in_production_needs_more_than_yes(run: Run, database: InMemoryDatabase) -> None:
    database.environment = "production"
    where = ("--environment", "production")
    code, _, err = run("--yes", *where)
    assert code == 2
    assert "pass --in-production as well" in err
    assert run("--in-production", *where)[0] == 2
    assert run("--yes", "--in-production", *where)[0] == 0


@pytest.mark.parametrize(
    ("said", "agreed"), [("production\n", True), ("y\n", False), ("\n", False), ("", False)]
)
def test_at_a_terminal_the_name_of_production_must_be_typed(
    monkeypatch: pytest.MonkeyPatch, said: str, agreed: bool
) -> None:
    class Keyboard(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    terminal.err = Console(file=io.StringIO(), force_terminal=True)
    monkeypatch.setattr("sys.stdin", Keyboard(said))
    assert (
        terminal.confirm("there?", yes=True, required_word="production", option="in_production")
        is agreed
    )


def make_plan_of(environment: str) -> DryRunPlan:
    one = Migration(1, "0001_m", Script("select 1"), None, "c")
    return DryRunPlan(Plan(pending=(one,)), Manifest([one]), environment)


@pytest.mark.parametrize(
    ("environment", "in_production", "word"),
    [("staging", False, ""), ("production", False, "production"), ("production", True, "")],
)
def test_the_question_asks_for_the_name_of_a_production_environment(
    environment: str, in_production: bool, word: str
) -> None:
    question = build_dry_run_question(make_plan_of(environment), PLACE, in_production=in_production)
    assert question.required_word == word
    assert (environment in question.text) is bool(word)


def test_a_non_interactive_dry_run_in_production_needs_its_option() -> None:
    question = build_dry_run_question(make_plan_of("production"), PLACE, in_production=False)
    with pytest.raises(ConfigurationError, match="`in_production`"):
        NonInteractivePrompter(yes=True).confirm(question)
    said = build_dry_run_question(make_plan_of("production"), PLACE, in_production=True)
    with pytest.raises(ConfigurationError, match="`yes`"):
        NonInteractivePrompter().confirm(said)
    assert NonInteractivePrompter(yes=True).confirm(said)


# --- results


def test_the_result_is_the_plan_with_the_measurements(
    run: Run, database: InMemoryDatabase, store: InMemoryLeaseStore
) -> None:
    change = TableChange(ORDERS, inserted=1, updated=2, deleted=0, scanned=0, bytes_after=8192)
    database.dry_run_effects[1] = MigrationEffects(
        0, (RelationLock(ORDERS, "table", "SHARE"),), (change,)
    )
    database.moved_sequences = (AdvancedSequence("public.s", 1, 4),)
    code, document = run_json(run, "--yes")
    assert code == 0
    assert [each["version"] for each in document["pending"]] == [1, 2, 3, 4]
    found = document["dry_run"]
    assert (found["outcome"], found["rollback_confirmed"], found["error"]) == (
        "incomplete",
        True,
        None,
    )
    first, *_, last = found["migrations"]
    assert (first["outcome"], last["outcome"]) == ("ran", "skipped")
    assert first["locks"] == [
        {**asdict(RelationLock(ORDERS, "table", "SHARE")), "blocks": ["writes"]},
    ]
    assert first["tables"] == [asdict(change)]
    assert found["not_undone"]["dead_rows"] == [{"table": ORDERS, "rows": 3}]
    assert found["not_undone"]["sequences"] == [{"sequence": "public.s", "before": 1, "after": 4}]
    assert found["not_undone"]["effects"][0].startswith("0002_m: dblink")
    assert (database.effects, store.state.owner, store.state.failure) == ([], None, None)


def test_a_failure_exits_with_1_and_keeps_the_measurements_before_it(
    run: Run, database: InMemoryDatabase
) -> None:
    database.fail_on(2, MigrationFailed("no such table", migration="0002_m", sqlstate="42P01"))
    code, document = run_json(run, "--yes")
    found = document["dry_run"]
    assert (code, found["outcome"]) == (1, "failed")
    assert [each["outcome"] for each in found["migrations"]] == [
        "ran",
        "failed",
        "not_reached",
        "not_reached",
    ]
    assert (found["error"]["migration"], found["error"]["sqlstate"]) == ("0002_m", "42P01")
    code, out, err = run("--yes")
    assert code == 1
    assert "0001_m  ran" in out
    assert "migration failed\n0002_m: no such table [42P01]" in out
    assert err == ""


def test_an_invalid_script_is_reported_as_by_plan_and_nothing_runs(
    run: Run, tmp_path: Path, store: InMemoryLeaseStore
) -> None:
    (tmp_path / "0003_m.sql").write_text("-- migrate:up\ncommit;\n")
    code, document = run_json(run, "--yes")
    assert (code, document["can_be_applied"], "dry_run" in document) == (1, False, False)
    assert store.state.fence == 0


def test_a_lease_of_another_process_exits_with_4(run: Run, store: InMemoryLeaseStore) -> None:
    store.acquire("other/8/ab")
    assert run_json(run, "--yes")[0] == 4


def test_without_pending_migrations_nothing_is_asked(run: Run) -> None:
    assert main(["up"]) == 0
    code, out, _ = run()
    assert code == 0
    assert "nothing to run" in out


# --- advice


def advise_on(
    lock: RelationLock | None, change: TableChange | None, *, seconds: float = 2.0
) -> list[str]:
    measured = MigrationEffects(seconds, (lock,) if lock else (), (change,) if change else ())
    return list(advise(DryRunStep(7, "0007_m", RAN, effects=measured)))


OPEN = TableChange(ORDERS, 0, 0, 0, 0, bytes_before=8192, bytes_after=8192)
EXCLUSIVE = RelationLock(ORDERS, "table", "ACCESS EXCLUSIVE")


@pytest.mark.parametrize(
    ("lock", "change", "expected"),
    [
        (EXCLUSIVE, replace(OPEN, rewritten=True, scanned=9), "add a new column instead"),
        (RelationLock(ORDERS, "table", "SHARE"), replace(OPEN, scanned=9), "build it CONCURRENTLY"),
        (EXCLUSIVE, replace(OPEN, updated=9), "to a separate migration"),
        (EXCLUSIVE, replace(OPEN, scanned=9), "NOT VALID"),
        (EXCLUSIVE, OPEN, "move the slow part to a separate migration"),
        (EXCLUSIVE, None, "move the slow part to a separate migration"),
        (
            RelationLock(ORDERS, "table", "ROW EXCLUSIVE"),
            replace(OPEN, updated=10_000),
            "in batches",
        ),
        (
            replace(EXCLUSIVE, earlier_migration="0001_m"),
            replace(OPEN, rewritten=True),
            "a new column",
        ),
    ],
)
def test_a_lock_held_for_long_gets_advice(
    lock: RelationLock, change: TableChange | None, expected: str
) -> None:
    (sentence,) = advise_on(lock, change)
    assert expected in sentence
    assert "for up to 2.0 s" in sentence
    assert advise_on(lock, change, seconds=0.9) == []


@pytest.mark.parametrize(
    ("lock", "change"),
    [
        (RelationLock(ORDERS, "table", "ROW EXCLUSIVE"), replace(OPEN, updated=9_999)),
        (replace(EXCLUSIVE, earlier_migration="0001_m"), replace(OPEN, scanned=9)),
        (replace(EXCLUSIVE, is_new=True), replace(OPEN, updated=99_999, is_new=True)),
        (None, None),
    ],
)
def test_harmless_or_unproven_locks_get_no_advice(
    lock: RelationLock | None, change: TableChange | None
) -> None:
    assert advise_on(lock, change) == []


# --- output


def render_lines(result: DryRunResult, *, width: int = 120, show_all: bool = False) -> list[str]:
    console = Console(file=io.StringIO(), width=width, markup=False, highlight=False)
    document = {**PLACE, "dry_run": build_dry_run_document(result)}
    for view in render_dry_run(document, width=width, show_all=show_all):
        console.print(view)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


OUTSIDE = "not run, because what runs outside a transaction cannot be rolled back"


def test_a_reason_is_shown_once_for_all_migrations_that_were_skipped_for_it() -> None:
    skipped = tuple(DryRunStep(n, f"{n:04d}_index", SKIPPED, OUTSIDE) for n in range(74))
    lines = render_lines(DryRunResult(steps=skipped))
    assert f"- 0000_index, 0001_index, 0002_index and 71 more: {OUTSIDE}" in lines
    assert "\n".join(lines).count(OUTSIDE) == 1
    assert len(lines) < 10


def test_a_long_dry_run_is_shortened_to_the_first_ones_and_the_failure() -> None:
    steps = [DryRunStep(n, f"{n:04d}_m", RAN, seconds=0.1) for n in range(60)]
    failed = DryRunStep(60, "0060_m", "failed", seconds=0.1)
    result = DryRunResult(steps=(*steps, failed), error=DatabaseUnavailable("lost"))
    lines = render_lines(result)
    assert "0014_m  ran in 100 ms" in lines
    assert "0015_m  ran in 100 ms" not in lines
    assert "0060_m  failed in 100 ms" in lines
    assert "… 45 more (--all)" in lines
    assert "0015_m  ran in 100 ms" in render_lines(result, show_all=True)


CHANGE = TableChange(
    ORDERS, 0, 300_015, 0, 300_015, bytes_before=65 * 2**20, bytes_after=98 * 2**20, rows=300_000
)
STEPS = (
    DryRunStep(
        1,
        "0001_a_migration_with_quite_a_long_name",
        RAN,
        seconds=0.012,
        effects=MigrationEffects(
            0.012,
            (
                RelationLock(ORDERS, "table", "ACCESS EXCLUSIVE"),
                RelationLock("public.customers", "table", "SHARE ROW EXCLUSIVE"),
                RelationLock("public.orders_id_seq", "sequence", "ROW EXCLUSIVE"),
            ),
            (
                replace(CHANGE, updated=0, scanned=0),
                replace(CHANGE, table="public.customers", updated=0, bytes_after=65 * 2**20),
            ),
        ),
    ),
    DryRunStep(
        2,
        "0002_fill",
        RAN,
        seconds=3.4,
        effects=MigrationEffects(3.4, (RelationLock(ORDERS, "table", "ROW EXCLUSIVE"),), (CHANGE,)),
    ),
    DryRunStep(
        3,
        "0003_alter",
        RAN,
        seconds=0.5,
        effects=MigrationEffects(
            0.5,
            (
                RelationLock(ORDERS, "table", "ACCESS EXCLUSIVE", earlier_migration="0001_a"),
                RelationLock("public.by_total", "index", "ACCESS EXCLUSIVE"),
                RelationLock("public.totals", "table", "ACCESS EXCLUSIVE", is_new=True),
            ),
            (
                replace(CHANGE, updated=0),
                TableChange("public.totals", 5, 0, 0, 0, bytes_after=8192, is_new=True),
            ),
        ),
    ),
    DryRunStep(4, "0004_index", SKIPPED, "it runs outside a transaction"),
)
WHOLE = DryRunResult(
    STEPS,
    retry_causes=("0001_a: lock timeout [55P03]",),
    sequences=(AdvancedSequence("public.s", None, 4), AdvancedSequence("public.t", 1, None)),
    irreversible_effects=("0002_fill: dblink: what it commits on its own connection stays",),
    seconds=4.1,
)


def test_each_migration_is_a_line_with_its_tables_in_columns_below() -> None:
    assert render_lines(WHOLE) == [
        "ran 3 of 4 migrations on db:5432/orders in 4.1 s and rolled back",
        "",
        "  table             lock                 blocks            rows, size",
        "0001_a_migration_with_quite_a_long_name  ran in 12 ms",
        "  public.orders     ACCESS EXCLUSIVE     reads and writes  65 MB to 98 MB",
        "  public.customers  SHARE ROW EXCLUSIVE  writes            300,015 scanned; 65 MB",
        "0002_fill  ran in 3.4 s",
        "  public.orders     ROW EXCLUSIVE        the same rows     300,015 updated, 300,015"
        " scanned; 65 MB to 98 MB",
        "0003_alter  ran in 500 ms",
        "  public.orders     ACCESS EXCLUSIVE*    reads and writes  300,015 scanned;"
        " 65 MB to 98 MB",
        "  public.by_total   ACCESS EXCLUSIVE     reads and writes",
        "  public.totals     new                  nothing           5 inserted; 8.0 kB",
        "0004_index  skipped",
        "",
        "* already held by an earlier migration of this dry run; cannot determine whether this one"
        " takes it too",
        "skipped:",
        "- 0004_index: it runs outside a transaction",
        "restarted after:",
        "- 0001_a: lock timeout [55P03]",
        "advice:",
        "- 0002_fill locks 300,015 rows of public.orders for up to 3.4 s: change them in"
        " batches, each in its own transaction",
        "not rolled back:",
        "- public.orders keeps 300,015 dead row versions until it is vacuumed",
        "- public.s advanced from no value to 4",
        "- public.t advanced from 1 to a value that this role may not read",
        "- 0002_fill: dblink: what it commits on its own connection stays",
    ]


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_no_line_is_wider_than_the_terminal_and_no_lock_is_cut(width: int) -> None:
    lines = render_lines(WHOLE, width=width)
    assert max(map(len, lines)) <= width
    assert sum("ACCESS EXCLUSIVE" in line for line in lines) == 3


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (replace(CHANGE, updated=0, scanned=0, rewritten=True), "rewritten; 65 MB to 98 MB"),
        (replace(CHANGE, updated=0, scanned=0, bytes_after=None), "65 MB, dropped"),
        (TableChange(ORDERS, bytes_after=2048), "rows not counted; 2.0 kB"),
    ],
)
def test_changes_of_a_table_are_described_in_a_few_words(change: TableChange, shown: str) -> None:
    held = RelationLock(ORDERS, "table", "ACCESS EXCLUSIVE", earlier_migration="0001_a")
    step = replace(STEPS[0], effects=MigrationEffects(0, (held,), (change,)))
    line = next(line for line in render_lines(DryRunResult((step,))) if ORDERS in line)
    assert line.endswith(shown)
    # A rewrite or a drop takes that lock even if an earlier migration holds it.
    assert ("EXCLUSIVE*" in line) is (change.inserted is None)


def test_a_broken_connection_is_not_reported_as_a_confirmed_rollback() -> None:
    failed = replace(STEPS[1], outcome="failed", effects=None)
    error = DatabaseUnavailable("the connection broke")
    lines = render_lines(
        DryRunResult((STEPS[0], failed), error=error, is_rollback_confirmed=False, seconds=1)
    )
    assert lines[0] == (
        "ran 1 of 2 migrations on db:5432/orders in 1.0 s but PostgreSQL did not confirm the"
        " rollback"
    )
    assert lines[-3:-1] == ["the database is not available", "the connection broke"]
