"""Warnings and notices of PostgreSQL, as each driver hands them over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lambda_migrate.migrations.sql.excerpt import redact

if TYPE_CHECKING:
    from collections.abc import Callable

    from lambda_migrate.sources.protocol import Channel

__all__ = ["NoticeForwarder"]

_MAX_NOTICES = 20
"""How many of each step are sent, as of an SQL file."""

_MAX_LENGTH = 500

_MAX_KEPT = 50  # as psycopg2 keeps; without a limit pg8000's list would grow


class NoticeForwarder:
    """Sends what PostgreSQL reports while a step runs.

    Args:
        channel: To the parent.
        find_step_id: Returns the id of the running step; "" if none runs.
    """

    def __init__(self, channel: Channel, find_step_id: Callable[[], str]) -> None:
        self._channel = channel
        self._find_step_id = find_step_id
        self._step_id = ""
        self._count = 0

    def watch(self, driver: Any) -> None:
        """Send what arrives on a driver's connection."""
        if hasattr(driver, "add_notice_handler"):  # psycopg
            driver.add_notice_handler(
                lambda each: self._send(each.severity_nonlocalized, each.message_primary)
            )
        elif hasattr(driver, "add_log_listener"):  # asyncpg
            driver.add_log_listener(lambda _, each: self._send(each.severity_en, each.message))
        elif hasattr(driver, "notices"):  # psycopg2, pg8000
            driver.notices = _NoticeList(self._send)

    def _send(self, severity: str | None, message: str | None) -> None:
        step_id = self._find_step_id()
        if step_id != self._step_id:
            self._step_id, self._count = step_id, 0
        self._count += 1
        if not step_id or self._count > _MAX_NOTICES:
            return
        text = redact(" ".join((message or "").split()))[:_MAX_LENGTH]
        if self._count == _MAX_NOTICES:
            severity, text = "NOTICE", "further messages are left out"
        self._channel.send_notice(step_id, severity or "NOTICE", text)


class _NoticeList(list[Any]):
    """Stands for a driver's list, which SQLAlchemy and migrations may read and clear."""

    def __init__(self, send: Callable[[str, str], None]) -> None:
        super().__init__()
        self._send = send

    def append(self, notice: Any) -> None:
        """Keep and send a notice: a text of psycopg2, or the fields of pg8000."""
        super().append(notice)
        del self[:-_MAX_KEPT]
        if isinstance(notice, dict):
            fields = {each: bytes(text).decode(errors="replace") for each, text in notice.items()}
            self._send(fields.get(b"V", ""), fields.get(b"M", ""))
        else:
            severity, _, text = str(notice).partition(":")
            self._send(severity, text)
