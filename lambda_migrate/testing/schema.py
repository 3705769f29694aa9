"""What a database contains, as values that a test can compare: its schema and its rows."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from lambda_migrate.postgresql.sql_fragments import quote_literal

if TYPE_CHECKING:
    from lambda_migrate.postgresql.connection import Connection

__all__ = ["Rows", "count_rows", "read_rows", "read_schema"]

Rows = dict[str, list[dict[str, Any]]]
"""Every table's rows, by qualified name."""


def read_schema(connection: Connection, *, without: str) -> frozenset[str]:
    """Return a line for each object, such as ``column public.orders.id bigint not null``.

    The order of a table's columns does not count: a down script cannot restore it.

    Args:
        connection: To the database.
        without: The schema to leave out: the library's own.
    """
    sql = _SCHEMA.format(without=quote_literal(without))
    return frozenset(str(line) for (line,) in connection.run(sql) if line is not None)


def read_rows(connection: Connection, *, without: str) -> Rows:
    """Return all rows of all tables.

    Args:
        connection: To the database.
        without: The schema to leave out: the library's own.
    """
    tables = connection.run(_TABLES.format(without=quote_literal(without)))
    rows: Rows = {name: [] for (name,) in tables}
    queries = [
        f"SELECT {quote_literal(name)}, to_jsonb(t)::text FROM ONLY {name} AS t" for name in rows
    ]
    for name, row in connection.run(";".join(queries)) if queries else ():
        rows[name].append(json.loads(row))
    return rows


def count_rows(rows: list[dict[str, Any]], columns: frozenset[str]) -> Counter[str]:
    """Count equal rows, by these columns alone."""
    return Counter(
        json.dumps({name: row[name] for name in sorted(columns & row.keys())}) for row in rows
    )


_VISIBLE = """
    {n}.nspname NOT LIKE 'pg\\_%' AND {n}.nspname NOT IN ('information_schema', {{without}})
"""


def _visible(namespace: str) -> str:
    return _VISIBLE.format(n=namespace)


def _grants(acl: str, kind: str, owner: str) -> str:
    """What is granted, alike whether it was never changed or changed back."""
    return (
        "(SELECT string_agg(granted::text, ',' ORDER BY granted::text) FROM "
        f"unnest(coalesce({acl}, acldefault('{kind}', {owner}))) AS granted)"
    )


_TABLES = f"""
    SELECT format('%I.%I', n.nspname, c.relname)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND {_visible("n")} ORDER BY 1"""

_SCHEMA = f"""
    SELECT format('schema %I %s', n.nspname, {_grants("n.nspacl", "n", "n.nspowner")})
    FROM pg_namespace n WHERE {_visible("n")}
    UNION ALL
    SELECT format('%s %I.%I %s',
        CASE c.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned table' WHEN 'v' THEN 'view'
            WHEN 'm' THEN 'materialized view' WHEN 'S' THEN 'sequence' WHEN 'i' THEN 'index'
            WHEN 'I' THEN 'index' WHEN 'f' THEN 'foreign table' ELSE 'type' END,
        n.nspname, c.relname,
        concat_ws(' ', CASE WHEN c.relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid) END,
            CASE WHEN c.relkind IN ('i', 'I') THEN pg_get_indexdef(c.oid) END,
            CASE WHEN c.relkind IN ('i', 'I') AND NOT x.indisvalid THEN 'INVALID' END,
            CASE WHEN c.relkind = 'S' THEN concat_ws(' ', s.seqtypid::regtype, s.seqstart,
                s.seqincrement, s.seqmin, s.seqmax, s.seqcycle) END,
            CASE WHEN c.relispartition THEN pg_get_expr(c.relpartbound, c.oid) END,
            CASE WHEN c.relkind = 'p' THEN pg_get_partkeydef(c.oid) END,
            CASE WHEN c.relpersistence = 'u' THEN 'unlogged' END,
            CASE WHEN c.relrowsecurity THEN 'row security' END,
            CASE WHEN c.relforcerowsecurity THEN 'forced' END,
            c.reloptions::text, pg_get_userbyid(c.relowner),
            CASE c.relkind WHEN 'S' THEN {_grants("c.relacl", "s", "c.relowner")}
                ELSE {_grants("c.relacl", "r", "c.relowner")} END,
            obj_description(c.oid, 'pg_class')))
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_index x ON x.indexrelid = c.oid LEFT JOIN pg_sequence s ON s.seqrelid = c.oid
    WHERE {_visible("n")}
    UNION ALL
    SELECT format('column %I.%I.%I %s', n.nspname, c.relname, a.attname,
        concat_ws(' ', format_type(a.atttypid, a.atttypmod),
            CASE WHEN a.attnotnull THEN 'not null' END,
            'default ' || pg_get_expr(d.adbin, d.adrelid),
            CASE a.attidentity WHEN 'a' THEN 'identity always' WHEN 'd' THEN 'identity' END,
            CASE WHEN a.attgenerated <> '' THEN 'generated' END,
            CASE WHEN a.attcollation <> t.typcollation THEN a.attcollation::regcollation::text END,
            nullif(a.attacl, '{{{{}}}}')::text, col_description(c.oid, a.attnum)))
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'f', 'c')
        AND {_visible("n")}
    UNION ALL
    SELECT format('constraint %I on %s %s%s', k.conname,
        CASE WHEN k.conrelid <> 0 THEN k.conrelid::regclass::text
            ELSE k.contypid::regtype::text END,
        pg_get_constraintdef(k.oid), ' ' || obj_description(k.oid, 'pg_constraint'))
    FROM pg_constraint k JOIN pg_namespace n ON n.oid = k.connamespace
    WHERE k.contype <> 'n' AND {_visible("n")}
    UNION ALL
    SELECT format('inheritance of %s from %s', i.inhrelid::regclass, i.inhparent::regclass)
    FROM pg_inherits i
    UNION ALL
    SELECT format('trigger on %s %s %s', g.tgrelid::regclass, pg_get_triggerdef(g.oid), g.tgenabled)
    FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace WHERE NOT g.tgisinternal AND {_visible("n")}
    UNION ALL
    SELECT format('policy %I on %s %s %s %s %s', p.polname, p.polrelid::regclass, p.polcmd,
        p.polroles::regrole[], pg_get_expr(p.polqual, p.polrelid),
        pg_get_expr(p.polwithcheck, p.polrelid))
    FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {_visible("n")}
    UNION ALL
    SELECT format('function %s %s %s', f.oid::regprocedure,
        CASE WHEN f.prokind = 'a' THEN 'aggregate' ELSE pg_get_functiondef(f.oid) END,
        {_grants("f.proacl", "f", "f.proowner")})
    FROM pg_proc f JOIN pg_namespace n ON n.oid = f.pronamespace WHERE {_visible("n")}
    UNION ALL
    SELECT format('type %I.%I %s', n.nspname, t.typname, concat_ws(' ', t.typtype,
        (SELECT string_agg(e.enumlabel, ', ' ORDER BY e.enumsortorder) FROM pg_enum e
         WHERE e.enumtypid = t.oid),
        CASE WHEN t.typtype = 'd' THEN format_type(t.typbasetype, t.typtypmod) END,
        CASE WHEN t.typnotnull THEN 'not null' END, t.typdefault,
        {_grants("t.typacl", "T", "t.typowner")}))
    FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
    WHERE t.typtype IN ('e', 'd', 'r') AND {_visible("n")}
    UNION ALL
    SELECT format('extension %I %s', e.extname, e.extversion) FROM pg_extension e
    UNION ALL
    SELECT format('rule on %s %s', r.ev_class::regclass, pg_get_ruledef(r.oid))
    FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
    JOIN pg_namespace n ON n.oid = c.relnamespace WHERE r.rulename <> '_RETURN' AND {_visible("n")}
    UNION ALL
    SELECT format('default privileges %s %s %s %s', pg_get_userbyid(d.defaclrole),
        d.defaclnamespace, d.defaclobjtype, d.defaclacl::text) FROM pg_default_acl d
    UNION ALL
    SELECT format('statistics %s', pg_get_statisticsobjdef(s.oid)) FROM pg_statistic_ext s
    JOIN pg_namespace n ON n.oid = s.stxnamespace WHERE {_visible("n")}
    UNION ALL
    SELECT format('event trigger %I %s %s', v.evtname, v.evtevent, v.evtfoid::regproc)
    FROM pg_event_trigger v
    UNION ALL
    SELECT format('publication %I', b.pubname) FROM pg_publication b"""
