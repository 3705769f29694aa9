-- Formatted and run by generated_orders.py.
CREATE OR REPLACE FUNCTION pg_temp.uniform(purpose text, n bigint) RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (hashtextextended(purpose || n, {seed}) & 9007199254740991)::float8 / 9007199254740992
$$;

-- As pg_restore does, foreign keys are not checked row by row; a check checks all of them.
SET session_replication_role = replica;

INSERT INTO orders (id, customer_id, item, quantity, unit_cents, status, note, created_at)
OVERRIDING SYSTEM VALUE
SELECT row_number() OVER (ORDER BY at, n),
    -- Zipf: a rank k is drawn with a probability of about 1/k; ranks are scattered over the ids.
    {first} + floor(exp(pg_temp.uniform('buyer', n) * ln({customers} + 1)))::bigint
        * {step} % {customers},
    CASE WHEN pg_temp.uniform('long item', n) < 0.00005
        THEN 'assortment of ' || repeat('tea, ', 2000)
        ELSE 'tea no. ' || floor(exp(pg_temp.uniform('product', n) * ln(400))) END,
    1 + least(499, floor(-ln(1 - pg_temp.uniform('quantity', n)))),
    CASE WHEN pg_temp.uniform('free', n) > 0.997 THEN 0 ELSE least(999999, round(1450 * exp(
        0.9 * sqrt(-2 * ln(1 - pg_temp.uniform('radius', n)))
        * cos(2 * pi() * pg_temp.uniform('angle', n))))) END,
    (CASE WHEN pg_temp.uniform('status', n) < 0.04
        THEN 'cancelled' ELSE 'placed' END)::order_status,
    CASE WHEN pg_temp.uniform('long note', n) < 0.00005
        THEN repeat('The quick brown fox jumps over the lazy dog. ', 450)
        WHEN pg_temp.uniform('note', n) < 0.12
        THEN ({notes})[1 + floor(pg_temp.uniform('which note', n) * {note_count})] END,
    at
FROM (
    SELECT n, timestamptz '{until} 00:00+00' - interval '1 second'
        - power(pg_temp.uniform('day', n), 2) * interval '{days} days' AS at
    FROM generate_series(1, {orders}) AS n
) AS drawn;

INSERT INTO customers (id, email, name, created_at, credit_cents)
OVERRIDING SYSTEM VALUE
SELECT n,
    'buyer' || n || '@example.com',
    CASE WHEN pg_temp.uniform('long name', n) < 0.00005 THEN repeat('Wolfeschlegelstein', 80)
        WHEN pg_temp.uniform('named', n) > 0.22
        THEN ({names})[1 + floor(power(pg_temp.uniform('name', n), 1.7) * {name_count})] END,
    coalesce(first_order - pg_temp.uniform('joined', n) * interval '1 hour',
        timestamptz '{until} 00:00+00' - pg_temp.uniform('visited', n) * interval '{days} days'),
    CASE WHEN pg_temp.uniform('credit', n) < 0.3 THEN 500 ELSE 0 END
FROM generate_series({first}, {last}) AS n
LEFT JOIN (SELECT customer_id, min(created_at) AS first_order FROM orders GROUP BY 1) AS o
    ON o.customer_id = n;

SELECT setval(pg_get_serial_sequence('customers', 'id'), (SELECT greatest(max(id), 1) FROM customers));
SELECT setval(pg_get_serial_sequence('orders', 'id'), (SELECT greatest(max(id), 1) FROM orders));
