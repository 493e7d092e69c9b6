"""What must hold of an error, whatever was sent."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import grpc
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status

from handfast.accounts.v1 import reasons_pb2 as accounts
from handfast.chassis.v1 import reasons_pb2 as chassis
from handfast.preferences.v1 import reasons_pb2 as preferences
from handfast.transactions.v1 import reasons_pb2 as transactions
from handfast.users.v1 import reasons_pb2 as users
from tests.fuzz.calls import Call, Outcome
from tests.fuzz.messages import is_map

Detail = TypeVar("Detail", bound=Message)

_CODES = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
    }
)
"""With which a suite that is well refuses. However bad the request, it is neither the server's fault nor too late. Who
is refused for who it is, `callers.py` says."""
_OWN_REASONS = {
    "handfast.users": users,
    "handfast.preferences": preferences,
    "handfast.accounts": accounts,
    "handfast.transactions": transactions,
}
_DETAILS = (
    error_details_pb2.ErrorInfo,
    error_details_pb2.RequestInfo,
    error_details_pb2.BadRequest,
    error_details_pb2.RetryInfo,
)
_LEAKS = re.compile(
    r"traceback|\.py\b|sqlalchemy|sqlite|psycopg|alembic|grpc\.|google\.protobuf"
    r"|\bselect\b|\binsert into\b|\bupdate \w+ set\b|\bdelete from\b|\berror\(|exception|object at 0x|<class"
    r"|ipv[46]:|127\.0\.0\.1|localhost|/tmp/|/usr/|/home/",
    re.IGNORECASE,
)
_NOT_LISTED = re.compile(r"\d+ more are not listed")


def check(call: Call, request: Message | None, outcome: Outcome) -> None:
    """`request` is what the bytes mean; None where they mean nothing. Raises AssertionError."""
    assert outcome.code in _CODES, "the status code"
    status = outcome.status
    assert status is not None, "no details"
    assert (status.code, status.message) == (outcome.code.value[0], outcome.message)
    _check_details(status, outcome)
    sent = repr((call.path, call.requests, call.metadata, request))
    for text in _texts(status):
        leak = _LEAKS.search(text)
        assert leak is None or leak.group() in sent, f"leaks {leak.group()!r}"
    if request is not None:
        for violation in _one(status, error_details_pb2.BadRequest).field_violations:
            _check_violation(violation, request)


def reason_of(outcome: Outcome) -> str:
    """Empty where it has none."""
    return "" if outcome.status is None else _one(outcome.status, error_details_pb2.ErrorInfo).reason


def _check_details(status: Status, outcome: Outcome) -> None:
    names = [detail.TypeName() for detail in status.details]
    assert set(names) <= {kind.DESCRIPTOR.full_name for kind in _DETAILS}, names
    assert len(set(names)) == len(names), names
    info = _one(status, error_details_pb2.ErrorInfo)
    assert info.domain in _OWN_REASONS, info.domain
    assert info.reason in _reasons(chassis, transactions, _OWN_REASONS[info.domain]), f"{info.domain} {info.reason}"
    request_id = _one(status, error_details_pb2.RequestInfo).request_id
    assert request_id, "no request id"
    assert request_id == outcome.request_id, "another request id"


def _reasons(*contracts: Any) -> frozenset[str]:
    names = (name for contract in contracts for name in contract.Reason.DESCRIPTOR.values_by_name)
    return frozenset(name.removeprefix("REASON_") for name in names if not name.endswith("_UNSPECIFIED"))


_ALL_REASONS = _reasons(chassis, transactions, *_OWN_REASONS.values())


def _one(status: Status, kind: type[Detail]) -> Detail:
    found = kind()
    any(detail.Unpack(found) for detail in status.details)
    return found


def _texts(status: Status) -> list[str]:
    details = [str(_unpacked(detail)) for detail in status.details]
    return [status.message, *details]


def _unpacked(detail: Packed) -> Message:
    return next(found for kind in _DETAILS if detail.Unpack(found := kind()))


def _check_violation(violation: error_details_pb2.BadRequest.FieldViolation, request: Message) -> None:
    assert violation.description, "no description"
    assert violation.reason in ("", *_ALL_REASONS), violation.reason
    if not violation.field:
        assert _NOT_LISTED.fullmatch(violation.description), "no field"
    elif not violation.field.endswith("…"):
        assert _has_path(request.DESCRIPTOR, violation.field, request), f"there is no field {violation.field!r}"


def _has_path(descriptor: Any, path: str, message: Message | None) -> bool:
    """Whether messages of the type have such a field; and of `message`, such an element."""
    name, _, rest = path.partition(".")
    name, bracket, index = name.partition("[")
    field = descriptor.fields_by_name.get(name)
    if field is None:
        return False
    value = None if message is None else getattr(message, name)
    if is_map(field):
        return not rest or value is None or rest in value  # keys can have dots
    if bracket:
        return (
            field.is_repeated
            and value is not None
            and int(index.removesuffix("]")) < len(value)
            and (not rest or _has_path(field.message_type, rest, value[int(index.removesuffix("]"))]))
        )
    return not rest or (field.message_type is not None and _has_path(field.message_type, rest, value))
