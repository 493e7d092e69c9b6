"""The tables of the users database."""

from __future__ import annotations

import sqlalchemy as sa

from handfast.server.chassis.data.database import key_text
from handfast.server.transactions.participant.tables import ParticipantTables, pending_index, resource_columns

metadata = sa.MetaData()

users = sa.Table(
    "users",
    metadata,
    sa.Column("user_id", key_text(64), primary_key=True),
    sa.Column("email", sa.String(254), nullable=False, default=""),
    sa.Column("display_name", sa.String(200), nullable=False, default=""),
    sa.Column("locale", sa.String(100), nullable=False, default=""),
    sa.Column("time_zone", sa.String(100), nullable=False, default=""),
    sa.Column("labels", sa.JSON, nullable=False, default=dict),
    sa.Column("create_time", sa.BigInteger, nullable=False, default=0),
    sa.Column("update_time", sa.BigInteger, nullable=False, default=0),
    sa.Column("etag", sa.String(16), nullable=False, default=""),
    *resource_columns(),
    pending_index("users"),
)
participant = ParticipantTables.define(metadata)
