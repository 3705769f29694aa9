"""What the child process runs for Alembic; only these modules import it. `run` is the entry."""
