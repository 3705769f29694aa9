"""A schedule that violates an invariant, made smaller while it still does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from load.chaos.schedule import HOLDER, Fault, Schedule

__all__ = ["shrink"]


def shrink(schedule: Schedule, still_fails: Callable[[Schedule], bool], *, tries: int) -> Schedule:
    """Remove one thing after another, and leave out what the failure does not need.

    Args:
        schedule: One that fails.
        still_fails: Runs a smaller one.
        tries: How often at most.

    Returns:
        The smallest that failed.
    """
    candidates = _smaller_schedules(schedule)
    for _ in range(tries):
        candidate = next(candidates, None)
        if candidate is None:
            break
        if still_fails(candidate):
            schedule = candidate
            candidates = _smaller_schedules(schedule)
    return schedule


def _smaller_schedules(schedule: Schedule) -> Iterator[Schedule]:
    """Every schedule that lacks one fault, the rollback, the traffic, or one environment."""
    faults, environments = schedule.faults, schedule.environments
    for n in range(len(faults)):
        yield replace(schedule, faults=faults[:n] + faults[n + 1 :])
    if schedule.rollback is not None:
        yield replace(schedule, rollback=None)
    if schedule.has_traffic:
        yield replace(schedule, has_traffic=False)
    for n in reversed(range(len(environments) if len(environments) > 1 else 0)):
        kept = (fault for fault in faults if fault.target != str(n))
        yield replace(
            schedule,
            environments=environments[:n] + environments[n + 1 :],
            faults=tuple(_renumber_target(fault, removed=n) for fault in kept),
        )


def _renumber_target(fault: Fault, *, removed: int) -> Fault:
    if fault.target in ("", HOLDER) or int(fault.target) < removed:
        return fault
    return replace(fault, target=str(int(fault.target) - 1))
