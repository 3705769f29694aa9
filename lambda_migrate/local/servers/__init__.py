"""Local PostgreSQL, PgBouncer and DynamoDB servers, started for a test or a demo."""
