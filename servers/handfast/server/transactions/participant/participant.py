"""A service's part in transactions, as its handlers use it: reads, and writes, which are applied where they are plain,
and staged where they carry a transaction (rules 1, 2 and 8).

A write is a function that looks at resources, validates, changes them, and returns the reply; it raises a domain error
to refuse. A plain write applies its changes at once. A staged one stores them beside the committed rows; the next
operation of the same transaction builds upon them.

The work of either (`_apply`, `_stage`) loads what it needs under locks, asks the rules, and stores, in one local
transaction (`unit_of_work.py`). As that may have to run again, it does nothing else. Where another transaction stands
in the way, the work is rolled back, and `_unblocked` waits, gives way, or goes on.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Generic, NamedTuple, TypeVar

import sqlalchemy as sa
from google.protobuf.message import Message

from handfast.client import transaction_metadata
from handfast.server.chassis.call import current
from handfast.server.chassis.cancellation import wait
from handfast.server.chassis.clock import Clock, now
from handfast.server.chassis.data.idempotency import Done, IdempotencyStore, request_id_of
from handfast.server.chassis.errors import InvalidFields, InvalidMetadata, Violation
from handfast.server.chassis.tracing.spans import stage_span
from handfast.server.transactions import wire
from handfast.server.transactions.clocks import check_minted
from handfast.server.transactions.core import conflicts, staging
from handfast.server.transactions.core.finishing import Finish, Unchanged
from handfast.server.transactions.core.model import BranchDecision, Operation, Outcome, Read, StageRequest
from handfast.server.transactions.crash_points import reached
from handfast.server.transactions.ownership import check_branch_owner
from handfast.server.transactions.participant import read_set
from handfast.server.transactions.participant.collection import Collection
from handfast.server.transactions.participant.errors import PendingChange, TransactionTooLarge, refused
from handfast.server.transactions.participant.finishing import BranchFinisher, owners_of
from handfast.server.transactions.participant.id_owners import IdOwners
from handfast.server.transactions.participant.open_branches import OpenBranches
from handfast.server.transactions.participant.resolver import Resolver
from handfast.server.transactions.participant.resource_type import M, ResourceType
from handfast.server.transactions.participant.store import Store
from handfast.server.transactions.participant.sweeper import Sweeper
from handfast.server.transactions.participant.unit_of_work import Blocked, UnitOfWork
from handfast.server.transactions.participant.waiters import Waiter, Waiters

Reply = TypeVar("Reply", bound=Message)
Result = TypeVar("Result")
Work = Callable[[UnitOfWork], Reply]
"""What a write does: it looks at resources and changes them by the unit, and returns the reply."""

WRITTEN = "written"
"""Under this, a call's `state` has the request for which it has written."""

FIRST_PAUSE_S, LAST_PAUSE_S = 0.005, 0.1
"""How long an older transaction waits before it tries again; longer each time."""


class Staged(NamedTuple, Generic[Reply]):
    """What a staged call answers: its reply, and what it has read, encoded. `opens` says whether it has opened its
    branch, `followed` what became of the one that it has finished, if any.
    """

    reply: Reply
    reads: bytes
    opens: bool = False
    followed: Mapping[str, Finish | Unchanged] = MappingProxyType({})


class Participant:
    """Reads and writes a service's resources, plainly or within a transaction. `threads` is how many calls are served
    at once; half of them may wait for other transactions, and a single one never does. The server runs `sweeper` in the
    background. `server.participant_server` puts all of this together.
    """

    def __init__(
        self,
        store: Store,
        requests: IdempotencyStore,
        resolver: Resolver,
        *,
        threads: int,
        open_branches: OpenBranches | None = None,
        clock: Clock = now,
    ) -> None:
        self.store, self.requests, self.resolver, self._clock = store, requests, resolver, clock
        self.finisher = BranchFinisher(store, requests, resolver, clock)
        self._id_owners = IdOwners(resolver.owner_keys)
        self._open_branches = open_branches or OpenBranches()
        self._waiters = Waiters()
        self.finisher.on_finished = self._finished
        self.sweeper = Sweeper(store, self.finisher, self._open_branches, requests, clock)
        self._room_to_wait = threading.BoundedSemaphore(threads // 2)
        self.on_met: Callable[[bool], None] = lambda is_decided: None
        """Called each time that a write has met another transaction's change or lock, with whether that was decided."""

    def collection(self, type_: ResourceType[M]) -> Collection[M]:
        """The resources of one kind, to be read and written."""
        return Collection(self, type_)

    def write(self, request: Message, work: Work[Reply], reply_type: type[Reply], *, tells_reads: bool = True) -> Reply:
        """Does `work`, or stages it where the call being served carries a transaction. `work` may be called more than
        once, and must do nothing but look at resources and change them by the `UnitOfWork` that it is given. A repeat
        of `request.request_id`, where the request has that field, is answered as the first call was. Where it
        `tells_reads`, a staged call answers with what it has read, too.

        Raises what `work` raises, with nothing written; what `ResourceType.taken` returns, where another resource
        holds a unique value; PendingChange, where another transaction has an undecided change or a read lock;
        CommittedChangeLost; CoordinatorUnavailable; for a staged call what the rules refuse (`errors.py`),
        ReadChanged where it meets another revision than the call has read before, TooManyTransactions, and NotOwner.
        RuntimeError where the call has written already, for this request of its stream: as a repeat, it would get the
        first reply.
        """
        call = current()
        if call.state.get(WRITTEN, call) is call.request:  # nothing has the call itself for a request
            raise RuntimeError("this call has written already: all that a call changes belongs into one `write`")
        stage = wire.parse_stage_request(call, request)
        if stage is None:
            reply = self.write_plainly(call.method.path, request, work, reply_type)
            call.state[WRITTEN] = call.request
            return reply
        call.log["transaction_id"] = stage.transaction_id
        self._id_owners.check(call)
        staged = self.stage(
            stage, request, work, reply_type, read_before=read_set.read_before(call) if tells_reads else None
        )
        call.state[WRITTEN] = call.request
        read_set.tell(call, staged.reads)
        call.add_trailer(transaction_metadata.STAGED, self.store.participant)
        return staged.reply

    def write_plainly(self, method: str, request: Message, work: Work[Reply], reply_type: type[Reply]) -> Reply:
        """Does `work` at once. Raises as `write` does."""
        run = partial(self._apply, work, reply_type)
        return self._unblocked(lambda: self.requests.once(method, request, reply_type, partial(run, [])))

    def stage(
        self,
        stage: StageRequest,
        request: Message,
        work: Work[Reply],
        reply_type: type[Reply],
        *,
        read_before: Sequence[Read] | None = (),
    ) -> Staged[Reply]:
        """Stores what `work` does as the next operation of a transaction. `read_before` is what the call has read
        already, outside of `work`; None where it does not tell what it reads. Raises as `write` does.
        """
        if request_id_of(request):
            raise InvalidFields([Violation("request_id", "must be empty within a transaction")])
        now_us = self._clock()
        check_minted(stage.transaction_id, now_us)
        if stage.deadline_us > now_us + wire.MAX_TIMEOUT_US + wire.MAX_CLOCK_SKEW_US:
            raise InvalidMetadata(
                f"{transaction_metadata.DEADLINE} lies further ahead than any transaction may take.",
                key=transaction_metadata.DEADLINE,
            )
        if stage.number == 1 and self._open_branches.refusal(stage.owner, stage.transaction_id):
            self._check_room(stage.owner, stage.transaction_id)
        with stage_span(stage.transaction_id):
            staged = self._unblocked(
                lambda: self.store.database.write(partial(self._stage, stage, work, reply_type, read_before, [])), stage
            )
        if staged.opens:
            self._open_branches.opened(stage.owner)
        if staged.followed:
            self._finished(staged.followed)
        reached("participant.staged")
        return staged

    def _check_room(self, owner: str, transaction_id: str) -> None:
        """Raises TooManyTransactions where this would open one too many, also by what the database says: another
        replica may have finished some."""
        branches = self.store.branches
        with self.store.database.read() as connection:
            if branches.find(connection, transaction_id) is not None:
                return  # it is a repeat
            self._open_branches.recount(lambda: branches.unfinished_by_owner(connection))
        if refusal := self._open_branches.refusal(owner, transaction_id):
            raise refusal

    def _apply(
        self, work: Work[Reply], reply_type: type[Reply], seen: list[tuple[str, str]], connection: sa.Connection
    ) -> Done[Reply]:
        """The work of a plain write. `seen` is what its earlier runs have looked at."""
        unit = UnitOfWork(self.store, connection, seen=seen)
        reply = _done(work, unit, reply_type)
        unit.apply()
        return Done(reply, unit.about(), unit.erases())

    def _stage(
        self,
        stage: StageRequest,
        work: Work[Reply],
        reply_type: type[Reply],
        read_before: Sequence[Read] | None,
        seen: list[tuple[str, str]],
        connection: sa.Connection,
    ) -> Staged[Reply]:
        """The work of a staged write. `seen` is what its earlier runs have looked at."""
        store, id_, number = self.store, stage.transaction_id, stage.number
        followed: Mapping[str, Finish | Unchanged] = {}
        if stage.follows:
            decision = BranchDecision(stage.follows, Outcome.COMMITTED, 1)
            followed = self.finisher.finish_within(connection, [decision])
        branch = store.branches.lock(connection, staging.opened_by(stage, staged=1), expected=number > 1)
        if stage.must_own:
            check_branch_owner(branch, stage.owner, id_)
        now_us = self._clock()

        def check(horizon: str, known: Operation | None = None) -> Operation | None:
            match staging.check_stage(branch, horizon, known, stage, now_us):
                case staging.Refusal() as refusal:
                    raise refused(refusal, branch or staging.opened_by(stage), number, now_us)
                case verdict:
                    return verdict

        older_waiter = partial(self._waiters.older_than, stage.first_attempt) if self._waiters else None
        if branch is None:  # the horizon counts only then
            unit = UnitOfWork(store, connection, id_, check, older_waiter, seen)
        else:
            known = store.operations.find(connection, id_, number) if number <= branch.staged else None
            if (before := check("", known)) is not None:
                return Staged(reply_type.FromString(before.reply), before.reads, followed=followed)
            unit = UnitOfWork(store, connection, id_, older_waiter=older_waiter, seen=seen)
        reply = _done(work, unit, reply_type)
        unit.check_horizon()

        reads = b""
        if read_before is not None:
            of_unit = unit.reads()
            reads = read_set.encode(read_set.merge(id_, [*read_before, *of_unit]) if read_before else of_unit)
        parts = unit.stage(number)
        operation = Operation(id_, number, stage.fingerprint, reply.SerializeToString(), reads)
        parts_before, bytes_before = store.operations.size_up_to(connection, id_, number - 1) if number > 1 else (0, 0)
        parts_so_far = parts_before + len(parts)
        images = sum(len(part.after_image or b"") for part in parts)
        bytes_so_far = bytes_before + images + len(operation.reply) + len(reads)
        if not staging.has_room(parts_so_far, bytes_so_far):
            raise TransactionTooLarge(id_)
        store.operations.add(connection, operation, parts, parts_so_far, bytes_so_far)
        if branch is not None:  # else it was inserted with this operation
            store.branches.set_staged(connection, id_, number)
        reached("participant.staging")
        return Staged(reply, reads, opens=branch is None, followed=followed)

    def _finished(self, verdicts: Mapping[str, Finish | Unchanged]) -> None:
        self._open_branches.finished(owners_of(verdicts.values()))
        self._waiters.finished(verdicts)

    def _unblocked(self, attempt: Callable[[], Result], stage: StageRequest | None = None) -> Result:
        """Tries until nothing stands in the way, or somebody does that this write gives way to (rule 7). Raises
        PendingChange.
        """
        try:
            return attempt()
        except Blocked as error:
            blocked = error
        first_attempt = stage.first_attempt if stage else ""
        seconds = FIRST_PAUSE_S
        with self._waiters.waiting(stage.transaction_id if stage else "", first_attempt) as waiter:
            while True:
                waiter.meets(blocked.transaction_id)  # before it is settled, so that its end is not missed
                undecided = self.finisher.settle(blocked.transaction_id)
                self.on_met(undecided is None)
                if undecided and not (
                    conflicts.may_wait(undecided, first_attempt) and self._pause(waiter, blocked.waits_for, seconds)
                ):
                    raise PendingChange(blocked.what, blocked.transaction_id)
                seconds = min(2 * seconds, LAST_PAUSE_S)
                try:
                    return attempt()
                except Blocked as error:
                    blocked = error

    def _pause(self, waiter: Waiter, resource: str, seconds: float) -> bool:
        """Waits a little, or until what it has met is finished here. Returns False where there is no time left to wait,
        or no room: those who wait must not take all threads.
        """
        remaining = current().remaining()
        if (remaining is not None and remaining < 2 * seconds) or not self._room_to_wait.acquire(blocking=False):
            return False
        waiter.resources.add(resource)
        try:
            wait(waiter.blocker_finished, random.uniform(0.5, 1.0) * seconds)
        finally:
            self._room_to_wait.release()
        return True


def _done(work: Work[Reply], unit: UnitOfWork, reply_type: type[Reply]) -> Reply:
    """Does the work. Raises TypeError for a reply of another type, which a repeat could not be answered with."""
    reply = work(unit)
    unit.end()
    if type(reply) is not reply_type:
        raise TypeError(f"the work returns {type(reply).__name__}, and not {reply_type.__name__}")
    reply.DiscardUnknownFields()  # as resources do not keep them
    return reply
