-- Expand: version 1 neither reads nor writes these columns. Adding them locks both tables, so there
-- is nothing slow in the same transaction.
--
-- Clients lock the same two tables, some in another order. PostgreSQL ends a deadlock after
-- deadlock_timeout (1 s) by cancelling a participant, which could be a client. With a shorter
-- lock_timeout it is always the migration, which lambda-migrate retries.
-- migrate:up
SET LOCAL lock_timeout = '300ms';
ALTER TABLE orders ADD COLUMN total_cents bigint;
ALTER TABLE customers ADD COLUMN points integer NOT NULL DEFAULT 0;

INSERT INTO changelog (what) VALUES ('0005: totals and points');

-- migrate:down
SET LOCAL lock_timeout = '300ms';
ALTER TABLE customers DROP COLUMN points;
ALTER TABLE orders DROP COLUMN total_cents;
INSERT INTO changelog (what) VALUES ('0005: rolled back');
