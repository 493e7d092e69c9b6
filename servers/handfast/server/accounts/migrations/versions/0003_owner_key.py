"""Whose each transaction is."""

from __future__ import annotations

from alembic import op

from handfast.server.transactions.coordinator import migrations as coordinator

revision = "0003"
down_revision = "0002"
oldest_code = "0001"  # code from before has no use for the table


def upgrade() -> None:
    coordinator.create_owner_key()


def downgrade() -> None:
    op.drop_table("owner_key")
