"""Every command that works on a target, with its options and their help texts.

The one source for the command line's options and help, the admin function's events and the tables
of ``docs/reference/command-line.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lambda_migrate.commands.adopt import adopt
from lambda_migrate.commands.doctor import doctor
from lambda_migrate.commands.inspect import plan, status, verify
from lambda_migrate.commands.lease import lease_release, lease_show
from lambda_migrate.commands.migrate import down, up
from lambda_migrate.commands.repair import baseline, repair
from lambda_migrate.commands.wait import wait
from lambda_migrate.migrations.version import DottedVersion
from lambda_migrate.settings import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lambda_migrate.commands.result import CommandResult

__all__ = ["COMMANDS", "LEASE_SETTINGS", "TARGET_SETTINGS", "Command", "Option"]

LEASE_SETTINGS = ("target", "table")
TARGET_SETTINGS = (*LEASE_SETTINGS, "database_url", "directory", "environment", "schema")
"""Settings of the commands that need the database."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a command.

    Attributes:
        name: The name in an event; on the command line with ``--`` and ``-`` for ``_``.
        type: ``int``, ``bool``, ``str``, or ``DottedVersion`` for a version of any form.
        help: What it does, as ``--help`` and the reference page say it.
        metavar: What stands for its value in a usage line.
        alias: Another name on the command line.
        choices: The strings that it may be; any if empty.
        parameter_name: The parameter of the command's function.
        is_positional: Whether the command line takes it without a name.
        is_required: Whether a positional one must be given.
        is_common: Whether it is one of the command line's common options.
        setting: The setting that it overrides; "" if there is none.
        default: What happens without it; "" for the default of its setting, and for a flag.
    """

    name: str
    type: type
    help: str
    metavar: str | None = None
    alias: str = ""
    choices: tuple[str, ...] = ()
    parameter_name: str = ""
    is_positional: bool = False
    is_required: bool = False
    is_common: bool = False
    setting: str = ""
    default: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameter_name", self.parameter_name or self.name)

    @property
    def flags(self) -> tuple[str, ...]:
        """Its names on the command line; none for a positional argument."""
        if self.is_positional:
            return ()
        names = (self.name, self.alias) if self.alias else (self.name,)
        return tuple(
            f"-{name}" if len(name) == 1 else f"--{name.replace('_', '-')}" for name in names
        )

    @property
    def full_help(self) -> str:
        """What it does, its environment variable and its default."""
        notes = []
        default = self.default
        if self.setting:
            setting = SETTINGS[self.setting]
            notes.append(f"env: {setting.variable}")
            default = default or setting.default_text or "none"
        if default:
            notes.append(f"default: {default}")
        return f"{self.help} [{'; '.join(notes)}]" if notes else self.help


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    Attributes:
        name: ``up``, ``lease show``.
        run: Its function.
        help: What it does, in one sentence.
        options: Its own options.
        usage: Its arguments and the options that it needs, as a usage line shows them.
        examples: Complete command lines without the program's name.
        settings: The settings that it uses and that the command line has an option for.
        asks_to_confirm: Whether it asks before it changes anything.
        is_write: Whether it changes anything, so that a retry must not run it again.
        write_option: The option that alone makes it change something.
    """

    name: str
    run: Callable[..., CommandResult]
    help: str
    options: tuple[Option, ...] = ()
    usage: str = ""
    examples: tuple[str, ...] = ()
    settings: tuple[str, ...] = TARGET_SETTINGS
    asks_to_confirm: bool = False
    is_write: bool = False
    write_option: str = ""

    def is_write_with(self, options: Mapping[str, Any]) -> bool:
        """Whether it changes anything when it is given these options."""
        return self.is_write or bool(options.get(self.write_option))


_IGNORE_OTHER_HISTORY = Option(
    "ignore_other_history",
    bool,
    "Continue even if another tool's history table is in the database.",
    setting="ignore_other_history",
)

_COMMANDS = (
    Command(
        "status",
        status,
        "Show applied and pending migrations and the lease holder.",
        (Option("exit_code", bool, "Exit with 3 if migrations are pending or diverged."),),
        examples=("status", "status --exit-code --format json"),
    ),
    Command(
        "plan",
        plan,
        "Show what `up` would do.",
        (
            Option(
                "to",
                DottedVersion,
                "Plan up to and including this version.",
                "VERSION",
                default="the newest",
            ),
            Option("sql", bool, "Show every statement in full."),
            Option(
                "dry_run",
                bool,
                "Run the pending migrations in a transaction, measure them, and roll back.",
                alias="execute",
            ),
            Option(
                "in_production",
                bool,
                "Confirm that a dry run may lock tables of a production database.",
            ),
            _IGNORE_OTHER_HISTORY,
        ),
        usage="[--dry-run]",
        examples=("plan", "plan --sql", "plan --dry-run"),
        asks_to_confirm=True,
        write_option="dry_run",
    ),
    Command(
        "verify",
        verify,
        "Compare migration files, history and lease table.",
        (Option("resync", bool, "Correct the lease table from the history first."),),
        examples=("verify", "verify --resync"),
        write_option="resync",
    ),
    Command(
        "doctor",
        doctor,
        "Check settings, permissions, network and database; change nothing.",
        examples=("doctor", "--function orders-admin doctor"),
    ),
    Command(
        "wait",
        wait,
        "Wait until the database responds, at most until the timeout.",
        examples=("wait --timeout 60",),
        settings=("database_url",),
    ),
    Command(
        "up",
        up,
        "Apply pending migrations.",
        (
            Option(
                "to", DottedVersion, "Stop after this version.", "VERSION", default="the newest"
            ),
            Option(
                "wait",
                bool,
                "Wait if another process holds the lease.",
                default="exit with 4",
            ),
            Option("despite_flags", bool, "Ignore the feature flags."),
            _IGNORE_OTHER_HISTORY,
        ),
        examples=("up", "up --to 42 --wait", "--function orders-admin up"),
        is_write=True,
    ),
    Command(
        "down",
        down,
        "Roll back applied migrations, the newest first.",
        (
            Option(
                "to",
                DottedVersion,
                "Roll back every migration above this version; 0: all, except a version 0.",
                "VERSION",
            ),
            Option("steps", int, "Roll back the last N migrations.", "N"),
            Option("only", DottedVersion, "Roll back only this version.", "VERSION"),
        ),
        usage="(--to VERSION | --steps N | --only VERSION)",
        examples=("down --steps 1", "down --to 42", "down --only 43 --yes"),
        asks_to_confirm=True,
        is_write=True,
    ),
    Command(
        "baseline",
        baseline,
        "Mark migrations as applied without running them.",
        (
            Option(
                "version",
                DottedVersion,
                "Mark every migration up to this version.",
                "VERSION",
                is_positional=True,
                default="exactly those that another tool's history table lists as applied",
            ),
            Option(
                "from",
                str,
                "Read this tool's history table, if the database has several.",
                "TOOL",
                parameter_name="from_tool",
                default="the only one",
            ),
            _IGNORE_OTHER_HISTORY,
        ),
        usage="[VERSION]",
        examples=("baseline", "baseline 42"),
        asks_to_confirm=True,
        is_write=True,
    ),
    Command(
        "adopt",
        adopt,
        "Convert another tool's migration files, and mark what it has applied.",
        (
            Option(
                "from",
                str,
                "The tool to adopt, or its history table.",
                "TOOL",
                parameter_name="from_tool",
                default="detected",
            ),
            Option("files", str, "The folder of its files.", "PATH", default="detected"),
            Option("dry_run", bool, "Show what would be done, and change nothing."),
            Option("keep_theirs", bool, "Also write the tool's history table from now on."),
            Option(
                "undo",
                bool,
                "Remove what an earlier run wrote; possible until another migration is applied.",
            ),
        ),
        usage="[--dry-run | --undo]",
        examples=("adopt --dry-run", "adopt --from Flyway --keep-theirs", "adopt --undo"),
        asks_to_confirm=True,
        is_write=True,
    ),
    Command(
        "repair",
        repair,
        "Resolve a migration whose outcome is unknown, accept a changed file, or record another "
        "environment.",
        (
            Option(
                "version", DottedVersion, "The version to resolve.", "VERSION", is_positional=True
            ),
            Option(
                "as",
                str,
                "Record the outcome of a migration in doubt (applied, pending), or accept a "
                "changed file (edited).",
                choices=("applied", "pending", "edited"),
                parameter_name="declared_state",
            ),
            Option(
                "force",
                bool,
                "With `--as pending`: also remove the row of a migration that is not in doubt.",
            ),
            Option(
                "environment",
                str,
                "Without VERSION: record this environment in the database.",
                "NAME",
                is_common=True,
            ),
        ),
        usage="(VERSION --as OUTCOME | --environment NAME)",
        examples=("repair 42 --as applied", "repair --environment staging"),
        asks_to_confirm=True,
        is_write=True,
    ),
    Command(
        "lease show",
        lease_show,
        "Show the lease holder and the last failure.",
        examples=("lease show --target orders",),
        settings=LEASE_SETTINGS,
    ),
    Command(
        "lease release",
        lease_release,
        "Release the lease now; a holder that is alive loses the migration that it is applying.",
        examples=("lease release --target orders",),
        settings=LEASE_SETTINGS,
        asks_to_confirm=True,
        is_write=True,
    ),
)

COMMANDS: dict[str, Command] = {command.name: command for command in _COMMANDS}
