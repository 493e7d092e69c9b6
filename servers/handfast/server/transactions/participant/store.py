"""The SQL of a participant: rows with their pending change, branches, operations and claims.

Nothing here decides: callers load what they need under locks, ask the rules, and save. On PostgreSQL the locks are
row locks, taken in the order branch, row, claims; on SQLite a local transaction has the whole database.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic

import sqlalchemy as sa

from handfast.server.chassis.data.database import Database
from handfast.server.transactions.core.model import Branch, BranchState, Operation, Outcome
from handfast.server.transactions.horizon import Horizon
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
        self._table, self._key = resources.table, resources.key
        self._prepare_rows(tables.operations)
        self._prepare_branches(tables.branches, tables.operations)
        self._prepare_pruning(tables.branches)
        self.horizon = Horizon(tables.horizon)
        self._prepare_claims(tables.claims, tables.operations)

    # Statements are built once: building one costs as much as running it.

    def _prepare_rows(self, operations: sa.Table) -> None:
        table, is_key = self._table, self._key == sa.bindparam("key_")
        self._operation_columns = (
            operations.c.number,
            operations.c.resource,
            operations.c.fingerprint,
            operations.c.image,
            operations.c.reply,
        )
        self._operations = operations
        with_operations = self._with_operations(table)
        self._row = with_operations.where(is_key)
        self._rows = with_operations.where(self._key.in_(sa.bindparam("keys", expanding=True)))
        # Alone: PostgreSQL reads a row again after it waited for its lock, but not what the row was joined with.
        self._lock_row = sa.select(table).where(is_key).with_for_update()
        after = self._key > sa.bindparam("after")
        page = sa.select(table).where(after).order_by(self._key).limit(sa.bindparam("limit_")).subquery()
        self._page = self._with_operations(page).order_by(page.c[self._key.name])
        self._insert_placeholder = self.database.insert_new(table)
        self._update_row = sa.update(table).where(is_key)
        self._delete_row = sa.delete(table).where(is_key)
        self._delete_placeholder = self._delete_row.where(sa.not_(table.c.present))

    def _prepare_branches(self, branches: sa.Table, operations: sa.Table) -> None:
        is_branch = branches.c.transaction_id == sa.bindparam("id_")
        self._insert_branch = self.database.insert_new(branches)
        self._branch = sa.select(branches).where(is_branch)
        self._lock_branch = self._branch.with_for_update()
        self._update_branch = sa.update(branches).where(is_branch)
        of_branch = operations.c.transaction_id == sa.bindparam("id_")
        self._operations_of = sa.select(*self._operation_columns).where(of_branch).order_by(operations.c.number)
        self._insert_operation = sa.insert(operations)
        self._delete_operations = sa.delete(operations).where(of_branch)

    def _prepare_pruning(self, branches: sa.Table) -> None:
        unfinished = branches.c.state != BranchState.FINISHED.value
        self._unfinished = (
            sa.select(branches)
            .where(unfinished, branches.c.transaction_id > sa.bindparam("after"))
            .order_by(branches.c.transaction_id)
            .limit(sa.bindparam("limit_"))
        )
        self._oldest_unfinished = sa.select(sa.func.min(branches.c.transaction_id)).where(unfinished)
        self._count_unfinished = sa.select(sa.func.count()).select_from(branches).where(unfinished)
        below = branches.c.transaction_id < sa.bindparam("horizon")
        self._delete_branches = sa.delete(branches).where(below, sa.not_(unfinished))

    def _prepare_claims(self, claims: sa.Table, operations: sa.Table) -> None:
        is_value = claims.c.value == sa.bindparam("value_")
        pending = claims.c.pending_transaction_id
        source = claims.outerjoin(operations, operations.c.transaction_id == pending)
        self._claim = sa.select(claims.c.holder, pending, *self._operation_columns).select_from(source).where(is_value)
        self._insert_claim = self.database.insert_new(claims)
        self._lock_claim = sa.select(claims.c.holder, pending).where(is_value).with_for_update()
        marked = sa.select(claims.c.value, claims.c.holder).where(pending == sa.bindparam("id_"))
        self._lock_marked_claims = marked.order_by(claims.c.value).with_for_update()
        self._update_claim = sa.update(claims).where(is_value)
        self._delete_claim = sa.delete(claims).where(is_value)

    def _with_operations(self, source: sa.FromClause) -> sa.Select[Any]:
        """Rows of `source`, each with its pending operations: several rows where there are several."""
        operations = self._operations
        pending = sa.and_(
            operations.c.transaction_id == source.c.pending_transaction_id,
            operations.c.resource == source.c[self._key.name],
        )
        return sa.select(source, *self._operation_columns).select_from(source.outerjoin(operations, pending))

    # Rows

    def row(self, connection: sa.Connection, key: str) -> Row[M] | None:
        return self._first(connection.execute(self._row, {"key_": key}))

    def rows(self, connection: sa.Connection, keys: Sequence[str]) -> list[Row[M]]:
        return list(self._read(connection.execute(self._rows, {"keys": list(keys)})))

    def page(self, connection: sa.Connection, after: str, limit: int) -> list[Row[M]]:
        """The first `limit` rows whose key is greater than `after`, placeholders included, in the order of their
        keys.
        """
        return list(self._read(connection.execute(self._page, {"after": after, "limit_": limit})))

    def lock(self, connection: sa.Connection, key: str) -> Row[M]:
        """The row without its operations, locked until the local transaction ends. Where there is none, a placeholder
        is inserted first: a lock on nothing would hold nobody off.
        """
        row = connection.execute(self._lock_row, {"key_": key}).mappings().one_or_none()
        while row is None:
            connection.execute(self._insert_placeholder, {self._key.name: key, "present": False})
            row = connection.execute(self._lock_row, {"key_": key}).mappings().one_or_none()
        return self._row_of(key, row, ())

    def save(self, connection: sa.Connection, key: str, message: M | None, *, last_transaction_id: str) -> None:
        """Makes the resource what `message` says, without a pending change; removes it where that is None."""
        if message is None:
            connection.execute(self._delete_row, {"key_": key})
            return
        values = {
            **self.resources.to_columns(message),
            "key_": key,
            "present": True,
            "pending_transaction_id": None,
            "last_transaction_id": last_transaction_id,
        }
        connection.execute(self._update_row, values)

    def mark(self, connection: sa.Connection, key: str, transaction_id: str) -> None:
        """Says that a transaction has a pending change of the resource."""
        connection.execute(self._update_row, {"key_": key, "pending_transaction_id": transaction_id})

    def unmark(self, connection: sa.Connection, keys: Iterable[str]) -> None:
        """Takes the mark off rows whose change is dropped; what was a placeholder only, goes."""
        for key in sorted(keys):
            connection.execute(self._update_row, {"key_": key, "pending_transaction_id": None})
            connection.execute(self._delete_placeholder, {"key_": key})

    def _first(self, result: sa.CursorResult[Any]) -> Row[M] | None:
        return next(iter(self._read(result)), None)

    def _read(self, result: sa.CursorResult[Any]) -> Iterable[Row[M]]:
        rows: dict[str, Row[M]] = {}
        for mapping in result.mappings():
            key, pending = mapping[self._key.name], mapping["pending_transaction_id"]
            operations = _operations(pending, mapping)
            if key in rows:
                operations = rows[key].operations + operations
            rows[key] = self._row_of(key, mapping, operations)
        return rows.values()

    def _row_of(self, key: str, mapping: sa.RowMapping, operations: tuple[Operation, ...]) -> Row[M]:
        committed = self.resources.to_message(mapping) if mapping["present"] else None
        return Row(key, committed, mapping["last_transaction_id"], mapping["pending_transaction_id"], operations)

    # Branches and operations

    def lock_branch(self, connection: sa.Connection, fresh: Branch) -> Branch | None:
        """The branch, locked until the local transaction ends. Where there is none, `fresh` is inserted, for the lock,
        and None returned.
        """
        while connection.execute(self._insert_branch, _branch_columns(fresh)).rowcount == 0:
            if branch := self.lock_known_branch(connection, fresh.transaction_id):
                return branch
            # It was pruned between the two.
        return None

    def lock_known_branch(self, connection: sa.Connection, transaction_id: str) -> Branch | None:
        """The same, inserting nothing: for who expects the branch to be there. None holds nobody off."""
        row = connection.execute(self._lock_branch, {"id_": transaction_id}).one_or_none()
        return None if row is None else _branch(row)

    def branch(self, connection: sa.Connection, transaction_id: str) -> Branch | None:
        row = connection.execute(self._branch, {"id_": transaction_id}).one_or_none()
        return None if row is None else _branch(row)

    def save_branch(self, connection: sa.Connection, branch: Branch) -> None:
        connection.execute(self._update_branch, {"id_": branch.transaction_id, **_branch_columns(branch)})

    def unfinished_branches(self, connection: sa.Connection, after: str, limit: int) -> list[Branch]:
        """The oldest branches that are not finished, from after the transaction `after` on."""
        return [_branch(row) for row in connection.execute(self._unfinished, {"after": after, "limit_": limit})]

    def count_unfinished(self, connection: sa.Connection) -> int:
        return int(connection.execute(self._count_unfinished).scalar_one())

    def oldest_unfinished(self, connection: sa.Connection) -> str | None:
        oldest: str | None = connection.execute(self._oldest_unfinished).scalar_one()
        return oldest

    def prune_branches(self, connection: sa.Connection, horizon: str) -> int:
        """Forgets the finished branches below the horizon. Returns how many."""
        return connection.execute(self._delete_branches, {"horizon": horizon}).rowcount

    def operations(self, connection: sa.Connection, transaction_id: str) -> list[Operation]:
        rows = connection.execute(self._operations_of, {"id_": transaction_id}).mappings()
        return [operation for row in rows for operation in _operations(transaction_id, row)]

    def add_operation(self, connection: sa.Connection, operation: Operation) -> None:
        connection.execute(self._insert_operation, asdict(operation))

    def forget_operations(self, connection: sa.Connection, transaction_id: str) -> None:
        connection.execute(self._delete_operations, {"id_": transaction_id})

    # Claims

    def claim(self, connection: sa.Connection, value: str) -> Claim:
        """A unique value as one statement read it, with all operations of the transaction that has a pending change
        of it.
        """
        rows = connection.execute(self._claim, {"value_": value}).mappings().all()
        if not rows:
            return Claim(None, None, ())
        pending = rows[0]["pending_transaction_id"]
        operations = tuple(operation for row in rows for operation in _operations(pending, row))
        return Claim(rows[0]["holder"], pending, operations)

    def lock_claim(self, connection: sa.Connection, value: str) -> tuple[str | None, str | None]:
        """Who holds a unique value, and the transaction that has a pending change of that; locked until the local
        transaction ends.
        """
        row = None
        while row is None:  # another transaction may free the value between the two
            connection.execute(self._insert_claim, {"value": value})
            row = connection.execute(self._lock_claim, {"value_": value}).one_or_none()
        return row.holder, row.pending_transaction_id

    def mark_claim(self, connection: sa.Connection, value: str, transaction_id: str) -> None:
        """Says that a transaction has a pending change of who holds the value."""
        connection.execute(self._update_claim, {"value_": value, "pending_transaction_id": transaction_id})

    def marked_claims(self, connection: sa.Connection, transaction_id: str) -> list[tuple[str, str | None]]:
        """The values that a transaction has a pending change of, each with who holds it now; locked."""
        rows = connection.execute(self._lock_marked_claims, {"id_": transaction_id})
        return [(row.value, row.holder) for row in rows]

    def save_claim(self, connection: sa.Connection, value: str, holder: str | None) -> None:
        """Gives a value to its holder, without a pending change; frees it where that is None."""
        if holder is None:
            connection.execute(self._delete_claim, {"value_": value})
        else:
            values = {"value_": value, "holder": holder, "pending_transaction_id": None}
            connection.execute(self._update_claim, values)


def _operations(transaction_id: str | None, row: sa.RowMapping) -> tuple[Operation, ...]:
    """The operation that a row of an outer join has, if any."""
    if transaction_id is None or row["number"] is None:
        return ()
    columns = (row[name] for name in ("number", "resource", "fingerprint", "image", "reply"))
    return (Operation(transaction_id, *columns),)


def _branch(row: sa.Row[Any]) -> Branch:
    outcome = Outcome(row.outcome) if row.outcome else None
    return Branch(row.transaction_id, BranchState(row.state), row.deadline, row.first_attempt, row.staged, outcome)


def _branch_columns(branch: Branch) -> dict[str, Any]:
    return {
        "transaction_id": branch.transaction_id,
        "state": branch.state.value,
        "deadline": branch.deadline,
        "first_attempt": branch.first_attempt,
        "staged": branch.staged,
        "outcome": branch.outcome.value if branch.outcome else None,
    }
