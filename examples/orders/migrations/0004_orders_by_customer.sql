-- Concurrently, so that orders can be placed while it is built; which no transaction allows.
-- migrate:up transaction:false
CREATE INDEX CONCURRENTLY orders_by_customer ON orders (customer_id, created_at DESC);

-- migrate:down transaction:false
DROP INDEX CONCURRENTLY orders_by_customer;
