"""What is true: history, fence and migrations in PostgreSQL."""
