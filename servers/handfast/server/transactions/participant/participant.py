"""A service's part in transactions, as its handlers use it: reads, and writes, which are applied where they are plain,
and staged where they carry a transaction (rules 1, 2 and 8).

A write is a function from the state before to the state after and the reply; it validates against the state before,
and raises a domain error to refuse. A plain write applies it at once. A staged one stores it beside the committed
row; the next operation of the same transaction builds upon it.

The work of either (`_apply`, `_stage`) loads what it needs under locks, asks the rules, and stores, in one local
transaction. As that may have to run again, it does nothing else. Where another transaction stands in the way, the work
is rolled back, and `_unblocked` waits, gives way, or goes on.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import sqlalchemy as sa
from google.protobuf.message import Message

from handfast.client import transaction_metadata
from handfast.server.chassis.call import current
from handfast.server.chassis.cancellation import sleep
from handfast.server.chassis.clock import Clock, now
from handfast.server.chassis.data.idempotency import IdempotencyStore, Identified
from handfast.server.chassis.errors import InvalidFields, InvalidMetadata, Violation
from handfast.server.transactions import wire
from handfast.server.transactions.clocks import check_minted
from handfast.server.transactions.core import conflicts, staging, unique_keys
from handfast.server.transactions.core.model import BranchDecision, Operation, Outcome, StageRequest
from handfast.server.transactions.crash_points import reached
from handfast.server.transactions.participant.errors import PendingChange, TransactionTooLarge, refused
from handfast.server.transactions.participant.finishing import BranchFinisher
from handfast.server.transactions.participant.reads import Reads
from handfast.server.transactions.participant.resolver import Resolver
from handfast.server.transactions.participant.resource_type import M
from handfast.server.transactions.participant.store import Store
from handfast.server.transactions.participant.sweeper import Sweeper

Reply = TypeVar("Reply", bound=Message)
Result = TypeVar("Result")

FIRST_PAUSE_S, LAST_PAUSE_S = 0.005, 0.1
"""How long an older transaction waits before it tries again; longer each time."""

Change = Callable[[M | None], tuple[M | None, Reply]]
"""From the state before (None where there is no such resource) to the state after (None deletes it) and the reply."""


class Blocked(Exception):
    """Another transaction has a pending change of what a write needs. The local transaction is rolled back."""

    def __init__(self, what: str, transaction_id: str) -> None:
        self.what, self.transaction_id = what, transaction_id


class Participant(Reads[M]):
    """Reads and writes one kind of resource, plainly or within a transaction. `threads` is how many calls are served at
    once; half of them may wait for other transactions. The server runs `sweeper` in the background.
    `server.participant_server` puts all of this together.
    """

    def __init__(
        self, store: Store[M], requests: IdempotencyStore, resolver: Resolver, *, threads: int, clock: Clock = now
    ) -> None:
        super().__init__(store, resolver)
        self.requests, self._clock = requests, clock
        self.finisher = BranchFinisher(store, resolver, clock)
        self.sweeper = Sweeper(store, self.finisher, requests, clock)
        self._room_to_wait = threading.BoundedSemaphore(max(1, threads // 2))
        self.on_met: Callable[[bool], None] = lambda is_decided: None
        """Called each time that a write has met another transaction's change, with whether that was decided."""

    def write(self, request: Identified, key: str, change: Change[M, Reply], reply_type: type[Reply]) -> Reply:
        """Applies `change` to the resource with this key, or stages it where the call being served carries a
        transaction. `change` is a function from the resource before (None where there is none) to the resource after
        (None deletes it) and the reply; it may be called more than once, and must do nothing else. A repeat of
        `request.request_id` is answered as the first call was.

        Raises what `change` raises, with nothing written; what `ResourceType.taken` returns, where another resource
        holds a unique value; PendingChange, where another transaction has an undecided change; CommittedChangeLost;
        CoordinatorUnavailable; and for a staged call what the rules refuse (`errors.py`).
        """
        call = current()
        stage = wire.parse_stage_request(call.metadata, call.method.path, request)
        if stage is None:
            return self.write_plainly(call.method.path, request, key, change, reply_type)
        call.log["transaction_id"] = stage.transaction_id
        reply = self.stage(stage, request, key, change, reply_type)
        call.add_trailer(transaction_metadata.STAGED, self.store.participant)
        return reply

    def write_plainly(
        self, method: str, request: Identified, key: str, change: Change[M, Reply], reply_type: type[Reply]
    ) -> Reply:
        """Applies a change of one resource at once. Raises as `write` does."""
        work = partial(self._apply, key, change)
        return self._unblocked(partial(self.requests.once, method, request, reply_type, work))

    def stage(
        self, stage: StageRequest, request: Identified, key: str, change: Change[M, Reply], reply_type: type[Reply]
    ) -> Reply:
        """Stores a change of one resource as the next operation of a transaction. Raises as `write` does."""
        if request.request_id:
            raise InvalidFields([Violation("request_id", "must be empty within a transaction")])
        check_minted(stage.transaction_id, self._clock())
        if stage.deadline_us > self._clock() + wire.MAX_TIMEOUT_US + wire.MAX_CLOCK_SKEW_US:
            raise InvalidMetadata(
                f"{transaction_metadata.DEADLINE} lies further ahead than any transaction may take.",
                key=transaction_metadata.DEADLINE,
            )
        work = partial(self._stage, stage, key, change, reply_type)
        reply = self._unblocked(partial(self.store.database.write, work), stage.first_attempt)
        reached("participant.staged")
        return reply

    def _apply(self, key: str, change: Change[M, Reply], connection: sa.Connection) -> Reply:
        """The work of a plain write."""
        store = self.store
        row = store.rows.lock(connection, key)
        _check_free(key, row.pending_transaction_id)
        after, reply = change(row.committed)
        holders = self._claim(connection, key, row.committed, after)
        store.rows.save(connection, [(key, after, row.last_transaction_id)])
        store.unique_keys.save(connection, holders)
        return reply

    def _stage(
        self,
        stage: StageRequest,
        key: str,
        change: Change[M, Reply],
        reply_type: type[Reply],
        connection: sa.Connection,
    ) -> Reply:
        """The work of a staged write."""
        store, id_, number = self.store, stage.transaction_id, stage.number
        if stage.follows:
            self.finisher.finish_within(connection, [BranchDecision(stage.follows, Outcome.COMMITTED, 1)])
        branch = store.branches.lock(connection, staging.opened_by(stage, staged=1), expected=number > 1)
        is_repeat = branch is not None and number <= branch.staged
        known = store.operations.find(connection, id_, number) if is_repeat else None
        row = store.rows.lock(connection, key, with_horizon=True)

        now_us = self._clock()
        match staging.check_stage(branch, row.horizon, known, stage, now_us):
            case staging.Refusal() as refusal:
                raise refused(refusal, branch or staging.opened_by(stage), number, now_us)
            case Operation(reply=reply_before):
                return reply_type.FromString(reply_before)
        _check_free(key, row.pending_transaction_id, mine=id_)
        before = row.committed
        if row.pending_transaction_id == id_:
            before = store.message(store.operations.last_image(connection, id_, key))
        after, reply = change(before)
        holders = self._claim(connection, key, before, after, mine=id_)
        image = None if after is None else after.SerializeToString()
        operation = Operation(id_, number, key, stage.fingerprint, image, reply.SerializeToString())
        bytes_so_far = len(image or b"") + len(operation.reply)
        if number > 1:
            bytes_so_far += store.operations.bytes_up_to(connection, id_, number - 1)
        if not staging.has_room(bytes_so_far):
            raise TransactionTooLarge(id_)

        store.operations.add(connection, operation, bytes_so_far)
        store.unique_keys.change(connection, id_, number, holders)
        if row.pending_transaction_id is None:
            store.rows.mark(connection, key, id_)
        if branch is not None:  # else it was inserted with this operation
            store.branches.set_staged(connection, id_, number)
        reached("participant.staging")
        return reply

    def _claim(
        self, connection: sa.Connection, key: str, before: M | None, after: M | None, mine: str | None = None
    ) -> dict[str, str | None]:
        """Locks the unique values that the write gives the resource or takes away from it. Returns who holds each
        afterwards; None frees it.
        """
        resources = self.store.resources
        old = frozenset[str]() if before is None else resources.unique_values(before)
        new = frozenset[str]() if after is None else resources.unique_values(after)
        if old == new:
            return {}
        changing = self.store.unique_keys.lock(connection, old ^ new, mine)
        match unique_keys.claim(key, new, changing, mine):
            case unique_keys.Pending(transaction_id):
                raise Blocked(f"A unique value of {key}", transaction_id)
            case unique_keys.Taken(value):
                raise resources.taken(value)
            case holders:
                return holders

    def _unblocked(self, attempt: Callable[[], Result], first_attempt: str = "") -> Result:
        """Tries until nothing stands in the way, or somebody does that this write gives way to (rule 7). Raises
        PendingChange.
        """
        seconds = FIRST_PAUSE_S
        while True:
            try:
                return attempt()
            except Blocked as blocked:
                undecided = self.finisher.settle(blocked.transaction_id)
                self.on_met(undecided is None)
                if undecided and not (conflicts.may_wait(undecided, first_attempt) and self._pause(seconds)):
                    raise PendingChange(blocked.what, blocked.transaction_id) from None
            seconds = min(2 * seconds, LAST_PAUSE_S)

    def _pause(self, seconds: float) -> bool:
        """Waits a little. Returns False where there is no time left to wait, or no room: those who wait must not take
        all threads.
        """
        remaining = current().remaining()
        if (remaining is not None and remaining < 2 * seconds) or not self._room_to_wait.acquire(blocking=False):
            return False
        try:
            sleep(random.uniform(0.5, 1.0) * seconds)
        finally:
            self._room_to_wait.release()
        return True


def _check_free(what: str, pending_transaction_id: str | None, mine: str | None = None) -> None:
    other = conflicts.blocker(pending_transaction_id, mine)
    if other is not None:
        raise Blocked(what, other)
