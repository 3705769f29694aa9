"""The history matches the database when a process is killed before, in or after its statement.

The process is killed at named calls: `_NonTransactionalStatement.run` is between the intent row and
the row that records the outcome. The state after a kill inside a statement is created by hand.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from lambda_migrate.engine.operations import Operations
from lambda_migrate.engine.target import Policy, Target
from lambda_migrate.errors import RepairRequired
from lambda_migrate.lease.memory import InMemoryLeaseStore
from lambda_migrate.manifest_digest import compute_checksum
from lambda_migrate.migrations import Manifest, Migration, Script
from lambda_migrate.postgresql.non_transactional import _NonTransactionalStatement
from lambda_migrate.runner import MigrationRunner

from .empty_database import EmptyDatabase, soon

OTHER = f"other_{os.getpid()}"
POINTS = ("before the statement", "in the statement", "after the statement")
HALF_BUILT = """CREATE INDEX i ON orders (id);
    UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'i'::regclass"""
HALF_DROPPED = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'i'::regclass"
HALF_REBUILT = """CREATE INDEX i_ccnew ON orders (id);
    UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'i_ccnew'::regclass"""
HALF_DETACHED = "UPDATE pg_inherits SET inhdetachpending = true WHERE inhrelid = 'p1'::regclass"
PARTITIONED = """CREATE TABLE p (id int) PARTITION BY RANGE (id);
    CREATE TABLE p1 (id int NOT NULL, CHECK (id >= 0 AND id < 10))"""
ATTACH = "ALTER TABLE p ATTACH PARTITION p1 FOR VALUES FROM (0) TO (10)"
ATTACHED = "EXISTS (SELECT FROM pg_inherits WHERE inhrelid = 'p1'::regclass)"
INDEXES = """SELECT FROM pg_index JOIN pg_class c ON c.oid = indexrelid
    WHERE relname = 'i' AND (indisvalid OR relkind = 'I')"""


@dataclass(frozen=True)
class Kind:
    """A migration outside a transaction.

    Attributes:
        before: What the migration below it makes.
        up, down: Its statements.
        effect: An SQL condition: the up script has taken effect.
        half_up, half_down: What either leaves that is killed half-way; nothing where PostgreSQL
            does all or nothing.
    """

    before: str
    up: str
    down: str
    effect: str
    half_up: str = "SELECT"
    half_down: str = "SELECT"


BUILD = "CREATE INDEX CONCURRENTLY i ON orders (id) WHERE id > 0"
DROP = "DROP INDEX CONCURRENTLY i"
KINDS = {
    "build": Kind(
        "CREATE TABLE orders (id int)",
        BUILD,
        DROP,
        f"EXISTS ({INDEXES})",
        HALF_BUILT,
        HALF_DROPPED,
    ),
    "drop": Kind(
        "CREATE TABLE orders (id int); CREATE INDEX i ON orders (id)",
        DROP,
        "CREATE INDEX CONCURRENTLY i ON orders (id)",
        f"NOT EXISTS ({INDEXES})",
        HALF_DROPPED,
        HALF_BUILT,
    ),
    "index on only": Kind(
        PARTITIONED, "CREATE INDEX i ON ONLY p (id)", "DROP INDEX i", f"EXISTS ({INDEXES})"
    ),
    "attach": Kind(
        PARTITIONED,
        ATTACH,
        "ALTER TABLE p DETACH PARTITION p1 CONCURRENTLY",
        ATTACHED,
        half_down=HALF_DETACHED,
    ),
    "detach": Kind(
        f"{PARTITIONED}; {ATTACH}",
        "ALTER TABLE p DETACH PARTITION p1 CONCURRENTLY",
        ATTACH,
        f"NOT {ATTACHED}",
        half_up=HALF_DETACHED,
    ),
    "rebuild": Kind(
        "CREATE TABLE orders (id int); CREATE INDEX i ON orders (id)",
        "REINDEX TABLE CONCURRENTLY orders",
        "REINDEX SCHEMA CONCURRENTLY public",
        "NOT EXISTS (SELECT FROM pg_index WHERE NOT indisvalid) AND {applied}",
        HALF_REBUILT,
        HALF_REBUILT,
    ),
    "database": Kind(
        "SELECT",
        f"CREATE DATABASE {OTHER}",
        f"DROP DATABASE {OTHER}",
        f"EXISTS (SELECT FROM pg_database WHERE datname = '{OTHER}')",
    ),
}


def _migration(version: int, up: str, down: str, *, non_transactional: bool) -> Migration:
    return Migration(
        version,
        f"{version:04}_m",
        Script(up, transactional=not non_transactional),
        Script(down, transactional=not non_transactional),
        compute_checksum(up),
    )


class Killed(BaseException):
    """The process is gone."""


class StatementUnderTest:
    """One kind on an empty database, and the commands that are given."""

    def __init__(self, db: EmptyDatabase, kind: Kind) -> None:
        self.db = db
        self.kind = kind
        self.manifest = Manifest(
            [
                _migration(1, kind.before, "SELECT", non_transactional=False),
                _migration(2, kind.up, kind.down, non_transactional=True),
            ]
        )
        store = InMemoryLeaseStore(lease_seconds=20.0)
        policy = Policy(lease_seconds=20.0, failure_pause_seconds=0.0)
        self.target = Target("t", store, db.database(), policy=policy)

    def up(self) -> None:
        MigrationRunner(self.manifest, self.target).ensure(soon())

    def down(self) -> None:
        Operations(self.manifest, self.target).down(soon(), to=1)

    def is_consistent(self) -> bool:
        """Whether the history and the schema say the same, and nothing is half done."""
        states = self.db.states()
        is_applied = states.get(2) == "applied"
        condition = self.kind.effect.format(applied=str(is_applied).lower())
        has_effect = self.db.execute(f"SELECT {condition}")[0][0]
        invalid = self.db.execute(
            "SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
            " WHERE NOT indisvalid AND relkind = 'i'"
        )
        return {*states.values()} == {"applied"} and has_effect is is_applied and not invalid


def _kill(monkeypatch: pytest.MonkeyPatch, db: EmptyDatabase, point: str, half: str) -> None:
    """The next statement is the process's last act, or its row is what it comes not to."""
    real = _NonTransactionalStatement.run

    def dying(self: _NonTransactionalStatement, **arguments: Any) -> None:
        if point == POINTS[1]:
            db.execute(half)
        elif point == POINTS[2]:
            real(self, **arguments)
        raise Killed

    monkeypatch.setattr(_NonTransactionalStatement, "run", dying)


def _kill_at(
    statement: StatementUnderTest, killed: str, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    statement.db.execute(f"DROP DATABASE IF EXISTS {OTHER}")
    act, half = statement.up, statement.kind.half_up
    if killed == "down":
        statement.up()
        act, half = statement.down, statement.kind.half_down
    with monkeypatch.context() as patched:
        _kill(patched, statement.db, point, half)
        with pytest.raises(Killed):
            act()
    assert statement.db.states()[2] == {"up": "started", "down": "rolling_back"}[killed]


@pytest.mark.parametrize("then", ["up", "down"])
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("killed", ["up", "down"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_history_and_schema_agree_wherever_the_process_was_killed(
    db: EmptyDatabase,
    monkeypatch: pytest.MonkeyPatch,
    kind: Kind,
    killed: str,
    point: str,
    then: str,
) -> None:
    """Whatever command comes next, and whatever comes after that."""
    statement = StatementUnderTest(db, kind)
    _kill_at(statement, killed, monkeypatch, point)
    commands: dict[str, Callable[[], None]] = {"up": statement.up, "down": statement.down}
    for command in (then, "up", "down", "up"):
        commands[command]()
        assert statement.is_consistent(), command
        assert (2 in db.states()) is (command == "up")
    db.execute(f"DROP DATABASE IF EXISTS {OTHER}")


COUNTING = """CREATE TABLE counter (n int); INSERT INTO counter VALUES (0);
    CREATE PROCEDURE more(a int) LANGUAGE plpgsql AS $$
    BEGIN UPDATE counter SET n = n + a; COMMIT; END $$"""


@pytest.mark.parametrize("then", ["up", "down"])
@pytest.mark.parametrize("point", [POINTS[0], POINTS[2]])
@pytest.mark.parametrize("killed", ["up", "down"])
def test_what_commits_in_parts_is_never_run_again_by_itself(
    db: EmptyDatabase, monkeypatch: pytest.MonkeyPatch, killed: str, point: str, then: str
) -> None:
    statement = StatementUnderTest(db, Kind(COUNTING, "CALL more(1)", "CALL more(-1)", "true"))
    _kill_at(statement, killed, monkeypatch, point)
    before = db.column("SELECT n FROM counter"), db.states()
    for _ in range(2):
        with pytest.raises(RepairRequired, match="`lambda-migrate repair 2 --as applied`"):
            {"up": statement.up, "down": statement.down}[then]()
        assert (db.column("SELECT n FROM counter"), db.states()) == before
