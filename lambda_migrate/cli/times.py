"""Times and durations formatted for reading."""

from __future__ import annotations

from datetime import datetime

__all__ = ["format_duration", "format_iso_as_local", "format_time_until", "format_wall_time"]


def format_iso_as_local(text: str | None) -> str:
    """``2026-11-22 19:26`` in this machine's zone, from ISO 8601 in UTC."""
    if not text:
        return ""
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return moment.astimezone().strftime("%Y-%m-%d %H:%M")


def format_wall_time(wall_ms: int, *, now_ms: int) -> str:
    """``19:26:03``, with the date unless it is today; the number if it is out of range."""
    try:
        moment = datetime.fromtimestamp(wall_ms / 1000).astimezone()
    except (OverflowError, OSError, ValueError):
        return f"invalid time: {wall_ms} ms"
    today = datetime.fromtimestamp(now_ms / 1000).astimezone().date()
    return moment.strftime("%H:%M:%S" if moment.date() == today else "%Y-%m-%d %H:%M:%S")


def format_time_until(wall_ms: int, *, now_ms: int) -> str:
    """``in 34 s``, ``2 min ago``."""
    seconds = (wall_ms - now_ms) / 1000
    if seconds < 0:
        return f"{format_duration(-seconds)} ago"
    return f"in {format_duration(seconds)}"


def format_duration(seconds: float) -> str:
    """``4 ms``, ``1.2 s``, ``34 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} days"
