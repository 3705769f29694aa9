-- migrate:up transaction:false
CREATE INDEX CONCURRENTLY placed_orders ON orders (created_at) WHERE status = 'placed';

-- migrate:down transaction:false
DROP INDEX CONCURRENTLY placed_orders;
