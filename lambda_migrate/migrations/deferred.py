"""`DeferredManifest`: its digest is known, and its files are read when they are needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lambda_migrate.errors import ManifestError

if TYPE_CHECKING:
    from collections.abc import Callable

    from lambda_migrate.migrations.manifest import Manifest

__all__ = ["DeferredManifest"]


class DeferredManifest:
    """A manifest whose digest is known and whose scripts are read only when they are needed.

    Args:
        digest: The result of `read_digest`.
        read: Reads the manifest.
    """

    __slots__ = ("_manifest", "_read", "digest")

    def __init__(self, digest: str, read: Callable[[], Manifest]) -> None:
        self.digest = digest
        self._read = read
        self._manifest: Manifest | None = None

    def load(self) -> Manifest:
        """The manifest; read once.

        Raises:
            ManifestError: Files are invalid, or were changed after the digest was read.
        """
        if self._manifest is None:
            manifest = self._read()
            if manifest.digest != self.digest:
                raise ManifestError(
                    "the migration files were changed while this instance started; deploy them "
                    "together with the code, and start it again"
                )
            self._manifest = manifest
        return self._manifest
