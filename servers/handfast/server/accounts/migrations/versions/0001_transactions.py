"""Decisions about transactions."""

from __future__ import annotations

from alembic import op

from handfast.server.transactions.coordinator import migrations as coordinator

revision = "0001"
down_revision = None


def upgrade() -> None:
    coordinator.create_tables()


def downgrade() -> None:
    for table in ("answers", "horizon", "decisions"):
        op.drop_table(table)
