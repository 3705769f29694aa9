"""Which rows a rollback chooses, before anything is rolled back."""

from __future__ import annotations

import pytest

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.migrations import HistoryRow, RowState, Script
from lambda_migrate.migrations.rollback import choose_rollback


def row(
    version: int, *, state: RowState = RowState.APPLIED, down: str | None = "DROP"
) -> HistoryRow:
    script = None if down is None else Script(down)
    return HistoryRow(version, f"{version:04d}_m", "c", "d", state=state, down=script)


HISTORY = [row(1), row(3), row(2), row(10)]


@pytest.mark.parametrize(
    ("choice", "chosen"),
    [
        ({"steps": 1}, [10]),
        ({"steps": 2}, [10, 3]),
        ({"steps": 99}, [10, 3, 2, 1]),
        ({"to": 10}, []),
        ({"to": 2}, [10, 3]),
        ({"to": 0}, [10, 3, 2, 1]),
        ({"only": 2}, [2]),
        ({"only": 10}, [10]),
    ],
)
def test_the_newest_is_rolled_back_first(choice: dict[str, int], chosen: list[int]) -> None:
    assert [each.version for each in choose_rollback(HISTORY, **choice)] == chosen


@pytest.mark.parametrize(
    ("choice", "fault"),
    [
        ({}, "one of --to, --steps and --only"),
        ({"to": 1, "steps": 1}, "one of --to, --steps and --only"),
        ({"to": 1, "steps": 1, "only": 1}, "one of --to, --steps and --only"),
        ({"steps": 0}, "--steps 0: write 1 or more"),
        ({"steps": -3}, "--steps -3: write 1 or more"),
        ({"to": 4}, "--to 4: no such version was applied; applied versions: 1, 2, 3, 10"),
        ({"only": 4}, "--only 4: no such version was applied; applied versions: 1, 2, 3, 10"),
        ({"only": 0}, "--only 0: no such version"),
    ],
)
def test_an_invalid_choice_is_refused(choice: dict[str, int], fault: str) -> None:
    with pytest.raises(ConfigurationError, match=fault):
        choose_rollback(HISTORY, **choice)


def test_nothing_applied_has_nothing_to_roll_back() -> None:
    assert choose_rollback([], steps=3) == ()
    assert choose_rollback([], to=0) == ()
    with pytest.raises(ConfigurationError, match="applied versions: none"):
        choose_rollback([], only=1)


def test_all_irreversible_rows_are_named_at_once() -> None:
    history = [row(1, down=None), row(2, state=RowState.STARTED), row(3, down=None), row(4)]
    with pytest.raises(ConfigurationError) as caught:
        choose_rollback(history, to=0)
    assert [fault[:4] for fault in caught.value.faults] == ["0003", "0001"]


def test_what_is_in_doubt_is_judged_once_it_is_resolved() -> None:
    history = [row(1), row(2, down=None, state=RowState.STARTED)]
    assert [each.version for each in choose_rollback(history, to=0)] == [2, 1]


def test_a_row_without_a_down_script_below_the_goal_does_not_prevent_a_rollback() -> None:
    history = [row(1, down=None), row(2)]
    assert [each.version for each in choose_rollback(history, to=1)] == [2]


def test_a_rollback_that_was_interrupted_is_continued() -> None:
    history = [row(1), row(2, state=RowState.ROLLING_BACK)]
    assert [each.version for each in choose_rollback(history, steps=1)] == [2]
