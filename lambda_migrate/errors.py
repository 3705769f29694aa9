"""The errors: one class for each decision of the caller.

::

    MigrateError
    ├─ ConfigurationError     fix a setting, a permission or a resource, then deploy again
    │  └─ ManifestError       fix the migration files
    ├─ MigrationFailed        fix the migration; no instance retries it before ``retry_at_ms``
    │  ├─ Diverged            history and manifest contradict each other: see ``status``
    │  └─ RepairRequired      a migration outside a transaction is in doubt: run ``repair``
    └─ NotReady               retry later (``retryable``); respond with 503 and Retry-After
       ├─ LeaseStoreUnavailable   DynamoDB did not respond
       ├─ LeaseLost               a successor took the lease over while this instance migrated
       ├─ LeaseHeld               another process holds the lease, and the caller does not wait
       ├─ FlagsUnavailable        feature flags are configured and could not be read
       └─ DatabaseUnavailable     PostgreSQL did not respond

Messages name what is at fault and what to do next. They never contain a password, a token or a
whole connection string. Text that comes from files, from the server or from the lease table may be
hostile: control characters and invisible characters in it are escaped (`escape_text`).

A start that finds the schema ready raises none of them, and does not load this module.
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

_LINE_WHITESPACE = "\t\xa0\u202f"
"""The last two are used by servers with French messages."""

TEXT_WHITESPACE = "\n" + _LINE_WHITESPACE
"""What `escape_text` keeps in texts of several lines."""

_MAX_FAULTS_SHOWN = 100
"""A message is one log event, which CloudWatch cuts at 256 KB."""


class MigrateError(Exception):
    """The base class of every error of lambda-migrate."""

    retryable: ClassVar[bool] = False
    """Whether the same attempt may succeed later, without a new deployment."""

    def __str__(self) -> str:
        return escape_text(super().__str__(), kept_characters=TEXT_WHITESPACE)


class ConfigurationError(MigrateError):
    """A setting, a permission or a resource is missing or wrong; fix it and deploy again.

    Attributes:
        faults: Every fault that was found, one sentence each.
    """

    def __init__(self, faults: str | Iterable[str], *, heading: str = "") -> None:
        self.faults: tuple[str, ...] = (faults,) if isinstance(faults, str) else tuple(faults)
        if len(self.faults) == 1 and not heading:
            super().__init__(self.faults[0])
        else:
            lines = [heading or f"{len(self.faults)} things are wrong:"]
            lines += [f"  - {fault}" for fault in self.faults[:_MAX_FAULTS_SHOWN]]
            if len(self.faults) > _MAX_FAULTS_SHOWN:
                lines.append(f"  and {len(self.faults) - _MAX_FAULTS_SHOWN} more")
            super().__init__("\n".join(lines))


class ManifestError(ConfigurationError):
    """Migration files cannot be used; the message lists every fault with its file and line."""


class MigrationFailed(MigrateError):
    """A migration failed, in this instance or in the one that tried it.

    Attributes:
        migration: The migration's name (``0003_add_status``); "" if no migration is the cause.
        sqlstate: PostgreSQL's five-character code; "" if the server reported none.
        cause: One short sentence, fit for an alarm.
        attempts: How many times this manifest has failed, including this time.
        retry_at_ms: The earliest next attempt, milliseconds since the epoch; None without a pause.
        detail: The complete report for a terminal: file, line, caret, detail, hint.
        is_timeout: Whether it ran out of time, so that an attempt with more time may succeed.
        is_process_killed: Whether holders were killed during it, so that no error is known.
        is_partly_committed: Whether a part of it is committed.
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
        is_process_killed: bool = False,
        is_partly_committed: bool = False,
    ) -> None:
        self.migration = escape_text(migration)
        self.sqlstate = escape_text(sqlstate)
        self.cause = escape_text(" ".join(cause.split()))
        self.attempts = attempts
        self.retry_at_ms = retry_at_ms
        self.detail = detail
        self.is_timeout = is_timeout
        self.is_process_killed = is_process_killed
        self.is_partly_committed = is_partly_committed
        self.available_ms: int | None = None
        """How much time it had, if it ran out of time."""
        super().__init__(detail or self.summary)

    @property
    def summary(self) -> str:
        """One line: the migration, the cause and the SQLSTATE."""
        code = f" [{self.sqlstate}]" if self.sqlstate else ""
        return f"{self.migration}: {self.cause}{code}" if self.migration else self.cause + code


class Diverged(MigrationFailed):
    """History and manifest contradict each other; ``status`` shows what to do about each case."""


class RepairRequired(MigrationFailed):
    """A migration outside a transaction was interrupted; its outcome cannot be determined."""


class NotReady(MigrateError):
    """The schema is not ready yet; a later invocation may succeed. The message is one line.

    Attributes:
        retry_after_seconds: For a Retry-After header.
    """

    retryable = True

    def __init__(self, message: str, *, retry_after_seconds: float = 1.0) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(escape_text(message, kept_characters=_LINE_WHITESPACE))


class LeaseStoreUnavailable(NotReady):
    """DynamoDB did not respond, or throttled the request."""


class LeaseLost(NotReady):
    """The lease was taken over; this instance can commit nothing more."""


class LeaseHeld(NotReady):
    """Another process holds the lease, and the caller does not wait for it."""


class FlagsUnavailable(NotReady):
    """Feature flags are configured and cannot be read, so that it is unknown whether to migrate."""


class DatabaseUnavailable(NotReady):
    """PostgreSQL refused the connection or did not respond in time."""


def escape_text(text: str, *, kept_characters: str = "") -> str:
    r"""Escape every character of ``text`` that is invisible or that controls a terminal.

    ESC becomes ``\x1b``, the right-to-left override ``\u202e``.

    Args:
        text: Any text, including unpaired surrogates.
        kept_characters: Characters that are not escaped.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in kept_characters else ascii(c)[1:-1] for c in text)
