"""A team's own checks of its data: one file of SQL, run before, after, and after the rollback.

    -- check: every order has a customer
    SELECT count(*) FROM orders o LEFT JOIN customers c ON c.id = o.customer_id WHERE c.id IS NULL;

    -- check: totals are right (at: after, expect: 0)
    SELECT count(*) FROM orders WHERE total_cents <> quantity * unit_cents;

Without ``expect`` the answer has to stay the same; with it, it has to be that value. ``at`` names
the phases in which the check runs; all three without it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from lambda_migrate.errors import ConfigurationError
from load.staging.database import RunQuery

__all__ = ["Answer", "Check", "Phase", "read_checks", "run_checks", "wrong_answers"]

Phase = Literal["before", "after", "rolled-back"]
PHASES: tuple[Phase, ...] = get_args(Phase)

_MARKER = re.compile(r"^--[ \t]*check:[ \t]*([^(\n]*?)[ \t]*(?:\(([^()\n]*)\))?[ \t]*$", re.M)
_MALFORMED_MARKER = re.compile(r"^[ \t]*--+[ \t]*checks?\b.*$", re.M | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Check:
    """One query, the phases in which it runs, and its right answer (None: the first one)."""

    name: str
    sql: str
    phases: tuple[Phase, ...] = PHASES
    expect: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The rows as text, or an error of the database."""

    text: str
    is_error: bool = False

    def __str__(self) -> str:
        """The answer, shortened."""
        return self.text if len(self.text) <= 200 else f"{self.text[:200]}..."


def read_checks(path: Path) -> tuple[Check, ...]:
    """The checks of a file.

    Raises:
        ConfigurationError: It cannot be read, or a check is malformed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"--checks {path}: {error}") from error
    for malformed in _MALFORMED_MARKER.findall(text):
        if not _MARKER.match(malformed):
            raise _fault(path, f"{malformed!r}: write `-- check: NAME (at: after, expect: 0)`")
    above, *parts = _MARKER.split(text)
    if _strip(above):
        raise _fault(path, "there is SQL above the first `-- check:`")
    checks = tuple(_parse(path, *parts[n : n + 3]) for n in range(0, len(parts), 3))
    names = [check.name for check in checks]
    for name in names:
        if names.count(name) > 1:
            raise _fault(path, f"there are two checks {name!r}: rename one of them")
    if not checks:
        raise _fault(path, "there is no check: write `-- check: NAME` above a query")
    return checks


def _fault(path: Path, text: str) -> ConfigurationError:
    return ConfigurationError(f"--checks {path}: {text}")


def _strip(sql: str) -> str:
    """The statement; "" if there are only comments."""
    lines = [line for line in sql.splitlines() if line.strip()]
    has_sql = any(not line.lstrip().startswith("--") for line in lines)
    return sql.strip().rstrip(";").strip() if has_sql else ""


def _parse(path: Path, name: str, options: str | None, sql: str) -> Check:
    pairs = (part.partition(":") for part in options.split(",")) if options else ()
    values = {key.strip(): value.strip() for key, _, value in pairs}
    phases = tuple(phase for phase in PHASES if phase in values.get("at", " ".join(PHASES)).split())
    wrong = set(values) - {"at", "expect"} or set(values.get("at", "").split()) - set(PHASES)
    if wrong or not (name and _strip(sql) and phases and all(values.values())):
        raise _fault(
            path,
            f"check {name!r}: write `-- check: NAME (at: {' '.join(PHASES)}, expect: VALUE)` and a "
            "query below it; both options may be left out",
        )
    return Check(name, _strip(sql), phases, values.get("expect"))


def run_checks(run: RunQuery, checks: Sequence[Check], phase: Phase) -> dict[str, Answer]:
    """Answers by the names of the checks of this phase."""
    return {check.name: _answer(run, check.sql) for check in checks if phase in check.phases}


def _answer(run: RunQuery, sql: str) -> Answer:
    from pg8000.exceptions import DatabaseError

    try:
        rows = run(sql)
    except DatabaseError as error:
        detail = error.args[0]
        message = detail.get("M", detail) if isinstance(detail, Mapping) else detail
        return Answer(str(message), is_error=True)
    texts = (", ".join("NULL" if v is None else str(v) for v in row) for row in rows)
    return Answer("; ".join(texts) or "no rows")


def wrong_answers(
    checks: Sequence[Check], answers: Mapping[Phase, Mapping[str, Answer]], phase: Phase
) -> Iterator[str]:
    """A sentence for each check whose answer in a phase is wrong.

    Args:
        checks: All of them.
        answers: By phase and name, as far as they have been run.
        phase: Which.
    """
    for check in checks:
        answer = answers.get(phase, {}).get(check.name)
        if answer is None:
            continue
        first = next(one for one in check.phases if check.name in answers.get(one, {}))
        expected = answers[first][check.name]
        if answer.is_error:
            yield f"{check.name}: {answer}"
        elif check.expect is not None and answer.text != check.expect:
            yield f"{check.name}: {answer}, instead of {check.expect}"
        elif check.expect is None and answer != expected:
            yield f"{check.name}: {answer}; {first}: {expected}"
