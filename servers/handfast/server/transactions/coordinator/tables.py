"""The tables of the coordinator.

decisions   one row for each decided transaction, which is written once
horizon     one row: the transaction id below which decisions have been pruned
answers     what an account call with a request id was answered, a final failure included
owner_key   one row: the key of the tags by which ids say whose transactions they are
"""

from __future__ import annotations

import sqlalchemy as sa

from handfast.server.chassis.data.distribution import small, spread_by
from handfast.server.transactions import horizon

UNFINISHED = sa.text("finish_time IS NULL")


class CoordinatorTables:
    def __init__(self, metadata: sa.MetaData) -> None:
        self.decisions = sa.Table(
            "decisions",
            metadata,
            sa.Column("transaction_id", sa.String(36), primary_key=True),
            sa.Column("outcome", sa.String(9), nullable=False),
            sa.Column("branches", sa.JSON, nullable=False),
            sa.Column("abort_reason", sa.String(100), nullable=False),
            sa.Column("decide_time", sa.BigInteger, nullable=False),
            sa.Column("finish_time", sa.BigInteger),
            sa.Column("loss_accepted", sa.JSON),
            sa.Index("decisions_unfinished", "transaction_id", sqlite_where=UNFINISHED, postgresql_where=UNFINISHED),
        )
        self.answers = sa.Table(
            "answers",
            metadata,
            sa.Column("caller", sa.String(200), primary_key=True),
            sa.Column("method", sa.String(200), primary_key=True),
            sa.Column("request_id", sa.String(36), primary_key=True),
            sa.Column("fingerprint", sa.LargeBinary, nullable=False),
            sa.Column("transaction_id", sa.String(36), nullable=False),
            sa.Column("reply", sa.LargeBinary),
            sa.Column("failure", sa.LargeBinary),
            sa.Column("create_time", sa.BigInteger, nullable=False, index=True),
            info=spread_by("request_id"),
        )
        self.horizon = horizon.define(metadata)
        self.owner_key = sa.Table(
            "owner_key",
            metadata,
            sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("key", sa.LargeBinary, nullable=False),
            info=small(),
        )
