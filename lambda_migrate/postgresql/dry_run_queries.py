"""The statements of a dry run: one transaction for all migrations, never committed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lambda_migrate.postgresql.sql_fragments import (
    EQUALS,
    RESET_SESSION,
    SAFE_SEARCH_PATH,
    quote_literal,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lambda_migrate.postgresql.sql_fragments import ServerTimeouts


_COMMIT_GUARD = "lambda_migrate_dry_run"
_SAVEPOINT = "lambda_migrate_migration"

FORBID_COMMIT = (
    f"DECLARE {_COMMIT_GUARD} NO SCROLL CURSOR WITH HOLD FOR"
    " SELECT 1 OPERATOR(pg_catalog./) pg_catalog.count(*)"
    " FROM (VALUES (pg_catalog.pg_backend_pid())) AS never(pid) WHERE pid IS NULL;"
)
"""Makes PostgreSQL refuse to commit the transaction.

PostgreSQL executes a cursor WITH HOLD when its transaction commits, and this one divides by zero.
PREPARE TRANSACTION refuses such cursors altogether. Nothing fetches from it earlier.
"""

READ_ONLY_AFTER_ROLLBACK = "SET default_transaction_read_only = on"
"""Makes everything read-only that a script sends after its own ROLLBACK.

It is committed before the transaction begins, so a rollback returns to it. The transaction itself
says READ WRITE, after `FencedConnection.inspect_fence` found the database writable."""

ROLL_BACK_MIGRATION = f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}; RELEASE SAVEPOINT {_SAVEPOINT}"


def begin_migration(timeouts: ServerTimeouts) -> str:
    """Reset the session to the state in which a migration's own transaction begins."""
    return f"{RESET_SESSION} {timeouts.set_local()} {FORBID_COMMIT} SAVEPOINT {_SAVEPOINT}"


def end_migration(timeouts: ServerTimeouts, *, deferred_constraints: str) -> str:
    """Keep the migration's effects and reset the session; returns the transaction's id.

    Args:
        timeouts: For the measuring that follows.
        deferred_constraints: The constraints to defer again, as in a new transaction; see
            `find_deferrable_constraints`.
    """
    again = f"SET CONSTRAINTS {deferred_constraints} DEFERRED;" if deferred_constraints else ""
    return (
        f"RELEASE SAVEPOINT {_SAVEPOINT}; {again} {RESET_SESSION} {timeouts.set_local()}"
        f" {FORBID_COMMIT} {SAFE_SEARCH_PATH} SELECT pg_current_xact_id_if_assigned()::text"
    )


def prepare_measuring(timeouts: ServerTimeouts) -> str:
    """Reset the session for measuring, before the first migration."""
    return f"{RESET_SESSION} {timeouts.set_local()} {SAFE_SEARCH_PATH}"


def find_deferrable_constraints() -> str:
    """Names of all deferrable constraints, and of those that are initially deferred.

    SET CONSTRAINTS ALL would apply to the rest of the transaction and to constraints that later
    migrations create. By name, each constraint can be set back as a new transaction has it. A name
    that several constraints of a schema share stays immediate unless all of them are initially
    deferred.
    """
    return f"""
        SELECT pg_catalog.string_agg(name, ', '),
               pg_catalog.string_agg(name, ', ') FILTER (WHERE is_deferred)
        FROM (SELECT pg_catalog.format('%I.%I', n.nspname, c.conname) AS name,
                     pg_catalog.bool_or(c.condeferrable) AS is_deferrable,
                     pg_catalog.bool_and(c.condeferred) AS is_deferred
              FROM pg_catalog.pg_constraint c
              JOIN pg_catalog.pg_namespace n ON n.oid {EQUALS} c.connamespace
              GROUP BY 1) AS constraints
        WHERE is_deferrable"""


def check_constraints(names: str) -> str:
    """Check deferred constraints now, as a commit would."""
    return f"SET CONSTRAINTS {names} IMMEDIATE"


READ_LOCKS = """
    SELECT relation, mode FROM pg_locks
    WHERE pid = pg_backend_pid() AND locktype = 'relation' AND granted
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""
"""The relation locks of this backend: relation, mode."""

READ_ROW_COUNTS = """
    SELECT relid, n_tup_ins, n_tup_upd, n_tup_del, seq_tup_read FROM pg_stat_xact_all_tables
    WHERE n_tup_ins + n_tup_upd + n_tup_del + seq_tup_read > 0"""
"""Row counts of this transaction: table, rows inserted, updated, deleted, scanned."""

READ_CHANGED_DEFINITIONS = """
    SELECT relation, string_agg(DISTINCT writer::text, ',') FROM (
        SELECT oid AS relation, xmin AS writer FROM pg_class
        UNION ALL SELECT attrelid, xmin FROM pg_attribute
        UNION ALL SELECT adrelid, xmin FROM pg_attrdef
        UNION ALL SELECT conrelid, xmin FROM pg_constraint
        UNION ALL SELECT indrelid, xmin FROM pg_index
        UNION ALL SELECT tgrelid, xmin FROM pg_trigger
        UNION ALL SELECT polrelid, xmin FROM pg_policy
        UNION ALL SELECT ev_class, xmin FROM pg_rewrite
    ) AS written WHERE age(writer) <= 0 AND relation <> 0 GROUP BY relation"""
"""The relations whose definition this transaction changed, and the subtransactions that did it.

Each migration is a subtransaction of its own, so a new id here belongs to the latest migration.
"""

READ_TRACK_COUNTS = "SELECT current_setting('track_counts')::boolean"


def read_sizes(tables: Iterable[int] | None = None) -> str:
    """Sizes in bytes of tables, their indexes and TOAST; without ``tables``, of all tables.

    Reading a size takes a lock for an instant, so tables on which another session holds ACCESS
    EXCLUSIVE are left out: the dry run would wait for that session.
    """
    if tables is None:
        which = (
            "NOT EXISTS (SELECT FROM pg_locks l WHERE l.relation = c.oid AND l.granted"
            " AND l.mode = 'AccessExclusiveLock' AND l.pid <> pg_backend_pid())"
        )
    else:
        which = f"c.oid IN ({', '.join(map(quote_literal, tables)) or 'NULL'})"
    return f"""
        SELECT c.oid, pg_total_relation_size(c.oid) FROM pg_class c
        JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'm') AND n.nspname !~ '^pg_'
          AND n.nspname <> 'information_schema' AND {which}"""


def read_sequences(*, lock_ms: int) -> str:
    """Name and last value of every sequence that the role may read."""
    return f"""
        {SAFE_SEARCH_PATH} SET LOCAL lock_timeout = {lock_ms};
        SELECT format('%I.%I', schemaname, sequencename), last_value FROM pg_sequences"""


def read_transaction_status(transaction: str) -> str:
    """How a transaction ended, as PostgreSQL reports it: ``aborted``, ``committed``."""
    return f"{SAFE_SEARCH_PATH} SELECT pg_xact_status({quote_literal(transaction)}::xid8)"
