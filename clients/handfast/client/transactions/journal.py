"""What the synchronous transaction and the one for asyncio have in common: the metadata of their calls, what the
trailers of the replies say, and how a transaction ends. It calls nobody itself.
"""

from __future__ import annotations

import enum
import itertools
import re
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeAlias, TypeVar

import grpc

from handfast.client.arguments import check_timeout
from handfast.client.errors import ServiceError
from handfast.client.propagation import CURRENT, Propagated
from handfast.client.transaction_metadata import DEADLINE, FIRST_ATTEMPT, OPERATION, READS, STAGED
from handfast.client.transaction_metadata import TRANSACTION_ID as ID
from handfast.client.transactions import errors
from handfast.client.transactions.errors import TransactionMisuse
from handfast.client.transactions.methods import Part
from handfast.client.transactions.minted import Minted
from handfast.client.transactions.state import (
    Commit,
    Compare,
    Lock,
    NotConfirmed,
    Nothing,
    ReadChanged,
    Reads,
    RollBack,
    TransactionState,
)

if TYPE_CHECKING:
    from handfast.transactions.v1.transactions_pb2 import Read

MAX_TIMEOUT = 300.0
"""Seconds that a transaction can take."""
ASK_SECONDS = 5.0
"""How long one call may take that ends the transaction."""
LOOK_UP_SECONDS = 5.0
"""For how much longer than the transaction's deadline a commit without an answer is repeated."""
ROLL_BACK_SECONDS = 2.0
"""How long rolling back may take. What is not rolled back by then is when its deadline has passed."""
_PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds between the attempts to commit; the last one again and again."""

_REFUSED = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
"""By these codes a commit is refused: by this call nothing was committed."""
_NO_ANSWER = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
    }
)
_ABORT_REASON = re.compile(r"[A-Z][A-Z0-9_]{0,99}")

_Error = TypeVar("_Error", bound=BaseException)
Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]


class Outcome(enum.StrEnum):
    """What became of a transaction."""

    UNDECIDED = enum.auto()
    """Its block is not left yet."""
    COMMITTED = enum.auto()
    """All that it wrote is visible, and all that it has read was so at the same time."""
    ABORTED = enum.auto()
    """Nothing of it is visible, for good."""
    UNKNOWN = enum.auto()
    """Whether it was committed could not be established: ask GetTransaction."""


class Ask(NamedTuple):
    """A call that ends a transaction: of the coordinator, where there is no participant, or of its LockService."""

    participant: str | None
    method: str
    request: Any
    timeout: float
    metadata: Metadata = ()


class Answer(NamedTuple):
    reply: Any = None
    error: grpc.RpcError | None = None
    trailers: Iterable[tuple[str, str | bytes]] = ()


Ending: TypeAlias = Generator[Sequence[Ask] | float, list[Answer], None]
"""Yields calls to make side by side, and gets their answers; or seconds to pause. Whoever runs it throws in what
interrupts it, and runs on."""


class Journal:
    def __init__(self, timeout: float, first_attempt: str = "") -> None:
        seconds = check_timeout(timeout)
        if seconds > MAX_TIMEOUT:
            raise ValueError(f"timeout: a transaction can take {MAX_TIMEOUT:.0f} seconds at the most, not {timeout}")
        self.state = TransactionState()
        self.id = ""
        self.first_attempt = first_attempt
        self.outcome = Outcome.UNDECIDED
        self.is_open = False
        """Whether calls can be made."""
        self._caller = CURRENT.get()
        remaining = self._caller.remaining()
        self.deadline_s = time.monotonic() + (seconds if remaining is None else min(seconds, remaining))
        self._deadline = ""
        self._cause: BaseException | None = None
        """Why it can only be rolled back."""
        self._told: list[BaseException] = []

    def enter(self) -> None:
        if self.is_open or self.outcome is not Outcome.UNDECIDED:
            raise TransactionMisuse("A transaction is entered once. For another one call transaction() again.")
        self.is_open = True

    def check_open(self) -> None:
        """Raises TransactionMisuse, and Aborted where calls make no sense any more."""
        if not self.is_open:
            if self.outcome is Outcome.UNDECIDED:
                raise TransactionMisuse("A transaction takes calls in its block only: with suite.transaction() as tx")
            raise TransactionMisuse(f"The transaction is over: it is {self.outcome}. Begin another one.")
        self.check_not_lost()

    def check_not_lost(self) -> None:
        """Raises Aborted where it can only be rolled back."""
        if self._cause is not None:
            raise self.told(errors.aborted(self.id, self._cause)) from self._cause

    def told(self, error: _Error) -> _Error:
        """Remembers that the caller was told of this error."""
        self._told.append(error)
        return error

    def is_own(self, error: BaseException) -> bool:
        """Whether it comes from the transaction, and not from what is done in its block besides."""
        return any(error is each for each in self._told)

    # Its calls

    def inherited(self) -> Propagated:
        """What its calls inherit: that they end with the transaction."""
        return Propagated(self._caller.request_id, self._caller.traceparent, self.deadline_s)

    def inherited_at_the_end(self) -> Propagated:
        """What those calls inherit that end it: they are made even where no time is left."""
        return Propagated(self._caller.request_id, self._caller.traceparent)

    def begin(self, minted: Minted) -> None:
        self.id = minted.transaction_id
        self.first_attempt = min(
            self.first_attempt or self.id, self.id
        )  # the coordinator's clock may have been set back
        self._deadline = minted.deadline(self.deadline_s - time.monotonic())

    def metadata(self, part: Part, participant: str) -> Metadata:
        """Of the next call, which is `answered` before the next one at the participant begins."""
        if part is Part.READ:
            return ((ID, self.id),)
        number = self.state.operation(participant)
        return (
            (ID, self.id),
            (OPERATION, str(number)),
            (DEADLINE, self._deadline),
            (FIRST_ATTEMPT, self.first_attempt),
        )

    def not_sent(self, part: Part, participant: str) -> None:
        """The call for which `metadata` was made could not be sent."""
        if part is Part.WRITE:
            self.state.not_sent(participant)

    def answered(self, part: Part, participant: str, method: str, answer: Answer) -> BaseException | None:
        """Takes down how a call ended. Returns the error that its caller is to be told."""
        trailers = dict(iter(answer.trailers))  # pairs, though early grpc.aio.Metadata looks like a mapping
        reads = _reads(trailers.get(READS))
        try:
            if part is Part.READ:
                if reads is not None or answer.error is None:
                    self.state.read(participant, reads)
                return answer.error
            if answer.error is None:
                confirmed = trailers.get(STAGED)
                self.state.staged(participant, None if confirmed is None else str(confirmed), reads or ())
                return None
            return self._doom(answer.error)
        except ReadChanged as found:
            return self._doom(errors.read_changed(self.id, found))
        except NotConfirmed as found:
            return self._doom(errors.not_staged(method, found))

    def _doom(self, error: BaseException) -> BaseException:
        self._cause = self._cause or error
        return self.state.doom(error)

    # Its end

    def commit(self) -> Ending:
        """Ends it as the caller wants it. Raises why that is not possible, and then rolls it back before."""
        self.is_open = False
        try:
            while True:
                match self.state.next_step():
                    case Lock(reads):
                        yield from self._lock(reads)
                    case Compare(reads):
                        yield from self._compare(reads)
                    case Commit(operations):
                        return (yield from self._decide(operations))
                    case Nothing() if self._cause is None:
                        self.outcome = Outcome.COMMITTED
                        return
                    case _:
                        self._raise_cause()
        except GeneratorExit:  # nobody runs this any more
            raise
        except BaseException as error:
            if self.outcome is Outcome.UNDECIDED:
                yield from self.roll_back(error)
            self.told(error)
            raise

    def roll_back(self, why: BaseException) -> Ending:
        """Ends it without a trace. Raises nothing: what is not rolled back now is when its deadline has passed."""
        self.is_open = False
        self.outcome = Outcome.ABORTED
        self._doom(why)
        if isinstance(self.state.next_step(), RollBack):
            yield [self._rollback()]

    def _raise_cause(self) -> NoReturn:
        """As it is, where the caller does not know it yet: nobody has asked for the result of that call."""
        assert self._cause is not None
        if self.is_own(self._cause):
            raise errors.aborted(self.id, self._cause) from self._cause
        raise self._cause

    def _lock(self, reads: Reads) -> Ending:
        from handfast.transactions.v1.transactions_pb2 import LockReadsRequest

        answers = yield [
            Ask(
                name,
                "LockReads",
                LockReadsRequest(reads=_messages(each)),
                self._left(),
                self.metadata(Part.WRITE, name),
            )
            for name, each in reads.items()
        ]
        for (name, each), answer in zip(reads.items(), answers, strict=True):
            if self.answered(Part.WRITE, name, "LockReads", answer) is None:
                self.state.locked(name, each)

    def _compare(self, reads: Reads) -> Ending:
        from handfast.transactions.v1.transactions_pb2 import CompareReadsRequest

        answers = yield [
            Ask(name, "CompareReads", CompareReadsRequest(reads=_messages(each)), self._left())
            for name, each in reads.items()
        ]
        for (name, each), answer in zip(reads.items(), answers, strict=True):
            if answer.error is not None:
                self._doom(answer.error)
                continue
            try:
                self.state.compared(name, each, answer.reply.changed)
            except ReadChanged as found:
                self._doom(errors.read_changed(self.id, found))

    def _decide(self, operations: Mapping[str, int]) -> Ending:
        """Repeats the commit until it is answered. Where it is not, rolling back tells what became of it."""
        from handfast.transactions.v1.transactions_pb2 import CommitTransactionRequest, TransactionBranch

        branches = [TransactionBranch(participant=name, operation_count=count) for name, count in operations.items()]
        request = CommitTransactionRequest(transaction_id=self.id, branches=branches)
        give_up_s = max(time.monotonic(), self.deadline_s) + LOOK_UP_SECONDS
        is_uncertain = False  # whether it may have been committed
        try:
            for attempt in itertools.count():
                was_uncertain, is_uncertain = is_uncertain, True  # as long as there is no answer
                left = give_up_s - time.monotonic()
                [answer] = yield [Ask(None, "CommitTransaction", request, min(left, ASK_SECONDS))]
                error = answer.error
                if error is None:
                    self.outcome = Outcome.COMMITTED
                    return
                is_uncertain = was_uncertain or error.code() not in _REFUSED
                if _reason(error) == "TRANSACTION_ABORTED":
                    self.outcome = Outcome.ABORTED
                pause = _PAUSES[min(attempt, len(_PAUSES) - 1)]
                can_succeed = error.code() in _NO_ANSWER or getattr(error, "retryable", False)
                if not can_succeed or pause >= left:
                    raise error
                yield pause
        except GeneratorExit:
            raise
        except BaseException as error:
            if self.outcome is Outcome.UNDECIDED:
                yield from self._settle(is_uncertain)
            if isinstance(error, grpc.RpcError):
                if self.outcome is Outcome.COMMITTED:
                    return
                if self.outcome is Outcome.UNKNOWN:
                    raise errors.outcome_unknown(self.id) from error
            raise

    def _settle(self, is_uncertain: bool) -> Ending:
        """Rolls back, which is refused where it was committed: so it tells what became of it, and nothing can later."""
        self.outcome = Outcome.UNKNOWN if is_uncertain else Outcome.ABORTED
        [answer] = yield [self._rollback()]
        if answer.error is None:
            self.outcome = Outcome.ABORTED
        elif _reason(answer.error) == "TRANSACTION_COMMITTED":
            self.outcome = Outcome.COMMITTED

    def _rollback(self) -> Ask:
        from handfast.transactions.v1.transactions_pb2 import RollbackTransactionRequest

        reason = _reason(self._cause)
        request = RollbackTransactionRequest(
            transaction_id=self.id,
            abort_reason=reason if _ABORT_REASON.fullmatch(reason) else "ROLLED_BACK",
            participants=self.state.participants(),
        )
        return Ask(None, "RollbackTransaction", request, ROLL_BACK_SECONDS)

    def _left(self) -> float:
        return self.deadline_s - time.monotonic()


def _reason(error: BaseException | None) -> str:
    return error.reason if isinstance(error, ServiceError) else ""


def _messages(reads: Mapping[str, str]) -> list[Read]:
    from handfast.transactions.v1.transactions_pb2 import Read

    return [Read(resource=resource, revision=revision) for resource, revision in reads.items()]


def _reads(trailer: str | bytes | None) -> Iterable[Read] | None:
    if not isinstance(trailer, bytes):
        return None
    from google.protobuf.message import DecodeError

    from handfast.transactions.v1.transactions_pb2 import ReadSet

    try:
        return ReadSet.FromString(trailer).reads
    except DecodeError:
        return None
