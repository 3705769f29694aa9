"""An index that is built while orders are placed; it cannot be in a transaction."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.create_index(
            "orders_by_customer", "orders", ["customer_id", "at"], postgresql_concurrently=True
        )


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.drop_index("orders_by_customer", postgresql_concurrently=True)
