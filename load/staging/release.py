"""What is rehearsed: the version that serves today, the one that comes, and what clients send."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lambda_migrate.errors import ConfigurationError, ManifestError
from lambda_migrate.local.demo.deployment import VERSIONS, find_example, place_order
from lambda_migrate.migrations import Manifest
from lambda_migrate.migrations.source import read_manifest
from load.staging.shop import Shop
from load.storm.packages import Orders

if TYPE_CHECKING:
    from lambda_migrate.local.runtime.environment import InvocationResult
    from lambda_migrate.local.servers.postgresql import LocalPostgreSQL

__all__ = ["DIRECTORY", "Release", "make_release", "of_the_example"]

DIRECTORY = "migrations"
"""Where a function's migrations are, beside its handler."""

_BARE_HANDLER = """\
from lambda_migrate import migrate_on_cold_start


@migrate_on_cold_start
def handler(event, context):
    return {"served": True}
"""


@dataclass(frozen=True, slots=True)
class Release:
    """A `Package` for the storms, made of two folders.

    Attributes:
        name: For the report.
        old: The code that serves today.
        new: The code that comes.
        through: The last migration that the old code has, where both are one folder; None else.
        handler: ``module.function``, of both.
        events: What clients send, by kind; see `Package.event`.
        variables: The function's own, beside the library's.
        example: What can count effects, where the release is the example's.
        shop: Whose customers its clients are; strangers without one.
        bare: Whether the folders hold migrations alone, and a handler has to be made.
    """

    name: str
    old: Path
    new: Path
    through: int | None = None
    handler: str = "app.handler"
    events: Mapping[str, Any] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    example: Orders | None = None
    shop: Shop | None = None
    bare: bool = False
    database: str = "orders"
    _turns: Iterator[int] = field(default_factory=count, compare=False, repr=False)

    # -- as a Package -----------------------------------------------------------------------------

    def deploy(self, version: int, home: Path) -> Path:
        """See `Package.deploy`: 1 is the old code, 2 the new one."""
        source, code = (self.old if version == 1 else self.new), home / f"version-{version}"
        skipped = shutil.ignore_patterns("tests", "__pycache__", ".*", "*.md")
        shutil.copytree(source, code / DIRECTORY if self.bare else code, ignore=skipped)
        if self.bare:
            (code / "app.py").write_text(_BARE_HANDLER)
        if version == 1 and self.through is not None:
            for path in (code / DIRECTORY).glob("*.sql"):
                if _version_of(path) > self.through:
                    path.unlink()
        return code

    def event(self, kind: str, subject: int) -> Any:
        """See `Package.event`."""
        if self.example is not None and (kind == "read" or self.shop is None):
            return self.example.event(kind, subject)
        if self.shop is not None:
            return place_order_of(self.shop.email(next(self._turns)))
        return self.events.get(kind, self.events.get("write", {}))

    def effects(self, server: LocalPostgreSQL, version: int) -> dict[str, int]:
        """See `Package.effects`; where it is not the example's, the history counts them."""
        if self.example is not None:
            return self.example.effects(server, version)
        counted = self._applied(server)
        return {m.name: counted.get(m.version, 0) for m in self._manifest(version)}

    def taken_back(self, server: LocalPostgreSQL) -> dict[str, int]:
        """See `Package.taken_back`."""
        if self.example is not None:
            return self.example.taken_back(server)
        counted = self._applied(server)
        return {m.name: 1 - counted.get(m.version, 0) for m in self.pending}

    def attempts(self, server: LocalPostgreSQL) -> int | None:  # noqa: ARG002 - none is to fail
        """See `Package.attempts`."""
        return None

    def _applied(self, server: LocalPostgreSQL) -> dict[int, int]:
        rows = server.execute(
            "SELECT version, count(*) FROM lambda_migrate.history "
            "WHERE state = 'applied' GROUP BY version",
            database=self.database,
        )
        return {int(version): int(count) for version, count in rows}

    # -- what it brings ---------------------------------------------------------------------------

    def _manifest(self, version: int) -> Manifest:
        source = self.old if version == 1 else self.new
        manifest = read_manifest(str(source if self.bare else source / DIRECTORY))
        if version == 1 and self.through is not None:
            return manifest.up_to(self.through)
        return manifest

    @property
    def pending(self) -> tuple[Any, ...]:
        """The migrations that the new code has and the old one has not, in order."""
        there = {migration.version for migration in self._manifest(1)}
        return tuple(m for m in self._manifest(2) if m.version not in there)

    def faults(self) -> Sequence[str]:
        """Why the new migrations do not go on from the old ones; () if they do."""
        old, new = self._manifest(1), self._manifest(2)
        found = []
        for migration in old:
            other = new.get(migration.version)
            if other is None:
                found.append(f"{migration.name} is no more in the new code")
            elif other.checksum != migration.checksum:
                found.append(f"{migration.name} is another one in the new code")
        found += [
            f"{m.name} comes before {old.migrations[-1].name}, which is applied already"
            for m in self.pending
            if m.version < old.version
        ]
        return found

    def orders_told(self, results: Sequence[InvocationResult]) -> list[int]:
        """Orders of the example that a client was told of; [] for another function."""
        if self.example is None:
            return []
        told = []
        for result in results:
            payload = result.payload if isinstance(result.payload, dict) else {}
            if payload.get("statusCode") == 201:
                told.append(int(json.loads(payload["body"])["order_id"]))
        return told


def place_order_of(email: str) -> dict[str, Any]:
    """The event of an order by a customer."""
    event = place_order()
    return {**event, "body": json.dumps({**json.loads(event["body"]), "email": email})}


def of_the_example(shop: Shop | None = None) -> Release:
    """examples/orders, version 1 to 2.

    Args:
        shop: Whose customers place orders.

    Raises:
        ConfigurationError: It is not there.
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
    """A release of the user's own.

    Args:
        new: The code that comes, or its migrations alone.
        old: The code that serves today, or its migrations alone.
        through: Instead: the last migration that the code of today has.
        bare: Whether these are folders of migrations alone.
        handler: See `Release`.
        event: JSON that clients send.
        variables: See `Release`.

    Raises:
        ConfigurationError: A folder or handler is not there, or there is nothing to rehearse.
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
        _require(folder, handler, bare=bare)
    _require_pending(release)
    return release


def _require(folder: Path, handler: str, *, bare: bool) -> None:
    if not folder.is_dir():
        raise ConfigurationError(f"{folder} is no folder: name one that holds a function's code")
    module = folder / (handler.rpartition(".")[0].replace(".", "/") + ".py")
    if not bare and not module.is_file():
        raise ConfigurationError(
            f"{folder} holds no {module.relative_to(folder)}: name the function as --handler "
            "module.function, or a folder of migrations alone as --migrations"
        )


def _require_pending(release: Release) -> None:
    try:
        pending = release.pending
    except ManifestError as error:
        raise ConfigurationError(str(error)) from error
    if not pending:
        raise ConfigurationError(
            f"{release.name}: the new code has no migration that the old one has not; there is "
            "nothing to rehearse. Name the old code as --old, or its last migration as --from"
        )


def _version_of(path: Path) -> int:
    number = path.name.partition("_")[0]
    return int(number) if number.isdigit() else 0
