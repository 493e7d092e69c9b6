"""The tables of the preferences database."""

from __future__ import annotations

import sqlalchemy as sa

from handfast.server.chassis.data.database import key_text
from handfast.server.chassis.data.distribution import small
from handfast.server.chassis.ids import ETAG_LENGTH
from handfast.server.chassis.requests.fields import MAX_ID, MAX_KEY
from handfast.server.transactions.participant.tables import ParticipantTables, pending_index, resource_columns

MAX_DESCRIPTION = 1000
"""Characters."""

metadata = sa.MetaData()

preferences = sa.Table(
    "preferences",
    metadata,
    sa.Column("user_id", key_text(MAX_ID), primary_key=True),
    sa.Column("values", sa.JSON, nullable=False, default=dict),
    sa.Column("update_time", sa.BigInteger, nullable=False, default=0),
    sa.Column("etag", sa.String(ETAG_LENGTH), nullable=False, default=""),
    *resource_columns(),
    pending_index("preferences"),
)
definitions = sa.Table(
    "definitions",
    metadata,
    sa.Column("key", key_text(MAX_KEY), primary_key=True),
    sa.Column("type", sa.String(20), nullable=False),
    # A list of the one value: SQLite takes the text of a lone number for a number of its own, and may round it.
    sa.Column("default_value", sa.JSON(none_as_null=True)),
    sa.Column("allowed_values", sa.JSON, nullable=False),
    sa.Column("description", sa.String(MAX_DESCRIPTION), nullable=False),
    sa.Column("create_time", sa.BigInteger, nullable=False),
    info=small(),
)
participant = ParticipantTables(metadata)
