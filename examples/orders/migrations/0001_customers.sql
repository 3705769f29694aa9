-- migrate:up
CREATE TABLE changelog (
    id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    what text NOT NULL,
    at   timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE changelog IS 'One row for each change of the schema';

CREATE TABLE customers (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    email      text NOT NULL UNIQUE,
    name       text,
    created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO customers (email) VALUES ('guest@example.com');

INSERT INTO changelog (what) VALUES ('0001: customers');

-- migrate:down
DROP TABLE customers;
DROP TABLE changelog;
