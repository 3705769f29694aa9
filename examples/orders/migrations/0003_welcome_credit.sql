-- Every existing customer gets 5.00. If this ran twice, it would be 10.00.
-- migrate:up
ALTER TABLE customers ADD COLUMN credit_cents integer NOT NULL DEFAULT 0;
UPDATE customers SET credit_cents = credit_cents + 500;

INSERT INTO changelog (what) VALUES ('0003: welcome credit');

-- migrate:down
ALTER TABLE customers DROP COLUMN credit_cents;
INSERT INTO changelog (what) VALUES ('0003: rolled back');
