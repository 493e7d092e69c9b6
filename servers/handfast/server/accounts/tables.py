"""The tables of the accounts database: the coordinator's, and no others."""

from __future__ import annotations

import sqlalchemy as sa

from handfast.server.transactions.coordinator.tables import CoordinatorTables

metadata = sa.MetaData()
coordinator = CoordinatorTables(metadata)
