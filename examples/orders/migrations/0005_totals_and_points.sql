-- Expand: version 1 neither reads nor writes these columns, and goes on without them. Adding them
-- locks the tables for a moment, which is why nothing slow happens in the same transaction.
-- migrate:up
ALTER TABLE orders ADD COLUMN total_cents bigint;
ALTER TABLE customers ADD COLUMN points integer NOT NULL DEFAULT 0;

INSERT INTO changelog (what) VALUES ('0005: totals and points');

-- migrate:down
ALTER TABLE customers DROP COLUMN points;
ALTER TABLE orders DROP COLUMN total_cents;
INSERT INTO changelog (what) VALUES ('0005: taken back');
