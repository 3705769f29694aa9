"""A process that migrates and is killed with SIGKILL just before it sends a chosen message.

::

    python -m tests.integration.postgresql.killed ARGUMENTS

where ARGUMENTS are the pickled fields of a `Kill`. It exits with 0 if it finishes before that
message.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lambda_migrate.engine.operations import Operations
from lambda_migrate.engine.target import Policy, Target
from lambda_migrate.lease.memory import InMemoryLeaseStore
from lambda_migrate.migrations import Manifest, Migration
from lambda_migrate.postgresql.holder_connection import HolderConnection
from tests.integration.postgresql.empty_database import EmptyDatabase, soon

_ROOT = Path(__file__).parents[3]
_MODULE = "tests.integration.postgresql.killed"


@dataclass(frozen=True)
class Kill:
    """Which process is killed, and when.

    Attributes:
        db: The database.
        migration: The only migration.
        command: ``up`` or ``down``.
        message: At which message after the intent row, from 1.
        is_sent: Whether the message is sent, and the server works on it.
    """

    db: EmptyDatabase
    migration: Migration
    command: str
    message: int
    is_sent: bool

    def run(self) -> bool:
        """Run the process; returns whether it was killed."""
        arguments = (self.db.address, self.migration, self.command, self.message, self.is_sent)
        process = subprocess.run(
            [sys.executable, "-m", _MODULE, pickle.dumps(arguments).hex()],
            cwd=_ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.returncode in (0, -signal.SIGKILL), process.stderr
        return process.returncode != 0


def make_operations(db: EmptyDatabase, *migrations: Migration) -> Operations:
    """The commands for a manifest, under a lease of their own."""
    policy = Policy(lease_seconds=20.0, failure_pause_seconds=0.0)
    store = InMemoryLeaseStore(lease_seconds=20.0)
    return Operations(Manifest(migrations), Target("t", store, db.database(), policy=policy))


def _run_until_killed(kill: Kill) -> None:
    real, sent = HolderConnection.run, 0
    intent = {"up": "'started'", "down": "'rolling_back'"}[kill.command]

    def run(self: HolderConnection, sql: str, *arguments: Any, **options: Any) -> Any:
        nonlocal sent
        sent += sent > 0 or intent in sql
        if sent == kill.message and kill.is_sent:
            threading.Timer(0.002, os.kill, (os.getpid(), signal.SIGKILL)).start()
            real(self, sql, *arguments, **options)
            signal.pause()
        elif sent == kill.message:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, sql, *arguments, **options)

    HolderConnection.run = run  # type: ignore[method-assign]  # in this process only
    operations = make_operations(kill.db, kill.migration)
    if kill.command == "up":
        operations.up(soon())
    else:
        operations.down(soon(), to=0)


if __name__ == "__main__":
    address, *rest = pickle.loads(bytes.fromhex(sys.argv[1]))
    _run_until_killed(Kill(EmptyDatabase(address), *rest))
