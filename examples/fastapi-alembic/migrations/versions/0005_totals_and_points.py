"""Expand: version 1 neither reads nor writes these columns."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '300ms'")  # not to stand in the way of clients for longer
    op.add_column("orders", sa.Column("total_cents", sa.BigInteger))
    points = sa.Column("points", sa.Integer, nullable=False, server_default="0")
    op.add_column("customers", points)
    op.execute("INSERT INTO changelog (what) VALUES ('0005: totals and points')")


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '300ms'")
    op.drop_column("customers", "points")
    op.drop_column("orders", "total_cents")
    op.execute("INSERT INTO changelog (what) VALUES ('0005: rolled back')")
