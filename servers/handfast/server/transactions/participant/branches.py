"""The branches in their table: what each transaction has here."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from handfast.server.chassis.data.database import Database
from handfast.server.transactions.core.model import Branch, BranchState, Outcome


class Branches:
    def __init__(self, database: Database, table: sa.Table) -> None:
        is_branch = table.c.transaction_id == sa.bindparam("id_")
        self._insert = database.insert_new(table)
        self._select = sa.select(table).where(is_branch)
        self._lock = self._select.with_for_update()
        self._update = sa.update(table).where(is_branch)
        unfinished = table.c.state != BranchState.FINISHED.value
        self._unfinished = (
            sa.select(table)
            .where(unfinished, table.c.transaction_id > sa.bindparam("after"))
            .order_by(table.c.transaction_id)
            .limit(sa.bindparam("limit_"))
        )
        self._count_unfinished = sa.select(sa.func.count()).select_from(table).where(unfinished)
        self._oldest_unfinished = sa.select(sa.func.min(table.c.transaction_id)).where(unfinished)
        below = table.c.transaction_id < sa.bindparam("horizon")
        finished = sa.not_(unfinished)
        newest_first = table.c.transaction_id.desc()
        self._newest_finished = sa.select(table.c.transaction_id).where(below, finished).order_by(newest_first).limit(1)
        self._delete = sa.delete(table).where(below, finished)

    def find(self, connection: sa.Connection, transaction_id: str) -> Branch | None:
        row = connection.execute(self._select, {"id_": transaction_id}).one_or_none()
        return None if row is None else _branch(row)

    def lock(self, connection: sa.Connection, fresh: Branch) -> Branch | None:
        """The branch, locked until the local transaction ends. Where there is none, `fresh` is inserted, for the lock,
        and None returned.
        """
        while connection.execute(self._insert, _columns(fresh)).rowcount == 0:
            if branch := self.lock_known(connection, fresh.transaction_id):
                return branch
            # It was pruned between the two.
        return None

    def lock_known(self, connection: sa.Connection, transaction_id: str) -> Branch | None:
        """The same, inserting nothing: for who expects the branch to be there. None holds nobody off."""
        row = connection.execute(self._lock, {"id_": transaction_id}).one_or_none()
        return None if row is None else _branch(row)

    def save(self, connection: sa.Connection, branch: Branch) -> None:
        connection.execute(self._update, {"id_": branch.transaction_id, **_columns(branch)})

    def unfinished(self, connection: sa.Connection, after: str, limit: int) -> list[Branch]:
        """The oldest branches that are not finished, from after the transaction `after` on."""
        return [_branch(row) for row in connection.execute(self._unfinished, {"after": after, "limit_": limit})]

    def count_unfinished(self, connection: sa.Connection) -> int:
        return int(connection.execute(self._count_unfinished).scalar_one())

    def oldest_unfinished(self, connection: sa.Connection) -> str | None:
        oldest: str | None = connection.execute(self._oldest_unfinished).scalar_one()
        return oldest

    def newest_finished(self, connection: sa.Connection, below: str) -> str | None:
        """The newest branch below this id that is finished."""
        newest: str | None = connection.execute(self._newest_finished, {"horizon": below}).scalar_one_or_none()
        return newest

    def delete_finished(self, connection: sa.Connection, below: str) -> int:
        """Forgets the finished branches below this id. Returns how many."""
        return connection.execute(self._delete, {"horizon": below}).rowcount


def _branch(row: sa.Row[Any]) -> Branch:
    outcome = Outcome(row.outcome) if row.outcome else None
    return Branch(row.transaction_id, BranchState(row.state), row.deadline, row.first_attempt, row.staged, outcome)


def _columns(branch: Branch) -> dict[str, Any]:
    return {
        "transaction_id": branch.transaction_id,
        "state": branch.state.value,
        "deadline": branch.deadline,
        "first_attempt": branch.first_attempt,
        "staged": branch.staged,
        "outcome": branch.outcome.value if branch.outcome else None,
    }
