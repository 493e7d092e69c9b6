"""What a participant has in its database, table by table.

Nothing in these tables decides: callers load what they need under locks, ask the rules, and save. On PostgreSQL the
locks are row locks, taken in the order branches, rows, unique values; on SQLite a local transaction has the whole
database.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from handfast.server.chassis.data.database import Database
from handfast.server.transactions.participant.branches import Branches
from handfast.server.transactions.participant.operations import Operations
from handfast.server.transactions.participant.resource_rows import ResourceRows
from handfast.server.transactions.participant.resource_type import M, ResourceType
from handfast.server.transactions.participant.tables import ParticipantTables
from handfast.server.transactions.participant.unique_keys import UniqueKeys


class Store:
    """`participant` is the name that transactions know the service by, such as `users`; `types` has all kinds of
    resources that it owns.
    """

    def __init__(
        self, participant: str, database: Database, tables: ParticipantTables, types: Sequence[ResourceType[Any]]
    ) -> None:
        self.participant, self.database = participant, database
        self.types = {each.kind: each for each in types}
        self.rows = {each.kind: ResourceRows(database, each, tables) for each in types}
        self.branches = Branches(database, tables.branches, tables.horizon)
        self.operations = Operations(database, tables.operations)
        self.unique_keys = UniqueKeys(database, tables.claims, tables.claim_changes)

    def rows_of(self, type_: ResourceType[M]) -> ResourceRows[M]:
        return self.rows[type_.kind]

    @property
    def has_unique_values(self) -> bool:
        return any(each.has_unique_values for each in self.types.values())
