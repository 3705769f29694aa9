"""The text of ``--help``: usage, options with their variables and defaults, exit codes, examples.

Typer parses the command line; its own help texts cut the names of variables on narrow terminals.
"""

from __future__ import annotations

import shutil
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer.core

from lambda_migrate.commands.result import EXIT_CODES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from lambda_migrate.commands.registry import Option

__all__ = ["HELP", "CommandHelp", "CommandWithHelp", "GroupHelp", "GroupWithHelp"]

_PROGRAM = "lambda-migrate"
_MAX_WIDTH, _MIN_WIDTH = 80, 40
_TWO_COLUMNS_WIDTH = 64
"""From this width on, descriptions stand beside their options instead of below."""

_MAX_NAME_WIDTH = 26
_MAX_NARROW_NAME_WIDTH = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandHelp:
    """What the help of a command says.

    Attributes:
        name: ``up``, ``lease show``.
        text: What it does, in one sentence.
        usage: Its arguments and the options that it needs.
        options: Its own arguments and options.
        common_options: Those that it shares with other commands.
        examples: Complete command lines without the program's name.
        exit_codes: Those that it may have; see `EXIT_CODES`.
    """

    name: str
    text: str
    usage: str = ""
    options: tuple[Option, ...] = ()
    common_options: tuple[Option, ...] = ()
    examples: tuple[str, ...] = ()
    exit_codes: tuple[int, ...] = ()

    def render(self, width: int) -> str:
        """Render the help, wrapped at ``width`` columns."""
        usage = " ".join(part for part in (_PROGRAM, self.name, self.usage, "[OPTIONS]") if part)
        parts = [*_render_head(usage, self.text, width)]
        parts += _render_section("Arguments", _list_arguments(self.options), width)
        own = [*_list_options(self.options), _HELP_ROW]
        parts += _render_section("Options (flags are off by default)", own, width)
        parts += _render_section("Common options", _list_options(self.common_options), width)
        parts += _render_section(
            "Exit codes", [(str(code), EXIT_CODES[code]) for code in self.exit_codes], width
        )
        parts += _render_examples(self.examples, width)
        return "\n".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupHelp:
    """What the help of the program or of a group of commands says.

    Attributes:
        name: "" for the program.
        text: What it does.
        options: Its own options.
        examples: Complete command lines without the program's name.
    """

    name: str
    text: str
    options: tuple[Option, ...] = ()
    examples: tuple[str, ...] = ()

    def render(self, commands: Iterable[tuple[str, str]], width: int) -> str:
        """Render the help with these commands (name and text), wrapped at ``width`` columns."""
        usage = " ".join(part for part in (_PROGRAM, self.name, "[OPTIONS] COMMAND") if part)
        parts = [*_render_head(usage, self.text, width)]
        parts += _render_section("Commands", list(commands), width)
        parts += _render_section("Options", [*_list_options(self.options), _HELP_ROW], width)
        if not self.name:
            rows = [(str(code), text) for code, text in EXIT_CODES.items()]
            parts += _render_section("Exit codes", rows, width)
        parts += _render_examples(self.examples, width)
        return "\n".join(parts)


HELP: dict[str, CommandHelp | GroupHelp] = {}
"""The help of every command and group by name; "" for the program."""

_HELP_ROW = ("-h, --help", "Show this message and exit.")


def _render_head(usage: str, text: str, width: int) -> Iterator[str]:
    yield from _wrap(f"Usage: {usage}", width, first="", rest=" " * len("Usage: "))
    yield ""
    yield from _wrap(text, width, first="  ", rest="  ")


def _list_arguments(options: Iterable[Option]) -> list[tuple[str, str]]:
    return [
        (option.metavar or option.name.upper(), option.full_help)
        for option in options
        if option.is_positional
    ]


def _list_options(options: Iterable[Option]) -> list[tuple[str, str]]:
    return [
        (_format_names(option), option.full_help) for option in options if not option.is_positional
    ]


def _format_names(option: Option) -> str:
    names = ", ".join(option.flags)
    value = "|".join(option.choices) or option.metavar
    return names if option.type is bool else f"{names} {value}"


def _render_section(title: str, rows: Sequence[tuple[str, str]], width: int) -> Iterator[str]:
    if not rows:
        return
    yield from ("", f"{title}:")
    longest = max(len(name) for name, _ in rows)
    is_stacked = width < _TWO_COLUMNS_WIDTH and longest > _MAX_NARROW_NAME_WIDTH
    indent = " " * (6 if is_stacked else min(longest, _MAX_NAME_WIDTH) + 4)
    for name, text in rows:
        start = f"  {name}"
        if is_stacked or len(name) > _MAX_NAME_WIDTH:
            yield start
            start = ""
        yield from _wrap(text, width, first=start.ljust(len(indent)), rest=indent)


def _render_examples(examples: Sequence[str], width: int) -> Iterator[str]:
    if examples:
        yield from ("", "Examples:")
    for example in examples:
        yield from _wrap(f"{_PROGRAM} {example}", width, first="  ", rest="      ")


def _wrap(text: str, width: int, *, first: str, rest: str) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _get_width() -> int:
    return max(_MIN_WIDTH, min(_MAX_WIDTH, shutil.get_terminal_size().columns))


def _get_help(context: Any) -> Any:
    return HELP[context.command_path.partition(" ")[2]]


class CommandWithHelp(typer.core.TyperCommand):
    """A command whose ``--help`` is its `CommandHelp`."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        formatter.write(_get_help(ctx).render(_get_width()) + "\n")


class GroupWithHelp(typer.core.TyperGroup):
    """A group whose ``--help`` is its `GroupHelp`."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        group = _get_help(ctx)
        prefix = f"{group.name} " if group.name else ""
        commands = [(name, HELP[prefix + name].text) for name in self.list_commands(ctx)]
        formatter.write(group.render(commands, _get_width()) + "\n")
