"""The tables of a participant, beside those of its resources.

    branches       what each transaction has here
    operations     the pending changes
    claims         who holds each unique value; no unique index stands on a column that can change
    claim_changes  what the pending changes make of unique values
    horizon        one row: the transaction id below which branches have been pruned
    requests       the replies of plain writes that had a request id

A table of resources has the columns of `resource_columns` after its own.
"""

from __future__ import annotations

import sqlalchemy as sa

from handfast.server.chassis.data import idempotency
from handfast.server.transactions import horizon

KEY_LENGTH = 64
TRANSACTION_ID_LENGTH = 36
UNFINISHED = sa.text("state <> 'FINISHED'")
PENDING = sa.text("pending_transaction_id IS NOT NULL")


class ParticipantTables:
    def __init__(self, metadata: sa.MetaData) -> None:
        self.branches = sa.Table(
            "branches",
            metadata,
            sa.Column("transaction_id", sa.String(TRANSACTION_ID_LENGTH), primary_key=True),
            sa.Column("state", sa.String(8), nullable=False),
            sa.Column("deadline", sa.BigInteger, nullable=False),
            sa.Column("first_attempt", sa.String(TRANSACTION_ID_LENGTH), nullable=False),
            sa.Column("staged", sa.Integer, nullable=False),
            sa.Column("outcome", sa.String(9)),
            sa.Index("branches_unfinished", "transaction_id", sqlite_where=UNFINISHED, postgresql_where=UNFINISHED),
        )
        self.operations = sa.Table(
            "operations",
            metadata,
            sa.Column("transaction_id", sa.String(TRANSACTION_ID_LENGTH), primary_key=True),
            sa.Column("number", sa.Integer, primary_key=True),
            sa.Column("resource", sa.String(KEY_LENGTH), nullable=False),
            sa.Column("fingerprint", sa.LargeBinary, nullable=False),
            sa.Column("image", sa.LargeBinary),
            sa.Column("reply", sa.LargeBinary, nullable=False),
            sa.Column("bytes_so_far", sa.Integer, nullable=False, server_default="0"),
            sa.Index("operations_of_resource", "transaction_id", "resource", "number"),
        )
        self.claims = sa.Table(
            "claims",
            metadata,
            sa.Column("value", sa.Text, primary_key=True),
            sa.Column("holder", sa.String(KEY_LENGTH)),
            sa.Column("pending_transaction_id", sa.String(TRANSACTION_ID_LENGTH)),
            pending_index("claims"),
        )
        self.claim_changes = sa.Table(
            "claim_changes",
            metadata,
            sa.Column("transaction_id", sa.String(TRANSACTION_ID_LENGTH), primary_key=True),
            sa.Column("value", sa.Text, primary_key=True),
            sa.Column("number", sa.Integer, primary_key=True),
            sa.Column("holder", sa.String(KEY_LENGTH)),
        )
        self.horizon = horizon.define(metadata)
        self.requests = idempotency.define(metadata)


def resource_columns() -> tuple[sa.Column[object], ...]:
    """`present` is false for the placeholder of a resource that a transaction is about to create."""
    return (
        sa.Column("present", sa.Boolean, nullable=False),
        sa.Column("pending_transaction_id", sa.String(TRANSACTION_ID_LENGTH)),
        sa.Column("last_transaction_id", sa.String(TRANSACTION_ID_LENGTH), nullable=False, default=""),
    )


def pending_index(table: str) -> sa.Index:
    return sa.Index(f"{table}_pending", "pending_transaction_id", sqlite_where=PENDING, postgresql_where=PENDING)
