"""An observer that records events."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from lambda_migrate.events import Event

__all__ = ["RecordingObserver"]


E = TypeVar("E")


class RecordingObserver:
    """An observer that records every event in order."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def observe(self, event: Event) -> None:
        """See `Observer.observe`."""
        self.events.append(event)

    def events_of(self, kind: type[E]) -> list[E]:
        """Return the events of one class, in order."""
        return [event for event in self.events if isinstance(event, kind)]
