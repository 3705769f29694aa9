"""What can go wrong, as decisions for the caller.

::

    MigrateError
    ├─ ConfigurationError     fix a setting, a permission or a resource, then deploy again
    │  └─ ManifestError       fix the migration files
    ├─ MigrationFailed        fix the migration; nobody tries again before ``retry_at``
    │  ├─ Diverged            history and manifest contradict each other: decide, then ``repair``
    │  └─ RepairRequired      a non-transactional migration is in doubt: look, then ``repair``
    └─ NotReady               come back later (``retryable``); answer 503 with Retry-After
       ├─ LeaseStoreUnavailable   DynamoDB did not answer
       ├─ LeaseLost               a successor took the lease over while this instance migrated
       ├─ LeaseHeld               somebody else is migrating, and the caller did not want to wait
       ├─ FlagsUnavailable        feature flags are configured and could not be read
       └─ DatabaseUnavailable     PostgreSQL did not answer

A class exists where a caller acts differently on it. Messages name what is at fault and what to
do next, and never hold a password, a token or a whole connection string. Some of their words come
from files, from the server or from the lease table, where others may have written them: what a
terminal would obey, or a reader would not see, is shown as an escape (`escape_text`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import ClassVar

__all__ = [
    "ConfigurationError",
    "DatabaseUnavailable",
    "Diverged",
    "FlagsUnavailable",
    "LeaseHeld",
    "LeaseLost",
    "LeaseStoreUnavailable",
    "ManifestError",
    "MigrateError",
    "MigrationFailed",
    "NotReady",
    "RepairRequired",
]

_SPACES = "\t\xa0\u202f"
"""The last two are those that French servers write between quotation marks."""

TEXT_WHITESPACE = "\n" + _SPACES
"""What `escape_text` leaves in texts of several lines."""

_MAX_FAULTS_SHOWN = 100
"""A message is one log event, which CloudWatch cuts at 256 KB."""


class MigrateError(Exception):
    """The root of the tree: catch it to catch everything of lambda-migrate."""

    retryable: ClassVar[bool] = False

    def __str__(self) -> str:
        return escape_text(super().__str__(), keep=TEXT_WHITESPACE)


class ConfigurationError(MigrateError):
    """A setting, a permission or a resource is missing or wrong; a new deployment must mend it.

    Attributes:
        faults: Every fault found, one sentence each.
    """

    def __init__(self, faults: str | Iterable[str], *, heading: str = "") -> None:
        self.faults: tuple[str, ...] = (faults,) if isinstance(faults, str) else tuple(faults)
        if len(self.faults) == 1 and not heading:
            super().__init__(self.faults[0])
        else:
            lines = [heading or f"{len(self.faults)} settings are wrong:"]
            lines += [f"  - {fault}" for fault in self.faults[:_MAX_FAULTS_SHOWN]]
            if len(self.faults) > _MAX_FAULTS_SHOWN:
                lines.append(f"  and {len(self.faults) - _MAX_FAULTS_SHOWN} more")
            super().__init__("\n".join(lines))


class ManifestError(ConfigurationError):
    """Migration files cannot be used; every fault is listed with its file and line."""


class MigrationFailed(MigrateError):
    """A migration failed, here or in the instance that tried it.

    Attributes:
        migration: Name of the migration (``0003_add_status``), or "" where none was at fault.
        sqlstate: PostgreSQL's five-character code, or "" where the server said nothing.
        cause: One short sentence, fit for an alarm.
        attempts: How many times this manifest has failed, this one included.
        retry_at_ms: Earliest next attempt, milliseconds since the epoch; None if not paused.
        detail: The whole report for a terminal: file, line, caret, detail, hint.
        is_overdue: Whether it only ran out of time, so that an attempt with more may succeed.
        is_kill: Whether holders were killed while they applied it, so that no error is known.
    """

    def __init__(
        self,
        cause: str,
        *,
        migration: str = "",
        sqlstate: str = "",
        attempts: int = 1,
        retry_at_ms: int | None = None,
        detail: str = "",
        is_timeout: bool = False,
        is_kill: bool = False,
    ) -> None:
        self.migration = escape_text(migration)
        self.sqlstate = escape_text(sqlstate)
        self.cause = escape_text(" ".join(cause.split()))
        self.attempts = attempts
        self.retry_at_ms = retry_at_ms
        self.detail = detail
        self.is_timeout = is_timeout
        self.is_kill = is_kill
        self.had_ms: int | None = None
        """How much time it had, where it ran out of it."""
        super().__init__(detail or self.summary)

    @property
    def summary(self) -> str:
        """One line: which migration, why, with which code."""
        code = f" [{self.sqlstate}]" if self.sqlstate else ""
        return f"{self.migration}: {self.cause}{code}" if self.migration else self.cause + code


class Diverged(MigrationFailed):
    """History and manifest contradict each other; a person decides, with ``repair``."""


class RepairRequired(MigrationFailed):
    """A non-transactional migration was interrupted and cannot be told from a finished one."""


class NotReady(MigrateError):
    """The schema is not ready yet; the same invocation may succeed later. One line says why.

    Attributes:
        retry_after_seconds: What to put into a Retry-After header.
    """

    retryable = True

    def __init__(self, message: str, *, retry_after_seconds: float = 1.0) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(escape_text(message, keep=_SPACES))


class LeaseStoreUnavailable(NotReady):
    """DynamoDB did not answer, or told us to slow down."""


class LeaseLost(NotReady):
    """The lease was taken over; nothing more of this instance's can commit."""


class LeaseHeld(NotReady):
    """Somebody else holds the lease and the caller chose not to wait."""


class FlagsUnavailable(NotReady):
    """Feature flags are configured and cannot be read, so nobody knows whether to migrate."""


class DatabaseUnavailable(NotReady):
    """PostgreSQL refused the connection or did not answer in time."""


def escape_text(text: str, *, keep: str = "") -> str:
    r"""``text`` with everything invisible, or obeyed by a terminal, written as an escape.

    ESC becomes ``\x1b``, the override that turns text round ``\u202e``.

    Args:
        text: Anything, half surrogate pairs included.
        keep: Characters that stay all the same.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in text)
