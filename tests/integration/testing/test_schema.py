"""The schema comparison of the users' migration checks finds every change."""

from __future__ import annotations

from lambda_migrate.testing.schema import read_schema
from lambda_migrate.testing.scratch import ScratchDatabase, connect_to
from tests.sandbox import Sandbox

BASE = """
    CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL, s text);
    CREATE TABLE parted (id int) PARTITION BY RANGE (id);
    CREATE TABLE child (id int);
    CREATE SEQUENCE numbers;
    CREATE TYPE mood AS ENUM ('good');
    CREATE FUNCTION f(a int) RETURNS int LANGUAGE sql AS 'SELECT a';
    CREATE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
    CREATE VIEW v AS SELECT id FROM t;
    CREATE DOMAIN positive AS int CHECK (VALUE > 0)"""

# Each change, and what takes it back.
CHANGES = {
    "ALTER TABLE t ADD COLUMN more int": "ALTER TABLE t DROP COLUMN more",
    "ALTER TABLE t DROP COLUMN s": "ALTER TABLE t ADD COLUMN s text",
    "ALTER TABLE t ALTER s TYPE varchar(9)": "ALTER TABLE t ALTER s TYPE text",
    "ALTER TABLE t ALTER n DROP NOT NULL": "ALTER TABLE t ALTER n SET NOT NULL",
    "ALTER TABLE t ALTER n SET DEFAULT 1": "ALTER TABLE t ALTER n DROP DEFAULT",
    "ALTER TABLE t ADD CONSTRAINT u UNIQUE (n)": "ALTER TABLE t DROP CONSTRAINT u",
    "ALTER TABLE t ADD CHECK (n > 0)": "ALTER TABLE t DROP CONSTRAINT t_n_check",
    "ALTER TABLE t SET (fillfactor = 70)": "ALTER TABLE t RESET (fillfactor)",
    "ALTER TABLE t ENABLE ROW LEVEL SECURITY": "ALTER TABLE t DISABLE ROW LEVEL SECURITY",
    "ALTER TABLE t SET UNLOGGED": "ALTER TABLE t SET LOGGED",
    "CREATE INDEX i ON t (n)": "DROP INDEX i",
    "CREATE POLICY p ON t USING (true)": "DROP POLICY p ON t",
    "CREATE TRIGGER r BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION g()": "DROP TRIGGER r ON t",
    "CREATE RULE r AS ON DELETE TO t DO INSTEAD NOTHING": "DROP RULE r ON t",
    "CREATE STATISTICS st ON id, n FROM t": "DROP STATISTICS st",
    "CREATE TABLE p PARTITION OF parted DEFAULT": "DROP TABLE p",
    "ALTER TABLE child ADD COLUMN n int": "ALTER TABLE child DROP COLUMN n",
    "CREATE OR REPLACE FUNCTION f(a int) RETURNS int LANGUAGE sql AS 'SELECT 2'": (
        "CREATE OR REPLACE FUNCTION f(a int) RETURNS int LANGUAGE sql AS 'SELECT a'"
    ),
    "DROP VIEW v; CREATE VIEW v AS SELECT n FROM t": (
        "DROP VIEW v; CREATE VIEW v AS SELECT id FROM t"
    ),
    "ALTER SEQUENCE numbers INCREMENT BY 2": "ALTER SEQUENCE numbers INCREMENT BY 1",
    "ALTER DOMAIN positive ADD CONSTRAINT small CHECK (VALUE < 9)": (
        "ALTER DOMAIN positive DROP CONSTRAINT small"
    ),
    "CREATE TYPE point2 AS (x int, y int)": "DROP TYPE point2",
    "CREATE SCHEMA other": "DROP SCHEMA other",
    "GRANT SELECT ON t TO PUBLIC": "REVOKE SELECT ON t FROM PUBLIC",
    "GRANT UPDATE (n) ON t TO PUBLIC": "REVOKE UPDATE (n) ON t FROM PUBLIC",
    "REVOKE EXECUTE ON FUNCTION f FROM PUBLIC": "GRANT EXECUTE ON FUNCTION f TO PUBLIC",
    "COMMENT ON COLUMN t.n IS 'number'": "COMMENT ON COLUMN t.n IS NULL",
    "COMMENT ON TABLE t IS 'table'": "COMMENT ON TABLE t IS NULL",
    "ALTER TYPE mood RENAME VALUE 'good' TO 'bad'": "ALTER TYPE mood RENAME VALUE 'bad' TO 'good'",
    "ALTER TABLE t RENAME TO u": "ALTER TABLE u RENAME TO t",
}


def test_every_change_of_a_schema_and_its_undoing_are_detected(sandbox: Sandbox) -> None:
    database = ScratchDatabase(sandbox.url, sandbox.name)
    with connect_to(database) as connection:
        connection.run(BASE)
        before = read_schema(connection, without="lambda_migrate")
        unseen, not_undone = [], []
        for change, undo in CHANGES.items():
            connection.run(change)
            if read_schema(connection, without="lambda_migrate") == before:
                unseen.append(change)
            connection.run(undo)
            if read_schema(connection, without="lambda_migrate") != before:
                not_undone.append(change)
    assert (unseen, not_undone) == ([], [])
