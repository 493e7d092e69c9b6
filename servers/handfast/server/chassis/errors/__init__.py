"""The errors that domain code raises. Nothing in this file knows gRPC.

A service subclasses the kind that fits, such as `NotFound`, once for each reason of its contract, and raises that. Any
other exception reaches the caller as the domain error that stands for it in the table of database failures, or else as
INTERNAL with the request id and nothing more.

    database.py    which domain error a failure of a database becomes
    mapping.py     makes a `google.rpc.Status` of any exception, small enough for any client, and ends calls with it

Messages never hold personal data, so a message about an email does not quote it. From the log the values of fields that
contracts mark are taken out; callers get what is written here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, TypeVar

from handfast.chassis.v1.reasons_pb2 import Reason


class DomainError(Exception):
    """A call is refused for a reason that a contract names.

    reason        the name of the reason in the contract's enum, without `REASON_`; each subclass sets it
    message       a sentence for people
    values        what the message mentions, by name; they become `ErrorInfo.metadata`, where all are texts
    retry_after   where calling again can help: after how many seconds; it becomes `RetryInfo`

    Texts of any length may be given; the caller gets as much of them as `docs/errors.md` says.
    """

    reason: ClassVar[str]
    retry_after: float | None = None

    def __init__(self, message: str, *, retry_after: float | None = None, **values: object) -> None:
        if not hasattr(self, "reason"):
            raise TypeError(f"{type(self).__name__} has no reason. Subclass it, once for each reason of your contract.")
        super().__init__(message)
        self.message = str(message)
        self.values = {name: str(value) for name, value in values.items()}
        if retry_after is not None:
            self.retry_after = retry_after


class InvalidArgument(DomainError):
    """The request breaks a rule, whatever is stored: INVALID_ARGUMENT."""


class NotFound(DomainError):
    """What the request names is not there: NOT_FOUND."""


class AlreadyExists(DomainError):
    """What the request creates is there already: ALREADY_EXISTS."""


class FailedPrecondition(DomainError):
    """What is stored forbids it, and calling again does not help: FAILED_PRECONDITION."""


class Aborted(DomainError):
    """Another change was faster: ABORTED. Calling again helps where `retry_after` is set."""


class ResourceExhausted(DomainError):
    """Too many calls, or too many bytes: RESOURCE_EXHAUSTED."""


class Unavailable(DomainError):
    """Something that the service needs does not answer: UNAVAILABLE."""


class PermissionDenied(DomainError):
    """The caller may not do this: PERMISSION_DENIED."""


class Unauthenticated(DomainError):
    """It is not known who the caller is: UNAUTHENTICATED."""


class OutcomeUnknown(DomainError):
    """Whether a write took effect could not be established: UNKNOWN."""


Value = TypeVar("Value", contravariant=True)


class ReasonEnum(Protocol[Value]):
    """The enum `Reason` that is generated for any contract."""

    def Name(self, number: Value, /) -> str: ...

    def values(self) -> Iterable[Any]: ...


def reason_name(reasons: ReasonEnum[Value], value: Value) -> str:
    """The name of a reason as errors carry it: `EMAIL_TAKEN` for `REASON_EMAIL_TAKEN`. Raises ValueError where the enum
    has no such value."""
    return reasons.Name(value).removeprefix("REASON_")


@dataclass(frozen=True, slots=True)
class Violation:
    """One rule that one field of a request breaks.

    field         the path of the field in the request, such as `user.email`
    description   the rule in words that follow the field's name, such as `is required`
    reason        the name of the reason where the service's contract has one, without `REASON_`
    """

    field: str
    description: str
    reason: str = ""


class InvalidFields(InvalidArgument):
    """Fields of the request break rules. Names all violations at once (AIP-193, `BadRequest`)."""

    reason = reason_name(Reason, Reason.REASON_INVALID_FIELDS)

    def __init__(self, violations: Sequence[Violation]) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = tuple(violations)


class Violations(list[Violation]):
    """Collects violations while a request is validated, so that all are reported at once.

    with Violations.collect() as violations:
        violations.add("user.email", "is required")     # leaving the block raises InvalidFields
    """

    def add(self, field: str, description: str, reason: str = "") -> None:
        """Adds a `Violation` of these."""
        self.append(Violation(field, description, reason))

    @classmethod
    def collect(cls) -> Violations:
        """A new one, for a block at whose end InvalidFields is raised where a violation was added."""
        return cls()

    def __enter__(self) -> Violations:
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        if error_type is None and self:
            raise InvalidFields(self)


class UnparsableRequest(InvalidArgument):
    """The bytes of the request are not a message of the method's request type."""

    reason = reason_name(Reason, Reason.REASON_UNPARSABLE_REQUEST)


class RequestTooLarge(InvalidArgument):
    """The request or its metadata has more bytes than the server takes."""

    reason = reason_name(Reason, Reason.REASON_REQUEST_TOO_LARGE)


class ResponseTooLarge(ResourceExhausted):
    """The reply has more bytes than the server sends."""

    reason = reason_name(Reason, Reason.REASON_RESPONSE_TOO_LARGE)


class InvalidMetadata(InvalidArgument):
    """Metadata that a call depends on is malformed, or came more than once."""

    reason = reason_name(Reason, Reason.REASON_INVALID_METADATA)


class UnknownMethod(DomainError):
    """The server has no method of this name: UNIMPLEMENTED. Only the chassis raises it."""

    reason = reason_name(Reason, Reason.REASON_UNKNOWN_METHOD)


class NotStageable(FailedPrecondition):
    """The method does not take part in transactions, but the call belongs to one."""

    reason = reason_name(Reason, Reason.REASON_NOT_STAGEABLE)


class RequestIdReused(InvalidArgument):
    """The `request_id` was used for another request."""

    reason = reason_name(Reason, Reason.REASON_REQUEST_ID_REUSED)

    def __init__(self, request_id: str) -> None:
        super().__init__(f"request_id {request_id} was used for another request.", request_id=request_id)


class AnswerErased(FailedPrecondition):
    """The call is a repeat of one whose answer was erased, with the personal data of what it changed."""

    reason = reason_name(Reason, Reason.REASON_ANSWER_ERASED)

    def __init__(self, request_id: str) -> None:
        super().__init__(
            f"The call with request_id {request_id} was carried out before. Its answer was erased, with all personal "
            "data of the resource that it changed.",
            request_id=request_id,
        )


class DuplicateValue(AlreadyExists):
    """A value that must be unique is taken, and the service did not look before: the database says so."""

    reason = reason_name(Reason, Reason.REASON_DUPLICATE_VALUE)


class ConstraintViolated(FailedPrecondition):
    """What is stored forbids the change, and the service did not look before: the database says so."""

    reason = reason_name(Reason, Reason.REASON_CONSTRAINT_VIOLATED)


class InvalidValue(InvalidArgument):
    """A value cannot be stored, and the service did not look before: its columns or the database say so."""

    reason = reason_name(Reason, Reason.REASON_INVALID_VALUE)


class DatabaseUnavailable(Unavailable):
    """The database does not answer, or takes no more work."""

    reason = reason_name(Reason, Reason.REASON_DATABASE_UNAVAILABLE)
    retry_after = 1.0


class DatabaseConflict(Aborted):
    """The change lost against another one made at the same time."""

    reason = reason_name(Reason, Reason.REASON_DATABASE_CONFLICT)
    retry_after = 0.05


class CallDeadlineExceeded(DomainError):
    """The deadline of the call has passed: DEADLINE_EXCEEDED. Only the chassis raises it."""

    reason = reason_name(Reason, Reason.REASON_DEADLINE_EXCEEDED)


class CallCancelled(DomainError):
    """The caller has cancelled the call: CANCELLED. Only the chassis raises it."""

    reason = reason_name(Reason, Reason.REASON_CANCELLED)


class Overloaded(ResourceExhausted):
    """The server has as many calls as it takes."""

    reason = reason_name(Reason, Reason.REASON_OVERLOADED)
    retry_after = 1.0


class ShuttingDown(Unavailable):
    """The server stops."""

    reason = reason_name(Reason, Reason.REASON_SHUTTING_DOWN)
    retry_after = 1.0


class PeerUnavailable(Unavailable):
    """A service that this one needs does not answer."""

    reason = reason_name(Reason, Reason.REASON_PEER_UNAVAILABLE)
    retry_after = 1.0


Problem = Literal[
    "missing",
    "nameless_certificate",
    "repeated",
    "malformed",
    "too_long",
    "forbidden_algorithm",
    "unknown_key",
    "bad_signature",
    "no_expiry",
    "expired",
    "not_yet_valid",
    "wrong_issuer",
    "wrong_audience",
    "revoked",
]
"""Why it is not known who calls. The contract of `UNAUTHENTICATED` lists them, too."""


class NotAuthenticated(Unauthenticated):
    """The call does not say who makes it in a way that the server can trust."""

    reason = reason_name(Reason, Reason.REASON_UNAUTHENTICATED)

    def __init__(self, message: str, *, problem: Problem) -> None:
        super().__init__(message, problem=problem)


class ScopeMissing(PermissionDenied):
    """The caller lacks a scope that the method needs."""

    reason = reason_name(Reason, Reason.REASON_SCOPE_MISSING)


class NoPermissionDeclared(PermissionDenied):
    """The contract does not say who may call the method."""

    reason = reason_name(Reason, Reason.REASON_NO_PERMISSION_DECLARED)


class TooManyCalls(ResourceExhausted):
    """The caller has made more calls than it may in this time."""

    reason = reason_name(Reason, Reason.REASON_TOO_MANY_CALLS)
    retry_after = 1.0


class Unforeseen(DomainError):
    """What any exception that nobody foresaw becomes: INTERNAL. Only the chassis makes it."""

    reason = reason_name(Reason, Reason.REASON_INTERNAL)

    def __init__(self) -> None:
        super().__init__("Internal error; quote the request id to the operator.")
