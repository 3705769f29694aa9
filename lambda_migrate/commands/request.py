"""A command for the admin function: the event that requests it, validated.

::

    {"command": "down", "options": {"steps": 1, "yes": true}, "request": "5f0c..."}
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from lambda_migrate.commands.registry import COMMANDS
from lambda_migrate.errors import ConfigurationError, escape_text
from lambda_migrate.migrations.sql.excerpt import redact
from lambda_migrate.migrations.version import DottedVersion, parse_command_version

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lambda_migrate.commands.prompt import Question
    from lambda_migrate.commands.registry import Command, Option

__all__ = ["CommandRequest", "compute_confirmation_token"]

_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_KEYS = ("command", "options", "request", "ended")
_EXAMPLE = '{"command": "status", "options": {}, "request": "<uuid>"}'
_QUOTE_LENGTH = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRequest:
    """A request to run one command.

    Attributes:
        command: The command.
        options: The command's own options by name; options that were not given are absent.
        request_id: The id of the request; a retry has the same one.
        confirmation: The answer to the command's question: True, False, or the token of the one
            question that the user has seen (`compute_confirmation_token`).
        timeout: Overall limit in seconds; the invocation's own deadline may be earlier. None: no
            limit.
        ended_invocation_ids: Ids of invocations that are known to have ended.
    """

    command: Command
    options: Mapping[str, Any] = field(default_factory=dict)
    request_id: str
    confirmation: bool | str = False
    timeout: float | None = None
    ended_invocation_ids: tuple[str, ...] = ()

    @classmethod
    def parse(cls, event: Any, *, default_id: str) -> CommandRequest:
        """Validate an event.

        Args:
            event: The event as it came.
            default_id: The request id of an event that has none.

        Raises:
            ConfigurationError: Everything that is wrong with the event, and what to write instead.
                Values of the event are not repeated, because they may be secrets.
        """
        if not isinstance(event, dict):
            raise ConfigurationError(f"the event is not a JSON object: write {_EXAMPLE}")
        command = _parse_command(event.get("command"))
        values = event.get("options", {})
        if not isinstance(values, dict):
            raise ConfigurationError('"options" is not a JSON object: write {"to": 3}, or {}')
        faults = [*_find_unknown_keys(event), *_find_option_faults(command, values)]
        request_id = event.get("request", default_id)
        if not isinstance(request_id, str) or not _REQUEST_ID.fullmatch(request_id):
            faults.append('"request": write an id of up to 64 letters, digits, - and _')
        ended = event.get("ended", [])
        if not isinstance(ended, list) or not all(isinstance(each, str) for each in ended):
            faults.append('"ended": write a list of invocation ids')
        if faults:
            heading = f"the event has {len(faults)} errors:" if faults[1:] else ""
            raise ConfigurationError(faults, heading=heading)
        options = {key: value for key, value in values.items() if value is not None}
        return cls(
            command=command,
            confirmation=options.pop("yes", False),
            timeout=options.pop("timeout", None),
            options=options,
            request_id=request_id,
            ended_invocation_ids=tuple(ended),
        )

    @property
    def lambda_event(self) -> dict[str, Any]:
        """The event of this request."""
        answers = {"yes": self.confirmation or None, "timeout": self.timeout}
        given = {name: value for name, value in answers.items() if value is not None}
        return {
            "command": self.command.name,
            "options": {**self.options, **given},
            "request": self.request_id,
            "ended": list(self.ended_invocation_ids),
        }

    @property
    def command_text(self) -> str:
        """Command and options as text; a request id belongs to one of these."""
        return json.dumps([self.command.name, self.options, self.confirmation], sort_keys=True)

    @property
    def is_write(self) -> bool:
        """Whether the command changes anything."""
        return self.command.is_write_with(self.options)

    @property
    def call_arguments(self) -> dict[str, Any]:
        """The keyword arguments for the command's function."""
        names = {each.name: each.parameter_name for each in self.command.options}
        versions = {each.name for each in self.command.options if each.type is DottedVersion}
        return {
            names[key]: parse_command_version(str(value), os.environ) if key in versions else value
            for key, value in self.options.items()
        }


def compute_confirmation_token(question: Question) -> str:
    """Return a digest that identifies a question, so that a yes to it confirms nothing else."""
    text = json.dumps(asdict(question), sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _parse_command(name: Any) -> Command:
    known = ", ".join(COMMANDS)
    if not isinstance(name, str):
        raise ConfigurationError(f'"command" is missing or not a string: write one of {known}')
    if name not in COMMANDS:
        raise ConfigurationError(f"there is no command {_quote(name)}: write one of {known}")
    return COMMANDS[name]


def _find_unknown_keys(event: Mapping[Any, Any]) -> Iterator[str]:
    for key in event:
        if key not in _KEYS:
            yield f"the event has an unknown key {_quote(key)}; write only {', '.join(_KEYS)}"


def _find_option_faults(command: Command, values: Mapping[Any, Any]) -> Iterator[str]:
    options = {option.name: option for option in command.options}
    known = [*options, *(["yes"] if command.asks_to_confirm else []), "timeout"]
    for name, value in values.items():
        if name not in known:
            yield (
                f"`{command.name}` has no option {_quote(name)} in an event; it has "
                f"{', '.join(known)}. Target, database and directory come from the function's "
                "own settings"
            )
        elif value is None:
            continue
        elif name == "yes" and not isinstance(value, (bool, str)):
            yield "`yes`: write true"
        elif name == "timeout" and not _is_seconds(value):
            yield "`timeout`: write a number of seconds above 0"
        elif name in options and not _is_valid(options[name], value):
            yield f"`{command.name}`, option `{name}`: {_describe_expected(options[name])}"


def _is_seconds(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and 0 < value < float("inf")


def _is_valid(option: Option, value: Any) -> bool:
    if option.type is DottedVersion:
        return _is_version(value)
    if isinstance(value, bool) is not (option.type is bool) or not isinstance(value, option.type):
        return False
    return not option.choices or value in option.choices


def _is_version(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return False
    try:
        parse_command_version(str(value), os.environ)
    except ValueError:
        return False
    return True


def _describe_expected(option: Option) -> str:
    if option.choices:
        return f"write one of {', '.join(option.choices)}"
    return {
        int: "write a whole number",
        bool: "write true or false",
        str: "write a string",
        DottedVersion: 'write a version: a number, or a string such as "1.2"',
    }[option.type]


def _quote(name: Any) -> str:
    """Quote an unknown name, shortened and without what looks like a secret."""
    text = escape_text(redact(str(name)))
    return repr(text if len(text) <= _QUOTE_LENGTH else text[:_QUOTE_LENGTH] + "…")
