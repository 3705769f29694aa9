-- Expand: version 1 neither reads nor writes these columns, and goes on without them. Adding them
-- locks the tables for a moment, which is why nothing slow happens in the same transaction.
--
-- Two tables are locked, and clients lock the same two: some the one first, some the other. In a
-- deadlock PostgreSQL ends whoever has waited for a second (deadlock_timeout), which may be a
-- client. So these scripts give up before that, and lambda-migrate tries them again.
-- migrate:up
SET LOCAL lock_timeout = '300ms';
ALTER TABLE orders ADD COLUMN total_cents bigint;
ALTER TABLE customers ADD COLUMN points integer NOT NULL DEFAULT 0;

INSERT INTO changelog (what) VALUES ('0005: totals and points');

-- migrate:down
SET LOCAL lock_timeout = '300ms';
ALTER TABLE customers DROP COLUMN points;
ALTER TABLE orders DROP COLUMN total_cents;
INSERT INTO changelog (what) VALUES ('0005: taken back');
