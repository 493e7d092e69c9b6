"""Migration steps for the tables of a participant, called by the migrations of each service. A step never changes
once released.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from handfast.server.transactions import horizon

UNFINISHED = sa.text("state <> 'FINISHED'")
PENDING = sa.text("pending_transaction_id IS NOT NULL")


def create_tables() -> None:
    op.create_table(
        "branches",
        sa.Column("transaction_id", sa.String(36), primary_key=True),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("deadline", sa.BigInteger, nullable=False),
        sa.Column("first_attempt", sa.String(36), nullable=False),
        sa.Column("staged", sa.Integer, nullable=False),
        sa.Column("outcome", sa.String(9)),
    )
    op.create_index(
        "branches_unfinished", "branches", ["transaction_id"], sqlite_where=UNFINISHED, postgresql_where=UNFINISHED
    )
    horizon.create_table()
    op.create_table(
        "operations",
        sa.Column("transaction_id", sa.String(36), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("resource", sa.String(64), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary, nullable=False),
        sa.Column("image", sa.LargeBinary),
        sa.Column("reply", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "claims",
        sa.Column("value", sa.Text, primary_key=True),
        sa.Column("holder", sa.String(64)),
        sa.Column("pending_transaction_id", sa.String(36)),
    )
    create_pending_index("claims")
    op.create_table(
        "requests",
        sa.Column("caller", sa.String(200), primary_key=True),
        sa.Column("method", sa.String(200), primary_key=True),
        sa.Column("request_id", sa.String(36), primary_key=True),
        sa.Column("fingerprint", sa.LargeBinary, nullable=False),
        sa.Column("reply", sa.LargeBinary, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False, index=True),
    )


def add_claim_changes() -> None:
    """Notes what each operation makes of unique values, and finds the operations of a resource by an index."""
    op.create_table(
        "claim_changes",
        sa.Column("transaction_id", sa.String(36), primary_key=True),
        sa.Column("value", sa.Text, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("holder", sa.String(64)),
    )
    op.create_index("operations_of_resource", "operations", ["transaction_id", "resource", "number"])
    op.add_column("operations", sa.Column("bytes_so_far", sa.Integer, nullable=False, server_default="0"))


def drop_claim_changes() -> None:
    op.drop_column("operations", "bytes_so_far")
    op.drop_index("operations_of_resource", "operations")
    op.drop_table("claim_changes")


def resource_columns() -> tuple[sa.Column[object], ...]:
    return (
        sa.Column("present", sa.Boolean, nullable=False),
        sa.Column("pending_transaction_id", sa.String(36)),
        sa.Column("last_transaction_id", sa.String(36), nullable=False),
    )


def create_pending_index(table: str) -> None:
    op.create_index(
        f"{table}_pending", table, ["pending_transaction_id"], sqlite_where=PENDING, postgresql_where=PENDING
    )
