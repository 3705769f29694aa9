-- `make staging` runs these before version 2, after it, and after the rollback. Clients place orders
-- all the time, so the checks cover orders placed before today.

-- check: every order has a customer (expect: 0)
SELECT count(*) FROM orders o LEFT JOIN customers c ON c.id = o.customer_id WHERE c.id IS NULL;

-- check: orders before today, by status
SELECT status::text, count(*), sum(quantity::bigint * unit_cents)
FROM orders WHERE created_at < current_date GROUP BY status ORDER BY 1;

-- check: credit of customers
SELECT sum(credit_cents) FROM customers;

-- check: totals of all orders before today are filled in and correct (at: after, expect: 0)
SELECT count(*) FROM orders
WHERE created_at < current_date AND total_cents IS DISTINCT FROM quantity::bigint * unit_cents;

-- check: each customer has one point (at: after, expect: 0)
SELECT count(*) FROM customers WHERE created_at < current_date AND points <> 1;
