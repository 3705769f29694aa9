"""What every call of DynamoDB needs, with boto3 or without: an error, and the server's clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from lambda_migrate.clock import Clock, Deadline

__all__ = [
    "ConditionFailed",
    "ServerClock",
    "set_credentials_deadline",
]

_MIN_OFFSET_MS = 2_000
"""A ``Date`` header has whole seconds and describes the past: smaller offsets prove nothing."""

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class ConditionFailed(Exception):
    """The condition of a write did not hold; nothing was written.

    Attributes:
        item: The current item, if the engine returned it.
    """

    def __init__(self, item: Mapping[str, Any] | None) -> None:
        self.item = item
        super().__init__("the condition did not hold")


def set_credentials_deadline(store: object, deadline: Deadline) -> None:
    """Set until when a store may wait for AWS credentials; other stores need none."""
    if hasattr(store, "credentials_deadline"):
        store.credentials_deadline = deadline


class ServerClock:
    """The server's clock: the ``Date`` of its newest response, plus the monotonic time since.

    Our wall clock may be wrong, and may be set while a lease is held. It is used before the first
    response, and while it agrees with the server as far as whole seconds can show.

    Args:
        clock: Our clock.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last_response: tuple[int, float] | None = None  # server's ms, our monotonic seconds

    def update(self, date: str, received_at: float | None = None) -> None:
        """Use the date of the newest response; any other text is ignored.

        Args:
            date: Its ``Date`` header: ``Thu, 15 Mar 2012 23:56:23 GMT``.
            received_at: When it came, our monotonic seconds; by default now.
        """
        try:
            server_ms = _parse_http_date(date) * 1000 + 500
        except ValueError:
            return
        now = self._clock.monotonic()
        self._last_response = (server_ms, now if received_at is None else received_at)

    @property
    def offset_ms(self) -> int:
        """The server's clock minus our wall clock; 0 while they agree, or while it is unknown.

        Differences of up to 2 s count as agreement.
        """
        if self._last_response is None:
            return 0
        server_ms, received_at = self._last_response
        elapsed_ms = round((self._clock.monotonic() - received_at) * 1000)
        offset = server_ms + elapsed_ms - self._clock.wall_ms()
        return offset if abs(offset) > _MIN_OFFSET_MS else 0


def _parse_http_date(date: str) -> int:
    """Seconds since the epoch, as email.utils returns them, which takes 10 ms to import.

    Raises:
        ValueError: It has another form than HTTP's.
    """
    if len(date) != 29 or date[3:5] != ", " or date[25:] != " GMT" or not date.isascii():
        raise ValueError(date)
    year, month, day = int(date[12:16]), _MONTHS.index(date[8:11]) + 1, int(date[5:7])
    hours, minutes, seconds = int(date[17:19]), int(date[20:22]), int(date[23:25])
    # Days of the civil calendar, counted from 1 March so that a leap day ends a year.
    year -= month < 3
    shifted = (month + 9) % 12
    days = 365 * year + year // 4 - year // 100 + year // 400 + (153 * shifted + 2) // 5 + day
    return (days - 719_469) * 86_400 + hours * 3_600 + minutes * 60 + seconds
