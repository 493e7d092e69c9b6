"""What a participant has in its database, table by table.

Nothing in these tables decides: callers load what they need under locks, ask the rules, and save. On PostgreSQL the
locks are row locks, taken in the order branch, row, claims; on SQLite a local transaction has the whole database.

Each table builds its statements once: building one costs as much as running it.
"""

from __future__ import annotations

from typing import Generic

from handfast.server.chassis.data.database import Database
from handfast.server.transactions.horizon import Horizon
from handfast.server.transactions.participant.branches import Branches
from handfast.server.transactions.participant.operations import Operations
from handfast.server.transactions.participant.resources import M, ResourceType
from handfast.server.transactions.participant.rows import ResourceRows
from handfast.server.transactions.participant.tables import ParticipantTables
from handfast.server.transactions.participant.unique_keys import UniqueKeys


class Store(Generic[M]):
    """`participant` is the name that transactions know the service by."""

    def __init__(
        self, participant: str, database: Database, tables: ParticipantTables, resources: ResourceType[M]
    ) -> None:
        self.participant, self.database = participant, database
        self.resources = resources
        self.rows = ResourceRows(database, resources, tables.operations)
        self.branches = Branches(database, tables.branches)
        self.operations = Operations(tables.operations)
        self.claims = UniqueKeys(database, tables.claims, tables.claim_changes)
        self.horizon = Horizon(tables.horizon)
