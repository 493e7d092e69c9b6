"""What the synchronous transaction and the one for asyncio keep of what they do: the metadata of their calls, what the
trailers of the replies say, and why nothing is left but to roll back. It calls nobody itself.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeAlias, TypeVar

import grpc

from handfast.client.arguments import check_call_timeout, check_timeout
from handfast.client.errors import PermissionDenied, ServiceError, Unimplemented, service_error
from handfast.client.propagation import CURRENT, Propagated
from handfast.client.transaction_metadata import DEADLINE, FIRST_ATTEMPT, OPERATION, READS, STAGED
from handfast.client.transaction_metadata import TRANSACTION_ID as ID
from handfast.client.transactions import errors
from handfast.client.transactions.contention import Contention
from handfast.client.transactions.errors import TransactionMisuse
from handfast.client.transactions.methods import Part, changes_nothing, check_given
from handfast.client.transactions.minted import Minted
from handfast.client.transactions.state import NotConfirmed, ReadChanged, TransactionState

if TYPE_CHECKING:
    from handfast.transactions.v1.transactions_pb2 import LockResourcesRequest, Read

MAX_TIMEOUT = 300.0
"""Seconds that a transaction can take."""
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
    """It was to be committed, and whether it was could not be established: ask GetTransaction."""


class Answer(NamedTuple):
    reply: Any = None
    error: Exception | None = None
    trailers: Iterable[tuple[str, str | bytes]] = ()

    @classmethod
    def failed(cls, error: Exception) -> Answer:
        """By what a call raised, which is anything where an interceptor did."""
        if not isinstance(error, grpc.RpcError):
            return cls(error=error)
        typed = error if isinstance(error, ServiceError) else service_error(error, "")
        return cls(None, typed, typed.trailing_metadata())


class Journal:
    def __init__(self, timeout: float) -> None:
        seconds = check_timeout(timeout)
        if seconds > MAX_TIMEOUT:
            raise ValueError(f"timeout: a transaction can take {MAX_TIMEOUT:.0f} seconds at the most, not {timeout}")
        self.state = TransactionState()
        self.id = ""
        self.first_attempt = ""
        self.outcome = Outcome.UNDECIDED
        self.is_open = False
        """Whether calls can be made."""
        self.locks_at_once = False
        """Whether what is read is locked before the caller sees it, and not only in the end."""
        self._caller = CURRENT.get()
        self.traceparent = self._caller.traceparent
        remaining = self._caller.remaining()
        self.deadline_s = time.monotonic() + (seconds if remaining is None else min(seconds, remaining))
        self._deadline = ""
        self.cause: BaseException | None = None
        """Why it can only be rolled back."""
        self._told: list[BaseException] = []
        self._contention = Contention()
        """Of this attempt and those before it."""
        self._to_lock_first: dict[str, LockResourcesRequest] = {}
        self._locking_first = set[str]()
        """Where that was sent, and is not answered."""

    def again(self) -> Journal:
        """For another attempt, which is as old and has the same deadline."""
        again = Journal(MAX_TIMEOUT)
        again.first_attempt, again.deadline_s = self.first_attempt, self.deadline_s
        again._contention, again._to_lock_first = self._contention, self._contention.requests()
        return again

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
        if self.cause is not None:
            raise self.told(errors.aborted(self.id, self.cause)) from self.cause

    def raise_cause(self) -> NoReturn:
        """Why it can only be rolled back: as it is where the caller was not told, who has not asked for that result."""
        assert self.cause is not None
        if self.is_own(self.cause):
            raise errors.aborted(self.id, self.cause) from self.cause
        raise self.cause

    def explain(self, interruption: BaseException) -> None:
        """Has what interrupts the commit, such as Ctrl-C, tell where it is or may be committed: whoever meets that need
        not have the transaction, as after `transact`."""
        if isinstance(interruption, Exception):
            return
        if self.outcome is Outcome.COMMITTED:
            interruption.add_note(f"It came during the commit of transaction {self.id}, which is committed.")
        elif self.outcome is Outcome.UNKNOWN:
            interruption.add_note(
                f"It came during the commit of transaction {self.id}, which may be committed. Ask GetTransaction."
            )

    def told(self, error: _Error) -> _Error:
        """Remembers that the caller was told of this error."""
        self._told.append(error)
        return error

    def is_own(self, error: BaseException) -> bool:
        """Whether it comes from the transaction, and not from what is done in its block besides."""
        return any(error is each for each in self._told)

    # Its calls

    def check_call(self, path: str, request: Any, timeout: float | None, metadata: Any) -> tuple[Part, Metadata, float]:
        """What a call that is about to be made is for the transaction, its metadata, and by when it ends, in seconds of
        `time.monotonic()`. Raises TransactionMisuse, TypeError or ValueError, as `mistaken` has it."""
        try:
            part, given = check_given(path, request, metadata)
            if timeout is None:
                return part, given, self.deadline_s
            return part, given, min(self.deadline_s, time.monotonic() + check_call_timeout(timeout))
        except Exception as mistake:
            self.mistaken(path, mistake)
            raise

    def mistaken(self, path: str, mistake: _Error) -> _Error:
        """A call could not be made as it was asked for. That leaves nothing but to roll back, unless the method changes
        nothing: else the transaction would be committed without this call. Returns the mistake.
        """
        if self.is_open and not changes_nothing(path):
            self.doom(self.told(mistake))
        return mistake

    def inherited(self) -> Propagated:
        """What its calls inherit: that they end with the transaction."""
        return Propagated(self._caller.request_id, self.traceparent, self.deadline_s)

    def inherited_at_the_end(self) -> Propagated:
        """What those calls inherit that end it: they are made even where no time is left."""
        return Propagated(self._caller.request_id, self.traceparent)

    def begin(self, minted: Minted) -> None:
        self.id = minted.transaction_id
        # The first is the oldest, unless the coordinator's clock was set back.
        self.first_attempt = min(self.first_attempt or self.id, self.id)
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

    def answered(self, part: Part, participant: str, method: str, answer: Answer) -> BaseException | None:
        """Takes down how a call ended, sent or not. Returns the error that its caller is to be told.

        A write that is not acknowledged leaves nothing but to roll back.
        """
        if part is Part.WRITE and participant in self._locking_first:
            self._locking_first.remove(participant)
            if isinstance(answer.error, PermissionDenied | Unimplemented):
                # It would only help. Those who may write, but not lock, go on without it, and so does everybody where a
                # server of an earlier version knows no such call.
                self.state.not_let_in(participant)
                return None
        trailers = dict(iter(answer.trailers))  # pairs, though early grpc.aio.Metadata looks like a mapping
        reads = _reads(trailers.get(READS))
        try:
            if part is Part.READ:
                if reads is not None or answer.error is None:
                    self.state.read(participant, reads)
                return answer.error
            if answer.error is None:
                confirmed = trailers.get(STAGED)
                self.state.staged(participant, None if confirmed is None else str(confirmed), reads)
                return None
            error: BaseException = errors.of_write(self.id, answer.error)
        except ReadChanged as found:
            error = errors.read_changed(self.id, found)
        except NotConfirmed as found:
            error = errors.not_staged(method, found)
        if part is Part.WRITE:
            self._contention.note(participant, method, error)
        return self.doom(error)

    def to_lock_first(self, participant: str) -> LockResourcesRequest | None:
        """What is to be locked there before anything else is called. It is told once."""
        request = self._to_lock_first.pop(participant, None)
        if request is not None:
            self._locking_first.add(participant)
        return request

    def to_lock_at_once(self, participant: str) -> Mapping[str, str]:
        """What a caller is about to see that was read there, where it is to be locked before."""
        return self.state.unsafe(participant) if self.locks_at_once and self.is_open else {}

    def doom(self, error: _Error) -> _Error:
        """Leaves nothing but to roll back, for this reason or an earlier one."""
        self.cause = self.cause or error
        self.state.doom(error)
        return error


def _reads(trailer: str | bytes | None) -> Iterable[Read] | None:
    if not isinstance(trailer, bytes):
        return None
    from google.protobuf.message import DecodeError

    from handfast.transactions.v1.transactions_pb2 import ReadSet

    try:
        return ReadSet.FromString(trailer).reads
    except DecodeError:
        return None
