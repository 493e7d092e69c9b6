"""One kind of resource, as a service's handlers read and write it.

Plain reads see the committed state, or where a pending change is committed already, the state after it (rule 7). A read
never waits and never aborts anybody. Only a pending change costs a call to the coordinator, one for all that are read.

A read within a transaction sees what that has staged itself, and goes into the trailer of the call with the revision
that it has seen, so that whoever commits can see to it that this still holds (rule 13).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import sqlalchemy as sa
from google.protobuf.message import Message

from handfast.server.chassis.call import in_transaction
from handfast.server.chassis.errors import DatabaseConflict, NotStageable
from handfast.server.chassis.requests.paging import PIECE, ReplyRoom, read_page
from handfast.server.chassis.security.callers import current_caller
from handfast.server.transactions.core.conflicts import must_read_again
from handfast.server.transactions.core.finishing import final_images
from handfast.server.transactions.core.model import MAX_OPERATIONS, NO_REVISION, BranchDecision, Learnt, Read
from handfast.server.transactions.core.model import ResourceName as Name
from handfast.server.transactions.core.reading import revision_after
from handfast.server.transactions.core.unique_keys import holder_after
from handfast.server.transactions.ownership import check_branch_owner
from handfast.server.transactions.participant import read_set
from handfast.server.transactions.participant.errors import PendingChange
from handfast.server.transactions.participant.resource_rows import ResourceRow
from handfast.server.transactions.participant.resource_type import M, ResourceType, Version
from handfast.server.transactions.participant.unit_of_work import UnitOfWork

if TYPE_CHECKING:
    from handfast.server.transactions.participant.participant import Participant

ROUNDS = 50
"""Each round but the first is there because another transaction was decided during the one before."""

Reply = TypeVar("Reply", bound=Message)
Change = Callable[[M | None], tuple[M | None, Reply]]
"""From the state before (None where there is no such resource) to the state after (None deletes it) and the reply."""


class _Seen(NamedTuple):
    """What a read sees of a resource: `version` is None where it does not exist."""

    version: Version[Any] | None
    read: Read


class Collection(Generic[M]):
    """The resources of one kind. `Participant.collection` makes it."""

    def __init__(self, participant: Participant, type_: ResourceType[M]) -> None:
        self.participant, self.type = participant, type_
        self._store, self._resolver = participant.store, participant.resolver
        self._rows = participant.store.rows_of(type_)

    def write(self, request: Message, key: str, change: Change[M, Reply], reply_type: type[Reply]) -> Reply:
        """Applies `change` to the resource with this key, or stages it where the call being served carries a
        transaction: see `Participant.write`. `change` is a function from the resource before (None where there is none)
        to the resource after (None deletes it) and the reply; it may be called more than once, and must do nothing
        else. What has to read other resources as well is for `Participant.write`.
        """
        return self.participant.write(request, self.changing(key, change), reply_type)

    def changing(self, key: str, change: Change[M, Reply]) -> Callable[[UnitOfWork], Reply]:
        """The work of a write that changes the resource with this key, and nothing else."""

        def work(unit: UnitOfWork) -> Reply:
            after, reply = change(unit.get(self.type, key))
            if after is None:
                unit.delete(self.type, key)
            else:
                unit.put(self.type, key, after)
            return reply

        return work

    def get(self, key: str) -> Version[M] | None:
        """The resource with this key as it is now; None where there is none. A change that is committed and not
        finished yet is seen; where the coordinator has to be asked for that, this raises CoordinatorUnavailable. Within
        a transaction: ReadChanged where the call has read another revision before, TooManyReads. InvalidValue, for a
        key that no resource can have. NotOwner, within a transaction of another caller.
        """
        row = None
        try:
            with self._read() as connection:
                row = self._rows.find(connection, key)
        finally:
            if row is None:  # which is how it ends for a key that none can have, where the database does not refuse it
                self.type.require_key(key)
        if in_transaction():
            return self._recorded([key], [] if row is None else [row]).get(key)
        if row is None:
            return None
        if row.pending_transaction_id is None:  # as nearly always
            return None if row.committed is None else Version(row.committed, row.last_transaction_id, row.revision)
        return next((seen.version for seen in self._visible([row])), None)  # it can go meanwhile

    def batch(self, keys: Sequence[str]) -> dict[str, Version[M]]:
        """What exists of these, by key, read as `get` does, with one question to the coordinator for many. Raises
        ResponseTooLarge where that is more than fits into a reply.
        """
        self._require_keys(keys)
        found: dict[str, Version[M]] = {}
        room = ReplyRoom()
        for start in range(0, len(keys), PIECE):
            of_piece = keys[start : start + PIECE]
            with self._read() as connection:
                rows = self._rows.batch(connection, of_piece)
            piece = self._recorded(of_piece, rows) if in_transaction() else _versions(self._visible(rows))
            for version in piece.values():
                room.require(version.message)
            found |= piece
        return found

    def revisions(self, keys: Sequence[str]) -> dict[str, str]:
        """The revision of each of these, as it is now; NO_REVISION where there is none."""
        self._require_keys(keys)
        with self._read() as connection:
            rows = self._rows.batch(connection, keys)
        seen = {seen.read.resource.key: seen.read.revision for seen in self._visible(rows)}
        return {key: seen.get(key, NO_REVISION) for key in keys}

    def page(self, after: str, limit: int, prefix: str = "") -> tuple[list[M], str]:
        """The first `limit` resources whose keys are greater than `after` and begin with `prefix`, in the order of
        their keys, or as many as fit into a reply; and the key to go on after, empty at the end. There can be fewer,
        or none, though more follow, where transactions are about to create a thousand in between. Raises NotStageable
        within a transaction, which could not keep others from adding to the list.
        """
        _refuse_within_a_transaction("lists")
        self._require_keys(filter(None, (after, prefix)))

        def read(after: str, count: int) -> tuple[Iterable[tuple[str, M | None]], bool]:
            with self._read() as connection:
                rows = self._rows.page(connection, after, prefix, count + 1)
            visible = _versions(self._visible(rows[:count]))
            messages = {key: version.message for key, version in visible.items()}
            return [(row.name.key, messages.get(row.name.key)) for row in rows[:count]], len(rows) > count

        return read_page(read, after, limit)

    def holder(self, value: str) -> M | None:
        """The resource that holds a unique value now; None where none does. Raises NotStageable within a transaction,
        which could not keep others from taking the value.
        """
        _refuse_within_a_transaction("look-ups by a unique value")
        self.type.require_unique_value(value)
        for _ in range(ROUNDS):
            key = self._holder_key(value)
            if key is None:
                return None
            version = self.get(key)
            if version is not None and value in self.type.unique_values(version.message):
                return version.message
            # It has given the value away since; somebody else may have it.
        raise DatabaseConflict("The value kept changing hands while it was looked up.")

    def _require_keys(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.type.require_key(key)

    def _read(self) -> AbstractContextManager[sa.Connection]:
        """A connection to read by. Raises RuntimeError within the work of a write: what that reads, it has to lock."""
        if self._store.database.is_writing_here():
            raise RuntimeError("a Collection is read within the work of a write, which reads by its UnitOfWork alone")
        return self._store.database.read()

    def _recorded(self, keys: Sequence[str], rows: Sequence[ResourceRow[M]]) -> dict[str, Version[M]]:
        """What the transaction of the call being served sees of these, noted for the trailer."""
        transaction_id = read_set.transaction_of_call()
        self._check_owner(str(transaction_id))
        seen = {seen.read.resource.key: seen for seen in self._visible(rows, transaction_id)}
        absent = (Read(Name(self.type.kind, key), NO_REVISION, held=False) for key in keys if key not in seen)
        read_set.record([*(each.read for each in seen.values()), *absent])
        return _versions(seen.values())

    def _check_owner(self, transaction_id: str) -> None:
        """Raises NotOwner where another caller has staged something in the transaction of the call being served."""
        if (caller := current_caller()) is not None:
            with self._read() as connection:
                branch = self._store.branches.find(connection, transaction_id)
            check_branch_owner(branch, caller, transaction_id)

    def _visible(self, rows: Sequence[ResourceRow[M]], mine: str | None = None) -> Iterator[_Seen]:
        """What a reader sees of these rows; `mine` is the transaction that reads."""
        known: dict[str, BranchDecision] = {}  # learnt before the rows at hand were read
        for _ in range(ROUNDS):
            pending = {row.pending_transaction_id for row in rows if row.pending_transaction_id not in (None, mine)}
            unknown = {id_ for id_ in pending if id_ is not None} - known.keys()
            learnt = self._resolver.ask(unknown) if unknown else {}
            decided = {id_: decision for id_, decision in learnt.items() if must_read_again(decision)}
            again = [row.name.key for row in rows if row.pending_transaction_id in decided]
            for row in rows:
                if row.pending_transaction_id not in decided:
                    yield self._seen(row, known.get(row.pending_transaction_id or ""), mine)
            if not again:
                return
            known |= decided
            with self._read() as connection:
                rows = self._rows.batch(connection, again)
        raise PendingChange(str(Name(self.type.kind, again[0])), min(decided))

    def _seen(self, row: ResourceRow[M], decision: Learnt, mine: str | None) -> _Seen:
        """What a reader sees of a row, by the decision that was known when it was read, if one was."""
        message, transaction_id, revision = row.committed, row.last_transaction_id, row.revision
        is_mine = mine is not None and row.pending_transaction_id == mine
        count = MAX_OPERATIONS if is_mine else 0 if decision is None else decision.committed_count
        if row.name in (images := final_images(row.changes, count)):
            message = self.type.decoded(images[row.name])
            if decision is not None and not is_mine:
                transaction_id = decision.transaction_id
                revision = NO_REVISION if message is None else revision_after(transaction_id)
        version = None if message is None else Version(message, transaction_id, revision)
        return _Seen(version, Read(row.name, revision, held=is_mine))

    def _holder_key(self, value: str) -> str | None:
        """Which resource has a unique value, which is read as rows are."""
        known: Learnt = None
        for _ in range(ROUNDS):
            with self._read() as connection:
                key = self._store.unique_keys.find(connection, value)
            pending = key.pending_transaction_id
            if pending is None:
                return key.holder
            if known is not None and known.transaction_id == pending:
                return holder_after(key, known.committed_count)
            known = self._resolver.ask([pending])[pending]
            if not must_read_again(known):
                return key.holder
        raise PendingChange("The value", str(pending))


def _versions(seen: Iterable[_Seen]) -> dict[str, Version[Any]]:
    return {each.read.resource.key: each.version for each in seen if each.version is not None}


def _refuse_within_a_transaction(what: str) -> None:
    if in_transaction():
        raise NotStageable(f"A transaction cannot read {what}: others could add to what it has seen.")
