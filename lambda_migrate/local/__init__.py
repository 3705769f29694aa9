"""Real engines on one machine: PostgreSQL, a DynamoDB API, Lambda. For workstations and tests."""
