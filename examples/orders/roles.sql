-- Two roles: orders_migrator owns the schema, orders_app serves orders and owns nothing.
--
-- Run it in the database of Orders, before or after the first migration; it is idempotent. Run it as
-- orders_migrator if that role owns the database and may create roles (as the master user of the
-- cluster in template.yaml does), else as an administrator. It is a single statement, so the RDS Data
-- API can run it. For passwords see docs/how-to/deploy-with-sam.md.
DO $roles$
BEGIN
    IF to_regrole('orders_migrator') IS NULL THEN
        CREATE ROLE orders_migrator LOGIN;
    END IF;
    IF to_regrole('orders_app') IS NULL THEN
        CREATE ROLE orders_app LOGIN;
    END IF;

    -- orders_migrator creates the schema lambda_migrate and tables in public.
    EXECUTE format('GRANT CONNECT, CREATE ON DATABASE %I TO orders_migrator', current_database());
    GRANT USAGE, CREATE ON SCHEMA public TO orders_migrator;
    REVOKE CREATE ON SCHEMA public FROM PUBLIC; -- the default since PostgreSQL 15

    -- orders_app reads, inserts and updates rows of all tables, including those that orders_migrator
    -- creates later. It has no privileges on lambda_migrate.
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO orders_app', current_database());
    GRANT USAGE ON SCHEMA public TO orders_app;
    GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO orders_app;
    ALTER DEFAULT PRIVILEGES FOR ROLE orders_migrator IN SCHEMA public
        GRANT SELECT, INSERT, UPDATE ON TABLES TO orders_app;
END
$roles$;
