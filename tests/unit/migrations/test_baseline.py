"""What `baseline` records where another tool has migrated the database, and what it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.migrations import HistoryRow, Manifest, Migration, Script
from lambda_migrate.migrations.baseline import (
    Baseline,
    ToolHistory,
    ToolHistoryEntry,
    choose_baseline,
    require_no_tool_history,
)


def manifest(*names: str) -> Manifest:
    return Manifest(
        Migration(int(name.partition("_")[0]), name, Script("SELECT 1"), None, f"sum of {name}")
        for name in names
    )


FILES = manifest("0001_a", "0002_b", "0003_c")
DBMATE = "public.schema_migrations"


def row(version: int) -> HistoryRow:
    return HistoryRow(version, f"{version:04d}_m", "sum", "digest")


def dbmate(*versions: int, table: str = DBMATE, **states: str) -> ToolHistory:
    """One that has applied these versions; others by their state: ``v2="failed"``."""
    entries = [ToolHistoryEntry(f"{version:04d}", version=version) for version in versions]
    entries += [
        ToolHistoryEntry(name[1:].zfill(4), state, int(name[1:])) for name, state in states.items()
    ]
    return ToolHistory("dbmate", table, tuple(entries))


def at(version: int, state: str = "applied") -> ToolHistory:
    """A tool that keeps only the last version."""
    entry = ToolHistoryEntry(str(version), state, version, covers_earlier_versions=True)
    return ToolHistory("golang-migrate", DBMATE, (entry,))


ALEMBIC = ToolHistory(
    "Alembic", "public.alembic_version", (ToolHistoryEntry("ab12"),), is_comparable=False
)

TWICE = ToolHistory(
    "yoyo", "t", (ToolHistoryEntry("1.x", version=1), ToolHistoryEntry("1.y", version=1))
)


def names(chosen: Baseline) -> list[str]:
    return [migration.name for migration in chosen.migrations]


def choose(*others: ToolHistory, files: Manifest = FILES, **options: Any) -> Baseline:
    history: Sequence[HistoryRow] = options.pop("history", ())
    return choose_baseline(files, history, others, **options)


def refusal(*others: ToolHistory, **options: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        choose(*others, **options)
    return str(caught.value)


# --- another tool's history stops a migration


def refused(*others: ToolHistory, history: Sequence[HistoryRow] = (), ignore: bool = False) -> str:
    try:
        plan = FILES.make_plan(history, allow_out_of_order=True)
        require_no_tool_history(plan, lambda: others, ignore_other_history=ignore)
    except ConfigurationError as error:
        return str(error)
    return ""


def test_another_tools_versions_stop_the_first_migration() -> None:
    said = refused(dbmate(1, 2))
    assert "dbmate has applied 2 versions to this database (public.schema_migrations)" in said
    assert "`lambda-migrate baseline`" in said
    assert "LAMBDA_MIGRATE_IGNORE_OTHER_HISTORY=true" in said
    assert "golang-migrate has migrated this database to version 7" in refused(at(7))
    assert "`lambda-migrate baseline VERSION`" in refused(ALEMBIC)
    assert "has a history table here" in refused(
        ToolHistory("dbmate", DBMATE, unreadable_reason="no")
    )
    assert "dbmate has applied 1 version to this database" in refused(ALEMBIC, dbmate(9))
    assert len(refused(dbmate(*range(1, 1000)))) < 300, "the lease table keeps 300 characters"


def test_a_history_of_ours_and_nothing_pending_are_not_stopped() -> None:
    assert refused(dbmate(1), history=[row(1)]) == ""
    assert refused(dbmate(1), history=[row(9)]) == ""
    assert refused(dbmate(1), ignore=True) == ""
    assert refused(dbmate(v1="rolled back")) == ""
    assert refused() == ""
    require_no_tool_history(
        Manifest().make_plan(()), lambda: [dbmate(1)], ignore_other_history=False
    )


def test_other_tools_tables_are_read_only_where_they_matter() -> None:
    def never() -> Sequence[ToolHistory]:
        raise AssertionError("it was asked")

    for history, ignore in ([[row(1)], False], [[row(1), row(2), row(3)], False], [[], True]):
        assert isinstance(history, list)
        plan = FILES.make_plan(history, allow_out_of_order=True)
        require_no_tool_history(plan, never, ignore_other_history=bool(ignore))


# --- recording what the other tool has applied


def test_exactly_what_was_applied_is_recorded_and_a_gap_stays_pending() -> None:
    chosen = choose(dbmate(1, 3))
    assert names(chosen) == ["0001_a", "0003_c"]
    assert chosen.gaps == ("0002_b",)
    assert [(c.version, c.file, c.tool_state, c.state) for c in chosen.compared] == [
        ("0001", "0001_a", "applied", "recorded"),
        ("2", "0002_b", "not applied", "pending"),
        ("0003", "0003_c", "applied", "recorded"),
    ]


def test_what_is_pending_above_the_last_one_is_not_a_gap() -> None:
    chosen = choose(dbmate(1))
    assert (names(chosen), chosen.gaps) == (["0001_a"], ())
    assert chosen.manifest.version == 1


def test_what_was_rolled_back_there_stays_pending() -> None:
    assert names(choose(dbmate(1, v2="rolled back", v3="rolled back"))) == ["0001_a"]


def test_rows_of_ours_stay_as_they_are() -> None:
    chosen = choose(dbmate(1, 2), history=[row(1)])
    assert names(chosen) == ["0002_b"]
    assert chosen.compared[0].state == "recorded before"


def test_a_tool_that_keeps_only_the_last_version_has_all_before_it() -> None:
    assert names(choose(at(2))) == ["0001_a", "0002_b"]
    assert names(choose(at(2), files=manifest("0001_a", "0003_c", "0004_d"))) == ["0001_a"]


def test_the_name_of_a_file_takes_precedence_over_its_number() -> None:
    files = manifest("1_a", "20240101_b")
    other = ToolHistory("yoyo", "t", (ToolHistoryEntry("20240101_b", version=1),))
    assert names(choose(other, files=files)) == ["20240101_b"]


def test_what_has_no_file_here_is_listed() -> None:
    other = ToolHistory(
        "Flyway",
        "t",
        (
            ToolHistoryEntry("1 a", version=1),
            ToolHistoryEntry("1.7 x"),
            ToolHistoryEntry("0", version=0),
        ),
    )
    chosen = choose(other)
    assert names(chosen) == ["0001_a"]
    assert [(c.version, c.file, c.state) for c in chosen.compared[-2:]] == [
        ("1.7 x", "", "no file"),
        ("0", "", "no file"),
    ]


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ([], "no history of another tool was found"),
        ([dbmate(v1="rolled back")], "no history of another tool was found"),
        ([dbmate(1, v2="failed")], "0002 failed there"),
        ([at(2, "failed")], "2 failed there"),
        ([at(9, "failed")], "9 failed there"),
        ([dbmate(1, 2, 3, 4, 5)], "0004, 0005 has no file here and is newer"),
        ([at(9)], "9 has no file here and is newer"),
        ([dbmate(7)], "none of these has a file here"),
        ([ALEMBIC], "give the last one: `lambda-migrate baseline VERSION`"),
        (
            [ToolHistory("dbmate", DBMATE, unreadable_reason="cannot be read")],
            f"{DBMATE} of dbmate cannot",
        ),
        ([dbmate(1), dbmate(2, table="b.s")], "there are 2 histories .*b.s.*--from public.schema"),
        (
            [
                ToolHistory(
                    "yoyo",
                    "t",
                    (ToolHistoryEntry("1.x", version=1), ToolHistoryEntry("1.y", version=1)),
                )
            ],
            r"two of its versions correspond to the same file: 1\.x and 1\.y",
        ),
    ],
)
def test_what_only_a_person_can_decide_is_refused(others: list[ToolHistory], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        choose(*others)


def test_of_several_histories_one_is_chosen_by_its_tool_or_table() -> None:
    both = (dbmate(1), ToolHistory("Knex", "old.knex_migrations", dbmate(1, 2).entries))
    assert names(choose(*both, tool="knex")) == ["0001_a", "0002_b"]
    assert names(choose(*both, tool=DBMATE)) == ["0001_a"]
    assert "there is no history of 'Rails'" in refusal(*both, tool="Rails")
    assert "Knex (old.knex_migrations)" in refusal(*both, tool="Rails")


# --- a version that a person names


def test_a_version_records_everything_up_to_it() -> None:
    assert names(choose(version=2)) == ["0001_a", "0002_b"]
    assert names(choose(dbmate(1, 2), version=2)) == ["0001_a", "0002_b"]
    assert names(choose(at(2), version=2)) == ["0001_a", "0002_b"]
    assert names(choose(dbmate(1, 2, v3="rolled back"), version=2)) == ["0001_a", "0002_b"]
    assert names(choose(ALEMBIC, version=2)) == ["0001_a", "0002_b"]
    assert names(choose(version=3, history=[row(1)])) == ["0002_b", "0003_c"]


@pytest.mark.parametrize(
    ("other", "version", "said"),
    [
        (dbmate(1, 3), 3, "0002_b is not applied there"),
        (dbmate(1, 2, 3), 2, "0003_c is recorded as applied there, and would run again"),
        (dbmate(1, v2="failed"), 2, "0002_b is recorded as failed there"),
        (dbmate(1, v2="rolled back"), 2, "0002_b is recorded as rolled back there"),
        (at(1), 2, "0002_b is not applied there"),
        (at(3), 2, "0003_c is recorded as applied there"),
        (dbmate(1, 2, 3, 4), 3, "0004 is recorded as applied there, and newer code would run it"),
    ],
)
def test_a_version_that_the_other_history_contradicts_is_refused(
    other: ToolHistory, version: int, said: str
) -> None:
    reported = refusal(other, version=version)
    assert said in reported
    assert "--ignore-other-history" in reported
    assert len(choose(other, version=version, ignore_other_history=True).migrations) == version


def test_a_history_with_none_of_our_files_or_one_that_agrees_contradicts_nothing() -> None:
    squashed = manifest("0001_everything")
    assert names(choose(dbmate(20240101, 20240102), files=squashed, version=1)) == [
        "0001_everything"
    ]
    assert len(choose(dbmate(1, 2), dbmate(1, 3, table="b.s"), version=2).migrations) == 2
    assert "0002_b" in refusal(dbmate(1, 2), dbmate(1, 3, table="b.s"), version=3, tool="b.s")


def test_once_there_is_a_history_of_ours_the_other_one_contradicts_nothing() -> None:
    assert names(choose(dbmate(1), version=2, history=[row(1)])) == ["0002_b"]


def test_ignoring_the_other_history_needs_a_version() -> None:
    assert "needs a version" in refusal(dbmate(1), ignore_other_history=True)
