"""The tables of the users database."""

from __future__ import annotations

import sqlalchemy as sa

from handfast.server.chassis.data.database import key_text
from handfast.server.chassis.ids import ETAG_LENGTH
from handfast.server.chassis.requests.fields import MAX_ID
from handfast.server.transactions.participant.tables import ParticipantTables, pending_index, resource_columns

MAX_EMAIL = 254
MAX_DISPLAY_NAME = 200
MAX_LOCALE = 100
"""Characters."""

metadata = sa.MetaData()

users = sa.Table(
    "users",
    metadata,
    sa.Column("user_id", key_text(MAX_ID), primary_key=True),
    sa.Column("email", sa.String(MAX_EMAIL), nullable=False, default=""),
    sa.Column("display_name", sa.String(MAX_DISPLAY_NAME), nullable=False, default=""),
    sa.Column("locale", sa.String(MAX_LOCALE), nullable=False, default=""),
    sa.Column("time_zone", sa.String(100), nullable=False, default=""),
    sa.Column("labels", sa.JSON, nullable=False, default=dict),
    sa.Column("create_time", sa.BigInteger, nullable=False, default=0),
    sa.Column("update_time", sa.BigInteger, nullable=False, default=0),
    sa.Column("etag", sa.String(ETAG_LENGTH), nullable=False, default=""),
    *resource_columns(),
    pending_index("users"),
)
participant = ParticipantTables(metadata)
