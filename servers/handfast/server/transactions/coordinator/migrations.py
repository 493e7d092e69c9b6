"""Migration steps for the tables of a coordinator. A step never changes once released."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from handfast.server.transactions import horizon

UNFINISHED = sa.text("finish_time IS NULL")


def add_loss_accepted() -> None:
    """The participants whose loss an operator accepted; null where there are none."""
    op.add_column("decisions", sa.Column("loss_accepted", sa.JSON))


def create_owner_key() -> None:
    """The key by which ids say whose transactions they are; the first server that starts makes it."""
    op.create_table(
        "owner_key",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("key", sa.LargeBinary, nullable=False),
    )


def create_tables() -> None:
    op.create_table(
        "decisions",
        sa.Column("transaction_id", sa.String(36), primary_key=True),
        sa.Column("outcome", sa.String(9), nullable=False),
        sa.Column("branches", sa.JSON, nullable=False),
        sa.Column("abort_reason", sa.String(100), nullable=False),
        sa.Column("decide_time", sa.BigInteger, nullable=False),
        sa.Column("finish_time", sa.BigInteger),
    )
    op.create_index(
        "decisions_unfinished", "decisions", ["transaction_id"], sqlite_where=UNFINISHED, postgresql_where=UNFINISHED
    )
    horizon.create_table()
    op.create_table(
        "answers",
        sa.Column("caller", sa.String(200), primary_key=True),
        sa.Column("method", sa.String(200), primary_key=True),
        sa.Column("request_id", sa.String(36), primary_key=True),
        sa.Column("fingerprint", sa.LargeBinary, nullable=False),
        sa.Column("transaction_id", sa.String(36), nullable=False),
        sa.Column("reply", sa.LargeBinary),
        sa.Column("failure", sa.LargeBinary),
        sa.Column("create_time", sa.BigInteger, nullable=False, index=True),
    )
