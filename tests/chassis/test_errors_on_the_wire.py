from __future__ import annotations

import gc
import time
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from handfast.client.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ServiceError,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from handfast.server.chassis import errors
from handfast.server.chassis.call import current
from handfast.server.chassis.errors import Violation
from handfast.server.chassis.errors.mapping import CODES
from handfast.server.chassis.logs.redaction import REDACTED
from handfast.users.v1 import users_pb2
from tests.eventually import eventually

from .conftest import Running

SECRET = "postgresql://admin:hunter2@db"


class UserNotFound(errors.NotFound):
    reason = "USER_NOT_FOUND"


class UserTaken(errors.AlreadyExists):
    reason = "USER_ALREADY_EXISTS"


class UserChanged(errors.Aborted):
    reason = "USER_CHANGED"


class Unknown(errors.OutcomeUnknown):
    reason = "OUTCOME_UNKNOWN"


class Kept(errors.FailedPrecondition):
    reason = "KEPT"


def keeps_its_error(_request: Any, _context: Any) -> None:
    error = Kept("It is in a variable of a function that is in its traceback.")
    raise error


def and_what_led_to_it(request: Any, context: Any) -> None:
    try:
        keeps_its_error(request, context)
    except Kept as first:
        again = first
        raise ValueError("for which no reason was given") from again


@pytest.mark.parametrize("behavior", [keeps_its_error, and_what_led_to_it])
def test_nothing_of_a_refused_call_waits_for_the_garbage_collector(running: Running, behavior: Any) -> None:
    gc.collect()
    gc.disable()
    try:
        running.failure(behavior)
        assert eventually(lambda: not any(isinstance(each, Kept) for each in gc.get_objects()))
    finally:
        gc.enable()


def raising(error: BaseException) -> Any:
    def behavior(_request: Any, _context: Any) -> None:
        raise error

    return behavior


@pytest.mark.parametrize(
    ("error", "code", "reason", "retry_seconds"),
    [
        (UserNotFound("m", user_id="ada"), grpc.StatusCode.NOT_FOUND, "USER_NOT_FOUND", None),
        (UserTaken("m", user_id="ada"), grpc.StatusCode.ALREADY_EXISTS, "USER_ALREADY_EXISTS", None),
        (UserChanged("m"), grpc.StatusCode.ABORTED, "USER_CHANGED", None),
        (UserChanged("m", retry_after=0.25), grpc.StatusCode.ABORTED, "USER_CHANGED", 0.25),
        (errors.InvalidMetadata("m", key="k"), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_METADATA", None),
        (errors.NotStageable("m"), grpc.StatusCode.FAILED_PRECONDITION, "NOT_STAGEABLE", None),
        (errors.ResponseTooLarge("m"), grpc.StatusCode.RESOURCE_EXHAUSTED, "RESPONSE_TOO_LARGE", None),
        (errors.Overloaded("m"), grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", 1.0),
        (errors.DuplicateValue("m"), grpc.StatusCode.ALREADY_EXISTS, "DUPLICATE_VALUE", None),
        (errors.ConstraintViolated("m"), grpc.StatusCode.FAILED_PRECONDITION, "CONSTRAINT_VIOLATED", None),
        (errors.InvalidValue("m"), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_VALUE", None),
        (errors.DatabaseConflict("m"), grpc.StatusCode.ABORTED, "DATABASE_CONFLICT", 0.05),
        (errors.DatabaseUnavailable("m"), grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE", 1.0),
        (errors.ShuttingDown("m"), grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN", 1.0),
        (errors.PeerUnavailable("m"), grpc.StatusCode.UNAVAILABLE, "PEER_UNAVAILABLE", 1.0),
        (errors.CallDeadlineExceeded("m"), grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", None),
        (errors.CallCancelled("m"), grpc.StatusCode.CANCELLED, "CANCELLED", None),
        (errors.UnknownMethod("m"), grpc.StatusCode.UNIMPLEMENTED, "UNKNOWN_METHOD", None),
        (Unknown("m", transaction_id="t"), grpc.StatusCode.UNKNOWN, "OUTCOME_UNKNOWN", None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_a_domain_error_reaches_the_caller_whole(
    running: Running,
    error: errors.DomainError,
    code: grpc.StatusCode,
    reason: str,
    retry_seconds: float | None,
) -> None:
    failure = running.failure(raising(error))
    assert (failure.code, failure.message) == (code, "m")
    assert (failure.info.reason, failure.info.domain) == (reason, "handfast.users")
    assert dict(failure.info.metadata) == error.values
    delays = [
        info.retry_delay.ToTimedelta().total_seconds() for info in failure.details_of(error_details_pb2.RetryInfo)
    ]
    assert delays == ([] if retry_seconds is None else [retry_seconds])
    assert failure.named_request_id == failure.request_id


def test_every_kind_of_domain_error_has_a_code() -> None:
    assert set(CODES) == set(errors.DomainError.__subclasses__())


def test_invalid_fields_name_every_violation(running: Running) -> None:
    violations = [
        Violation("user.email", "is required", "EMAIL_REQUIRED"),
        Violation("user.locale", "is no BCP 47 tag"),
    ]
    failure = running.failure(raising(errors.InvalidFields(violations)))
    (bad_request,) = failure.details_of(error_details_pb2.BadRequest)
    assert [(v.field, v.description, v.reason) for v in bad_request.field_violations] == [
        ("user.email", "is required", "EMAIL_REQUIRED"),
        ("user.locale", "is no BCP 47 tag", ""),
    ]
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT


def test_violations_are_collected_and_raised_together() -> None:
    def validate(*found: tuple[str, ...]) -> None:
        with errors.Violations.collect() as violations:
            for each in found:
                violations.add(*each)

    validate()
    with pytest.raises(errors.InvalidFields) as caught:
        validate(("user.email", "is required"), ("user.locale", "is no BCP 47 tag", "LOCALE"))
    assert caught.value.violations == (
        Violation("user.email", "is required"),
        Violation("user.locale", "is no BCP 47 tag", "LOCALE"),
    )
    assert caught.value.message == "user.email: is required; user.locale: is no BCP 47 tag"


def test_the_log_counts_violations_and_quotes_other_errors_without_personal_data(running: Running) -> None:
    failure = running.failure(raising(errors.InvalidFields([Violation("user.labels[ada]", "is wrong")] * 3)))
    line = running.call_log(failure.request_id)
    assert (line["error.reason"], line["error.domain"]) == ("INVALID_FIELDS", "handfast.users")
    assert line["error.violations"] == 3
    assert "error.message" not in line  # paths hold keys, which callers make up
    assert "exception" not in line

    def behavior(_request: Any, _context: Any) -> None:
        current().request = users_pb2.User(display_name="Ada Lovelace")
        raise UserNotFound("no user called Ada Lovelace")

    failure = running.failure(behavior)
    line = running.call_log(failure.request_id)
    assert line["error.message"] == f"no user called {REDACTED}"
    assert "error.violations" not in line
    assert failure.message == "no user called Ada Lovelace"


def _status(code: grpc.StatusCode, *details: Message) -> status_pb2.Status:
    status = status_pb2.Status(code=code.value[0], message="m")
    for detail in details:
        status.details.add().Pack(detail)
    return status


PUSHBACK = "grpc-retry-pushback-ms"
BY_A_PEER = error_details_pb2.ErrorInfo(reason="DATABASE_UNAVAILABLE", domain="handfast.preferences")


@pytest.mark.parametrize(
    ("error", "tried_again"),
    [
        (Unavailable("away"), True),
        (Unavailable("away", status_proto=_status(grpc.StatusCode.UNAVAILABLE, BY_A_PEER)), True),
        (NotFound("gone", status_proto=_status(grpc.StatusCode.NOT_FOUND, BY_A_PEER)), False),
        (Unimplemented("old"), False),
        (errors.DatabaseUnavailable("away"), False),
    ],
    ids=["nobody", "a peer", "a peer's not found", "an old server", "our own"],
)
def test_only_what_our_channel_has_tried_again_is_not_to_be_tried_again(
    running: Running, error: Exception, tried_again: bool
) -> None:
    assert running.failure(raising(error)).trailers.get(PUSHBACK) == ("-1" if tried_again else None)


@pytest.mark.parametrize(
    ("refusal", "reason", "code"),
    [
        (Unauthenticated, "UNAUTHENTICATED", grpc.StatusCode.UNAVAILABLE),
        (PermissionDenied, "SCOPE_MISSING", grpc.StatusCode.INTERNAL),
        (PermissionDenied, "NO_PERMISSION_DECLARED", grpc.StatusCode.INTERNAL),
    ],
)
def test_that_a_peer_did_not_let_this_server_in_is_not_blamed_on_its_caller(
    running: Running, refusal: type[ServiceError], reason: str, code: grpc.StatusCode
) -> None:
    status = _status(refusal.status, error_details_pb2.ErrorInfo(reason=reason, domain="handfast.users"))
    failure = running.failure(raising(refusal(status.message, status_proto=status)))
    assert (failure.code, reason in failure.everything) == (code, False)


def test_the_details_of_several_peers_come_as_one_of_each_kind(running: Running) -> None:
    violations = [error_details_pb2.BadRequest.FieldViolation(field=field, description="d") for field in "abc"]
    delays = [error_details_pb2.RetryInfo(retry_delay=Duration(seconds=seconds)) for seconds in (1, 2)]
    refused = _status(
        grpc.StatusCode.INVALID_ARGUMENT,
        BY_A_PEER,
        error_details_pb2.ErrorInfo(reason="OTHER", domain="handfast.other"),
        *delays,
        error_details_pb2.BadRequest(field_violations=violations[:2]),
        error_details_pb2.BadRequest(field_violations=violations[2:]),
    )
    failure = running.failure(raising(InvalidArgument("m", status_proto=refused)))
    assert failure.info == BY_A_PEER
    assert failure.details_of(error_details_pb2.RetryInfo) == delays[:1]
    assert failure.details_of(error_details_pb2.BadRequest) == [
        error_details_pb2.BadRequest(field_violations=violations)
    ]
    assert running.call_log(failure.request_id)["error.violations"] == 3


def test_of_a_caller_that_left_there_is_no_cause_to_look_for(running: Running) -> None:
    def behavior(_request: Any, _context: Any) -> None:
        current().grpc_ended_epoch_s = 1.0
        raise Cancelled("10.1.2.3")

    failure = running.failure(behavior)
    assert failure.info.reason == "CANCELLED"
    assert "exception" not in running.call_log(failure.request_id)


@pytest.mark.parametrize(
    "error", [RuntimeError(SECRET), KeyError(SECRET), SystemExit(SECRET), NotImplementedError(SECRET)], ids=repr
)
def test_nothing_of_an_unexpected_exception_reaches_the_caller_and_all_of_it_the_log(
    running: Running, error: BaseException
) -> None:
    failure = running.failure(raising(error))
    assert (failure.code, failure.info.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "hunter2" not in failure.everything
    line = running.call_log(failure.named_request_id)
    assert "hunter2" in line["exception"]
    assert "Traceback" in line["exception"]


class Nameless(errors.NotFound):
    reason = "USER_NOT_FOUND"

    def __init__(self) -> None:
        self.user_id = "ada"  # and its kind learns no message


@pytest.mark.parametrize(
    "new_error",
    [
        lambda: errors.NotFound("private"),  # a kind alone, which has no reason
        Nameless,
        lambda: UserNotFound("private", retry_after=float("inf")),
        lambda: grpc.RpcError("private"),
        Exception,
    ],
    ids=["no reason", "no message", "no end", "an error of gRPC", "as abort raises it"],
)
def test_an_error_that_is_made_wrongly_is_one_that_nobody_foresaw(running: Running, new_error: Any) -> None:
    def behavior(_request: Any, context: grpc.ServicerContext) -> None:
        context.set_code(grpc.StatusCode.NOT_FOUND)
        raise new_error()

    failure = running.failure(behavior)
    assert (failure.code, failure.info.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "private" not in failure.everything
    line = running.call_log(failure.request_id)
    assert line["grpc.code"] == "Internal"
    assert "in behavior" in line["exception"]


def test_a_handler_may_still_abort_by_itself(running: Running) -> None:
    def behavior(_request: Any, context: grpc.ServicerContext) -> None:
        context.abort(grpc.StatusCode.DATA_LOSS, "gone")

    failure = running.failure(behavior, metadata=(("x-request-id", "by-itself"),))
    assert (failure.code, failure.message) == (grpc.StatusCode.DATA_LOSS, "gone")
    assert running.call_log("by-itself")["grpc.code"] == "DataLoss"


def test_an_error_keeps_the_trailers_that_the_handler_set(running: Running) -> None:
    def behavior(_request: Any, context: grpc.ServicerContext) -> None:
        context.set_trailing_metadata((("handfast-hint", "42"),))
        raise UserNotFound("m")

    failure = running.failure(behavior)
    assert "handfast-hint" in failure.everything
    assert failure.info.reason == "USER_NOT_FOUND"


def test_what_a_peer_refused_passes_unchanged_but_for_the_request_id(running: Running) -> None:
    refused = status_pb2.Status(code=grpc.StatusCode.NOT_FOUND.value[0], message="no such preference")
    refused.details.add().Pack(error_details_pb2.ErrorInfo(reason="PREFERENCE_GONE", domain="handfast.preferences"))
    refused.details.add().Pack(error_details_pb2.RequestInfo(request_id="the peer's"))
    failure = running.failure(raising(NotFound("no such preference", status_proto=refused)))
    assert (failure.code, failure.message) == (grpc.StatusCode.NOT_FOUND, "no such preference")
    assert (failure.info.reason, failure.info.domain) == ("PREFERENCE_GONE", "handfast.preferences")
    assert failure.named_request_id == failure.request_id


def test_a_peer_that_does_not_answer_is_unavailable_and_its_address_stays_inside(running: Running) -> None:
    failure = running.failure(raising(Unavailable("failed to connect to 10.1.2.3:50051")))
    assert (failure.code, failure.info.reason) == (grpc.StatusCode.UNAVAILABLE, "PEER_UNAVAILABLE")
    assert failure.details_of(error_details_pb2.RetryInfo)
    assert "10.1.2.3" not in failure.everything
    line = running.call_log(failure.request_id)
    assert "10.1.2.3" in line["error.cause"]
    assert "exception" not in line


def test_a_peer_that_names_no_reason_gets_one_so_that_errors_have_one_shape(running: Running) -> None:
    refused = status_pb2.Status(code=grpc.StatusCode.NOT_FOUND.value[0], message="gone")
    refused.details.add().Pack(error_details_pb2.LocalizedMessage(locale="de", message="weg"))
    refused.details.add(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff\xff")
    failure = running.failure(raising(NotFound("gone", status_proto=refused)))
    assert (failure.code, failure.message) == (grpc.StatusCode.NOT_FOUND, "gone")
    assert (failure.info.reason, failure.info.domain) == ("PEER_REFUSED", "handfast.users")
    assert failure.details_of(error_details_pb2.LocalizedMessage)
    assert failure.named_request_id == failure.request_id


@pytest.mark.parametrize(
    ("error", "remaining", "code", "reason"),
    [
        (DeadlineExceeded("10.1.2.3"), 10, grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"),
        (Cancelled("10.1.2.3"), 0, grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"),
        (Cancelled("10.1.2.3"), 10, grpc.StatusCode.UNAVAILABLE, "PEER_UNAVAILABLE"),
        (Unimplemented("10.1.2.3"), 10, grpc.StatusCode.INTERNAL, "INTERNAL"),
    ],
    ids=["late", "cut at the deadline", "cut", "an old server"],
)
def test_what_grpc_itself_says_of_a_peer_is_put_in_our_words(
    running: Running, error: ServiceError, remaining: float, code: grpc.StatusCode, reason: str
) -> None:
    def behavior(_request: Any, _context: Any) -> None:
        current().deadline_monotonic_s = time.monotonic() + remaining
        raise error

    failure = running.failure(behavior)
    assert (failure.code, failure.info.reason) == (code, reason)
    assert "10.1.2.3" not in failure.everything
    expected = "exception" if reason == "INTERNAL" else "error.cause"
    assert "10.1.2.3" in running.call_log(failure.request_id)[expected]


def test_a_reply_that_is_too_large_says_by_how_much(running: Running) -> None:
    reply = users_pb2.GetUserResponse(user=users_pb2.User(display_name="x" * 5_000_000))
    failure = running.failure(lambda _request, _context: reply)
    assert (failure.code, failure.info.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RESPONSE_TOO_LARGE")
    assert dict(failure.info.metadata) == {"size": str(reply.ByteSize()), "limit": "4194304"}
