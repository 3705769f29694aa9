"""What a statement outside a transaction has left in the catalog, for both tools."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from lambda_migrate.migrations.sql.classify import classify
from lambda_migrate.migrations.sql.tokens import split_statements
from lambda_migrate.postgresql import catalog_queries
from lambda_migrate.postgresql.catalog_state import (
    CatalogInspector,
    CatalogState,
    quote_qualified_name,
)
from lambda_migrate.postgresql.sql_fragments import ServerTimeouts

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from lambda_migrate.migrations.sql.classify import StatementInfo

    Run = Callable[[str], list[list[Any]]]

__all__ = ["find_conflict", "resolve_in_doubt"]


def find_conflict(sql: str, run: Run, server_version: int) -> str:
    """Why a statement outside a transaction cannot begin; "" if it can.

    So what is found after an interruption is the statement's own work.
    """
    info, inspector = _inspect(sql, run, server_version)
    return "" if info is None or info.has_if_exists else inspector.inspect().conflict


def resolve_in_doubt(sql: str, run: Run, server_version: int) -> bool | None:
    """Look up in the catalog what an interrupted statement left, and remove what is half done.

    Args:
        sql: The statement.
        run: Runs a message outside a transaction and returns the rows of its last result.
        server_version: ``server_version_num``.

    Returns:
        True if it took effect; False if nothing is left of it; None if that is unknown.
    """
    info, inspector = _inspect(sql, run, server_version)
    if info is None:
        return None
    state = inspector.inspect().state
    if state is CatalogState.INVALID:
        for table, partition in inspector.find_pending_detach():
            run(catalog_queries.finalize_detach(table, partition))
        for name, may_drop in inspector.find_invalid_indexes():
            if may_drop:
                run(catalog_queries.drop_index(name))
        state = inspector.inspect().state
    return {CatalogState.COMPLETE: True, CatalogState.ABSENT: False}.get(state)


def _inspect(
    sql: str, run: Run, server_version: int
) -> tuple[StatementInfo | None, CatalogInspector]:
    statements = split_statements(sql)
    info = classify(statements[0])
    inspector = CatalogInspector(
        info,
        read=run,
        is_same_index=partial(_is_same_index, info, run, server_version),
        repair_command="`lambda-migrate repair`",
    )
    return (info if len(statements) == 1 else None), inspector


def _is_same_index(
    info: StatementInfo, run: Run, server_version: int, object_id: int
) -> bool | None:
    if info.table is None:
        return None
    query = catalog_queries.compare_index(
        object_id,
        table=quote_qualified_name(info.table),
        unique=info.unique,
        definition=info.definition,
        timeouts=ServerTimeouts(lock=3000, statement=10_000, server_version=server_version),
    )
    rows: list[list[Any]] = []
    try:
        # One by one: a driver may refuse several in one message, or return the last result only.
        for statement in split_statements(query)[:-1]:
            rows = run(statement.text) or rows
        return bool(rows[-1][0])
    except Exception:  # noqa: BLE001 - of any driver
        return None
    finally:
        run("ROLLBACK")
