"""The errors that domain code raises; nothing here knows gRPC.

    DomainError                      has a reason that a contract names, a message, and the values it mentions
    ├── InvalidArgument              the request breaks a rule whatever the state of the service
    │   └── InvalidFields            … with one violation for each field
    ├── NotFound
    ├── AlreadyExists
    ├── FailedPrecondition           the state forbids it; calling again does not help
    ├── Aborted                      a conflict; calling again helps where `retry_after` is set
    ├── ResourceExhausted            too much, of calls or of bytes
    ├── Unavailable                  something that the service needs does not answer
    ├── DeadlineExceeded             the caller's time is up
    ├── Cancelled                    the caller has given up
    ├── PermissionDenied             the caller may not
    ├── Unauthenticated              nobody knows who the caller is
    ├── Unimplemented                this server has no such method
    ├── OutcomeUnknown               whether a write took effect could not be established
    └── Internal                     what nobody foresaw; the chassis raises it, and nobody else

What the wire makes of them is in the other files. Any exception that is none of these is a failure of the database that
the table lists, or reaches the caller as INTERNAL with the request id and nothing else.

    table.py       what each error is to a caller: status codes, and what failures of the database amount to
    database.py    finds a failure of the database there
    mapping.py     makes a `google.rpc.Status` of an error, the one place that does
    size.py        cuts it to what callers take
    layer.py       the interceptor that ends calls so

Messages never hold personal data, so a message about an email does not quote it. They are logged; values of fields that
contracts mark are taken out then, but callers get what is written here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

from handfast.chassis.v1.reasons_pb2 import Reason


class DomainError(Exception):
    """A call was refused for a reason that a contract names.

    `reason` is an enum value's name without `REASON_`; a subclass sets it once. `values` are what the message
    mentions, by name; they become `ErrorInfo.metadata`. `retry_after` is a delay in seconds where calling
    again can help, and becomes `RetryInfo`.
    """

    reason: ClassVar[str]
    retry_after: float | None = None

    def __init__(self, message: str, *, retry_after: float | None = None, **values: object) -> None:
        super().__init__(message)
        self.message = message
        self.values = {name: str(value) for name, value in values.items()}
        if retry_after is not None:
            self.retry_after = retry_after


class InvalidArgument(DomainError):
    pass


class NotFound(DomainError):
    pass


class AlreadyExists(DomainError):
    pass


class FailedPrecondition(DomainError):
    pass


class Aborted(DomainError):
    pass


class ResourceExhausted(DomainError):
    pass


class Unavailable(DomainError):
    pass


class DeadlineExceeded(DomainError):
    pass


class Cancelled(DomainError):
    pass


class PermissionDenied(DomainError):
    pass


class Unauthenticated(DomainError):
    pass


class Unimplemented(DomainError):
    pass


class OutcomeUnknown(DomainError):
    pass


class Internal(DomainError):
    pass


Value = TypeVar("Value", contravariant=True)


class ReasonEnum(Protocol[Value]):
    """The generated `Reason` of any contract."""

    def Name(self, number: Value, /) -> str: ...

    def values(self) -> Iterable[Any]: ...


def reason_name(reasons: ReasonEnum[Value], value: Value) -> str:
    """`REASON_EMAIL_TAKEN` as errors carry it: `EMAIL_TAKEN`."""
    return reasons.Name(value).removeprefix("REASON_")


@dataclass(frozen=True, slots=True)
class Violation:
    """One rule that one field breaks: its path in the request, the rule in words, and a reason where the
    service's contract names one."""

    field: str
    description: str
    reason: str = ""


class InvalidFields(InvalidArgument):
    """Fields of the request break rules: every violation at once (AIP-193, `BadRequest`)."""

    reason = reason_name(Reason, Reason.REASON_INVALID_FIELDS)

    def __init__(self, violations: Sequence[Violation]) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = tuple(violations)


class Violations:
    """Collects violations while a request is validated, so that all are reported at once.

    with Violations.collect() as violations:
        violations.add("user.email", "is required")     # leaving the block raises InvalidFields
    """

    def __init__(self) -> None:
        self._found: list[Violation] = []

    def add(self, field: str, description: str, reason: str = "") -> None:
        self._found.append(Violation(field, description, reason))

    @property
    def found(self) -> Sequence[Violation]:
        return tuple(self._found)

    def raise_if_any(self) -> None:
        if self._found:
            raise InvalidFields(self._found)

    @classmethod
    @contextmanager
    def collect(cls) -> Iterator[Violations]:
        violations = cls()
        yield violations
        violations.raise_if_any()


class UnparsableRequest(InvalidArgument):
    reason = reason_name(Reason, Reason.REASON_UNPARSABLE_REQUEST)


class RequestTooLarge(InvalidArgument):
    reason = reason_name(Reason, Reason.REASON_REQUEST_TOO_LARGE)


class ResponseTooLarge(ResourceExhausted):
    reason = reason_name(Reason, Reason.REASON_RESPONSE_TOO_LARGE)


class InvalidMetadata(InvalidArgument):
    reason = reason_name(Reason, Reason.REASON_INVALID_METADATA)


class UnknownMethod(Unimplemented):
    reason = reason_name(Reason, Reason.REASON_UNKNOWN_METHOD)


class NotStageable(FailedPrecondition):
    reason = reason_name(Reason, Reason.REASON_NOT_STAGEABLE)


class RequestIdReused(InvalidArgument):
    reason = reason_name(Reason, Reason.REASON_REQUEST_ID_REUSED)


class DuplicateValue(AlreadyExists):
    """Of the database, where a service did not look before."""

    reason = reason_name(Reason, Reason.REASON_DUPLICATE_VALUE)


class ConstraintViolated(FailedPrecondition):
    """Of the database, where a service did not look before."""

    reason = reason_name(Reason, Reason.REASON_CONSTRAINT_VIOLATED)


class InvalidValue(InvalidArgument):
    """Of the database, where a service did not look before."""

    reason = reason_name(Reason, Reason.REASON_INVALID_VALUE)


class DatabaseUnavailable(Unavailable):
    reason = reason_name(Reason, Reason.REASON_DATABASE_UNAVAILABLE)
    retry_after = 1.0


class DatabaseConflict(Aborted):
    reason = reason_name(Reason, Reason.REASON_DATABASE_CONFLICT)
    retry_after = 0.05


class CallDeadlineExceeded(DeadlineExceeded):
    reason = reason_name(Reason, Reason.REASON_DEADLINE_EXCEEDED)


class CallCancelled(Cancelled):
    reason = reason_name(Reason, Reason.REASON_CANCELLED)


class Overloaded(ResourceExhausted):
    reason = reason_name(Reason, Reason.REASON_OVERLOADED)
    retry_after = 1.0


class ShuttingDown(Unavailable):
    reason = reason_name(Reason, Reason.REASON_SHUTTING_DOWN)
    retry_after = 1.0


class PeerUnavailable(Unavailable):
    reason = reason_name(Reason, Reason.REASON_PEER_UNAVAILABLE)
    retry_after = 1.0


class Unforeseen(Internal):
    reason = reason_name(Reason, Reason.REASON_INTERNAL)

    def __init__(self) -> None:
        super().__init__("Internal error; quote the request id to the operator.")
