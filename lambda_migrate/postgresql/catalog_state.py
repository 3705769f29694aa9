"""How far a non-transactional statement got, according to PostgreSQL's catalog."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from lambda_migrate.postgresql import catalog_queries
from lambda_migrate.postgresql.sql_fragments import quote_identifier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lambda_migrate.migrations.sql.classify import StatementInfo
    from lambda_migrate.migrations.sql.tokens import Identifier

__all__ = [
    "DUPLICATE_OBJECT",
    "DUPLICATE_TABLE",
    "CatalogFinding",
    "CatalogInspector",
    "CatalogState",
    "quote_qualified_name",
]

DUPLICATE_TABLE = "42P07"
DUPLICATE_OBJECT = "42710"
_UNDEFINED_TABLE = "42P01"
_UNDEFINED_OBJECT = "42704"
_OBJECT_NOT_READY = "55000"


class CatalogState(Enum):
    """How far a statement got."""

    ABSENT = "absent"
    """It had no effect."""
    INVALID = "invalid"
    """It is half done: an INVALID index, or a DETACH that was begun."""
    COMPLETE = "complete"
    """It took full effect."""
    UNKNOWN = "unknown"
    """The catalog does not show it."""


@dataclass(frozen=True, slots=True)
class CatalogFinding:
    """What the catalog shows of a statement.

    Attributes:
        state: How far the statement got.
        object_ids: The objects that it concerns, to find the same ones again later.
        conflict: Why the statement cannot begin, and what to do about it; "" if it can.
        sqlstate: The SQLSTATE with which PostgreSQL would refuse it, as a rule.
    """

    state: CatalogState
    object_ids: tuple[int, ...] = ()
    conflict: str = ""
    sqlstate: str = ""


class CatalogInspector:
    """Finds the objects of one statement in the catalog.

    Attributes:
        object_ids: The objects that the statement concerned before it began; None if unknown.

    Args:
        info: The statement.
        read: Runs a query.
        is_same_index: Whether the index with this object id has the statement's definition; None
            if that cannot be determined.
        repair_command: The command that records that nothing is left to do.
        object_ids: See above.
    """

    def __init__(
        self,
        info: StatementInfo,
        *,
        read: Callable[[str], list[list[Any]]],
        is_same_index: Callable[[int], bool | None],
        repair_command: str,
        object_ids: tuple[int, ...] | None = None,
    ) -> None:
        self.object_ids = object_ids
        self._info = info
        self._read = read
        self._is_same_index = is_same_index
        self._repair_command = repair_command

    def inspect(self) -> CatalogFinding:
        """Look up the statement's objects."""
        checks: dict[str, Callable[[], CatalogFinding]] = {
            "create-index": self._check_new_index,
            "drop-index": self._check_dropped_index,
            "reindex": self._check_reindex,
            "add-enum-value": self._check_enum_value,
            "attach-partition": self._check_partition,
            "detach-partition": self._check_partition,
            "create-object": self._check_object,
            "drop-object": self._check_object,
            "idempotent": lambda: CatalogFinding(CatalogState.ABSENT),
        }
        check = checks.get(self._info.kind)
        return check() if check is not None else CatalogFinding(CatalogState.UNKNOWN)

    def find_invalid_indexes(self) -> Iterator[tuple[str, bool]]:
        """Names of INVALID indexes of the statement, and whether this role may drop them."""
        kind = self._info.kind
        if kind == "create-index":
            for _, name, is_of_table, is_valid in self._find_relation_with_index_name():
                if is_of_table and not is_valid:
                    yield name, True
        elif kind == "drop-index":
            for _, name, is_valid in self._find_indexes_to_drop():
                if not is_valid:
                    yield name, True
        elif kind == "reindex":
            for _, name, may_drop in self._find_reindex_leftovers():
                yield name, may_drop

    def find_pending_detach(self) -> Iterator[tuple[str, str]]:
        """Table and partition of a DETACH PARTITION that was begun and not finished."""
        for _, _, _, is_pending, table, partition in self._find_partition():
            if is_pending:
                yield table, partition

    def _check_new_index(self) -> CatalogFinding:
        if not self._info.names or self._info.table is None:
            return CatalogFinding(CatalogState.UNKNOWN)
        for object_id, name, is_of_table, is_valid in self._find_relation_with_index_name():
            if not is_of_table:
                conflict = self._describe_existing_object(f"the relation {name}")
                return CatalogFinding(CatalogState.ABSENT, (), conflict, DUPLICATE_TABLE)
            if not is_valid:
                conflict = (
                    f"an INVALID index {name} is in the way, and lambda-migrate did not create it; "
                    f"run `DROP INDEX CONCURRENTLY {name}`, then migrate again"
                )
                return CatalogFinding(CatalogState.INVALID, (), conflict, DUPLICATE_TABLE)
            return self._check_index_of_same_name(object_id, name)
        return CatalogFinding(CatalogState.ABSENT)

    def _check_index_of_same_name(self, object_id: int, name: str) -> CatalogFinding:
        """A complete index has the name: it counts only if it has the right definition."""
        is_same = self._is_same_index(object_id)
        description = {
            True: f"an index {name} with the same definition",
            False: f"an index {name} with another definition",
            None: f"an index {name}, which could not be compared with this one,",
        }[is_same]
        state = CatalogState.ABSENT if is_same is False else CatalogState.COMPLETE
        if is_same is None and self.object_ids is None:
            state = CatalogState.UNKNOWN
        is_accepted = bool(is_same) and self._info.has_if_exists
        conflict = "" if is_accepted else self._describe_existing_object(description)
        return CatalogFinding(state, (), conflict, DUPLICATE_TABLE)

    def _check_dropped_index(self) -> CatalogFinding:
        """A half-dropped index is INVALID: the drop has to be finished."""
        info, rows = self._info, self._find_indexes_to_drop()
        object_ids = tuple(object_id for object_id, _, _ in rows)
        conflict = ""
        if self.object_ids is None and len(rows) < len(info.names) and not info.has_if_exists:
            missing = next(
                n for n in info.names if not self._object_ids_of(n).intersection(object_ids)
            )
            conflict = self._describe_missing_object(f"index {missing}")
        if not rows:
            return CatalogFinding(CatalogState.COMPLETE, object_ids, conflict, _UNDEFINED_OBJECT)
        is_whole = all(is_valid for _, _, is_valid in rows)
        state = CatalogState.ABSENT if is_whole else CatalogState.INVALID
        return CatalogFinding(state, object_ids, conflict, _UNDEFINED_OBJECT)

    def _check_reindex(self) -> CatalogFinding:
        """It may run twice, but not over the leftovers of an interrupted run."""
        rows = self._find_reindex_leftovers()
        names = ", ".join(name for _, name, may_drop in rows if may_drop)
        conflict = names and (
            f"an interrupted REINDEX left INVALID indexes, or one is running: {names}; "
            "run `DROP INDEX CONCURRENTLY` for each of them, then migrate again"
        )
        state = CatalogState.INVALID if rows else CatalogState.ABSENT
        object_ids = tuple(object_id for object_id, _, _ in rows)
        return CatalogFinding(state, object_ids, conflict, DUPLICATE_TABLE)

    def _check_enum_value(self) -> CatalogFinding:
        info = self._info
        rows = self._read(
            catalog_queries.find_enum_value(quote_qualified_name(info.names[0]), info.enum_value)
        )
        if not rows:
            return CatalogFinding(CatalogState.ABSENT)
        description = f"the value {info.enum_value!r} of {info.names[0]}"
        conflict = "" if info.has_if_exists else self._describe_existing_object(description)
        return CatalogFinding(CatalogState.COMPLETE, (), conflict, DUPLICATE_OBJECT)

    def _check_partition(self) -> CatalogFinding:
        info, rows = self._info, self._find_partition()
        if not rows:
            conflict = self._describe_missing_object(f"{info.table} or {info.names[0]}")
            conflict = "" if info.has_if_exists else conflict
            return CatalogFinding(CatalogState.UNKNOWN, (), conflict, _UNDEFINED_TABLE)
        table_id, partition_id, is_attached, is_pending, table, partition = rows[0]
        object_ids, is_detach = (table_id, partition_id), info.kind == "detach-partition"
        named = f"{partition} of {table}"
        if is_pending:
            conflict = (
                f"an interrupted DETACH PARTITION left {named} half detached; run "
                f"`{catalog_queries.finalize_detach(table, partition)}`, then migrate again"
            )
            conflict = "" if info.finalize else conflict
            state = CatalogState.INVALID if is_detach else CatalogState.UNKNOWN
            return CatalogFinding(state, object_ids, conflict, _OBJECT_NOT_READY)
        if is_attached is is_detach:
            conflict = (
                f"{named} is attached, and no DETACH of it is in progress: remove the FINALIZE "
                "statement"
            )
            conflict = conflict if info.finalize else ""
            return CatalogFinding(CatalogState.ABSENT, object_ids, conflict, _OBJECT_NOT_READY)
        if is_detach:
            conflict = self._describe_missing_object(f"partition {named}")
        else:
            # PostgreSQL accepts to attach an index that is attached.
            is_table = info.object_type == "TABLE"
            conflict = self._describe_existing_object(f"the partition {named}") if is_table else ""
        return CatalogFinding(CatalogState.COMPLETE, object_ids, conflict, _UNDEFINED_TABLE)

    def _check_object(self) -> CatalogFinding:
        """A database, tablespace or subscription; a subscription has a part on another server."""
        info = self._info
        name, is_create = info.names[0].name, info.kind == "create-object"
        object_id = self.object_ids[0] if self.object_ids and not is_create else None
        query = catalog_queries.find_object(info.object_type, name, object_id=object_id)
        rows = self._read(query)
        description = f"{info.object_type.lower()} {name}"
        if any(not is_complete for _, is_complete in rows):
            conflict = (
                self._describe_existing_object(f"a {description}, half dropped,")
                if is_create
                else ""
            )
            return CatalogFinding(CatalogState.UNKNOWN, (rows[0][0],), conflict, DUPLICATE_OBJECT)
        if bool(rows) is is_create:
            conflict = (
                self._describe_existing_object(f"a {description}")
                if is_create
                else self._describe_missing_object(description)
            )
            conflict = "" if info.has_if_exists else conflict
            sqlstate = DUPLICATE_OBJECT if is_create else _UNDEFINED_OBJECT
            return CatalogFinding(CatalogState.COMPLETE, (), conflict, sqlstate)
        is_known = info.object_type != "SUBSCRIPTION"
        state = CatalogState.ABSENT if is_known else CatalogState.UNKNOWN
        return CatalogFinding(state, tuple(object_id for object_id, _ in rows))

    def _describe_existing_object(self, description: str) -> str:
        return (
            f"{description} exists already; drop or rename it; if the change was already made, "
            f"run {self._repair_command}"
        )

    def _describe_missing_object(self, description: str) -> str:
        return (
            f"{description} does not exist; correct the script; if the change was already made, "
            f"run {self._repair_command}"
        )

    def _find_relation_with_index_name(self) -> list[list[Any]]:
        info = self._info
        if not info.names or info.table is None:
            return []
        name, table = info.names[0].name, quote_qualified_name(info.table)
        return self._read(catalog_queries.find_relation_with_index_name(name, table=table))

    def _find_indexes_to_drop(self) -> list[list[Any]]:
        """The indexes that the names meant before the statement began, not later ones."""
        if self.object_ids is None:
            found = [
                catalog_queries.find_relation(quote_qualified_name(name))
                for name in self._info.names
            ]
        else:
            found = [catalog_queries.find_relation_by_id(each) for each in self.object_ids]
        return [row for query in found for row in self._read(query)]

    def _object_ids_of(self, name: Identifier) -> set[int]:
        rows = self._read(catalog_queries.find_relation(quote_qualified_name(name)))
        return {object_id for object_id, _, _ in rows}

    def _find_reindex_leftovers(self) -> list[list[Any]]:
        """What an interrupted REINDEX CONCURRENTLY left, except what existed before it."""
        info = self._info
        kinds = ("INDEX", "TABLE", "SCHEMA", "DATABASE")
        if not info.concurrently or info.object_type not in kinds:
            return []
        is_schema = info.object_type == "SCHEMA"
        names = [name.name if is_schema else quote_qualified_name(name) for name in info.names]
        query = catalog_queries.find_reindex_leftovers(info.object_type, "".join(names[:1]))
        return [row for row in self._read(query) if row[0] not in (self.object_ids or ())]

    def _find_partition(self) -> list[list[Any]]:
        info = self._info
        if not info.kind.endswith("-partition") or info.table is None:
            return []
        if self.object_ids:
            table_id, partition_id = self.object_ids
            return self._read(catalog_queries.find_partition_by_id(table_id, partition_id))
        return self._read(
            catalog_queries.find_partition(
                quote_qualified_name(info.table), quote_qualified_name(info.names[0])
            )
        )


def quote_qualified_name(name: Identifier) -> str:
    """Quote a name, with its schema if it has one."""
    quoted = quote_identifier(name.name)
    return f"{quote_identifier(name.schema)}.{quoted}" if name.schema else quoted
