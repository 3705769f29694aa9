-- THE SLOW ONE: pg_sleep stands for a backfill of three seconds. It comes first, before any row is
-- locked, so that version 1 places orders meanwhile. Those have no total yet: the release that
-- reads it fills them in first, and only a later one makes the column NOT NULL (contract).
-- migrate:up
SELECT pg_sleep(3);
UPDATE orders SET total_cents = quantity::bigint * unit_cents WHERE total_cents IS NULL;
UPDATE customers SET points = points + 1;

INSERT INTO changelog (what) VALUES ('0006: totals filled in');

-- migrate:down
-- The long one first: a customer whose row is locked cannot place an order until this commits.
UPDATE orders SET total_cents = NULL;
UPDATE customers SET points = points - 1;
INSERT INTO changelog (what) VALUES ('0006: taken back');
