"""A release: the version that serves today, the one that comes, and what clients send."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lambda_migrate.errors import ConfigurationError, ManifestError
from lambda_migrate.local.demo.example import VERSIONS, find_example, place_order
from lambda_migrate.migrations import Manifest
from lambda_migrate.migrations.source import read_manifest
from load.staging.data import ShopData
from load.storm.packages import HANDLER, Orders

if TYPE_CHECKING:
    from lambda_migrate.local.runtime.environment import InvocationResult
    from lambda_migrate.local.servers.postgresql import LocalPostgreSQL

__all__ = ["Release", "example_release", "make_release"]

_DIRECTORY = "migrations"
"""Where a function's migrations are, beside its handler."""

_COUNT_HISTORY = """
SELECT version, count(*) FROM lambda_migrate.history WHERE state = 'applied' GROUP BY version
"""


@dataclass(frozen=True, slots=True)
class Release:
    """A `Package` for the storms, made of two folders."""

    name: str
    old: Path  # the code that serves today
    new: Path  # the code that comes
    through: int | None = None  # the last migration of the old code, where both are one folder
    handler: str = "app.handler"
    events: Mapping[str, Any] = field(default_factory=dict)  # what clients send, by kind
    variables: Mapping[str, str] = field(default_factory=dict)  # the function's own
    example: Orders | None = None  # what counts effects, where the release is the example's
    shop: ShopData | None = None  # whose customers its clients are
    bare: bool = False  # the folders hold migrations alone, and a handler has to be made
    database: str = "orders"
    _turns: Iterator[int] = field(default_factory=count, compare=False, repr=False)

    # -- as a Package -----------------------------------------------------------------------------

    def deploy(self, version: int, home: Path) -> Path:
        """See `Package.deploy`: 1 is the old code, 2 the new one."""
        source, code = (self.old if version == 1 else self.new), home / f"version-{version}"
        skipped = shutil.ignore_patterns("tests", "__pycache__", ".*", "*.md")
        shutil.copytree(source, code / _DIRECTORY if self.bare else code, ignore=skipped)
        if self.bare:
            (code / "app.py").write_text(HANDLER)
        if version == 1 and self.through is not None:
            for path in (code / _DIRECTORY).glob("*.sql"):
                number = path.name.partition("_")[0]
                if number.isdigit() and int(number) > self.through:
                    path.unlink()
        return code

    def event(self, kind: str, subject: int) -> Any:
        """See `Package.event`."""
        if self.example is not None and (kind == "read" or self.shop is None):
            return self.example.event(kind, subject)
        if self.shop is not None:
            event = place_order()
            order = {**json.loads(event["body"]), "email": self.shop.email(next(self._turns))}
            return {**event, "body": json.dumps(order)}
        return self.events.get(kind, self.events.get("write", {}))

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
        manifest = read_manifest(str(source if self.bare else source / _DIRECTORY))
        if version == 1 and self.through is not None:
            return manifest.up_to(self.through)
        return manifest

    @property
    def pending(self) -> tuple[Any, ...]:
        """The migrations that only the new code has, in order."""
        old = {migration.version for migration in self._manifest(1)}
        return tuple(m for m in self._manifest(2) if m.version not in old)

    def faults(self) -> Sequence[str]:
        """Why the new migrations do not follow the old ones; () if they do."""
        old, new = self._manifest(1), self._manifest(2)
        found = []
        for migration in old:
            other = new.get(migration.version)
            if other is None:
                found.append(f"{migration.name} is missing in the new code")
            elif other.checksum != migration.checksum:
                found.append(f"{migration.name} was edited in the new code")
        found += [
            f"{m.name} comes before {old.migrations[-1].name}, which is applied already"
            for m in self.pending
            if m.version < old.version
        ]
        return found

    def confirmed_orders(self, results: Sequence[InvocationResult]) -> list[int]:
        """Orders of the example that were confirmed to a client; [] for another function."""
        payloads = [one.payload for one in results if isinstance(one.payload, dict)]
        return [
            int(json.loads(payload["body"])["order_id"])
            for payload in payloads
            if self.example is not None and payload.get("statusCode") == 201
        ]


def example_release(shop: ShopData | None = None) -> Release:
    """examples/orders, version 1 to 2.

    Args:
        shop: Whose customers place orders.

    Raises:
        ConfigurationError: The example is not there.
    """
    example = find_example()
    return Release(
        "examples/orders, version 1 to 2",
        example.directory,
        example.directory,
        through=VERSIONS[1],
        example=Orders(example),
        shop=shop,
    )


def make_release(
    new: Path,
    *,
    old: Path | None = None,
    through: int | None = None,
    bare: bool = False,
    handler: str = "app.handler",
    event: Any = None,
    variables: Mapping[str, str] | None = None,
) -> Release:
    """A release of the user's own; see `Release`.

    Args:
        new: The code that comes, or its migrations alone.
        old: The code that serves today, or its migrations alone.
        through: Instead: the last migration that the code of today has.
        bare: Whether these are folders of migrations alone.
        handler: ``module.function``.
        event: JSON that clients send.
        variables: The function's own.

    Raises:
        ConfigurationError: A folder or handler is not there, or nothing is pending.
    """
    release = Release(
        f"{old.name} to {new.name}" if old is not None else f"{new.name}, from migration {through}",
        old or new,
        new,
        through=through,
        handler=handler,
        events={"write": event if event is not None else {}},
        variables=variables or {},
        bare=bare,
    )
    for folder in {release.old, release.new}:
        module = folder / (handler.rpartition(".")[0].replace(".", "/") + ".py")
        if not folder.is_dir():
            raise ConfigurationError(f"{folder} is not a folder: name one with a function's code")
        if not bare and not module.is_file():
            raise ConfigurationError(
                f"{folder} holds no {module.relative_to(folder)}: name the function as --handler "
                "module.function, or a folder of migrations alone as --migrations"
            )
    try:
        pending = release.pending
    except ManifestError as error:
        raise ConfigurationError(str(error)) from error
    if not pending:
        raise ConfigurationError(
            f"{release.name}: no migration is pending: every one is in the old code already. Name "
            "the old code as --old, or its last migration as --from"
        )
    return release
