"""The stored replies of writes are erased with the resource that they are about."""

from __future__ import annotations

from handfast.server.transactions.participant import migrations as participant

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    participant.add_erasure()


def downgrade() -> None:
    participant.drop_erasure()
