"""Accounts and their entries, and what the server needs to take part in transactions."""

from __future__ import annotations

import sqlalchemy as sa

from handfast.server.chassis import key_text
from handfast.server.transactions import migrations as participant

revision = "0001"
down_revision = None


def upgrade() -> None:
    participant.create_resource_table(
        "accounts",
        sa.Column("account_id", key_text(64), primary_key=True),
        sa.Column("balance", sa.BigInteger, nullable=False),
        sa.Column("entry_count", sa.BigInteger, nullable=False),
    )
    participant.create_resource_table(
        "entries",
        sa.Column("entry_id", key_text(75), primary_key=True),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("balance", sa.BigInteger, nullable=False),
        sa.Column("note", sa.String(200), nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
    )
    participant.create_tables()
