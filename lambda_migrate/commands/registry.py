"""Every command that can be given to a target, with its options, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lambda_migrate.commands.inspect import plan, status, verify
from lambda_migrate.commands.lease import lease_release, lease_show
from lambda_migrate.commands.migrate import down, up
from lambda_migrate.commands.repair import baseline, repair

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lambda_migrate.commands.result import Answer

__all__ = ["COMMANDS", "Command", "Option"]


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a command.

    Attributes:
        name: As written on the command line, without dashes.
        kind: ``int``, ``bool`` or ``str``.
        choices: The texts that it may be; any if there are none.
        parameter: The verb's argument, where that has another name.
    """

    name: str
    kind: type
    choices: tuple[str, ...] = ()
    parameter: str = ""

    @property
    def argument(self) -> str:
        """The verb's argument."""
        return self.parameter or self.name


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    Attributes:
        name: ``up``, ``lease show``.
        act: The verb.
        options: Its own ones.
        asks: Whether it asks before it goes on.
        changes: Whether it changes anything, so that it must not be run twice by mistake.
        changes_with: The option that alone makes it change something.
    """

    name: str
    act: Callable[..., Answer]
    options: tuple[Option, ...] = ()
    asks: bool = False
    changes: bool = False
    changes_with: str = ""

    def writes(self, options: Mapping[str, Any]) -> bool:
        """Whether it changes anything when it is given these options."""
        return self.changes or bool(options.get(self.changes_with))


_TO = Option("to", int)
_IGNORE_OTHER_HISTORY = Option("ignore_other_history", bool)

COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        Command("status", status, (Option("exit_code", bool),)),
        Command(
            "plan",
            plan,
            (_TO, Option("execute", bool), Option("in_production", bool), _IGNORE_OTHER_HISTORY),
            asks=True,
            changes_with="execute",
        ),
        Command("verify", verify, (Option("resync", bool),), changes_with="resync"),
        Command(
            "up",
            up,
            (_TO, Option("wait", bool), Option("despite_flags", bool), _IGNORE_OTHER_HISTORY),
            changes=True,
        ),
        Command(
            "down",
            down,
            (_TO, Option("steps", int), Option("only", int)),
            asks=True,
            changes=True,
        ),
        Command(
            "baseline",
            baseline,
            (
                Option("version", int),
                Option("from", str, parameter="source"),
                _IGNORE_OTHER_HISTORY,
            ),
            asks=True,
            changes=True,
        ),
        Command(
            "repair",
            repair,
            (
                Option("version", int),
                Option("as", str, choices=("applied", "pending", "edited"), parameter="declared"),
                Option("environment", str),
            ),
            asks=True,
            changes=True,
        ),
        Command("lease show", lease_show),
        Command("lease release", lease_release, asks=True, changes=True),
    )
}
