"""Orders."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "orders",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("customer_id", sa.BigInteger, sa.ForeignKey("customers.id"), nullable=False),
        sa.Column("item", sa.Text, nullable=False),
        sa.Column("quantity", sa.Integer, sa.CheckConstraint("quantity > 0"), nullable=False),
        sa.Column("unit_cents", sa.Integer, nullable=False),
        sa.Column(
            "status",
            sa.Enum("placed", "cancelled", name="order_status"),
            nullable=False,
            server_default="placed",
        ),
        sa.Column("at", sa.TIMESTAMP(timezone=True), server_default=sa.func.now(), nullable=False),
    )
    op.execute("INSERT INTO changelog (what) VALUES ('0002: orders')")


def downgrade() -> None:
    op.drop_table("orders")
    op.execute("DROP TYPE order_status")
    op.execute("INSERT INTO changelog (what) VALUES ('0002: rolled back')")
