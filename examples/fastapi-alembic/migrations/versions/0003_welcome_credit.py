"""Every existing customer gets 5.00. If this ran twice, it would be 10.00."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    credit = sa.Column("credit_cents", sa.Integer, nullable=False, server_default="0")
    op.add_column("customers", credit)
    op.execute("UPDATE customers SET credit_cents = credit_cents + 500")
    op.execute("INSERT INTO changelog (what) VALUES ('0003: welcome credit')")


def downgrade() -> None:
    op.drop_column("customers", "credit_cents")
    op.execute("INSERT INTO changelog (what) VALUES ('0003: rolled back')")
