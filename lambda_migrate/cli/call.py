"""One call of the command line: its common options, its settings, and the parts made from them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from lambda_migrate.cli.progress import Reporter
from lambda_migrate.cli.terminal import Format, Terminal
from lambda_migrate.deadline import SYSTEM_CLOCK, Deadline
from lambda_migrate.errors import ConfigurationError
from lambda_migrate.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lambda_migrate.deadline import Clock
    from lambda_migrate.lease.store import LeaseStore
    from lambda_migrate.maintenance import Maintenance
    from lambda_migrate.migrations import Manifest

__all__ = ["TRACEBACK", "Call", "CommonOptions"]

TRACEBACK = "LAMBDA_MIGRATE_TRACEBACK"
"""The variable that asks for a traceback; it belongs to the command line, not to the library."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonOptions:
    """What every command takes; None stands for "not given"."""

    format: Format = Format.TABLE
    target: str | None = None
    table: str | None = None
    database_url: str | None = field(default=None, repr=False)
    directory: str | None = None
    environment: str | None = None
    schema: str | None = None
    timeout: float = 3600.0

    @property
    def settings(self) -> dict[str, object]:
        """Those that are settings of the library."""
        names = ("target", "table", "database_url", "directory", "environment", "schema")
        return {name: getattr(self, name) for name in names}


class Call:
    """One command at work.

    Args:
        options: As given.
        environ: Where settings are read.
        clock: Time.
    """

    def __init__(
        self,
        options: CommonOptions,
        *,
        environ: Mapping[str, str] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.options = options
        self.terminal = Terminal(options.format)
        self.clock = clock
        self.deadline = Deadline.after(options.timeout, clock)
        self.reporter = Reporter(self.terminal)
        self._environ = os.environ if environ is None else environ

    @cached_property
    def settings(self) -> Settings:
        """Options, then variables, then defaults."""
        return Settings.load(self._environ, **self.options.settings)

    @cached_property
    def manifest(self) -> Manifest:
        """The migration files."""
        from lambda_migrate.wiring import make_manifest

        return make_manifest(self.settings, self._environ)

    @property
    def has_table(self) -> bool:
        """Whether there is a lease table."""
        return bool(self.settings.table)

    @cached_property
    def store(self) -> LeaseStore:
        """The lease table.

        Raises:
            ConfigurationError: None is named.
        """
        from lambda_migrate.wiring import make_store

        return make_store(self.settings.require(table=True), clock=self.clock)

    @cached_property
    def maintenance(self) -> Maintenance:
        """The target, ready to be worked on.

        Raises:
            ConfigurationError: Settings or migration files are wrong.
        """
        from lambda_migrate.maintenance import Maintenance
        from lambda_migrate.wiring import make_target

        settings = self.settings.require(database=True)
        target = make_target(settings, observer=self.reporter, clock=self.clock)
        self._warn_without_table()
        return Maintenance(self.manifest, target, evict=self.has_table)

    @cached_property
    def place(self) -> dict[str, str]:
        """Where the work is done, as every answer says it; no secrets."""
        settings = self.settings
        return {
            "target": settings.target,
            "database": self.maintenance.target.database.fingerprint,
            "environment": settings.environment,
            "schema": settings.schema,
            "directory": settings.directory,
        }

    def require_table(self) -> None:
        """Refuse to go on without a lease table.

        Raises:
            ConfigurationError: None is named.
        """
        self.settings.require(table=True)

    def _warn_without_table(self) -> None:
        address = self.settings.address
        if not self.has_table and not (address is not None and address.is_local):
            self.terminal.note(
                "no lease table is named (--table): PostgreSQL's fence alone keeps others away, "
                "and functions learn of what is done here only when they look"
            )


def require_positive(timeout: float) -> float:
    """Check ``--timeout``.

    Raises:
        ConfigurationError: It is not a number of seconds above 0.
    """
    if not 0 < timeout < float("inf"):
        raise ConfigurationError(f"--timeout {timeout:g}: write a number of seconds above 0")
    return timeout
