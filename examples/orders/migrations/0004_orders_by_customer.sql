-- CONCURRENTLY, so that orders can be placed during the build; it cannot run in a transaction.
-- migrate:up transaction:false
CREATE INDEX CONCURRENTLY orders_by_customer ON orders (customer_id, created_at DESC);

-- migrate:down transaction:false
DROP INDEX CONCURRENTLY orders_by_customer;
