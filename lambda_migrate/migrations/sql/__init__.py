"""PostgreSQL's SQL as text: its statements, what a migration may hold, excerpts for messages."""
