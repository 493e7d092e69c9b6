"""Writes of one resource: applied where they are plain, staged where they carry a transaction (rules 1, 2 and 8).

A write is a function from the state before to the state after and the reply; it validates against the state before,
and raises a domain error to refuse. A plain write applies it at once. A staged one stores it beside the committed
row; the next operation of the same transaction builds upon it.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Generic, TypeVar

import sqlalchemy as sa
from google.protobuf.message import Message

from handfast.server.chassis.call import current
from handfast.server.chassis.cancellation import check_active, sleep
from handfast.server.chassis.clock import Clock
from handfast.server.chassis.data.idempotency import IdempotencyStore, Identified
from handfast.server.chassis.errors import InvalidFields, InvalidMetadata, Violation
from handfast.server.transactions import wire
from handfast.server.transactions.clocks import check_minted
from handfast.server.transactions.core import participant as rules
from handfast.server.transactions.core.model import ClaimChange, Operation, StageRequest
from handfast.server.transactions.crash_points import reached
from handfast.server.transactions.participant.errors import (
    PendingChange,
    TransactionTooLarge,
    refused,
)
from handfast.server.transactions.participant.recovery import Recovery
from handfast.server.transactions.participant.resources import M
from handfast.server.transactions.participant.store import Store

Reply = TypeVar("Reply", bound=Message)
Result = TypeVar("Result")

# In seconds.
FIRST_PAUSE, LAST_PAUSE = 0.005, 0.1

Change = Callable[[M | None], tuple[M | None, Reply]]
"""From the state before (None where there is no such resource) to the state after (None deletes it) and the reply."""


class _Blocked(Exception):
    """Another transaction has a pending change of what a write needs."""

    def __init__(self, resource: str, transaction_id: str) -> None:
        self.resource, self.transaction_id = resource, transaction_id


class Writes(Generic[M]):
    """`waiting` is how many calls may wait for others at once."""

    def __init__(
        self, store: Store[M], requests: IdempotencyStore, recovery: Recovery[M], clock: Clock, waiting: int
    ) -> None:
        self._store, self._requests = store, requests
        self._recovery, self._clock = recovery, clock
        self._room = threading.BoundedSemaphore(waiting)

    def plain(
        self, method: str, request: Identified, key: str, change: Change[M, Reply], reply_type: type[Reply]
    ) -> Reply:
        def work(connection: sa.Connection) -> Reply:
            row = self._store.rows.lock(connection, key)
            if row.pending_transaction_id is not None:
                raise _Blocked(key, row.pending_transaction_id)
            after, reply = change(row.committed)
            self._claim(connection, key, row.committed, after, stage=None)
            self._store.rows.save(connection, {key: after}, last_transaction_id=row.last_transaction_id)
            return reply

        return self._unblocked(lambda: self._requests.once(method, request, reply_type, work))

    def stage(
        self, stage: StageRequest, request: Identified, key: str, change: Change[M, Reply], reply_type: type[Reply]
    ) -> Reply:
        if request.request_id:
            raise InvalidFields([Violation("request_id", "must be empty within a transaction")])
        check_minted(stage.transaction_id, self._clock())
        if stage.deadline > self._clock() + wire.MAX_TIMEOUT + wire.CLOCK_SKEW:
            raise InvalidMetadata(
                f"{wire.DEADLINE} lies further ahead than any transaction may take.", key=wire.DEADLINE
            )

        def work(connection: sa.Connection) -> Reply:
            store, transaction_id = self._store, stage.transaction_id
            first = replace(rules.fresh(stage), staged=1)
            branch = store.branches.lock(connection, first)
            horizon = "" if branch else store.horizon.seen(connection)
            known = None
            if branch and stage.number <= branch.staged:
                known = store.operations.find(connection, transaction_id, stage.number)
            now = self._clock()
            admitted = rules.admit(branch, horizon, known, stage, now)
            if isinstance(admitted, rules.Refusal):
                raise refused(admitted, branch or rules.fresh(stage), stage.number, now)
            if isinstance(admitted, rules.Repeat):
                return reply_type.FromString(admitted.operation.reply)

            row = store.rows.lock(connection, key)
            if row.pending_transaction_id not in (None, transaction_id):
                raise _Blocked(key, row.pending_transaction_id)
            before = row.committed if row.pending_transaction_id is None else self._own_state(connection, stage, key)
            after, reply = change(before)
            self._claim(connection, key, before, after, stage)
            image = None if after is None else after.SerializeToString()
            operation = Operation(
                transaction_id, stage.number, key, stage.fingerprint, image, reply.SerializeToString()
            )
            self._add(connection, operation)
            store.rows.mark(connection, key, transaction_id)
            if admitted.branch != first:  # which is stored already
                store.branches.save(connection, admitted.branch)
            check_active()
            reached("participant.staging")
            return reply

        reply = self._unblocked(lambda: self._store.database.write(work), age=stage.first_attempt)
        reached("participant.staged")
        return reply

    def _add(self, connection: sa.Connection, operation: Operation) -> None:
        """Stores an operation after those before it, where there is room for it."""
        operations, id_ = self._store.operations, operation.transaction_id
        before = operations.bytes_up_to(connection, id_, operation.number - 1) if operation.number > 1 else 0
        bytes_so_far = before + operation.size
        if not rules.has_room(bytes_so_far):
            raise TransactionTooLarge(id_)
        operations.add(connection, operation, bytes_so_far)

    def _own_state(self, connection: sa.Connection, stage: StageRequest, key: str) -> M | None:
        """A resource as the transaction itself sees it that has a pending change of it."""
        image = self._store.operations.last_image(connection, stage.transaction_id, key)
        return None if image is None else self._store.resources.message_type.FromString(image)

    def _claim(
        self,
        connection: sa.Connection,
        key: str,
        before: M | None,
        after: M | None,
        stage: StageRequest | None,
    ) -> None:
        """Takes the unique values that the write gives the resource, and frees those that it takes away; only so in the
        transaction's eyes where it is staged."""
        store, resources = self._store, self._store.resources
        mine = stage.transaction_id if stage else None
        old = resources.unique_values(before) if before is not None else frozenset()
        new = resources.unique_values(after) if after is not None else frozenset()
        for value in sorted(old ^ new):  # in one order, or two writes that swap values would deadlock
            holder, pending = store.claims.lock(connection, value)
            if pending is not None and pending != mine:
                raise _Blocked(f"A unique value of {key}", pending)
            if pending is not None:
                holder = store.claims.holder_within(connection, pending, value)
            if holder not in (None, key):
                if value in new:
                    raise resources.taken(value)
                continue  # it was never this one's: two had it already when it became unique
            next_holder = key if value in new else None
            if stage:
                change = ClaimChange(stage.number, value, next_holder)
                store.claims.change(connection, stage.transaction_id, change)
            else:
                store.claims.save(connection, {value: next_holder})

    def _unblocked(self, attempt: Callable[[], Result], age: str = "") -> Result:
        """Tries until nothing stands in the way. What is decided, is finished; for what is undecided, only an older
        transaction waits (wait-die: Rosenkrantz, Stearns and Lewis, 1978), so that none wait for each other. A plain
        write, whose `age` is empty, counts as the youngest. Raises PendingChange.
        """
        seconds = FIRST_PAUSE
        while True:
            try:
                return attempt()
            except _Blocked as blocked:
                undecided = self._recovery.settle(blocked.transaction_id)
                if undecided is not None:
                    older = age and rules.may_wait(age, undecided.first_attempt)
                    if not older or not self._pause(seconds):
                        raise PendingChange(blocked.resource, blocked.transaction_id) from None
            seconds = min(2 * seconds, LAST_PAUSE)

    def _pause(self, seconds: float) -> bool:
        """Waits a little. Returns False where there is no time left to wait, or no room: those who wait must not take
        all threads.
        """
        remaining = current().remaining()
        if remaining is not None and remaining < 2 * seconds:
            return False
        if not self._room.acquire(blocking=False):
            return False
        try:
            sleep(random.uniform(0.5, 1.0) * seconds)
        finally:
            self._room.release()
        return True
