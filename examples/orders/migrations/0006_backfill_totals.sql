-- pg_sleep stands for a slow backfill. It comes first, before any row is locked, so that version 1
-- can place orders in the meantime. Their total stays NULL: the release that reads it fills it in
-- first, and a later one sets the column NOT NULL (contract).
-- migrate:up
SELECT pg_sleep(3);
UPDATE orders SET total_cents = quantity::bigint * unit_cents WHERE total_cents IS NULL;
UPDATE customers SET points = points + 1;

INSERT INTO changelog (what) VALUES ('0006: totals filled in');

-- migrate:down
-- The slow statement first: customers whose rows are locked cannot place orders until the commit.
UPDATE orders SET total_cents = NULL;
UPDATE customers SET points = points - 1;
INSERT INTO changelog (what) VALUES ('0006: rolled back');
