"""A schedule that violates an invariant, made smaller while it still does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

from load.chaos.schedule import HOLDER, Fault, Schedule

__all__ = ["shrink", "smaller"]

_T = TypeVar("_T")


def shrink(
    schedule: Schedule, still_fails: Callable[[Schedule], bool], *, tries: int
) -> tuple[Schedule, int]:
    """Remove one thing after another, and leave out what the failure does not need.

    Args:
        schedule: One that fails.
        still_fails: Plays a smaller one.
        tries: How often at most.

    Returns:
        The smallest that failed, and how often was played.
    """
    played = 0
    while True:
        for candidate in smaller(schedule):
            if played == tries:
                return schedule, played
            played += 1
            if still_fails(candidate):
                schedule = candidate
                break
        else:
            return schedule, played


def smaller(schedule: Schedule) -> Iterator[Schedule]:
    """Every schedule that lacks one fault, the rollback, the traffic, or one environment."""
    for number in range(len(schedule.faults)):
        yield replace(schedule, faults=_without(schedule.faults, number))
    if schedule.rollback is not None:
        yield replace(schedule, rollback=None)
    if schedule.traffic:
        yield replace(schedule, traffic=False)
    if len(schedule.environments) > 1:
        for number in reversed(range(len(schedule.environments))):
            yield replace(
                schedule,
                environments=_without(schedule.environments, number),
                faults=tuple(_renumbered(schedule.faults, number)),
            )


def _without(values: tuple[_T, ...], number: int) -> tuple[_T, ...]:
    return values[:number] + values[number + 1 :]


def _renumbered(faults: tuple[Fault, ...], removed: int) -> Iterator[Fault]:
    """The faults that still have a target, aimed at its new number."""
    for fault in faults:
        if fault.target in ("", HOLDER):
            yield fault
        elif int(fault.target) != removed:
            number = int(fault.target)
            yield replace(fault, target=str(number - (number > removed)))
