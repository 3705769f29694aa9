"""What was in the tables before, kept beside them, and whether it still is.

Every table is copied into a schema of its own, each value as text, so that no type or table of the
release is in its way. Later each row is looked for by its primary key and compared column by
column, exactly. Rows that came meanwhile, as they do under traffic, are counted and left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lambda_migrate.postgresql.sql_fragments import identifier, literal

__all__ = [
    "Kept",
    "Records",
    "Run",
    "Size",
    "TableRecord",
    "compare",
    "freeze",
    "read_shape",
    "read_sizes",
]

Run = Callable[[str], Sequence[Sequence[Any]]]
"""Runs one statement in the rehearsed database, and returns its rows."""

COPIES = "lambda_migrate_rehearsal"
"""The schema of the copies."""

_OWN = ("lambda_migrate", COPIES, "information_schema")


@dataclass(frozen=True, slots=True)
class Kept:
    """A table that was copied.

    Attributes:
        schema: Where it is.
        name: Its name.
        key: The columns of its primary key; () if it has none.
        columns: All of its columns.
        copy: The name of the copy.
        rows: How many it had.
        checksum: Over all values of all rows, whatever their order.
    """

    schema: str
    name: str
    key: tuple[str, ...]
    columns: tuple[str, ...]
    copy: str
    rows: int
    checksum: str

    @property
    def table(self) -> str:
        """Its name as a person writes it."""
        return self.name if self.schema == "public" else f"{self.schema}.{self.name}"


@dataclass(frozen=True, slots=True)
class TableRecord:
    """What became of the rows of one table.

    Attributes:
        table: Its name.
        rows: How many there were.
        lost: How many of them are gone.
        changed: Columns whose value is another one now, and in how many rows.
        gone: Columns that are no more: what was in them is lost.
        came: Rows that were not there before.
        checksum: As of `Kept`, over the rows that were there before; "" where columns are gone.
        examples: Keys of some rows that were lost or changed.
    """

    table: str
    rows: int
    lost: int = 0
    changed: Mapping[str, int] = field(default_factory=dict)
    gone: tuple[str, ...] = ()
    came: int = 0
    checksum: str = ""
    examples: tuple[str, ...] = ()

    def is_whole(self, may_change: frozenset[str] = frozenset()) -> bool:
        """Whether everything is as it was.

        Args:
            may_change: Columns, as ``table.column``, that may change or go.
        """
        touched = {f"{self.table}.{column}" for column in (*self.changed, *self.gone)}
        return not self.lost and touched <= may_change


@dataclass(frozen=True, slots=True)
class Records:
    """All tables at one moment.

    Attributes:
        tables: What became of each.
        shape: See `read_shape`.
    """

    tables: tuple[TableRecord, ...]
    shape: frozenset[str]


@dataclass(frozen=True, slots=True)
class Size:
    """How large a table is.

    Attributes:
        rows: As PostgreSQL estimates them after ANALYZE.
        size: Bytes, with its indexes and what is stored out of line.
    """

    table: str
    rows: int
    size: int


# -- looking --------------------------------------------------------------------------------------

_NOT_OURS = (
    f"n.nspname NOT LIKE 'pg\\_%' AND n.nspname NOT IN ({', '.join(literal(one) for one in _OWN)})"
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
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND {_NOT_OURS}
ORDER BY 1, 2
"""  # noqa: S608 - names of our own

_SIZES = f"""
SELECT n.nspname, c.relname, greatest(c.reltuples, 0)::bigint, pg_total_relation_size(c.oid)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND {_NOT_OURS}
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
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND a.attnum > 0 AND NOT a.attisdropped AND {_NOT_OURS}
UNION ALL
SELECT format('index %s%s', pg_get_indexdef(i.indexrelid),
              CASE WHEN i.indisvalid THEN '' ELSE ' INVALID' END)
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE {_NOT_OURS}
UNION ALL
SELECT format('constraint %s.%s %s %s%s', n.nspname, c.relname, k.conname,
              pg_get_constraintdef(k.oid), CASE WHEN k.convalidated THEN '' ELSE ' NOT VALID' END)
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE k.contype <> 'n' AND {_NOT_OURS}
UNION ALL
SELECT format('enum %s.%s %s', n.nspname, t.typname,
              (SELECT string_agg(e.enumlabel, ', ' ORDER BY e.enumsortorder)
               FROM pg_enum e WHERE e.enumtypid = t.oid))
FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE t.typtype = 'e' AND {_NOT_OURS}
UNION ALL
SELECT format('view %s.%s %s', n.nspname, c.relname, pg_get_viewdef(c.oid))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('v', 'm') AND {_NOT_OURS}
UNION ALL
SELECT format('function %s.%s(%s) %s', n.nspname, p.proname,
              pg_get_function_identity_arguments(p.oid), md5(p.prosrc))
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE {_NOT_OURS}
UNION ALL
SELECT format('trigger %s', pg_get_triggerdef(g.oid))
FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE NOT g.tgisinternal AND {_NOT_OURS}
"""  # noqa: S608 - names of our own


def read_sizes(run: Run) -> list[Size]:
    """Every table that holds rows, the largest first."""
    return [
        Size(_spoken(schema, name), int(rows), int(size))
        for schema, name, rows, size in run(_SIZES)
    ]


def read_shape(run: Run) -> frozenset[str]:
    """The schema as lines of text: columns, indexes, constraints, enums, views, code."""
    return frozenset(str(line) for (line,) in run(_SHAPE))


# -- copying --------------------------------------------------------------------------------------


def freeze(run: Run) -> list[Kept]:
    """Copy every table as it is now; copies of an earlier call are replaced."""
    run(f"DROP SCHEMA IF EXISTS {COPIES} CASCADE")
    run(f"CREATE SCHEMA {COPIES}")
    return [_copy(run, number, *found) for number, found in enumerate(run(_TABLES))]


def _copy(
    run: Run, number: int, schema: str, name: str, key: Sequence[str], columns: Sequence[str]
) -> Kept:
    copy = f"{COPIES}.copy_{number}"
    chosen = ", ".join(f"{identifier(one)}::text AS {identifier(one)}" for one in columns)
    run(
        f"CREATE UNLOGGED TABLE {copy} AS "  # noqa: S608 - quoted names
        f"SELECT {chosen} FROM {_qualified(schema, name)}"
    )
    run(f"ANALYZE {copy}")
    [[rows, checksum]] = run(
        f"SELECT count(*), {_checksum('b', columns)} FROM {copy} AS b"  # noqa: S608 - quoted names
    )
    return Kept(schema, name, tuple(key), tuple(columns), copy, int(rows), str(checksum))


_MODULUS = 2**63 - 1


def _checksum(alias: str, columns: Sequence[str], *, where: str = "true") -> str:
    """An aggregate over rows: the sum of their hashes, so that their order does not matter."""
    row = ", ".join(f"{alias}.{identifier(one)}::text" for one in columns)
    # The words of a row are kept apart by the record's own quoting: ('a,b') is not ('a', 'b').
    return (
        f"to_hex((coalesce(sum(hashtextextended(ROW({row})::text, 0)) FILTER (WHERE {where}), 0)"
        f" % {_MODULUS})::bigint)"
    )


# -- comparing ------------------------------------------------------------------------------------


def compare(run: Run, kept: Sequence[Kept]) -> Records:
    """Look for every row that was copied.

    Args:
        run: In the same database.
        kept: What `freeze` returned.
    """
    there = {(schema, name): tuple(columns) for schema, name, _, columns in run(_TABLES)}
    tables = tuple(_compare(run, one, there.get((one.schema, one.name))) for one in kept)
    return Records(tables, read_shape(run))


def _compare(run: Run, kept: Kept, columns: tuple[str, ...] | None) -> TableRecord:
    if columns is None:
        return TableRecord(kept.table, kept.rows, lost=kept.rows, gone=kept.columns)
    gone = tuple(one for one in kept.columns if one not in columns)
    shared = [one for one in kept.columns if one in columns]
    if kept.key and not set(kept.key) & set(gone):
        return _compare_by_key(run, kept, shared, gone)
    return _compare_by_value(run, kept, shared, gone)


def _compare_by_key(
    run: Run, kept: Kept, shared: Sequence[str], gone: tuple[str, ...]
) -> TableRecord:
    compared = [one for one in shared if one not in kept.key]
    differs = [
        f"(t.{identifier(one)}::text IS DISTINCT FROM b.{identifier(one)})" for one in compared
    ]
    first = identifier(kept.key[0])
    both, lost = f"(b.{first} IS NOT NULL AND t.{first} IS NOT NULL)", f"t.{first} IS NULL"
    # Every row that was looked for and is not as it was; then what it was that differs.
    wrong = " OR ".join([lost, *differs])
    counts = ", ".join(f"count(*) FILTER (WHERE {both} AND {one})" for one in differs)
    on = " AND ".join(f"t.{identifier(one)}::text = b.{identifier(one)}" for one in kept.key)
    key = ", ".join(f"b.{identifier(one)}" for one in kept.key)
    joined = f"{kept.copy} AS b FULL JOIN {_qualified(kept.schema, kept.name)} AS t ON {on}"
    [[lost_rows, came, checksum, examples, *changed]] = run(
        f"SELECT count(*) FILTER (WHERE {lost}), count(*) FILTER (WHERE b.{first} IS NULL), "  # noqa: S608 - quoted names
        f"{_checksum('t', shared, where=both)}, "
        f"(array_agg(concat_ws('/', {key})) "
        f"FILTER (WHERE b.{first} IS NOT NULL AND ({wrong})))[1:3]"
        f"{', ' + counts if counts else ''} FROM {joined}"
    )
    return TableRecord(
        kept.table,
        kept.rows,
        lost=int(lost_rows),
        changed={one: int(n) for one, n in zip(compared, changed, strict=True) if n},
        gone=gone,
        came=int(came),
        checksum="" if gone else str(checksum),
        examples=tuple(str(one) for one in examples or ()),
    )


def _compare_by_value(
    run: Run, kept: Kept, shared: Sequence[str], gone: tuple[str, ...]
) -> TableRecord:
    """Without a key, a row that changed is one that is lost and another that came."""
    chosen = ", ".join(f"{identifier(one)}::text" for one in shared) or "1"
    now = f"SELECT {chosen} FROM {_qualified(kept.schema, kept.name)}"  # noqa: S608 - quoted names
    before = f"SELECT {chosen} FROM {kept.copy}"  # noqa: S608 - quoted names
    [[lost, came]] = run(
        f"SELECT (SELECT count(*) FROM ({before} EXCEPT ALL {now}) AS l), "  # noqa: S608 - quoted names
        f"(SELECT count(*) FROM ({now} EXCEPT ALL {before}) AS c)"
    )
    checksum = kept.checksum if not (lost or gone) else ""
    return TableRecord(
        kept.table, kept.rows, lost=int(lost), gone=gone, came=int(came), checksum=checksum
    )


def differences(before: frozenset[str], after: frozenset[str]) -> Iterator[str]:
    """What a schema has gained (``+``) and lost (``-``), in order."""
    lines = [(line, "-") for line in before - after] + [(line, "+") for line in after - before]
    for line, sign in sorted(lines):
        yield f"{sign} {line}"


def _qualified(schema: str, name: str) -> str:
    return f"{identifier(schema)}.{identifier(name)}"


def _spoken(schema: str, name: str) -> str:
    return name if schema == "public" else f"{schema}.{name}"
