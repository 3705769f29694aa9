"""As `alembic init` wrote it, but for the URL and the models."""

from __future__ import annotations

import os

from alembic import context
from models import Base, make_sqlalchemy_url
from sqlalchemy import create_engine, pool


def run_migrations_online() -> None:
    """Connect, and migrate."""
    engine = create_engine(make_sqlalchemy_url(os.environ["DATABASE_URL"]), poolclass=pool.NullPool)
    with engine.connect() as connection:
        context.configure(connection=connection, target_metadata=Base.metadata)
        with context.begin_transaction():
            context.run_migrations()


run_migrations_online()
