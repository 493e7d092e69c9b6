"""How a transaction ends: the calls that commit it or roll it back, and what their answers mean. They are made by the
synchronous transaction and the one for asyncio, each in its way.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import grpc

from handfast.client.errors import ServiceError
from handfast.client.failed_call import NotSent
from handfast.client.transactions import errors
from handfast.client.transactions.errors import TransactionMisuse
from handfast.client.transactions.journal import Answer, Journal, Metadata, Outcome
from handfast.client.transactions.methods import Part
from handfast.client.transactions.state import Commit, Compare, Lock, Nothing, ReadChanged, Reads, RollBack

if TYPE_CHECKING:
    from handfast.transactions.v1.transactions_pb2 import LockReadsRequest, Read

COMMIT_SECONDS = 5.0
"""How long one attempt to commit may take."""
LOOK_UP_SECONDS = 5.0
"""For how much longer than the transaction's deadline a commit without an answer is repeated."""
ROLL_BACK_SECONDS = 2.0
"""How long rolling back may take, also where it is interrupted and asked for once more. What is not rolled back by then
is when its deadline has passed."""
_PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds between the attempts to commit; the last one again and again."""

_NO_ANSWER = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
    }
)
_ABORT_REASON = re.compile(r"[A-Z][A-Z0-9_]{0,99}")


class Ask(NamedTuple):
    """A call of the coordinator, or where there is a participant of its LockService. `timeout` is in seconds."""

    participant: str | None
    method: str
    request: Any
    timeout: float
    metadata: Metadata = ()


Ending: TypeAlias = Generator[Sequence[Ask] | float, list[Answer], None]
"""Yields calls to make side by side, and gets their answers; or seconds to pause. Whoever runs it throws in what
interrupts it, and runs on to its end."""


def commit(journal: Journal) -> Ending:
    """Ends it as the caller wants it. Raises why that is not possible, and then rolls it back before."""
    journal.is_open = False
    try:
        while True:
            match journal.state.next_step():
                case Lock(reads):
                    yield from _lock(journal, reads)
                case Compare(reads):
                    yield from _compare(journal, reads)
                case Commit(operations):
                    return (yield from _decide(journal, operations))
                case Nothing() if journal.cause is None:
                    journal.outcome = Outcome.COMMITTED
                    return
                case _:
                    journal.raise_cause()
    except GeneratorExit:  # nobody runs this any more
        raise
    except BaseException as error:
        if journal.outcome is Outcome.UNDECIDED:
            yield from roll_back(journal, error)
        journal.told(error)
        raise


def roll_back(journal: Journal, why: BaseException, until_s: float | None = None) -> Ending:
    """Ends it without a trace, in ROLL_BACK_SECONDS, or by `until_s` in seconds of `time.monotonic()`. Raises only what
    interrupts it: what is not rolled back now is when its deadline has passed.
    """
    journal.is_open = False
    journal.outcome = Outcome.ABORTED
    journal.doom(why)
    if isinstance(journal.state.next_step(), RollBack):
        yield from _settle(journal, until_s)


def _lock(journal: Journal, reads: Reads) -> Ending:
    left = journal.deadline_s - time.monotonic()
    answers = yield [
        Ask(name, "LockReads", lock_request(each), left, journal.metadata(Part.WRITE, name))
        for name, each in reads.items()
    ]
    for (name, each), answer in zip(reads.items(), answers, strict=True):
        if journal.answered(Part.WRITE, name, "LockReads", answer) is None:
            journal.state.locked(name, each)


def _compare(journal: Journal, reads: Reads) -> Ending:
    from handfast.transactions.v1.transactions_pb2 import CompareReadsRequest

    left = journal.deadline_s - time.monotonic()
    answers = yield [
        Ask(name, "CompareReads", CompareReadsRequest(reads=_messages(each)), left) for name, each in reads.items()
    ]
    for (name, each), answer in zip(reads.items(), answers, strict=True):
        if answer.error is not None:
            journal.doom(answer.error)
            continue
        try:
            journal.state.compared(name, each, answer.reply.changed)
        except ReadChanged as found:
            journal.doom(errors.read_changed(journal.id, found))


def _decide(journal: Journal, operations: Mapping[str, int]) -> Ending:
    """Repeats the commit until it is answered. Where it is not committed, rolling back tells what became of it: also
    where it was refused, since gRPC may have sent it before, and lost the answer to that.
    """
    from handfast.transactions.v1.transactions_pb2 import CommitTransactionRequest, TransactionBranch

    branches = [TransactionBranch(participant=name, operation_count=count) for name, count in operations.items()]
    request = CommitTransactionRequest(transaction_id=journal.id, branches=branches)
    give_up_s = max(time.monotonic(), journal.deadline_s) + LOOK_UP_SECONDS
    was_sent = False
    try:
        for attempt in itertools.count():
            journal.outcome = Outcome.UNKNOWN
            left = give_up_s - time.monotonic()
            [answer] = yield [Ask(None, "CommitTransaction", request, min(left, COMMIT_SECONDS))]
            error = answer.error
            if error is None:
                journal.outcome = Outcome.COMMITTED
                return
            was_sent |= not isinstance(error, TransactionMisuse) and not isinstance(error.__cause__, NotSent)
            if _reason(error) == "TRANSACTION_ABORTED":
                journal.outcome = Outcome.ABORTED
                raise error
            pause = _PAUSES[min(attempt, len(_PAUSES) - 1)]
            has_no_answer = isinstance(error, grpc.RpcError) and error.code() in _NO_ANSWER
            can_succeed = has_no_answer or getattr(error, "retryable", False)
            if not can_succeed or pause >= left:
                if not was_sent:
                    journal.outcome = Outcome.UNDECIDED
                raise error
            yield pause
    except GeneratorExit:
        raise
    except BaseException as error:
        if journal.outcome is Outcome.UNKNOWN:
            yield from _settle(journal)
        if isinstance(error, Exception):
            if journal.outcome is Outcome.COMMITTED:
                return
            if journal.outcome is Outcome.UNKNOWN:
                raise errors.outcome_unknown(journal.id) from error
        raise


def _settle(journal: Journal, until_s: float | None = None) -> Ending:
    """Rolls back, which is refused where it was committed: so the answer tells what became of it, for good. Where that
    is interrupted, it is asked once more, as others wait for what it holds; then the interruption is raised.
    """
    until_s = until_s or time.monotonic() + ROLL_BACK_SECONDS
    interruption: BaseException | None = None
    try:
        [answer] = yield [_rollback(journal, until_s)]
    except GeneratorExit:
        raise
    except BaseException as error:
        interruption = error
        [answer] = yield [_rollback(journal, until_s)]
    if answer.error is None:
        journal.outcome = Outcome.ABORTED
    elif _reason(answer.error) == "TRANSACTION_COMMITTED":
        journal.outcome = Outcome.COMMITTED
    if interruption is not None:
        raise interruption


def _rollback(journal: Journal, until_s: float) -> Ask:
    from handfast.transactions.v1.transactions_pb2 import RollbackTransactionRequest

    reason = _reason(journal.cause)
    request = RollbackTransactionRequest(
        transaction_id=journal.id,
        abort_reason=reason if _ABORT_REASON.fullmatch(reason) else "ROLLED_BACK",
        participants=journal.state.participants(),
    )
    return Ask(None, "RollbackTransaction", request, max(0.0, until_s - time.monotonic()))


def _reason(error: BaseException | None) -> str:
    return error.reason if isinstance(error, ServiceError) else ""


def lock_request(reads: Mapping[str, str]) -> LockReadsRequest:
    from handfast.transactions.v1.transactions_pb2 import LockReadsRequest

    return LockReadsRequest(reads=_messages(reads))


def _messages(reads: Mapping[str, str]) -> list[Read]:
    from handfast.transactions.v1.transactions_pb2 import Read

    return [Read(resource=resource, revision=revision) for resource, revision in reads.items()]
