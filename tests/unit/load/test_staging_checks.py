"""A team's own questions: how they are written, and what is no answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lambda_migrate.errors import ConfigurationError
from load.staging.checks import Answer, Check, Phase, read_checks, run_checks, wrong_answers

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
    assert totals.phases == ("after",)
    assert totals.expect == "0"
    assert guests.phases == ("before", "rolled-back")


def test_checks_of_the_example_can_be_read() -> None:
    assert len(read_checks(EXAMPLE)) == 5


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "there is no check"),
        ("SELECT 1;\n-- check: a\nSELECT 2", "SQL above the first"),
        ("-- check:\nSELECT 1", "check '': write `-- check: NAME"),
        ("-- check: a\n-- nothing\n", "check 'a': write `-- check: NAME"),
        (
            "-- check: a (at: noon)\nSELECT 1",
            "check 'a': write `-- check: NAME (at: before after rolled-back, expect",
        ),
        ("-- check: a (exepct: 0)\nSELECT 1", "check 'a': write `-- check: NAME"),
        ("-- Check a\nSELECT 1", "'-- Check a': write `-- check:"),
        ("-- check: b\nSELECT 1\n  --check a\nSELECT 1", "write `-- check:"),
        ("-- check: a\nSELECT 1;\n-- check: a\nSELECT 2", "two checks 'a'"),
    ],
)
def test_malformed_check_is_reported(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        read(tmp_path, text)
    assert fault in str(raised.value)
    assert "checks.sql" in str(raised.value)


def test_missing_file_is_reported() -> None:
    with pytest.raises(ConfigurationError, match=r"--checks nowhere\.sql"):
        read_checks(Path("nowhere.sql"))


STAYS = Check("sums stay", "SELECT")
ZERO = Check("none is wrong", "SELECT", ("after", "rolled-back"), expect="0")
FIVE, SIX, NONE = Answer("5"), Answer("6"), Answer("0")
REFUSED = Answer('column "total" does not exist', is_error=True)


def wrong(phase: Phase, **answers: tuple[Answer, ...]) -> list[str]:
    by_phase: dict[Phase, dict[str, Answer]] = {
        "before": dict(zip((STAYS.name,), answers.get("before", ()), strict=False)),
        "after": dict(zip((STAYS.name, ZERO.name), answers.get("after", ()), strict=False)),
    }
    return list(wrong_answers([STAYS, ZERO], by_phase, phase))


def test_answer_without_expect_is_compared_with_the_first() -> None:
    assert wrong("before", before=(FIVE,)) == []
    assert wrong("after", before=(FIVE,), after=(FIVE, NONE)) == []
    assert wrong("after", before=(FIVE,), after=(SIX, NONE)) == ["sums stay: 6; before: 5"]


def test_answer_is_compared_with_expect() -> None:
    assert wrong("after", before=(FIVE,), after=(FIVE, SIX)) == ["none is wrong: 6, instead of 0"]
    several = Answer("0; 0")
    assert wrong("after", before=(FIVE,), after=(FIVE, several)) == [
        "none is wrong: 0; 0, instead of 0"
    ]


def test_error_is_a_wrong_answer_even_if_it_is_the_same_as_before() -> None:
    assert wrong("after", before=(REFUSED,), after=(REFUSED,)) == [f"sums stay: {REFUSED.text}"]
    assert wrong("before", before=(REFUSED,)) == [f"sums stay: {REFUSED.text}"]
    assert wrong("after", before=(FIVE,), after=(FIVE, REFUSED)) == [
        f"none is wrong: {REFUSED.text}"
    ]


def test_check_runs_only_at_its_phases() -> None:
    asked: list[str] = []

    def run(sql: str) -> Sequence[Sequence[Any]]:
        asked.append(sql)
        return [[None, 3]]

    late = Check("late", "SELECT 2", ("after",))
    answers = run_checks(run, [Check("always", "SELECT 1"), late], "before")
    assert asked == ["SELECT 1"]
    assert str(answers["always"]) == "NULL, 3"
