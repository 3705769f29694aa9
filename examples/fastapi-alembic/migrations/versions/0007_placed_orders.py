"""An index of the orders that are not cancelled."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.create_index(
            "placed_orders",
            "orders",
            ["at"],
            postgresql_where=sa.text("status = 'placed'"),
            postgresql_concurrently=True,
        )


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.drop_index("placed_orders", postgresql_concurrently=True)
