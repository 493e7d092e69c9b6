"""What a participant has in its database, table by table.

Nothing in these tables decides: callers load what they need under locks, ask the rules, and save. On PostgreSQL the
locks are row locks, taken in the order branches, rows, unique values; on SQLite a local transaction has the whole
database.
"""

from __future__ import annotations

from typing import Generic

from handfast.server.chassis.data.database import Database
from handfast.server.transactions.participant.branches import Branches
from handfast.server.transactions.participant.operations import Operations
from handfast.server.transactions.participant.resource_rows import ResourceRows
from handfast.server.transactions.participant.resource_type import M, ResourceType
from handfast.server.transactions.participant.tables import ParticipantTables
from handfast.server.transactions.participant.unique_keys import UniqueKeys


class Store(Generic[M]):
    """`participant` is the name that transactions know the service by, such as `users`."""

    def __init__(
        self, participant: str, database: Database, tables: ParticipantTables, resources: ResourceType[M]
    ) -> None:
        self.participant, self.database, self.resources = participant, database, resources
        self.rows = ResourceRows(database, resources, tables)
        self.branches = Branches(database, tables.branches, tables.horizon)
        self.operations = Operations(database, tables.operations)
        self.unique_keys = UniqueKeys(database, tables.claims, tables.claim_changes)

    def message(self, image: bytes | None) -> M | None:
        """The resource as an operation leaves it; None where it is deleted."""
        return None if image is None else self.resources.message_type.FromString(image)
