"""A team's own checks of its data: one file of SQL, run before, after, and after the rollback.

    -- check: every order has a customer
    SELECT count(*) FROM orders o LEFT JOIN customers c ON c.id = o.customer_id WHERE c.id IS NULL;

    -- check: totals are right (at: after, expect: 0)
    SELECT count(*) FROM orders WHERE total_cents <> quantity * unit_cents;

Without ``expect``, the answer has to stay the same. With it, the first column of the only row has
to be that value. ``at`` names the moments at which the check can run: ``before``, ``after``,
``rolled-back``; all three without it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from lambda_migrate.errors import ConfigurationError
from load.staging.records import RunQuery

__all__ = ["Answer", "Check", "Moment", "read_checks", "run_checks", "wrong_answers"]

Moment = Literal["before", "after", "rolled-back"]
MOMENTS: tuple[Moment, ...] = get_args(Moment)

_MARKER = re.compile(r"^\s*--\s*check:\s*(?P<name>[^(]*?)\s*(?:\((?P<options>[^()]*)\))?\s*$")
_MALFORMED_MARKER = re.compile(r"^\s*--+\s*checks?\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Check:
    """One query, the moments at which it runs, and its right answer (None: the first one)."""

    name: str
    sql: str
    moments: tuple[Moment, ...] = MOMENTS
    expect: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The database's answer: rows as text, or the error."""

    rows: tuple[tuple[str, ...], ...] = ()
    error: str = ""

    def __str__(self) -> str:
        """The answer in one line."""
        if self.error:
            return self.error
        rows = [", ".join(row) for row in self.rows[:3]]
        more = "; ..." if len(self.rows) > len(rows) else ""
        return "; ".join(rows) + more if rows else "no rows"


# -- reading --------------------------------------------------------------------------------------


def read_checks(path: Path) -> tuple[Check, ...]:
    """The checks of a file.

    Raises:
        ConfigurationError: With the lines that are wrong.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"--checks {path}: {error}") from error
    starts = [number for number, line in enumerate(lines) if _MARKER.match(line)]
    faults = [
        f"line {number + 1}: write `-- check: NAME (at: after, expect: 0)`"
        for number, line in enumerate(lines)
        if _MALFORMED_MARKER.match(line) and number not in starts
    ]
    if _query(lines[: starts[0] if starts else 0]):
        faults.append("line 1: SQL above the first `-- check:`")
    checks = [
        _parse(lines[start:end], start + 1, faults)
        for start, end in zip(starts, [*starts[1:], len(lines)], strict=False)
    ]
    names = [check.name for check in checks]
    faults += [f"{name!r} is there twice" for name in sorted(set(names)) if names.count(name) > 1]
    if not checks and not faults:
        faults.append("no check: write `-- check: NAME` above a query")
    if faults:
        raise ConfigurationError(f"--checks {path}: " + "; ".join(faults))
    return tuple(checks)


def _query(lines: Sequence[str]) -> str:
    """The lines as one statement; "" if they hold only comments."""
    sql = "\n".join(lines).strip().rstrip(";").strip()
    has_sql = any(line.strip() and not line.lstrip().startswith("--") for line in sql.splitlines())
    return sql if has_sql else ""


def _parse(lines: Sequence[str], number: int, faults: list[str]) -> Check:
    marker = _MARKER.match(lines[0])
    assert marker is not None  # noqa: S101 - for mypy: it begins with one
    sql = _query(lines[1:])
    if not marker["name"] or not sql:
        faults.append(f"line {number}: a check is a name, and one query below it")
    options: dict[str, str] = {}
    for part in (marker["options"] or "").split(",") if marker["options"] else []:
        key, _, value = (piece.strip() for piece in part.partition(":"))
        if key not in ("at", "expect") or not value:
            faults.append(
                f"line {number}: {part.strip()!r} is neither `at: MOMENT` nor `expect: VALUE`"
            )
        options[key] = value
    wanted = options.get("at", "").split()
    for unknown in sorted(set(wanted) - set(MOMENTS))[:1]:
        faults.append(f"line {number}: `at: {unknown}` is none of {', '.join(MOMENTS)}")
    moments = tuple(moment for moment in MOMENTS if not wanted or moment in wanted)
    return Check(marker["name"], sql, moments, options.get("expect"))


# -- running --------------------------------------------------------------------------------------


def run_checks(run: RunQuery, checks: Sequence[Check], moment: Moment) -> dict[str, Answer]:
    """Answers by the names of the checks of this moment."""
    return {check.name: _answer(run, check.sql) for check in checks if moment in check.moments}


def _answer(run: RunQuery, sql: str) -> Answer:
    from pg8000.exceptions import DatabaseError

    try:
        rows = run(sql)
    except DatabaseError as error:
        detail = error.args[0]
        message = detail.get("M", detail) if isinstance(detail, Mapping) else detail
        return Answer(error=str(message))
    return Answer(tuple(tuple("NULL" if v is None else str(v) for v in row) for row in rows))


def wrong_answers(
    checks: Sequence[Check], answers: Mapping[Moment, Mapping[str, Answer]], moment: Moment
) -> Iterator[str]:
    """A sentence for each check whose answer at a moment is wrong.

    Args:
        checks: All of them.
        answers: By moment and name, as far as they were made.
        moment: Which.
    """
    for check in checks:
        answer = answers.get(moment, {}).get(check.name)
        if answer is None:
            continue
        first = next(one for one in check.moments if check.name in answers.get(one, {}))
        if answer.error:
            yield f"{check.name}: {answer.error}"
        elif check.expect is None and answer != answers[first][check.name]:
            yield f"{check.name}: {answer}; {first}: {answers[first][check.name]}"
        elif check.expect is not None and _value(answer) != check.expect:
            yield f"{check.name}: {answer}, instead of {check.expect}"


def _value(answer: Answer) -> str | None:
    return answer.rows[0][0] if len(answer.rows) == 1 and answer.rows[0] else None
