"""What `up` would do, as values: each pending migration with its statements and its faults."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lambda_migrate.migrations.sql.excerpt import redact
from lambda_migrate.migrations.sql.lint import check
from lambda_migrate.migrations.sql.tokens import split

if TYPE_CHECKING:
    from lambda_migrate.migrations import Divergence, HistoryRow, Manifest, Migration, Plan

__all__ = ["Preview", "Step", "preview_of"]

_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_STATEMENT_LENGTH = 200


@dataclass(frozen=True, slots=True)
class Step:
    """One pending migration.

    Attributes:
        version: Its version.
        name: Its name.
        path: Its file.
        transactional: Whether it runs in a transaction.
        has_down_script: Whether it could be taken back.
        statements: Each on one line, secrets hidden, long ones cut.
        faults: Why it cannot be run, if it cannot.
    """

    version: int
    name: str
    path: str
    transactional: bool
    has_down_script: bool
    statements: tuple[str, ...]
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Preview:
    """What `up` would do.

    Attributes:
        digest: Of the manifest that would be satisfied.
        steps: In order.
        in_doubt: Rows that would be settled first.
        divergences: While there is one, nothing is applied.
    """

    digest: str
    steps: tuple[Step, ...]
    in_doubt: tuple[HistoryRow, ...]
    divergences: tuple[Divergence, ...]

    @property
    def can_go_on(self) -> bool:
        """Whether `up` would begin."""
        return not (self.divergences or any(step.faults for step in self.steps))


def preview_of(plan: Plan, manifest: Manifest) -> Preview:
    """Read the scripts of a plan."""
    return Preview(
        digest=manifest.digest,
        steps=tuple(_step(migration) for migration in plan.pending),
        in_doubt=plan.in_doubt,
        divergences=plan.divergences,
    )


def _step(migration: Migration) -> Step:
    # Redacted as a whole first: a secret's literal may span what the cut would take apart.
    statements = tuple(_one_line(redact(statement.text)) for statement in split(migration.up.sql))
    return Step(
        version=migration.version,
        name=migration.name,
        path=migration.path,
        transactional=migration.up.transactional,
        has_down_script=migration.down is not None,
        statements=statements,
        faults=tuple(check(migration)),
    )


def _one_line(text: str) -> str:
    line = " ".join(text.split()) if "'" in text or "$" in text else _without_comments(text)
    shown = "".join(c if c.isprintable() else "\ufffd" for c in line)
    return shown if len(shown) <= _STATEMENT_LENGTH else shown[: _STATEMENT_LENGTH - 1] + "…"


def _without_comments(text: str) -> str:
    return " ".join(_COMMENT.sub(" ", text).split())
