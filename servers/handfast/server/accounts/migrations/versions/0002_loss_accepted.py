"""Losses of committed changes that operators accepted."""

from __future__ import annotations

from alembic import op

from handfast.server.transactions.coordinator import migrations as coordinator

revision = "0002"
down_revision = "0001"
oldest_code = "0001"  # the column can be null


def upgrade() -> None:
    coordinator.add_loss_accepted()


def downgrade() -> None:
    op.drop_column("decisions", "loss_accepted")
