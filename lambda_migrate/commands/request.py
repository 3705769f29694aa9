"""A command on its way to a function: the event that asks for it, checked on arrival.

::

    {"command": "down", "options": {"steps": 1, "yes": true}, "request": "5f0c..."}
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from lambda_migrate.commands.registry import COMMANDS
from lambda_migrate.errors import ConfigurationError, escape_text
from lambda_migrate.migrations.sql.excerpt import redact

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lambda_migrate.commands.prompt import Question
    from lambda_migrate.commands.registry import Command, Option

__all__ = ["Errand", "mark_of"]

_REQUEST = re.compile(r"[A-Za-z0-9_-]{1,64}")
_KEYS = ("command", "options", "request", "ended")
_EXAMPLE = '{"command": "status", "options": {}, "request": "<uuid>"}'
_QUOTED = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """One command for a function.

    Attributes:
        command: Which.
        options: The command's own, by name; those not given are absent.
        request: The command's id: the same however often it has to be asked for.
        yes: What every question is answered with: True, or the mark of the one question that a
            person has seen (`mark_of`), or False.
        timeout: Seconds for all of it; the invocation's own end may come before. None: no limit.
        ended: Ids of invocations that are known to have ended.
    """

    command: Command
    options: Mapping[str, Any] = field(default_factory=dict)
    request: str
    yes: bool | str = False
    timeout: float | None = None
    ended: tuple[str, ...] = ()

    @classmethod
    def read(cls, event: Any, *, request: str) -> Errand:
        """Read an event.

        Args:
            event: As it came.
            request: The id where the event has none.

        Raises:
            ConfigurationError: With everything that is wrong with it, and what to write. No value
                of the event is repeated: it may hold anything.
        """
        if not isinstance(event, dict):
            raise ConfigurationError(f"the event is no JSON object: write {_EXAMPLE}")
        command = _command_of(event.get("command"))
        given = event.get("options", {})
        if not isinstance(given, dict):
            raise ConfigurationError('"options" is no JSON object: write {"to": 3}, or {}')
        faults = [*_unknown_keys(event), *_faults(command, given)]
        request = event.get("request", request)
        if not isinstance(request, str) or not _REQUEST.fullmatch(request):
            faults.append('"request": write an id of up to 64 letters, digits, - and _')
        ended = event.get("ended", [])
        if not isinstance(ended, list) or not all(isinstance(each, str) for each in ended):
            faults.append('"ended": write a list of the ids of invocations')
        if faults:
            heading = f"{len(faults)} things are wrong with the event:" if faults[1:] else ""
            raise ConfigurationError(faults, heading=heading)
        options = {key: value for key, value in given.items() if value is not None}
        return cls(
            command=command,
            yes=options.pop("yes", False),
            timeout=options.pop("timeout", None),
            options=options,
            request=request,
            ended=tuple(ended),
        )

    @property
    def event(self) -> dict[str, Any]:
        """The event that asks for it."""
        extra: dict[str, Any] = {"yes": self.yes} if self.yes else {}
        if self.timeout is not None:
            extra["timeout"] = self.timeout
        event: dict[str, Any] = {
            "command": self.command.name,
            "options": {**self.options, **extra},
            "request": self.request,
        }
        return {**event, "ended": list(self.ended)} if self.ended else event

    @property
    def asked(self) -> str:
        """What it asks for, to tell it from another: command and options, however often asked."""
        return json.dumps([self.command.name, self.options, self.yes], sort_keys=True)

    @property
    def writes(self) -> bool:
        """Whether it changes anything."""
        return self.command.writes(self.options)

    @property
    def arguments(self) -> dict[str, Any]:
        """The verb's arguments."""
        names = {each.name: each.argument for each in self.command.options}
        return {names[key]: value for key, value in self.options.items()}


def mark_of(question: Question) -> str:
    """What tells one question from another: who says yes to it says yes to nothing else."""
    text = json.dumps(asdict(question), sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _command_of(name: Any) -> Command:
    known = ", ".join(COMMANDS)
    if not isinstance(name, str):
        raise ConfigurationError(f'"command" names no command: write one of {known}')
    if name not in COMMANDS:
        raise ConfigurationError(f"there is no command {_quoted(name)}: write one of {known}")
    return COMMANDS[name]


def _unknown_keys(event: Mapping[Any, Any]) -> Iterator[str]:
    for key in event:
        if key not in _KEYS:
            yield f"the event has a key {_quoted(key)}; known are {', '.join(_KEYS)}"


def _faults(command: Command, given: Mapping[Any, Any]) -> Iterator[str]:
    options = {option.name: option for option in command.options}
    known = [*options, *(["yes"] if command.asks else []), "timeout"]
    for name, value in given.items():
        if name not in known:
            yield (
                f"`{command.name}` has no option {_quoted(name)} here; it has {', '.join(known)}. "
                "Where its target, database and files are is for the function's settings to say"
            )
        elif value is None:
            continue
        elif name == "yes" and not isinstance(value, (bool, str)):
            yield "`yes`: write true"
        elif name == "timeout" and not _is_seconds(value):
            yield "`timeout`: write a number of seconds above 0"
        elif name in options and not _fits(options[name], value):
            yield f"`{command.name}`, option `{name}`: {_wanted(options[name])}"


def _is_seconds(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and 0 < value < float("inf")


def _fits(option: Option, value: Any) -> bool:
    if isinstance(value, bool) is not (option.kind is bool) or not isinstance(value, option.kind):
        return False
    return not option.choices or value in option.choices


def _wanted(option: Option) -> str:
    if option.choices:
        return f"write one of {', '.join(option.choices)}"
    return {int: "write a whole number", bool: "write true or false", str: "write a text"}[
        option.kind
    ]


def _quoted(name: Any) -> str:
    """A name that nobody knows, as far as it may be repeated."""
    text = escape_text(redact(str(name)))
    return repr(text if len(text) <= _QUOTED else text[:_QUOTED] + "…")
