"""A release: the version that serves today, the one that comes, and what clients send."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lambda_migrate.errors import ConfigurationError, ManifestError
from lambda_migrate.local.demo.example import VERSIONS, find_example, place_order
from lambda_migrate.migrations import Manifest
from lambda_migrate.migrations.source import read_manifest
from load.staging.generated_orders import GeneratedOrders
from load.storm.packages import Orders

if TYPE_CHECKING:
    from lambda_migrate.local.runtime.environment import InvocationResult
    from lambda_migrate.local.servers.postgresql import LocalPostgreSQL

__all__ = ["Release", "example_release", "make_release"]

_DIRECTORY = "migrations"
"""Where a function's migrations are, beside its handler."""

_COUNT_HISTORY = """
SELECT version, count(*) FROM lambda_migrate.history
WHERE state = 'applied' AND NOT starts_with(version, 'R') GROUP BY version
"""


@dataclass(frozen=True, slots=True)
class Release:
    """A `Package` for the storms, made of two folders."""

    name: str
    old: Path  # the code that serves today
    new: Path  # the code that comes
    last_version: int | None = None  # of the old code, where both are one folder
    client_event: Any = None  # what clients send
    example: Orders | None = None  # what counts effects, where the release is the example's
    generated: GeneratedOrders | None = None  # whose customers its clients are
    database: str = "orders"
    _customer_numbers: Iterator[int] = field(default_factory=count, compare=False, repr=False)

    # -- as a Package -----------------------------------------------------------------------------

    def deploy(self, version: int, home: Path) -> Path:
        """See `Package.deploy`: 1 is the old code, 2 the new one."""
        source, code = (self.old if version == 1 else self.new), home / f"version-{version}"
        skipped = shutil.ignore_patterns("tests", "__pycache__", ".*", "*.md")
        shutil.copytree(source, code, ignore=skipped)
        if version == 1 and self.last_version is not None:
            for path in (code / _DIRECTORY).glob("*.sql"):
                number = path.name.partition("_")[0]
                if number.isdigit() and int(number) > self.last_version:
                    path.unlink()
        return code

    def event(self, kind: str, subject: int) -> Any:
        """See `Package.event`."""
        if self.example is None:
            return self.client_event or {}
        if kind == "read" or self.generated is None:
            return self.example.event(kind, subject)
        event = place_order()
        email = self.generated.email(next(self._customer_numbers))
        return {**event, "body": json.dumps({**json.loads(event["body"]), "email": email})}

    def effects(self, server: LocalPostgreSQL, version: int) -> dict[str, int]:
        """See `Package.effects`; where it is not the example's, counted in the history."""
        if self.example is not None:
            return self.example.effects(server, version)
        counted = self._count_history(server)
        return {m.name: counted.get(int(m.version), 0) for m in self._manifest(version)}

    def rollback_effects(self, server: LocalPostgreSQL) -> dict[str, int]:
        """See `Package.rollback_effects`."""
        if self.example is not None:
            return self.example.rollback_effects(server)
        counted = self._count_history(server)
        return {m.name: 1 - counted.get(m.version, 0) for m in self.pending}

    def attempts(self, server: LocalPostgreSQL) -> int | None:  # noqa: ARG002 - none fails
        """See `Package.attempts`."""
        return None

    def _count_history(self, server: LocalPostgreSQL) -> dict[int, int]:
        rows = server.execute(_COUNT_HISTORY, database=self.database)
        return {int(version): int(count) for version, count in rows}

    # -- what it brings ---------------------------------------------------------------------------

    def _manifest(self, version: int) -> Manifest:
        source = self.old if version == 1 else self.new
        manifest = read_manifest(str(source / _DIRECTORY))
        if version == 1 and self.last_version is not None:
            return manifest.up_to(self.last_version)
        return manifest

    @property
    def pending(self) -> tuple[Any, ...]:
        """The migrations that only the new code has, in order."""
        old = {migration.version for migration in self._manifest(1)}
        return tuple(m for m in self._manifest(2) if m.version not in old)

    def problems(self) -> list[str]:
        """Why the new migrations do not follow the old ones; [] if they do."""
        old, new = self._manifest(1), self._manifest(2)
        found = []
        for migration in old:
            other = new.get(migration.version)
            if other is None:
                found.append(f"{migration.name} is missing in the new code")
            elif other.checksum != migration.checksum:
                found.append(f"{migration.name} was edited in the new code")
        return found + [
            f"{m.name} comes before {old.migrations[-1].name}, which is applied already"
            for m in self.pending
            if m.version < old.version
        ]

    def confirmed_orders(self, results: Sequence[InvocationResult]) -> list[int]:
        """Orders of the example that were confirmed to a client; [] for another function."""
        payloads = [one.payload for one in results if isinstance(one.payload, dict)]
        return [
            int(json.loads(payload["body"])["order_id"])
            for payload in payloads
            if self.example is not None and payload.get("statusCode") == 201
        ]


def example_release(generated: GeneratedOrders | None = None) -> Release:
    """examples/orders, version 1 to 2.

    Args:
        generated: Whose customers place orders.

    Raises:
        ConfigurationError: The example is not there.
    """
    example = find_example()
    return Release(
        "examples/orders, version 1 to 2",
        example.directory,
        example.directory,
        last_version=VERSIONS[1],
        example=Orders(example),
        generated=generated,
    )


def make_release(
    new: Path,
    *,
    old: Path | None = None,
    last_version: int | None = None,
    client_event: Any = None,
) -> Release:
    """A release of the user's own.

    Args:
        new: The code that comes.
        old: The code that serves today.
        last_version: Instead: the last migration that the code of today has.
        client_event: What clients send.

    Raises:
        ConfigurationError: A folder or handler is not there, or nothing is pending.
    """
    name = f"{old.name} to {new.name}" if old else f"{new.name}, from migration {last_version}"
    release = Release(name, old or new, new, last_version, client_event)
    for folder in {release.old, release.new}:
        if not (folder / "app.py").is_file():
            raise ConfigurationError(
                f"{folder} has no app.py: name a folder with a function's code"
            )
    try:
        pending = release.pending
    except ManifestError as error:
        raise ConfigurationError(str(error)) from error
    if not pending:
        raise ConfigurationError(
            f"{name}: no migration is pending: every one is in the old code already. Name the old "
            "code as --old, or its last migration as --from"
        )
    return release
