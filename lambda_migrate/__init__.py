"""Migrate a PostgreSQL schema on Lambda cold start."""
