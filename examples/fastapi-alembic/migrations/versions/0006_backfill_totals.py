"""pg_sleep stands for a slow backfill, before any row is locked."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.execute("SELECT pg_sleep(3)")
    op.execute("UPDATE orders SET total_cents = quantity::bigint * unit_cents")
    op.execute("UPDATE customers SET points = points + 1")
    op.execute("INSERT INTO changelog (what) VALUES ('0006: totals filled in')")


def downgrade() -> None:
    op.execute("UPDATE orders SET total_cents = NULL")
    op.execute("UPDATE customers SET points = points - 1")
    op.execute("INSERT INTO changelog (what) VALUES ('0006: rolled back')")
