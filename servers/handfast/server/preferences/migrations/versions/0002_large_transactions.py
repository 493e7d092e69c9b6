"""What makes staging and finishing linear in the size of a transaction."""

from __future__ import annotations

from handfast.server.transactions.participant import migrations as participant

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    participant.add_claim_changes()


def downgrade() -> None:
    participant.drop_claim_changes()
