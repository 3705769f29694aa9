"""Copies all rows before the release, and finds out later whether they are still there.

Every table is copied into a schema of its own, each value as text, so that no type or table of the
release is in its way. Later each row is looked up by its primary key and compared column by column.
Rows that were added meanwhile, as happens under traffic, are only counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lambda_migrate.postgresql.sql_fragments import quote_identifier, quote_literal

__all__ = [
    "Copy",
    "Records",
    "RunQuery",
    "Size",
    "TableRecord",
    "compare",
    "copy_tables",
    "differences",
    "read_shape",
    "read_sizes",
]

RunQuery = Callable[[str], Sequence[Sequence[Any]]]
"""Runs one statement in the database, and returns its rows."""

COPIES = "lambda_migrate_staging"
"""The schema of the copies."""

_OWN = ("lambda_migrate", COPIES, "information_schema")


@dataclass(frozen=True, slots=True)
class Copy:
    """A table that was copied."""

    schema: str
    name: str
    key: tuple[str, ...]  # columns of its primary key; () if it has none
    columns: tuple[str, ...]
    copy: str  # the name of the copy
    rows: int
    checksum: str  # over all values of all rows, in any order

    @property
    def table(self) -> str:
        """Its name as people write it."""
        return _display_name(self.schema, self.name)


@dataclass(frozen=True, slots=True)
class TableRecord:
    """What became of the rows of one table."""

    table: str
    rows: int  # before
    lost: int = 0
    changed: Mapping[str, int] = field(default_factory=dict)  # column -> rows
    dropped: tuple[str, ...] = ()  # columns
    added: int = 0
    checksum: str = ""  # over the rows from before; "" where columns were dropped
    examples: tuple[str, ...] = ()  # keys of some rows that were lost or changed


@dataclass(frozen=True, slots=True)
class Records:
    """All tables at one moment, and the schema; see `read_shape`."""

    tables: tuple[TableRecord, ...]
    shape: frozenset[str]


@dataclass(frozen=True, slots=True)
class Size:
    """How large a table is."""

    table: str
    rows: int  # PostgreSQL's estimate after ANALYZE
    size: int  # bytes, with indexes and TOAST


# -- reading --------------------------------------------------------------------------------------

_USERS = "n.nspname NOT LIKE 'pg\\_%' " + (
    f"AND n.nspname NOT IN ({', '.join(quote_literal(one) for one in _OWN)})"
)

_TABLES = f"""
SELECT n.nspname, c.relname,
       coalesce((SELECT array_agg(a.attname ORDER BY array_position(i.indkey::int2[], a.attnum))
                 FROM pg_index i JOIN pg_attribute a
                   ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey)
                 WHERE i.indrelid = c.oid AND i.indisprimary), '{{}}'),
       (SELECT array_agg(a.attname ORDER BY a.attnum) FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND {_USERS}
ORDER BY 1, 2
"""  # noqa: S608 - names of our own

_SIZES = f"""
SELECT n.nspname, c.relname, greatest(c.reltuples, 0)::bigint, pg_total_relation_size(c.oid)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND {_USERS}
ORDER BY 4 DESC, 1, 2
"""  # noqa: S608 - names of our own

_SHAPE = f"""
SELECT format('column %s.%s.%s %s%s%s', n.nspname, c.relname, a.attname,
              format_type(a.atttypid, a.atttypmod),
              CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END,
              coalesce(' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid), ''))
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND a.attnum > 0 AND NOT a.attisdropped AND {_USERS}
UNION ALL
SELECT format('index %s%s', pg_get_indexdef(i.indexrelid),
              CASE WHEN i.indisvalid THEN '' ELSE ' INVALID' END)
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE {_USERS}
UNION ALL
SELECT format('constraint %s.%s %s %s%s', n.nspname, c.relname, k.conname,
              pg_get_constraintdef(k.oid), CASE WHEN k.convalidated THEN '' ELSE ' NOT VALID' END)
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE k.contype <> 'n' AND {_USERS}
UNION ALL
SELECT format('enum %s.%s %s', n.nspname, t.typname,
              (SELECT string_agg(e.enumlabel, ', ' ORDER BY e.enumsortorder)
               FROM pg_enum e WHERE e.enumtypid = t.oid))
FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE t.typtype = 'e' AND {_USERS}
UNION ALL
SELECT format('view %s.%s %s', n.nspname, c.relname, pg_get_viewdef(c.oid))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('v', 'm') AND {_USERS}
UNION ALL
SELECT format('function %s.%s(%s) %s', n.nspname, p.proname,
              pg_get_function_identity_arguments(p.oid), md5(p.prosrc))
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE {_USERS}
UNION ALL
SELECT format('trigger %s', pg_get_triggerdef(g.oid))
FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE NOT g.tgisinternal AND {_USERS}
"""  # noqa: S608 - names of our own


def read_sizes(run: RunQuery) -> list[Size]:
    """Every table that holds rows, the largest first."""
    return [
        Size(_display_name(schema, name), int(rows), int(size))
        for schema, name, rows, size in run(_SIZES)
    ]


def read_shape(run: RunQuery) -> frozenset[str]:
    """The schema as lines of text: columns, indexes, constraints, enums, views, code."""
    return frozenset(str(line) for (line,) in run(_SHAPE))


# -- copying --------------------------------------------------------------------------------------


def copy_tables(run: RunQuery) -> list[Copy]:
    """Copy every table as it is now; replaces the copies of an earlier call."""
    run(f"DROP SCHEMA IF EXISTS {COPIES} CASCADE")
    run(f"CREATE SCHEMA {COPIES}")
    return [_copy(run, number, *found) for number, found in enumerate(run(_TABLES))]


def _copy(
    run: RunQuery, number: int, schema: str, name: str, key: Sequence[str], columns: Sequence[str]
) -> Copy:
    copy = f"{COPIES}.copy_{number}"
    chosen = ", ".join(
        f"{quote_identifier(one)}::text AS {quote_identifier(one)}" for one in columns
    )
    run(
        f"CREATE UNLOGGED TABLE {copy} AS "  # noqa: S608 - quoted names
        f"SELECT {chosen} FROM {_qualify(schema, name)}"
    )
    run(f"ANALYZE {copy}")
    [[rows, checksum]] = run(
        f"SELECT count(*), {_checksum('b', columns)} FROM {copy} AS b"  # noqa: S608 - quoted names
    )
    return Copy(schema, name, tuple(key), tuple(columns), copy, int(rows), str(checksum))


_MODULUS = 2**63 - 1


def _checksum(alias: str, columns: Sequence[str], *, where: str = "true") -> str:
    """An aggregate over rows: the sum of their hashes, so that their order does not matter."""
    row = ", ".join(f"{alias}.{quote_identifier(one)}::text" for one in columns)
    # The record's own quoting separates the values: ('a,b') is not ('a', 'b').
    return (
        f"to_hex((coalesce(sum(hashtextextended(ROW({row})::text, 0)) FILTER (WHERE {where}), 0)"
        f" % {_MODULUS})::bigint)"
    )


# -- comparing ------------------------------------------------------------------------------------


def compare(run: RunQuery, copied: Sequence[Copy]) -> Records:
    """Look up every row that `copy_tables` copied, in the same database."""
    there = {(schema, name): tuple(columns) for schema, name, _, columns in run(_TABLES)}
    tables = tuple(_compare(run, one, there.get((one.schema, one.name))) for one in copied)
    return Records(tables, read_shape(run))


def _compare(run: RunQuery, copied: Copy, columns: tuple[str, ...] | None) -> TableRecord:
    if columns is None:
        return TableRecord(copied.table, copied.rows, lost=copied.rows, dropped=copied.columns)
    dropped = tuple(one for one in copied.columns if one not in columns)
    shared = [one for one in copied.columns if one in columns]
    if copied.key and not set(copied.key) & set(dropped):
        return _compare_by_key(run, copied, shared, dropped)
    return _compare_by_value(run, copied, shared, dropped)


def _compare_by_key(
    run: RunQuery, copied: Copy, shared: Sequence[str], dropped: tuple[str, ...]
) -> TableRecord:
    compared = [one for one in shared if one not in copied.key]
    differs = [
        f"(t.{quote_identifier(one)}::text IS DISTINCT FROM b.{quote_identifier(one)})"
        for one in compared
    ]
    first = quote_identifier(copied.key[0])
    both, lost = f"(b.{first} IS NOT NULL AND t.{first} IS NOT NULL)", f"t.{first} IS NULL"
    wrong = " OR ".join([lost, *differs])
    counts = ", ".join(f"count(*) FILTER (WHERE {both} AND {one})" for one in differs)
    on = " AND ".join(
        f"t.{quote_identifier(one)}::text = b.{quote_identifier(one)}" for one in copied.key
    )
    key = ", ".join(f"b.{quote_identifier(one)}" for one in copied.key)
    joined = f"{copied.copy} AS b FULL JOIN {_qualify(copied.schema, copied.name)} AS t ON {on}"
    [[lost_rows, added, checksum, examples, *changed]] = run(
        f"SELECT count(*) FILTER (WHERE {lost}), count(*) FILTER (WHERE b.{first} IS NULL), "  # noqa: S608 - quoted names
        f"{_checksum('t', shared, where=both)}, "
        f"(array_agg(concat_ws('/', {key})) "
        f"FILTER (WHERE b.{first} IS NOT NULL AND ({wrong})))[1:3]"
        f"{', ' + counts if counts else ''} FROM {joined}"
    )
    return TableRecord(
        copied.table,
        copied.rows,
        lost=int(lost_rows),
        changed={one: int(n) for one, n in zip(compared, changed, strict=True) if n},
        dropped=dropped,
        added=int(added),
        checksum="" if dropped else str(checksum),
        examples=tuple(str(one) for one in examples or ()),
    )


def _compare_by_value(
    run: RunQuery, copied: Copy, shared: Sequence[str], dropped: tuple[str, ...]
) -> TableRecord:
    """Without a key, a row that changed is one that is lost and another that added."""
    chosen = ", ".join(f"{quote_identifier(one)}::text" for one in shared) or "1"
    now = f"SELECT {chosen} FROM {_qualify(copied.schema, copied.name)}"  # noqa: S608 - quoted names
    before = f"SELECT {chosen} FROM {copied.copy}"  # noqa: S608 - quoted names
    [[lost, added]] = run(
        f"SELECT (SELECT count(*) FROM ({before} EXCEPT ALL {now}) AS l), "  # noqa: S608 - quoted names
        f"(SELECT count(*) FROM ({now} EXCEPT ALL {before}) AS c)"
    )
    checksum = copied.checksum if not (lost or dropped) else ""
    return TableRecord(
        copied.table,
        copied.rows,
        lost=int(lost),
        dropped=dropped,
        added=int(added),
        checksum=checksum,
    )


def differences(before: frozenset[str], after: frozenset[str]) -> Iterator[str]:
    """What a schema has gained (``+``) and lost (``-``), in order."""
    lines = [(line, "-") for line in before - after] + [(line, "+") for line in after - before]
    for line, sign in sorted(lines):
        yield f"{sign} {line}"


def _qualify(schema: str, name: str) -> str:
    return f"{quote_identifier(schema)}.{quote_identifier(name)}"


def _display_name(schema: str, name: str) -> str:
    return name if schema == "public" else f"{schema}.{name}"
