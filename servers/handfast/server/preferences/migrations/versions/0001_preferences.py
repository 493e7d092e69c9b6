"""Preferences, a first set of definitions, and what the server needs to take part in transactions."""

from __future__ import annotations

import time

import sqlalchemy as sa
from alembic import op

from handfast.server.chassis.data.database import key_text
from handfast.server.transactions.participant import migrations as participant

revision = "0001"
down_revision = None

FIRST_DEFINITIONS: list[tuple[str, str, list[object], list[object], str]] = [
    ("theme", "STRING", ["system"], ["light", "dark", "system"], "The colours of the user interface."),
    (
        "density",
        "STRING",
        ["comfortable"],
        ["comfortable", "compact"],
        "How close together the user interface puts things.",
    ),
    ("items_per_page", "NUMBER", [25], [10, 25, 50, 100], "How many entries lists show at once."),
    ("start_of_week", "STRING", ["monday"], ["monday", "saturday", "sunday"], "The first day of a week in calendars."),
    ("time_format", "STRING", ["24h"], ["12h", "24h"], "How the time of day is written."),
    ("email_notifications", "BOOLEAN", [True], [], "Whether to send mail about what happens to the user's things."),
    ("product_news", "BOOLEAN", [False], [], "Whether to send mail about what is new."),
    ("muted_topics", "STRING_LIST", [[]], [], "Topics about which the user wants no notifications."),
]
"""The columns of each but for its `create_time`."""


def upgrade() -> None:
    op.create_table(
        "preferences",
        sa.Column("user_id", key_text(64), primary_key=True),
        sa.Column("values", sa.JSON, nullable=False),
        sa.Column("update_time", sa.BigInteger, nullable=False),
        sa.Column("etag", sa.String(16), nullable=False),
        *participant.first_resource_columns(),
    )
    participant.create_pending_index("preferences")
    definitions = op.create_table(
        "definitions",
        sa.Column("key", key_text(63), primary_key=True),
        sa.Column("type", sa.String(20), nullable=False),
        sa.Column("default_value", sa.JSON(none_as_null=True)),
        sa.Column("allowed_values", sa.JSON, nullable=False),
        sa.Column("description", sa.String(1000), nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
    )
    columns, now = definitions.columns.keys(), time.time_ns() // 1000
    op.bulk_insert(definitions, [dict(zip(columns, (*each, now), strict=True)) for each in FIRST_DEFINITIONS])
    participant.create_first_tables()


def downgrade() -> None:
    for table in ("requests", "claims", "operations", "horizon", "branches", "definitions", "preferences"):
        op.drop_table(table)
