"""One versioned change: its two scripts and what identifies it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lambda_migrate.migrations.version import Version

__all__ = ["Hook", "Migration", "Script"]


@dataclass(frozen=True, slots=True)
class Script:
    """One half of a migration file, as written.

    Attributes:
        sql: The text between its marker and the next one, as it is in the file.
        line: The line of the file on which ``sql`` begins, from 1.
        transactional: False for ``transaction:false``: each statement separately, outside a
            transaction if it needs that.
        idempotent: True for ``idempotent:true``: running its statement again after a run that
            failed or was interrupted does no harm.
        isolation: ``repeatable-read`` or ``serializable``; "" for READ COMMITTED.
        has_placeholders: True for ``placeholders:true``: ``${ident:name}`` and
            ``${literal:name}`` are replaced when it is sent.
    """

    sql: str
    line: int = 1
    transactional: bool = True
    idempotent: bool = False
    isolation: str = ""
    has_placeholders: bool = False


@dataclass(frozen=True, slots=True)
class Hook:
    """A script that runs in a migration's transaction, before or after its own.

    Attributes:
        name: ``beforeMigrate``, ``afterEachMigrate`` or ``afterMigrate``.
        script: What runs.
        path: Where the file was read, for messages.
    """

    name: str
    script: Script
    path: str = ""


@dataclass(frozen=True, slots=True)
class Migration:
    """One versioned change.

    Attributes:
        version: From the file's name: a number, or a `DottedVersion` such as ``1.2``.
        name: The file's name without ``.sql``: ``0003_add_status``.
        up: The script that makes the change.
        down: The script that rolls it back, or None.
        checksum: SHA-256 of the normalised file, hexadecimal.
        path: Where the file was read, for messages.
        before: Hooks that run in its transaction before it; a plan fills them in.
        after: Hooks that run in its transaction after it.
    """

    version: Version
    name: str
    up: Script
    down: Script | None
    checksum: str
    path: str = field(default="", compare=False)
    before: tuple[Hook, ...] = field(default=(), compare=False)
    after: tuple[Hook, ...] = field(default=(), compare=False)
