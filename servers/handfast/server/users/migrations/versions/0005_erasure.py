"""The stored replies of writes are erased with the resource that they are about."""

from __future__ import annotations

from handfast.server.transactions.participant import migrations as participant

revision = "0005"
down_revision = "0004"
oldest_code = "0004"  # what is added has defaults; to a repeat of what was erased, code from before replies empty


def upgrade() -> None:
    participant.add_erasure()


def downgrade() -> None:
    participant.drop_erasure()
