"""`up` and `down`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lambda_migrate.commands.prompt import Question
from lambda_migrate.commands.result import FAILED, Answer
from lambda_migrate.errors import LeaseHeld

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lambda_migrate.commands.context import Site
    from lambda_migrate.migrations import HistoryRow

__all__ = ["down", "up"]

_WAIT_AT_LEAST = 0.2
"""Seconds between two attempts of ``up --wait``, each of which may open a connection."""


def up(
    site: Site,
    *,
    to: int | None = None,
    wait: bool = False,
    despite_flags: bool = False,
    ignore_other_history: bool = False,
) -> Answer:
    """Apply what is pending.

    Args:
        site: Where.
        to: Stop after this version.
        wait: If somebody else holds the lease, wait and go on then.
        despite_flags: Do not ask the feature flags.
        ignore_other_history: Continue even if another tool has migrated this database.
    """
    began = site.clock.monotonic()
    site.maintenance.status(site.deadline)  # says at once what else would be retried for an hour

    def act() -> tuple[str, ...]:
        return site.maintenance.up(
            site.deadline,
            to=to,
            despite_flags=despite_flags,
            ignore_other_history=ignore_other_history,
        )

    applied = _when_free(site, act, wait=wait)
    seconds = round(site.clock.monotonic() - began, 3)
    return Answer({**site.place, "applied": list(applied), "seconds": seconds})


def _when_free(site: Site, act: Callable[[], tuple[str, ...]], *, wait: bool) -> tuple[str, ...]:
    """Act, and as long as somebody else holds the lease, wait and try again if that was wished."""
    from lambda_migrate.clock import system_random
    from lambda_migrate.lease.backoff import Backoff

    backoff = Backoff(system_random())
    began = site.clock.monotonic()
    while True:
        try:
            return act()
        except LeaseHeld as held:
            if not wait or site.deadline.is_over:
                raise
            waited = site.clock.monotonic() - began
            site.attendant.wait(str(held), seconds=waited)
            delay = max(_WAIT_AT_LEAST, backoff.delay(waited))
            site.clock.sleep(min(delay, site.deadline.remaining()))


def down(
    site: Site, *, to: int | None = None, steps: int | None = None, only: int | None = None
) -> Answer:
    """Take migrations back, the newest first; asks.

    Args:
        site: Where.
        to: Down to this version, which stays; 0 for all.
        steps: So many of the newest.
        only: This one alone.
    """
    agreed = True

    def confirm(rows: Sequence[HistoryRow]) -> bool:
        nonlocal agreed
        agreed = site.attendant.confirm(_rollback_question(rows, site.place))
        return agreed

    reverted = site.maintenance.down(site.deadline, to=to, steps=steps, only=only, confirm=confirm)
    if not agreed:
        return Answer({**site.place, "confirmed": False}, FAILED)
    return Answer({**site.place, "reverted": list(reverted)})


def _rollback_question(rows: Sequence[HistoryRow], place: dict[str, str]) -> Question:
    what = f"{len(rows)} migration" + "s" * (len(rows) != 1)
    return Question(
        verb="down",
        ask=f"take back {what}?",
        heading=f"this runs the down scripts of {what} on {place['database']}:",
        place=place,
        migrations=[{"name": row.name, "applied_at": row.applied_at} for row in rows],
    )
