-- migrate:up
CREATE TYPE order_status AS ENUM ('placed', 'cancelled');

CREATE TABLE orders (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer_id bigint NOT NULL REFERENCES customers (id),
    item        text NOT NULL,
    quantity    integer NOT NULL CHECK (quantity > 0),
    unit_cents  integer NOT NULL CHECK (unit_cents >= 0),
    status      order_status NOT NULL DEFAULT 'placed',
    note        text,
    created_at  timestamptz NOT NULL DEFAULT now()
);

INSERT INTO changelog (what) VALUES ('0002: orders');

-- migrate:down
DROP TABLE orders;
DROP TYPE order_status;
INSERT INTO changelog (what) VALUES ('0002: rolled back');
