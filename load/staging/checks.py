"""A team's own questions to its data: one file of SQL, asked before, after, and after the way back.

    -- check: every order has a customer
    SELECT count(*) FROM orders o LEFT JOIN customers c ON c.id = o.customer_id WHERE c.id IS NULL;

    -- check: totals are right (at: after, expect: 0)
    SELECT count(*) FROM orders WHERE total_cents <> quantity * unit_cents;

Without ``expect``, the answer has to be the same at every moment: it is a question about what must
not change. With it, the first column of the only row has to be that value. ``at`` names the moments
at which the question can be asked: ``before``, ``after``, ``rolled-back``; all three without it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from lambda_migrate.errors import ConfigurationError
from load.staging.records import Run

__all__ = ["MOMENTS", "Answer", "Check", "Moment", "ask", "contradictions", "read_checks"]

Moment = Literal["before", "after", "rolled-back"]
MOMENTS: tuple[Moment, ...] = get_args(Moment)

_MARKER = re.compile(r"^\s*--\s*check:\s*(?P<name>[^(]*?)\s*(?:\((?P<options>[^()]*)\))?\s*$")
_LOOKS_LIKE_A_MARKER = re.compile(r"^\s*--+\s*checks?\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Check:
    """One question.

    Attributes:
        name: What must be.
        sql: One statement.
        moments: When it is asked.
        expect: The only right answer; None if it is that of the moment before.
    """

    name: str
    sql: str
    moments: tuple[Moment, ...] = MOMENTS
    expect: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What the database said.

    Attributes:
        rows: As text; what is NULL is ``NULL``.
        error: The server's message where it refused; "" otherwise.
    """

    rows: tuple[tuple[str, ...], ...] = ()
    error: str = ""

    def __str__(self) -> str:
        """The same in a line."""
        if self.error:
            return self.error
        rows = [", ".join(row) for row in self.rows[:3]]
        more = "; ..." if len(self.rows) > len(rows) else ""
        return "; ".join(rows) + more if rows else "no rows"


# -- reading --------------------------------------------------------------------------------------


def read_checks(path: Path) -> tuple[Check, ...]:
    """The checks of a file.

    Raises:
        ConfigurationError: The file, with the lines that cannot be understood.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"--checks {path}: {error}") from error
    faults: list[str] = []
    found = list(_parse(text, faults))
    names = [check.name for check in found]
    faults += [
        f"{name!r} is there twice" for name in sorted({n for n in names if names.count(n) > 1})
    ]
    if not found and not faults:
        faults.append("it holds no check: write `-- check: what must be` above a query")
    if faults:
        raise ConfigurationError(f"--checks {path}: " + "; ".join(faults))
    return tuple(found)


def _parse(text: str, faults: list[str]) -> Iterator[Check]:
    marker: re.Match[str] | None = None
    at, body = 0, list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        found = _MARKER.match(line)
        if found is None:
            if _LOOKS_LIKE_A_MARKER.match(line):
                faults.append(
                    f"line {number}: write `-- check: what must be (at: after, expect: 0)`"
                )
            body.append(line)
            continue
        yield from _check(marker, body, at, faults)
        marker, at, body = found, number, []
    yield from _check(marker, body, at, faults)


def _check(
    marker: re.Match[str] | None, body: Sequence[str], at: int, faults: list[str]
) -> Iterator[Check]:
    sql = "\n".join(body).strip().rstrip(";").strip()
    is_empty = all(not line.strip() or line.lstrip().startswith("--") for line in sql.splitlines())
    if marker is None:
        if not is_empty:
            faults.append("line 1: there is SQL above the first `-- check:`")
        return
    options = _options(marker["options"], at, faults)
    if not marker["name"] or is_empty:
        faults.append(f"line {at}: a check is a name, and one query below it")
        return
    asked = options.get("at", "").split()
    strange = sorted(set(asked) - set(MOMENTS))
    if strange:
        faults.append(f"line {at}: `at: {strange[0]}` is none of {', '.join(MOMENTS)}")
    moments = tuple(moment for moment in MOMENTS if not asked or moment in asked)
    yield Check(marker["name"], sql, moments, options.get("expect"))


def _options(text: str | None, at: int, faults: list[str]) -> dict[str, str]:
    options = {}
    for part in (text or "").split(",") if text else []:
        key, colon, value = (piece.strip() for piece in part.partition(":"))
        if key not in ("at", "expect") or not colon or not value:
            faults.append(
                f"line {at}: {part.strip()!r} is neither `at: MOMENT` nor `expect: VALUE`"
            )
        options[key] = value
    return options


# -- asking ---------------------------------------------------------------------------------------


def ask(run: Run, checks: Sequence[Check], moment: Moment) -> dict[str, Answer]:
    """Answers by the names of the checks, those of this moment.

    Args:
        run: In the rehearsed database.
        checks: All of them.
        moment: Now.
    """
    return {check.name: _ask(run, check) for check in checks if moment in check.moments}


def _ask(run: Run, check: Check) -> Answer:
    from pg8000.exceptions import DatabaseError

    try:
        rows = run(check.sql)
    except DatabaseError as error:
        said = error.args[0]
        return Answer(error=str(said.get("M", said) if isinstance(said, Mapping) else said))
    return Answer(tuple(tuple("NULL" if v is None else str(v) for v in row) for row in rows))


def contradictions(
    checks: Sequence[Check], answers: Mapping[Moment, Mapping[str, Answer]], moment: Moment
) -> Iterator[str]:
    """What is not as it must be at a moment, a sentence for each check.

    Args:
        checks: All of them.
        answers: By moment and name, as far as they were asked.
        moment: Which.
    """
    for check in checks:
        answer = answers.get(moment, {}).get(check.name)
        if answer is None:
            continue
        if answer.error:
            yield f"{check.name}: {answer.error}"
        elif check.expect is not None:
            if _first(answer) != check.expect:
                yield f"{check.name}: {answer}, instead of {check.expect}"
        else:
            yield from _changed(check, answers, moment, answer)


def _changed(
    check: Check,
    answers: Mapping[Moment, Mapping[str, Answer]],
    moment: Moment,
    answer: Answer,
) -> Iterator[str]:
    first = next((m for m in check.moments if check.name in answers.get(m, {})), moment)
    reference = answers[first][check.name]
    if answer != reference:
        yield f"{check.name}: {answer}; {first}: {reference}"


def _first(answer: Answer) -> str | None:
    return answer.rows[0][0] if len(answer.rows) == 1 and answer.rows[0] else None
