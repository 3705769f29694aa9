"""One step after another, each with its verdicts, until one after which the others mean nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lambda_migrate.errors import ConfigurationError, MigrateError
from lambda_migrate.local.runtime.process import ProcessError
from load.staging.verdicts import Step
from load.storm.verdicts import Verdict

__all__ = ["Deed", "Halted", "Told", "played"]

Told = tuple[list[Verdict], dict[str, Any]]
"""What a step has found: verdicts, and figures for the report."""


class Halted(Exception):
    """A step after which the others mean nothing; its verdicts say why."""

    def __init__(self, told: Told) -> None:
        super().__init__("halted")
        self.told = told


@dataclass(frozen=True, slots=True)
class Deed:
    """A step that is to be done.

    Attributes:
        name: What a person calls it.
        act: Does it.
        phase: See `Step`.
    """

    name: str
    act: Callable[[], Told]
    phase: str = ""


def played(
    deeds: Sequence[Deed], on_step: Callable[[Step], object], *, last: str = ""
) -> Iterator[Step]:
    """Do them in their order.

    Args:
        deeds: All of them.
        on_step: Told of each when it is done, or left out.
        last: The name of the one after which to end; "" for all of them.

    Raises:
        ConfigurationError: Something cannot be read, or is not installed: that is no verdict.
    """
    halted_by = ""
    for deed in deeds:
        step = _left_out(deed, halted_by) if halted_by else _done(deed)
        halted_by = halted_by or (deed.name if step.halts else "")
        on_step(step)
        yield step
        if deed.name == last:
            return


def _left_out(deed: Deed, halted_by: str) -> Step:
    return Step(deed.name, 0.0, (Verdict("not done", "not measured", f"after {halted_by!r}"),))


def _done(deed: Deed) -> Step:
    began, halts = time.monotonic(), False
    try:
        verdicts, facts = deed.act()
    except Halted as halted:
        (verdicts, facts), halts = halted.told, True
    except ConfigurationError:
        raise
    except (MigrateError, ProcessError) as error:
        verdicts, facts, halts = [Verdict("it came to its end", "failed", str(error))], {}, True
    return Step(
        deed.name, time.monotonic() - began, tuple(verdicts), facts, halts=halts, phase=deed.phase
    )
