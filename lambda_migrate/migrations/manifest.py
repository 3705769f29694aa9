"""The ordered migrations that a code version ships, and the digest that names them."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from lambda_migrate.errors import ManifestError
from lambda_migrate.manifest_digest import (
    EMPTY_DIGEST,
    add_repeatables,
    chain_digest,
    combine_checksums,
)
from lambda_migrate.migrations.version import RepeatableVersion

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from lambda_migrate.migrations.history import HistoryRow
    from lambda_migrate.migrations.migration import Hook, Migration
    from lambda_migrate.migrations.plan import Plan
    from lambda_migrate.migrations.version import Version

__all__ = ["Manifest"]


class Manifest:
    """The migrations of one code version, in the order of their versions.

    Manifests with the same digest contain the same migrations. Without repeatable migrations, one
    is a prefix of another exactly if its digest is part of the other's chain.

    Attributes:
        migrations: The versioned migrations; iterating over the manifest and its length are theirs.
        repeatables: The repeatable migrations, in the order of their names.
        repeatables_checksum: One checksum of all repeatable migrations; "" if there are none.
        hooks: Name -> hook.

    Args:
        migrations: In any order.
        hooks: Each with its own name. They are not part of the digest: the schema that code needs
            does not depend on them.

    Raises:
        ManifestError: Two migrations have the same version.
    """

    __slots__ = (
        "_by_version",
        "_digest_at",
        "digests",
        "hooks",
        "migrations",
        "repeatables",
        "repeatables_checksum",
    )

    def __init__(self, migrations: Iterable[Migration] = (), hooks: Iterable[Hook] = ()) -> None:
        self.hooks = {hook.name: hook for hook in hooks}
        found = sorted(migrations, key=lambda m: m.version)
        self._by_version = {migration.version: migration for migration in found}
        if len(self._by_version) != len(found):
            raise ManifestError(_describe_duplicates(found), heading="migrations collide:")
        self.migrations = tuple(m for m in found if not isinstance(m.version, RepeatableVersion))
        self.repeatables = tuple(found[len(self.migrations) :])
        self.repeatables_checksum = combine_checksums(
            (migration.name, migration.checksum) for migration in self.repeatables
        )
        digests: list[str] = []
        for migration in self.migrations:
            previous = digests[-1] if digests else EMPTY_DIGEST
            digests.append(chain_digest(previous, migration.version, migration.checksum))
        self.digests: tuple[str, ...] = tuple(digests)
        """``digests[i]`` names the manifest that ends with ``migrations[i]``."""
        versions = (migration.version for migration in self.migrations)
        self._digest_at = dict(zip(versions, self.digests, strict=True))

    @property
    def digest(self) -> str:
        """The name of this manifest: 64 hexadecimal digits."""
        chain = self.digests[-1] if self.digests else EMPTY_DIGEST
        return add_repeatables(chain, self.repeatables_checksum)

    last_revision = ""
    """Up to which revision of another tool; "" for all, and for SQL files."""

    @property
    def version(self) -> Version:
        """The highest version, or -1 without migrations."""
        return self.migrations[-1].version if self.migrations else -1

    def get(self, version: Version) -> Migration | None:
        """The migration of that version or, repeatable, of that name, if there is one.

        Args:
            version: A version, or the name of a repeatable migration as `RepeatableVersion`.
        """
        return self._by_version.get(version)

    def digest_at(self, version: Version) -> str:
        """The digest of the manifest that ends with ``version``; repeatable ones end the whole.

        Args:
            version: The version of one of its migrations.

        Raises:
            KeyError: There is no such version.
        """
        is_repeatable = isinstance(version, RepeatableVersion)
        return self.digest if is_repeatable else self._digest_at[version]

    def up_to(self, version: Version) -> Manifest:
        """The manifest of the migrations whose version is at most ``version``.

        It has the repeatable ones only if it has all versions: they may need the last one.

        Args:
            version: The highest version; it need not be the version of a migration.
        """
        if version >= self.version:
            return self
        earlier = (m for m in self.migrations if m.version <= version)
        return Manifest(earlier, self.hooks.values())

    def make_plan(self, history: Sequence[HistoryRow], *, allow_out_of_order: bool = False) -> Plan:
        """Compare this manifest with a history.

        Args:
            history: All rows, in any order.
            allow_out_of_order: Apply pending migrations below the highest applied one as well.

        Returns:
            The plan; it applies nothing.
        """
        from lambda_migrate.migrations.plan import make_plan

        return make_plan(
            self.migrations,
            history,
            repeatables=self.repeatables,
            hooks=self.hooks,
            allow_out_of_order=allow_out_of_order,
        )

    def find_faults(
        self, pending: Sequence[Migration], placeholders: Mapping[str, str]
    ) -> list[str]:
        """Why pending scripts cannot be run; several migrations have the same hooks.

        Args:
            pending: The migrations whose scripts and hooks are checked.
            placeholders: The values of placeholders, by name.

        Returns:
            One sentence for each fault; empty if all can be run.
        """
        from lambda_migrate.migrations.sql.lint import check_migration

        return list(
            dict.fromkeys(
                fault for each in pending for fault in check_migration(each, placeholders)
            )
        )

    def __len__(self) -> int:
        return len(self.migrations)

    def __iter__(self) -> Iterator[Migration]:
        return iter(self.migrations)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Manifest) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Manifest({len(self.migrations)} migrations, digest {self.digest[:12]})"


def _describe_duplicates(migrations: list[Migration]) -> list[str]:
    return [
        f"version {later.version} exists twice: {earlier.path or earlier.name} and "
        f"{later.path or later.name}; renumber one of them"
        for earlier, later in pairwise(migrations)
        if earlier.version == later.version
    ]
