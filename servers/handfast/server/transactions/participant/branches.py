"""The branches in their table: what each transaction has here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.distribution import Reason, across_keys
from handfast.server.chassis.data.statements import Statement
from handfast.server.transactions.core.finishing import unheard_of
from handfast.server.transactions.core.model import Branch, BranchState, Outcome
from handfast.server.transactions.horizon import Prunable


class Branches(Prunable):
    def __init__(self, database: Database, table: sa.Table, horizon: sa.Table) -> None:
        id_ = table.c.transaction_id
        is_branch, one_of_them = id_ == sa.bindparam("id_"), database.one_of(id_, "ids")
        self._insert = Statement(database, database.insert_new(table))
        self._find = Statement(database, sa.select(table).where(is_branch))
        self._lock = Statement(database, sa.select(table).where(is_branch).with_for_update())
        self._lock_known = Statement(database, sa.select(table).where(one_of_them).order_by(id_).with_for_update())
        self._update = Statement(database, sa.update(table).where(is_branch))
        self._update_all = Statement(database, sa.update(table).where(one_of_them))
        self._delete = Statement(database, sa.delete(table).where(one_of_them))

        unfinished = table.c.state != BranchState.FINISHED.value
        super().__init__(database, id_, sa.not_(unfinished), horizon)
        by_owner = sa.select(table.c.owner, sa.func.count()).where(unfinished).group_by(table.c.owner)
        self._unfinished_by_owner = across_keys(Reason.MAINTENANCE, by_owner)
        after = id_ > sa.bindparam("after")
        page = sa.select(table).where(unfinished, after).order_by(id_).limit(sa.bindparam("limit_"))
        self._unfinished = across_keys(Reason.MAINTENANCE, page)

    def find(self, connection: sa.Connection, transaction_id: str) -> Branch | None:
        row = self._find.first(connection, id_=transaction_id)
        return None if row is None else _branch(row)

    def lock(self, connection: sa.Connection, fresh: Branch, *, expected: bool = False) -> Branch | None:
        """The branch, locked until the local transaction ends. Where there is none, `fresh` is inserted, which keeps
        others from inserting it, and None returned. Where it is `expected` to be there, that is one statement less.
        """
        if expected and (row := self._lock.first(connection, id_=fresh.transaction_id)) is not None:
            return _branch(row)
        columns = {
            "transaction_id": fresh.transaction_id,
            "state": fresh.state.value,
            "deadline": fresh.deadline_us,
            "first_attempt": fresh.first_attempt,
            "staged": fresh.staged,
            "owner": fresh.owner,
        }
        while self._insert.run(connection, **columns) == 0:
            row = self._lock.first(connection, id_=fresh.transaction_id)
            if row is not None:
                return _branch(row)
            # It was pruned between the two.
        return None

    def lock_all(self, connection: sa.Connection, transaction_ids: Sequence[str]) -> dict[str, Branch | None]:
        """These branches, locked as `lock` does, in the order of their ids; those that are there by one statement."""
        locked: dict[str, Branch | None] = {
            row.transaction_id: _branch(row) for row in self._lock_known.all(connection, ids=transaction_ids)
        }
        for id_ in sorted(set(transaction_ids) - locked.keys()):
            locked[id_] = self.lock(connection, unheard_of(id_))
        return locked

    def set_staged(self, connection: sa.Connection, transaction_id: str, staged: int) -> None:
        self._update.send(connection, id_=transaction_id, staged=staged)

    def close(self, connection: sa.Connection, transaction_id: str) -> None:
        """Stores that it takes no more operations."""
        self._update.send(connection, id_=transaction_id, state=BranchState.CLOSED.value)

    def finish(self, connection: sa.Connection, outcomes: Mapping[str, Outcome]) -> None:
        """Stores that branches are finished, by the ids of their transactions."""
        for outcome in Outcome:
            if ids := [id_ for id_, of_branch in outcomes.items() if of_branch is outcome]:
                state = BranchState.FINISHED.value
                self._update_all.send(connection, ids=ids, state=state, outcome=outcome.value)

    def delete(self, connection: sa.Connection, transaction_ids: Sequence[str]) -> None:
        self._delete.send(connection, ids=transaction_ids)

    def unfinished_by_owner(self, connection: sa.Connection) -> dict[str, int]:
        """How many branches of each owner are not finished."""
        return {row[0]: row[1] for row in connection.execute(self._unfinished_by_owner)}

    def unfinished(self, connection: sa.Connection, after: str, limit: int) -> list[Branch]:
        """The oldest branches that are not finished, from after the transaction `after` on."""
        return [_branch(row) for row in connection.execute(self._unfinished, {"after": after, "limit_": limit})]


def _branch(row: Any) -> Branch:
    outcome = Outcome(row.outcome) if row.outcome else None
    return Branch(
        row.transaction_id, BranchState(row.state), row.deadline, row.first_attempt, row.staged, outcome, row.owner
    )
