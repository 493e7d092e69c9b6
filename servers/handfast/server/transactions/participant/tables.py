"""The tables of a participant, beside those of its resources.

    branches       what each transaction has here
    operations     the pending changes and the read locks: a row for each resource that an operation changes or locks
    claims         who holds each unique value; no unique index stands on a column that can change
    claim_changes  what the pending changes make of unique values
    horizon        one row: the transaction id below which branches have been pruned
    requests       the replies of plain writes that had a request id

`resource_table` makes a table of resources, with the columns of `resource_columns` after its own.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from handfast.server.chassis.data import idempotency
from handfast.server.chassis.start_errors import DeclarationError
from handfast.server.transactions import horizon
from handfast.server.transactions.core.model import OWNER_LENGTH
from handfast.server.transactions.core.reading import REVISION_LENGTH

KIND_LENGTH = 32
KEY_LENGTH = 128
TRANSACTION_ID_LENGTH = 36
UNFINISHED = sa.text("state <> 'FINISHED'")
PENDING = sa.text("pending_transaction_id IS NOT NULL")
IS_LOCK, IS_LOCK_ON_POSTGRESQL = sa.text("is_lock = 1"), sa.text("is_lock")


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
            sa.Column("owner", sa.String(OWNER_LENGTH), nullable=False, default="", server_default=""),
            sa.Index("branches_unfinished", "transaction_id", sqlite_where=UNFINISHED, postgresql_where=UNFINISHED),
        )
        self.operations = sa.Table(
            "operations",
            metadata,
            sa.Column("transaction_id", sa.String(TRANSACTION_ID_LENGTH), primary_key=True),
            sa.Column("number", sa.Integer, primary_key=True),
            sa.Column("part", sa.Integer, primary_key=True),
            sa.Column("kind", sa.String(KIND_LENGTH), nullable=False),
            sa.Column("resource", sa.String(KEY_LENGTH), nullable=False),
            sa.Column("is_lock", sa.Boolean, nullable=False),
            sa.Column("image", sa.LargeBinary),
            # Of the operation as a whole; the first part has them.
            sa.Column("fingerprint", sa.LargeBinary),
            sa.Column("reply", sa.LargeBinary),
            sa.Column("reads", sa.LargeBinary),
            # With those of the operations before.
            sa.Column("parts_so_far", sa.Integer),
            sa.Column("bytes_so_far", sa.Integer),
            sa.Index("operations_of_resource", "transaction_id", "kind", "resource", "number"),
            sa.Index(
                "operations_locks",
                "kind",
                "resource",
                "transaction_id",
                sqlite_where=IS_LOCK,
                postgresql_where=IS_LOCK_ON_POSTGRESQL,
            ),
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


def resource_table(name: str, metadata: sa.MetaData, *columns: sa.Column[Any]) -> sa.Table:
    """A table of resources: its own `columns`, one of them the key, and what the library needs. Raises
    DeclarationError, a ValueError, where there is such a table already, or a column has a name that is taken.
    """
    ours = {*(column.name for column in resource_columns()), "key_"}  # what statements call the key that they look for
    for column in columns:
        if column.name in ours:
            raise DeclarationError(f"{name}.{column.name}: the library needs this name for itself; choose another")
    try:
        return sa.Table(name, metadata, *columns, *resource_columns(), pending_index(name))
    except sa.exc.SQLAlchemyError as error:
        raise DeclarationError(f"{name}: {error}") from error


def resource_columns() -> tuple[sa.Column[object], ...]:
    """What a table of resources needs.

    present                  false for the placeholder of what a transaction is about to create, or has read as absent
    pending_transaction_id   the transaction that has a pending change of it
    last_transaction_id      the last transaction across services that was applied to it
    revision                 another one after each change
    read_locks               how many transactions hold a read lock of it
    """
    return (
        sa.Column("present", sa.Boolean, nullable=False),
        sa.Column("pending_transaction_id", sa.String(TRANSACTION_ID_LENGTH)),
        sa.Column("last_transaction_id", sa.String(TRANSACTION_ID_LENGTH), nullable=False, default=""),
        sa.Column("revision", sa.String(REVISION_LENGTH), nullable=False, default="", server_default=""),
        sa.Column("read_locks", sa.Integer, nullable=False, default=0, server_default="0"),
    )


def pending_index(table: str) -> sa.Index:
    return sa.Index(f"{table}_pending", "pending_transaction_id", sqlite_where=PENDING, postgresql_where=PENDING)
