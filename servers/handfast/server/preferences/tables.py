"""The tables of the preferences database."""

from __future__ import annotations

import sqlalchemy as sa

from handfast.server.chassis.data.database import key_text
from handfast.server.transactions.participant.tables import ParticipantTables, pending_index, resource_columns

metadata = sa.MetaData()

preferences = sa.Table(
    "preferences",
    metadata,
    sa.Column("user_id", key_text(64), primary_key=True),
    sa.Column("values", sa.JSON, nullable=False, default=dict),
    sa.Column("update_time", sa.BigInteger, nullable=False, default=0),
    sa.Column("etag", sa.String(16), nullable=False, default=""),
    *resource_columns(),
    pending_index("preferences"),
)
definitions = sa.Table(
    "definitions",
    metadata,
    sa.Column("key", key_text(63), primary_key=True),
    sa.Column("type", sa.String(20), nullable=False),
    # A list of the one value: SQLite takes the text of a lone number for a number of its own, and may round it.
    sa.Column("default_value", sa.JSON(none_as_null=True)),
    sa.Column("allowed_values", sa.JSON, nullable=False),
    sa.Column("description", sa.String(1000), nullable=False),
    sa.Column("create_time", sa.BigInteger, nullable=False),
)
participant = ParticipantTables.define(metadata)
