-- Two roles: orders_migrator owns the schema, orders_app serves orders and owns nothing.
--
-- Run it in the database of Orders, before or after the first migration, as often as you like: as
-- orders_migrator if that is the database's owner and may create roles (the master user of the
-- cluster in template.yaml is and may), else as an administrator. It is one statement, so that the
-- RDS Data API takes it. It sets no password; how to: docs/how-to/deploy-with-sam.md.
DO $roles$
BEGIN
    IF to_regrole('orders_migrator') IS NULL THEN
        CREATE ROLE orders_migrator LOGIN;
    END IF;
    IF to_regrole('orders_app') IS NULL THEN
        CREATE ROLE orders_app LOGIN;
    END IF;

    -- The migrator makes the schema lambda_migrate, and tables in public.
    EXECUTE format('GRANT CONNECT, CREATE ON DATABASE %I TO orders_migrator', current_database());
    GRANT USAGE, CREATE ON SCHEMA public TO orders_migrator;
    REVOKE CREATE ON SCHEMA public FROM PUBLIC; -- as it is from PostgreSQL 15 on

    -- What serves reads, adds and changes rows: in the tables that are there, and in those that the
    -- migrator will make. It gets nothing in lambda_migrate.
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO orders_app', current_database());
    GRANT USAGE ON SCHEMA public TO orders_app;
    GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO orders_app;
    ALTER DEFAULT PRIVILEGES FOR ROLE orders_migrator IN SCHEMA public
        GRANT SELECT, INSERT, UPDATE ON TABLES TO orders_app;
END
$roles$;
