"""The tables of credits, and the two kinds of resources in them."""

from __future__ import annotations

import sqlalchemy as sa

from credits.v1 import credits_pb2 as pb
from handfast.server.chassis import key_text
from handfast.server.transactions import ParticipantTables, ResourceType, resource_table

MAX_NOTE = 200

metadata = sa.MetaData()
participant_tables = ParticipantTables(metadata)

accounts = ResourceType(
    resource_table(
        "accounts",
        metadata,
        sa.Column("account_id", key_text(64), primary_key=True),
        sa.Column("balance", sa.BigInteger, nullable=False),
        sa.Column("entry_count", sa.BigInteger, nullable=False),
    ),
    pb.Account,
)
entries = ResourceType(
    resource_table(
        "entries",
        metadata,
        sa.Column("entry_id", key_text(75), primary_key=True),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("balance", sa.BigInteger, nullable=False),
        sa.Column("note", sa.String(MAX_NOTE), nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
    ),
    pb.Entry,
)
KINDS = (accounts, entries)
