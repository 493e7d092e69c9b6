"""The SQL of a participant: rows with their pending change, branches, operations and claims.

Nothing here decides: callers load what they need under locks, ask the rules, and save. On PostgreSQL the locks are
row locks, taken in the order branch, row, claims; on SQLite a local transaction has the whole database.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic

import sqlalchemy as sa

from handfast.server.chassis.database import Database
from handfast.server.transactions.core.model import Branch, BranchState, Operation, Outcome
from handfast.server.transactions.participant.resources import M, Resources
from handfast.server.transactions.participant.tables import ParticipantTables


@dataclass(frozen=True, slots=True)
class Row(Generic[M]):
    """A resource as one statement read it: its committed state (None where it does not exist), and the operations of
    the transaction that has a pending change of it.
    """

    key: str
    committed: M | None
    last_transaction_id: str
    pending_transaction_id: str | None
    operations: tuple[Operation, ...]


@dataclass(frozen=True, slots=True)
class Claim:
    """A unique value: who holds it, and the transaction that has a pending change of that, with its operations."""

    holder: str | None
    pending_transaction_id: str | None
    operations: tuple[Operation, ...]


class Store(Generic[M]):
    """`participant` is the name that transactions know the service by."""

    def __init__(
        self, participant: str, database: Database, tables: ParticipantTables, resources: Resources[M]
    ) -> None:
        self.participant, self.database = participant, database
        self.resources = resources
        self._branches, self._operations, self._claims = tables.branches, tables.operations, tables.claims
        self._table, self._key = resources.table, resources.key
        self._with_pending = self._join(self._table)
        self._by_key = self._with_pending.where(self._key == sa.bindparam("key"))
        self._by_keys = self._with_pending.where(self._key.in_(sa.bindparam("keys", expanding=True)))

    def _join(self, source: sa.FromClause) -> sa.Select[Any]:
        """Rows of `source`, each with its pending operations: several rows where there are several."""
        operations = self._operations
        pending = sa.and_(
            operations.c.transaction_id == source.c.pending_transaction_id,
            operations.c.resource == source.c[self._key.name],
        )
        columns = (operations.c.number, operations.c.fingerprint, operations.c.image, operations.c.reply)
        return sa.select(source, *columns).select_from(source.outerjoin(operations, pending))

    # Rows

    def row(self, connection: sa.Connection, key: str) -> Row[M] | None:
        return next(iter(self._rows(connection.execute(self._by_key, {"key": key}))), None)

    def rows(self, connection: sa.Connection, keys: Sequence[str]) -> list[Row[M]]:
        return self._rows(connection.execute(self._by_keys, {"keys": list(keys)}))

    def page(self, connection: sa.Connection, after: str, limit: int) -> list[Row[M]]:
        """The first `limit` rows whose key is greater than `after`, placeholders included, in the order of their
        keys.
        """
        page = sa.select(self._table).where(self._key > after).order_by(self._key).limit(limit).subquery()
        return self._rows(connection.execute(self._join(page).order_by(page.c[self._key.name])))

    def lock(self, connection: sa.Connection, key: str) -> Row[M]:
        """The row, locked until the local transaction ends. Where there is none, a placeholder is inserted first: a
        lock on nothing would hold nobody off.
        """
        row = self._lock_existing(connection, key)
        while row is None:
            placeholder = {self._key.name: key, "present": False}
            connection.execute(self.database.insert_new(self._table), placeholder)
            row = self._lock_existing(connection, key)
        return row

    def _lock_existing(self, connection: sa.Connection, key: str) -> Row[M] | None:
        locked = self._by_key.with_for_update(of=self._table)
        return next(iter(self._rows(connection.execute(locked, {"key": key}))), None)

    def save(self, connection: sa.Connection, key: str, message: M | None, *, last_transaction_id: str) -> None:
        """Makes the resource what `message` says, without a pending change; removes it where that is None."""
        if message is None:
            connection.execute(sa.delete(self._table).where(self._key == key))
            return
        values = {
            **self.resources.to_columns(message),
            "present": True,
            "pending_transaction_id": None,
            "last_transaction_id": last_transaction_id,
        }
        connection.execute(sa.update(self._table).where(self._key == key).values(values))

    def mark(self, connection: sa.Connection, key: str, transaction_id: str) -> None:
        marked = sa.update(self._table).where(self._key == key)
        connection.execute(marked.values(pending_transaction_id=transaction_id))

    def unmark(self, connection: sa.Connection, keys: Iterable[str]) -> None:
        """Takes the mark off rows whose change is dropped; what was a placeholder only, goes."""
        for key in sorted(keys):
            row = self._key == key
            connection.execute(sa.update(self._table).where(row).values(pending_transaction_id=None))
            connection.execute(sa.delete(self._table).where(row, sa.not_(self._table.c.present)))

    def _rows(self, result: sa.CursorResult[Any]) -> list[Row[M]]:
        rows: dict[str, Row[M]] = {}
        for mapping in result.mappings():
            key, pending = mapping[self._key.name], mapping["pending_transaction_id"]
            operations: tuple[Operation, ...] = ()
            if pending is not None and mapping["number"] is not None:
                operations = (self._operation(pending, key, mapping),)
            if key in rows:
                operations = rows[key].operations + operations
            committed = self.resources.to_message(mapping) if mapping["present"] else None
            rows[key] = Row(key, committed, mapping["last_transaction_id"], pending, operations)
        return list(rows.values())

    @staticmethod
    def _operation(transaction_id: str, resource: str, mapping: sa.RowMapping) -> Operation:
        return Operation(
            transaction_id, mapping["number"], resource, mapping["fingerprint"], mapping["image"], mapping["reply"]
        )

    # Branches and operations

    def open_branch(self, connection: sa.Connection, fresh: Branch) -> Branch:
        """The branch, locked until the local transaction ends; `fresh` is inserted where there is none."""
        inserted = connection.execute(self.database.insert_new(self._branches), _branch_columns(fresh))
        if inserted.rowcount == 1:
            return fresh
        branch = self.branch(connection, fresh.transaction_id, lock=True)
        assert branch is not None, "branches are not deleted"
        return branch

    def branch(self, connection: sa.Connection, transaction_id: str, *, lock: bool = False) -> Branch | None:
        query = sa.select(self._branches).where(self._branches.c.transaction_id == transaction_id)
        row = connection.execute(query.with_for_update() if lock else query).one_or_none()
        if row is None:
            return None
        outcome = Outcome(row.outcome) if row.outcome else None
        return Branch(row.transaction_id, BranchState(row.state), row.deadline, row.staged, outcome)

    def save_branch(self, connection: sa.Connection, branch: Branch) -> None:
        columns = _branch_columns(branch)
        query = sa.update(self._branches).where(self._branches.c.transaction_id == branch.transaction_id)
        connection.execute(query.values(columns))

    def operations(self, connection: sa.Connection, transaction_id: str) -> list[Operation]:
        query = sa.select(self._operations).where(self._operations.c.transaction_id == transaction_id)
        rows = connection.execute(query.order_by(self._operations.c.number)).mappings()
        return [self._operation(transaction_id, row["resource"], row) for row in rows]

    def add_operation(self, connection: sa.Connection, operation: Operation) -> None:
        values = {
            "transaction_id": operation.transaction_id,
            "number": operation.number,
            "resource": operation.resource,
            "fingerprint": operation.fingerprint,
            "image": operation.image,
            "reply": operation.reply,
        }
        connection.execute(sa.insert(self._operations), values)

    def forget_operations(self, connection: sa.Connection, transaction_id: str) -> None:
        connection.execute(sa.delete(self._operations).where(self._operations.c.transaction_id == transaction_id))

    # Claims

    def claim(self, connection: sa.Connection, value: str) -> Claim:
        """A unique value as one statement read it, with all operations of the transaction that has a pending change
        of it.
        """
        claims, operations = self._claims.c, self._operations
        query = sa.select(claims.holder, claims.pending_transaction_id, operations).select_from(
            self._claims.outerjoin(operations, operations.c.transaction_id == claims.pending_transaction_id)
        )
        rows = connection.execute(query.where(claims.value == value)).mappings().all()
        if not rows:
            return Claim(None, None, ())
        pending = rows[0]["pending_transaction_id"]
        found = tuple(self._operation(pending, row["resource"], row) for row in rows if row["number"] is not None)
        return Claim(rows[0]["holder"], pending, found)

    def lock_claim(self, connection: sa.Connection, value: str) -> tuple[str | None, str | None]:
        """Who holds a unique value, and the transaction that has a pending change of it; locked until the local
        transaction ends.
        """
        connection.execute(self.database.insert_new(self._claims), {"value": value})
        query = sa.select(self._claims).where(self._claims.c.value == value)
        row = connection.execute(query.with_for_update()).one()
        return row.holder, row.pending_transaction_id

    def mark_claim(self, connection: sa.Connection, value: str, transaction_id: str) -> None:
        query = sa.update(self._claims).where(self._claims.c.value == value)
        connection.execute(query.values(pending_transaction_id=transaction_id))

    def marked_claims(self, connection: sa.Connection, transaction_id: str) -> list[tuple[str, str | None]]:
        """The values that a transaction has a pending change of, each with who holds it now; locked."""
        query = sa.select(self._claims).where(self._claims.c.pending_transaction_id == transaction_id)
        rows = connection.execute(query.order_by(self._claims.c.value).with_for_update())
        return [(row.value, row.holder) for row in rows]

    def save_claim(self, connection: sa.Connection, value: str, holder: str | None) -> None:
        """Gives a value to its holder, without a pending change; frees it where that is None."""
        claim = self._claims.c.value == value
        if holder is None:
            connection.execute(sa.delete(self._claims).where(claim))
        else:
            query = sa.update(self._claims).where(claim)
            connection.execute(query.values(holder=holder, pending_transaction_id=None))


def _branch_columns(branch: Branch) -> dict[str, Any]:
    return {
        "transaction_id": branch.transaction_id,
        "state": branch.state.value,
        "deadline": branch.deadline,
        "staged": branch.staged,
        "outcome": branch.outcome.value if branch.outcome else None,
    }
