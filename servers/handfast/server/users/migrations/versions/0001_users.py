"""Users, and what the server needs to take part in transactions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from handfast.server.chassis.data.database import key_text
from handfast.server.transactions.participant import migrations as participant

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "users",
        sa.Column("user_id", key_text(64), primary_key=True),
        sa.Column("email", sa.String(254), nullable=False),
        sa.Column("display_name", sa.String(200), nullable=False),
        sa.Column("locale", sa.String(100), nullable=False),
        sa.Column("time_zone", sa.String(100), nullable=False),
        sa.Column("labels", sa.JSON, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("update_time", sa.BigInteger, nullable=False),
        sa.Column("etag", sa.String(16), nullable=False),
        *participant.first_resource_columns(),
    )
    participant.create_pending_index("users")
    participant.create_first_tables()


def downgrade() -> None:
    for table in ("requests", "claims", "operations", "horizon", "branches", "users"):
        op.drop_table(table)
