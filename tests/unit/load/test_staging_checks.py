"""A team's own questions: how they are written, and what is no answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lambda_migrate.errors import ConfigurationError
from load.staging.checks import Answer, Check, Moment, read_checks, run_checks, wrong_answers

EXAMPLE = Path(__file__).parents[3] / "examples" / "orders" / "tests" / "checks.sql"

FILE = """\
-- What our support team asks first.

-- check: sums stay
SELECT sum(amount)  -- of all
FROM orders;

-- check: totals are right (at: after, expect: 0)
SELECT count(*) FROM orders WHERE total IS NULL;
-- check: guests (expect: 1, at: before rolled-back)
SELECT 1
"""


def read(tmp_path: Path, text: str) -> tuple[Check, ...]:
    path = tmp_path / "checks.sql"
    path.write_text(text)
    return read_checks(path)


def test_check_is_a_name_and_the_query_below_it(tmp_path: Path) -> None:
    sums, totals, guests = read(tmp_path, FILE)
    assert sums == Check("sums stay", "SELECT sum(amount)  -- of all\nFROM orders")
    assert totals.moments == ("after",)
    assert totals.expect == "0"
    assert guests.moments == ("before", "rolled-back")


def test_checks_of_the_example_can_be_read() -> None:
    assert len(read_checks(EXAMPLE)) == 5


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "no check"),
        ("SELECT 1;\n-- check: a\nSELECT 2", "line 1: SQL above the first"),
        ("-- check:\nSELECT 1", "line 1: a check is a name"),
        ("-- check: a\n-- nothing\n", "line 1: a check is a name, and one query below it"),
        ("-- check: a (at: noon)\nSELECT 1", "`at: noon` is none of before, after, rolled-back"),
        ("-- check: a (exepct: 0)\nSELECT 1", "line 1: 'exepct: 0' is neither"),
        ("-- Check a\nSELECT 1", "line 1: write `-- check:"),
        ("-- check: a\nSELECT 1;\n-- check: a\nSELECT 2", "'a' is there twice"),
    ],
)
def test_faults_are_reported_by_line(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        read(tmp_path, text)
    assert fault in str(raised.value)
    assert "checks.sql" in str(raised.value)


def test_missing_file_is_reported() -> None:
    with pytest.raises(ConfigurationError, match=r"--checks nowhere\.sql"):
        read_checks(Path("nowhere.sql"))


STAYS = Check("sums stay", "SELECT")
ZERO = Check("none is wrong", "SELECT", ("after", "rolled-back"), expect="0")
FIVE, SIX, NONE = Answer((("5",),)), Answer((("6",),)), Answer((("0",),))
REFUSED = Answer(error='column "total" does not exist')


def wrong(moment: Moment, **answers: tuple[Answer, ...]) -> list[str]:
    by_moment: dict[Moment, dict[str, Answer]] = {
        "before": dict(zip((STAYS.name,), answers.get("before", ()), strict=False)),
        "after": dict(zip((STAYS.name, ZERO.name), answers.get("after", ()), strict=False)),
    }
    return list(wrong_answers([STAYS, ZERO], by_moment, moment))


def test_answer_without_expect_is_compared_with_the_first() -> None:
    assert wrong("before", before=(FIVE,)) == []
    assert wrong("after", before=(FIVE,), after=(FIVE, NONE)) == []
    assert wrong("after", before=(FIVE,), after=(SIX, NONE)) == ["sums stay: 6; before: 5"]


def test_answer_is_compared_with_expect() -> None:
    assert wrong("after", before=(FIVE,), after=(FIVE, SIX)) == ["none is wrong: 6, instead of 0"]
    several = Answer((("0",), ("0",)))
    assert wrong("after", before=(FIVE,), after=(FIVE, several)) == [
        "none is wrong: 0; 0, instead of 0"
    ]


def test_error_is_a_wrong_answer() -> None:
    assert wrong("before", before=(REFUSED,)) == [f"sums stay: {REFUSED.error}"]
    assert wrong("after", before=(FIVE,), after=(FIVE, REFUSED)) == [
        f"none is wrong: {REFUSED.error}"
    ]


def test_check_runs_only_at_its_moments() -> None:
    asked: list[str] = []

    def run(sql: str) -> Sequence[Sequence[Any]]:
        asked.append(sql)
        return [[None, 3]]

    late = Check("late", "SELECT 2", ("after",))
    answers = run_checks(run, [Check("always", "SELECT 1"), late], "before")
    assert asked == ["SELECT 1"]
    assert str(answers["always"]) == "NULL, 3"


def test_long_answers_are_shortened() -> None:
    assert str(Answer(tuple((str(n),) for n in range(5)))) == "0; 1; 2; ..."
    assert str(Answer()) == "no rows"
