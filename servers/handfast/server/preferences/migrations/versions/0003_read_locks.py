"""Read locks of transactions, and operations that change several resources."""

from __future__ import annotations

from handfast.server.transactions.participant import migrations as participant

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    participant.add_read_locks("preferences")


def downgrade() -> None:
    participant.drop_read_locks("preferences")
