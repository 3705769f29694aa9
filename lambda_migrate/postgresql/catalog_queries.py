"""Queries of the catalog that show what a non-transactional statement changed or left behind.

They look up names that a script uses, so they run under the role's own search path and qualify
everything else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lambda_migrate.postgresql.sql_fragments import BEGIN, EQUALS, quote_literal

if TYPE_CHECKING:
    from lambda_migrate.postgresql.sql_fragments import ServerTimeouts

_IS_COMPLETE_INDEX = "(i.indisvalid OR c.relkind OPERATOR(pg_catalog.=) 'I')"
"""For an index ``i`` with the relation ``c``; NULL for a relation that is not an index."""


def find_relation_with_index_name(index: str, *, table: str) -> str:
    """The relation that has the name which an index of ``table`` would get.

    Returns object id, qualified name, whether it is an index of this table, and whether it is
    complete. An index ``ON ONLY`` a partitioned table counts as complete although PostgreSQL marks
    it INVALID: it becomes valid with the indexes of the partitions.

    Args:
        index: The index's name, unquoted and without its schema.
        table: An SQL name, perhaps quoted.
    """
    return f"""
        SELECT c.oid, {_regclass_name("c.oid")}, (i.indrelid {EQUALS} t.oid) IS TRUE,
               {_IS_COMPLETE_INDEX} IS TRUE
        FROM pg_catalog.pg_class t JOIN pg_catalog.pg_class c
          ON c.relnamespace {EQUALS} t.relnamespace
        LEFT JOIN pg_catalog.pg_index i ON i.indexrelid {EQUALS} c.oid
        WHERE t.oid {EQUALS} {_oid_of(table)}
          AND c.relname {EQUALS} {quote_literal(index)}::pg_catalog.name"""


def compare_index(
    object_id: int,
    *,
    table: str,
    unique: bool,
    definition: str,
    timeouts: ServerTimeouts,
    search_path: str = "",
) -> str:
    """Whether an index matches ``definition``; the last row holds the result.

    PostgreSQL interprets the definition itself: the query creates such an index on an empty copy of
    the table, compares the two, and rolls back.

    Args:
        object_id: The object id of the index.
        table: An SQL name, perhaps quoted.
        unique: Whether the statement says UNIQUE.
        definition: The part of the statement that follows the table's name.
        timeouts: For the transaction.
        search_path: A statement that sets the script's search path.
    """
    copy = "pg_temp.lambda_migrate_like"
    asked = f"SELECT indexrelid FROM pg_catalog.pg_index WHERE indrelid {EQUALS} {_oid_of(copy)}"
    return f"""
        {BEGIN}; {timeouts.set_local()} {search_path}
        CREATE TEMPORARY TABLE lambda_migrate_like (LIKE {table});
        CREATE {"UNIQUE " if unique else ""}INDEX ON {copy} {definition}
        ; SELECT {_index_definition(str(object_id))} {EQUALS} {_index_definition(f"({asked})")};
        ROLLBACK"""


def _index_definition(object_id: str) -> str:
    """The definition of an index without the names of index and table."""
    return f"""(
        SELECT pg_catalog.concat(i.indisunique, pg_catalog.substr(
            pg_catalog.pg_get_indexdef(i.indexrelid), pg_catalog.length(pg_catalog.format(
                'CREATE %sINDEX %I ON %s%I.%I', CASE WHEN i.indisunique THEN 'UNIQUE ' END,
                c.relname, CASE WHEN c.relkind {EQUALS} 'I' THEN 'ONLY ' END,
                CASE WHEN n.oid {EQUALS} pg_catalog.pg_my_temp_schema()
                       AND pg_catalog.current_setting('server_version_num')::pg_catalog.int4
                           OPERATOR(pg_catalog.>=) 150000
                     THEN 'pg_temp' ELSE n.nspname END, t.relname
            )) OPERATOR(pg_catalog.+) 1))
        FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid {EQUALS} i.indexrelid
        JOIN pg_catalog.pg_class t ON t.oid {EQUALS} i.indrelid
        JOIN pg_catalog.pg_namespace n ON n.oid {EQUALS} t.relnamespace
        WHERE i.indexrelid {EQUALS} {object_id})"""


def find_relation(name: str) -> str:
    """Object id and qualified name of a relation; false if it is a half-dropped index."""
    return _relation(_oid_of(name))


def find_relation_by_id(object_id: int) -> str:
    """As `find_relation`, by object id."""
    return _relation(f"{quote_literal(object_id)}::pg_catalog.oid")


def _relation(object_id: str) -> str:
    return f"""
        SELECT c.oid, {_regclass_name("c.oid")}, {_IS_COMPLETE_INDEX} IS NOT FALSE
        FROM pg_catalog.pg_class c
        LEFT JOIN pg_catalog.pg_index i ON i.indexrelid {EQUALS} c.oid
        WHERE c.oid {EQUALS} {object_id}"""


def find_reindex_leftovers(object_type: str, name: str) -> str:
    """Invalid indexes that REINDEX CONCURRENTLY left behind.

    Returns object id, qualified name, and whether the role may drop it. The query covers the tables
    concerned, their partitions and their TOAST tables, whose indexes come last. To drop one of
    those a role needs USAGE on the schema ``pg_toast``, which usually only a superuser has.

    Args:
        object_type: ``INDEX``, ``TABLE``, ``SCHEMA`` or ``DATABASE``.
        name: An SQL name, perhaps quoted; a schema's is unquoted.
    """
    tree = f"SELECT relid FROM pg_catalog.pg_partition_tree({_oid_of(name)}::pg_catalog.regclass)"
    tables = {
        "INDEX": f"""SELECT indrelid FROM pg_catalog.pg_index
                     WHERE indexrelid {EQUALS} {_oid_of(name)}
                        OR indexrelid {EQUALS} ANY ({tree})""",
        "TABLE": f"SELECT {_oid_of(name)} UNION ALL {tree}",
        "SCHEMA": f"""SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n
                      ON n.oid {EQUALS} c.relnamespace
                      WHERE n.nspname {EQUALS} {quote_literal(name)}""",
        "DATABASE": "SELECT oid FROM pg_catalog.pg_class",
    }[object_type]
    return f"""
        SELECT i.indexrelid, {_regclass_name("i.indexrelid")},
               pg_catalog.has_schema_privilege(c.relnamespace, 'USAGE')
        FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid {EQUALS} i.indexrelid
        JOIN pg_catalog.pg_class t ON t.oid {EQUALS} i.indrelid
        WHERE NOT i.indisvalid AND c.relkind {EQUALS} 'i'
          AND c.relname::pg_catalog.text OPERATOR(pg_catalog.~) '_cc(new|old)[0-9]*$'
          AND (t.oid {EQUALS} ANY ({tables}) OR t.oid {EQUALS} ANY (
            SELECT reltoastrelid FROM pg_catalog.pg_class WHERE oid {EQUALS} ANY ({tables})))
        ORDER BY t.relkind {EQUALS} 't', 2"""


def find_partition(parent: str, partition: str) -> str:
    """Object ids of table and partition, whether it is attached, whether a DETACH was begun.

    No row if either does not exist. Both are SQL names, perhaps quoted.
    """
    return _partition(_oid_of(parent), _oid_of(partition))


def find_partition_by_id(parent: int, partition: int) -> str:
    """As `find_partition`, by object ids."""
    return _partition(
        f"{quote_literal(parent)}::pg_catalog.oid", f"{quote_literal(partition)}::pg_catalog.oid"
    )


def _partition(parent: str, partition: str) -> str:
    return f"""
        SELECT w.oid, p.oid, h.inhrelid IS NOT NULL, h.inhdetachpending IS TRUE,
               {_full_name("w")}, {_full_name("p")}
        FROM pg_catalog.pg_class w JOIN pg_catalog.pg_class p ON p.oid {EQUALS} {partition}
        LEFT JOIN pg_catalog.pg_inherits h
          ON h.inhparent {EQUALS} w.oid AND h.inhrelid {EQUALS} p.oid
        WHERE w.oid {EQUALS} {parent}"""


def _full_name(relation: str) -> str:
    """The quoted name with its schema, for a message under `SAFE_SEARCH_PATH`."""
    return (
        f"pg_catalog.concat({relation}.relnamespace::pg_catalog.regnamespace, '.',"
        f" pg_catalog.quote_ident({relation}.relname))"
    )


def finalize_detach(parent: str, partition: str) -> str:
    """Finish a DETACH that was begun; the names come quoted from the catalog."""
    return f"ALTER TABLE {parent} DETACH PARTITION {partition} FINALIZE"


def find_object(object_type: str, name: str, *, object_id: int | None = None) -> str:
    """A database, tablespace or subscription: object id, and whether it is complete.

    Args:
        object_type: ``DATABASE``, ``TABLESPACE`` or ``SUBSCRIPTION``.
        name: Its name, unquoted.
        object_id: Look up this object id instead of the name.
    """
    catalog, column, is_whole = {
        # PostgreSQL sets -2 while it drops a database.
        "DATABASE": ("pg_database", "datname", "datconnlimit OPERATOR(pg_catalog.<>) -2"),
        "TABLESPACE": ("pg_tablespace", "spcname", "TRUE"),
        "SUBSCRIPTION": ("pg_subscription", "subname", "TRUE"),
    }[object_type]
    here = (
        f" AND subdbid {EQUALS} (SELECT oid FROM pg_catalog.pg_database"
        f" WHERE datname {EQUALS} pg_catalog.current_database())"
    )
    which = (
        f"{column} {EQUALS} {quote_literal(name)}::pg_catalog.name"
        if object_id is None
        else f"oid {EQUALS} {quote_literal(object_id)}::pg_catalog.oid"
    )
    return (
        f"SELECT oid, {is_whole} FROM pg_catalog.{catalog} WHERE {which}"
        f"{here if object_type == 'SUBSCRIPTION' else ''}"
    )


def find_enum_value(enum_type: str, value: str) -> str:
    """One row if the enum type has the value."""
    return f"""
        SELECT 1 FROM pg_catalog.pg_enum
        WHERE enumtypid {EQUALS} pg_catalog.to_regtype({quote_literal(enum_type)})::pg_catalog.oid
          AND enumlabel {EQUALS} {quote_literal(value)}::pg_catalog.name"""


def drop_index(qualified_name: str) -> str:
    """Drop an index; the name comes quoted from the catalog."""
    return f"DROP INDEX CONCURRENTLY IF EXISTS {qualified_name}"


def _oid_of(relation: str) -> str:
    """The relation's object id; NULL if it does not exist."""
    return f"pg_catalog.to_regclass({quote_literal(relation)})::pg_catalog.oid"


def _regclass_name(object_id: str) -> str:
    """The quoted name of a relation, with its schema where the search path needs it."""
    return f"{object_id}::pg_catalog.regclass::pg_catalog.text"
