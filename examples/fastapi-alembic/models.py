"""The models of version 1, which are also what `alembic revision --autogenerate` compares.

They have the columns of version 1 of the schema, so that this code runs before, during and after
the migration to version 2, and after a rollback.
"""

from __future__ import annotations

from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """The base of all models."""


class Customer(Base):
    """A customer, known by the email address."""

    __tablename__ = "customers"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)


class Order(Base):
    """An order of one item."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"))
    item: Mapped[str]
    quantity: Mapped[int]
    unit_cents: Mapped[int]


def make_sqlalchemy_url(url: str) -> str:
    """The URL of the settings with SQLAlchemy's name of the driver."""
    return url.replace("postgresql://", "postgresql+psycopg://", 1)
