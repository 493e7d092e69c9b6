"""Plain reads: the committed state, or where a pending change is committed already, the state after it (rule 7).

A read never waits and never aborts anybody. Only a pending change costs a call to the coordinator, one for all that
are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Generic

from handfast.server.chassis.errors import DatabaseConflict
from handfast.server.chassis.requests.paging import read_page
from handfast.server.chassis.requests.reply_room import PIECE, ReplyRoom
from handfast.server.transactions.core.model import Decision, Forgotten
from handfast.server.transactions.core.reading import Look, first_look, holder_at_second_look, second_look
from handfast.server.transactions.participant.errors import PendingChange
from handfast.server.transactions.participant.resolver import Resolver
from handfast.server.transactions.participant.resource_rows import ResourceRow
from handfast.server.transactions.participant.resource_type import M, Version
from handfast.server.transactions.participant.store import Store

ROUNDS = 50
"""Each round but the first is there because another transaction was decided during the one before."""


class Reads(Generic[M]):
    """`Participant` says what each of them returns."""

    def __init__(self, store: Store[M], resolver: Resolver) -> None:
        self._store, self._resolver = store, resolver

    def get(self, key: str) -> Version[M] | None:
        with self._store.database.read() as connection:
            row = self._store.rows.find(connection, key)
        if row is None:
            return None
        if row.pending_transaction_id is None:  # as nearly always
            return None if row.committed is None else Version(row.committed, row.last_transaction_id)
        return self._visible([row]).get(key)

    def batch(self, keys: Sequence[str]) -> dict[str, Version[M]]:
        found: dict[str, Version[M]] = {}
        room = ReplyRoom()
        for start in range(0, len(keys), PIECE):
            with self._store.database.read() as connection:
                rows = self._store.rows.batch(connection, keys[start : start + PIECE])
            piece = self._visible(rows)
            for version in piece.values():
                room.require(version.message)
            found |= piece
        return found

    def page(self, after: str, limit: int) -> tuple[list[M], str]:
        def read(after: str, count: int) -> tuple[Iterable[tuple[str, M | None]], bool]:
            with self._store.database.read() as connection:
                rows = self._store.rows.page(connection, after, count + 1)
            visible = self._visible(rows[:count])
            messages = {key: version.message for key, version in visible.items()}
            return [(row.key, messages.get(row.key)) for row in rows[:count]], len(rows) > count

        return read_page(read, after, limit)

    def holder(self, value: str) -> M | None:
        for _ in range(ROUNDS):
            key = self._holder_key(value)
            if key is None:
                return None
            version = self.get(key)
            if version is not None and value in self._store.resources.unique_values(version.message):
                return version.message
            # It has given the value away since; somebody else may have it.
        raise DatabaseConflict("The value kept changing hands while it was looked up.")

    def _visible(self, rows: Iterable[ResourceRow[M]]) -> dict[str, Version[M]]:
        """What a reader sees of these rows, by key; what does not exist is left out."""
        visible: dict[str, Version[M]] = {}
        known: dict[str, Decision | Forgotten] = {}  # learnt before the rows at hand were read
        for _ in range(ROUNDS):
            again: list[str] = []
            unknown: dict[str, list[ResourceRow[M]]] = {}
            for row in rows:
                pending = row.pending_transaction_id
                if pending is None:
                    self._show(visible, row)
                elif pending in known:
                    look = second_look(row.operations, known[pending], self._store.participant)
                    if isinstance(look, Look):
                        self._show(visible, row)
                    elif (message := self._store.message(look.after_image)) is not None:
                        visible[row.key] = Version(message, pending)
                else:
                    unknown.setdefault(pending, []).append(row)
            if not unknown:
                return visible
            for transaction_id, learnt in self._resolver.ask(unknown.keys()).items():
                if learnt is None or first_look(learnt) is Look.COMMITTED:
                    for row in unknown[transaction_id]:
                        self._show(visible, row)
                else:
                    known[transaction_id] = learnt
                    again.extend(row.key for row in unknown[transaction_id])
            if not again:
                return visible
            with self._store.database.read() as connection:
                rows = self._store.rows.batch(connection, again)
        raise PendingChange(again[0], transaction_id)

    @staticmethod
    def _show(visible: dict[str, Version[M]], row: ResourceRow[M]) -> None:
        if row.committed is not None:
            visible[row.key] = Version(row.committed, row.last_transaction_id)

    def _holder_key(self, value: str) -> str | None:
        """Which resource has a unique value, which is read as rows are."""
        known: dict[str, Decision | Forgotten] = {}
        for _ in range(ROUNDS):
            with self._store.database.read() as connection:
                key = self._store.unique_keys.find(connection, value)
            pending = key.pending_transaction_id
            if pending is None:
                return key.holder
            if pending in known:
                return holder_at_second_look(key, known[pending], self._store.participant)
            learnt = self._resolver.ask([pending])[pending]
            if learnt is None or first_look(learnt) is Look.COMMITTED:
                return key.holder
            known[pending] = learnt
        raise PendingChange("The value", str(pending))
