"""Plain reads: the committed state, or where a pending change is committed already, the state after it (rule 7).

A read never waits and never aborts anybody. Only a pending change costs a call to the coordinator, one for all that
are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Generic

from handfast.server.chassis.errors import DatabaseConflict
from handfast.server.chassis.requests.paging import PIECE, ReplyRoom, read_page
from handfast.server.transactions.core.conflicts import must_read_again
from handfast.server.transactions.core.finishing import final_images
from handfast.server.transactions.core.model import BranchDecision, Learnt
from handfast.server.transactions.core.unique_keys import holder_after
from handfast.server.transactions.participant.errors import PendingChange
from handfast.server.transactions.participant.resolver import Resolver
from handfast.server.transactions.participant.resource_rows import ResourceRow
from handfast.server.transactions.participant.resource_type import M, Version
from handfast.server.transactions.participant.store import Store

ROUNDS = 50
"""Each round but the first is there because another transaction was decided during the one before."""


class Reads(Generic[M]):
    def __init__(self, store: Store[M], resolver: Resolver) -> None:
        self.store, self._resolver = store, resolver

    def get(self, key: str) -> Version[M] | None:
        """The resource with this key as it is now; None where there is none. A change that is committed and not
        finished yet is seen; where the coordinator has to be asked for that, this raises CoordinatorUnavailable.
        """
        with self.store.database.read() as connection:
            row = self.store.rows.find(connection, key)
        if row is None:
            return None
        if row.pending_transaction_id is None:  # as nearly always
            return self._version(row, None)
        return self._visible([row]).get(key)

    def batch(self, keys: Sequence[str]) -> dict[str, Version[M]]:
        """What exists of these, by key, read as `get` does, with one question to the coordinator for many. Raises
        ResponseTooLarge where that is more than fits into a reply.
        """
        found: dict[str, Version[M]] = {}
        room = ReplyRoom()
        for start in range(0, len(keys), PIECE):
            with self.store.database.read() as connection:
                rows = self.store.rows.batch(connection, keys[start : start + PIECE])
            piece = self._visible(rows)
            for version in piece.values():
                room.require(version.message)
            found |= piece
        return found

    def page(self, after: str, limit: int) -> tuple[list[M], str]:
        """The first `limit` resources whose keys are greater than `after`, in the order of their keys, or as many as
        fit into a reply; and the key to go on after, empty at the end. There can be fewer though more follow: what is
        about to be created takes a place.
        """

        def read(after: str, count: int) -> tuple[Iterable[tuple[str, M | None]], bool]:
            with self.store.database.read() as connection:
                rows = self.store.rows.page(connection, after, count + 1)
            visible = self._visible(rows[:count])
            messages = {key: version.message for key, version in visible.items()}
            return [(row.key, messages.get(row.key)) for row in rows[:count]], len(rows) > count

        return read_page(read, after, limit)

    def holder(self, value: str) -> M | None:
        """The resource that holds a unique value now; None where none does."""
        for _ in range(ROUNDS):
            key = self._holder_key(value)
            if key is None:
                return None
            version = self.get(key)
            if version is not None and value in self.store.resources.unique_values(version.message):
                return version.message
            # It has given the value away since; somebody else may have it.
        raise DatabaseConflict("The value kept changing hands while it was looked up.")

    def _visible(self, rows: Sequence[ResourceRow[M]]) -> dict[str, Version[M]]:
        """What a reader sees of these rows, by key; what does not exist is left out."""
        visible: dict[str, Version[M]] = {}
        known: dict[str, BranchDecision] = {}  # learnt before the rows at hand were read
        for _ in range(ROUNDS):
            pending = {row.pending_transaction_id for row in rows if row.pending_transaction_id is not None}
            unknown = pending - known.keys()
            learnt = self._resolver.ask(unknown) if unknown else {}
            decided = {id_: decision for id_, decision in learnt.items() if must_read_again(decision)}
            again = [row.key for row in rows if row.pending_transaction_id in decided]
            for row in rows:
                if row.pending_transaction_id not in decided:
                    version = self._version(row, known.get(row.pending_transaction_id or ""))
                    if version is not None:
                        visible[row.key] = version
            if not again:
                return visible
            known |= decided
            with self.store.database.read() as connection:
                rows = self.store.rows.batch(connection, again)
        raise PendingChange(again[0], min(decided))

    def _version(self, row: ResourceRow[M], decision: Learnt) -> Version[M] | None:
        """What a reader sees of a row, by the decision that was known when it was read, if one was."""
        message, transaction_id = row.committed, row.last_transaction_id
        if decision is not None:
            images = final_images(row.operations, decision.committed_count)
            if row.key in images:
                message, transaction_id = self.store.message(images[row.key]), decision.transaction_id
        return None if message is None else Version(message, transaction_id)

    def _holder_key(self, value: str) -> str | None:
        """Which resource has a unique value, which is read as rows are."""
        known: Learnt = None
        for _ in range(ROUNDS):
            with self.store.database.read() as connection:
                key = self.store.unique_keys.find(connection, value)
            pending = key.pending_transaction_id
            if pending is None:
                return key.holder
            if known is not None and known.transaction_id == pending:
                return holder_after(key, known.committed_count)
            known = self._resolver.ask([pending])[pending]
            if not must_read_again(known):
                return key.holder
        raise PendingChange("The value", str(pending))
