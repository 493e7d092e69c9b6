"""What callers get to see of an error, synchronous and asyncio alike."""

from __future__ import annotations

import asyncio
import pickle
import threading

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from handfast import client
from handfast.client import (
    Aborted,
    AlreadyExists,
    FieldViolation,
    Internal,
    InvalidArgument,
    NotFound,
    OutcomeUnknown,
    ServiceError,
    Unavailable,
    Unknown,
    aio,
    channel,
)
from handfast.users.v1.users_pb2 import GetUserRequest
from handfast.users.v1.users_pb2_grpc import UserServiceStub

from .backend import Backend, error_info, retry_info, rich_status

REQUEST_INFO = error_details_pb2.RequestInfo(request_id="from-the-server")

CLASSES = {
    grpc.StatusCode.CANCELLED: client.Cancelled,
    grpc.StatusCode.UNKNOWN: client.Unknown,
    grpc.StatusCode.INVALID_ARGUMENT: client.InvalidArgument,
    grpc.StatusCode.DEADLINE_EXCEEDED: client.DeadlineExceeded,
    grpc.StatusCode.NOT_FOUND: client.NotFound,
    grpc.StatusCode.ALREADY_EXISTS: client.AlreadyExists,
    grpc.StatusCode.PERMISSION_DENIED: client.PermissionDenied,
    grpc.StatusCode.RESOURCE_EXHAUSTED: client.ResourceExhausted,
    grpc.StatusCode.FAILED_PRECONDITION: client.FailedPrecondition,
    grpc.StatusCode.ABORTED: client.Aborted,
    grpc.StatusCode.OUT_OF_RANGE: client.OutOfRange,
    grpc.StatusCode.UNIMPLEMENTED: client.Unimplemented,
    grpc.StatusCode.INTERNAL: client.Internal,
    grpc.StatusCode.UNAVAILABLE: client.Unavailable,
    grpc.StatusCode.DATA_LOSS: client.DataLoss,
    grpc.StatusCode.UNAUTHENTICATED: client.Unauthenticated,
}


def failure(address: str, face: str) -> ServiceError:
    """The error of a call that fails, made with one face of the client."""

    async def call_asynchronously() -> None:
        async with aio.channel(address) as opened:
            await UserServiceStub(opened).GetUser(GetUserRequest())

    def call() -> None:
        with channel(address) as opened:
            stub = UserServiceStub(opened)
            stub.GetUser(GetUserRequest()) if face == "sync" else stub.GetUser.future(GetUserRequest()).result()

    with pytest.raises(ServiceError) as caught:
        asyncio.run(call_asynchronously()) if face == "aio" else call()
    return caught.value


each_face = pytest.mark.parametrize("face", ["sync", "future", "aio"])


def test_every_status_code_but_ok_has_a_class() -> None:
    assert set(CLASSES) == set(grpc.StatusCode) - {grpc.StatusCode.OK}


@pytest.mark.parametrize("code", CLASSES, ids=lambda code: code.name)
@pytest.mark.usefixtures("short_pauses")
def test_a_status_without_details_becomes_the_class_of_its_code(backend: Backend, code: grpc.StatusCode) -> None:
    backend.fail(10, code)
    error = failure(backend.address, "sync")
    assert type(error) is CLASSES[code]
    assert (error.code(), error.status, error.details(), error.message) == (code, code, "on purpose", "on purpose")
    assert (error.service, error.reason, error.metadata, error.violations) == ("", "", {}, ())
    assert error.status_proto is None
    assert not error.retryable
    assert error.request_id == backend.received[-1].metadata["x-request-id"]
    assert isinstance(error, grpc.RpcError)
    assert isinstance(error.__cause__, grpc.RpcError)


@each_face
def test_details_tell_service_reason_values_and_request(backend: Backend, face: str) -> None:
    backend.fail_with(
        rich_status(
            grpc.StatusCode.NOT_FOUND,
            "No user has the id 'zoë'",
            error_info("USER_NOT_FOUND", user_id="zoë"),
            REQUEST_INFO,
        )
    )
    error = failure(backend.address, face)
    assert type(error) is NotFound
    assert error.message == "No user has the id 'zoë'"
    assert (error.service, error.reason, error.metadata) == ("handfast.users", "USER_NOT_FOUND", {"user_id": "zoë"})
    assert error.request_id == "from-the-server"
    assert str(error) == (
        "handfast.users NOT_FOUND USER_NOT_FOUND: No user has the id 'zoë' (request id from-the-server)"
    )
    assert rpc_status.from_call(error) == error.status_proto
    assert "grpc-status-details-bin" in dict(error.trailing_metadata())


def test_violations_name_the_fields(backend: Backend) -> None:
    violation = error_details_pb2.BadRequest.FieldViolation(
        field="user.email", description="is required", reason="REQUIRED"
    )
    backend.fail_with(
        rich_status(
            grpc.StatusCode.INVALID_ARGUMENT,
            "user.email: is required",
            error_info("INVALID_FIELDS"),
            error_details_pb2.BadRequest(field_violations=[violation]),
        )
    )
    error = failure(backend.address, "sync")
    assert type(error) is InvalidArgument
    assert error.violations == (FieldViolation("user.email", "is required", "REQUIRED"),)


@pytest.mark.parametrize(
    ("details", "retry_after"),
    [([retry_info(0, 50_000_000)], 0.05), ([error_details_pb2.RetryInfo()], 0.0), ([], None)],
    ids=["a delay", "at once", "none"],
)
def test_an_error_is_retryable_exactly_when_it_has_retry_info(
    backend: Backend, details: list[object], retry_after: float | None
) -> None:
    backend.fail_with(rich_status(grpc.StatusCode.ABORTED, "conflict", error_info("PENDING_CHANGE"), *details))
    error = failure(backend.address, "sync")
    assert type(error) is Aborted
    assert error.retry_after == retry_after
    assert error.retryable is (retry_after is not None)


@pytest.mark.parametrize(
    ("seconds", "nanos", "retry_after"),
    [(2**62, 0, 2.0**62), (-5, 0, 0.0), (0, 2**31 - 1, 2.147483647), (1, -500_000_000, 0.5)],
    ids=["beyond a duration", "negative", "nanos beyond a second", "two signs"],
)
def test_a_malformed_delay_does_not_hide_the_error(
    backend: Backend, seconds: int, nanos: int, retry_after: float
) -> None:
    backend.fail_with(rich_status(grpc.StatusCode.ABORTED, "conflict", retry_info(seconds, nanos)))
    error = failure(backend.address, "sync")
    assert (type(error), error.retry_after) == (Aborted, retry_after)


@each_face
@pytest.mark.parametrize(("reason", "expected"), [("OUTCOME_UNKNOWN", OutcomeUnknown), ("SOMETHING_ELSE", Unknown)])
def test_an_unknown_outcome_is_an_error_of_its_own(
    backend: Backend, face: str, reason: str, expected: type[Unknown]
) -> None:
    backend.fail_with(rich_status(grpc.StatusCode.UNKNOWN, "who knows", error_info(reason, transaction_id="t")))
    error = failure(backend.address, face)
    assert type(error) is expected
    assert isinstance(error, Unknown)
    assert error.metadata == {"transaction_id": "t"}


@pytest.mark.parametrize("trailer", [b"\xff\xff", b""], ids=["garbage", "another status"])
def test_details_that_contradict_the_status_are_left_aside(backend: Backend, trailer: bytes) -> None:
    def behave(context: grpc.ServicerContext, attempt: int) -> None:
        context.set_trailing_metadata((("grpc-status-details-bin", trailer),))
        context.abort(grpc.StatusCode.INTERNAL, "broken")

    backend.behave = behave
    error = failure(backend.address, "sync")
    assert type(error) is Internal
    assert (error.message, error.status_proto) == ("broken", None)


@each_face
@pytest.mark.usefixtures("short_pauses")
def test_a_refused_connection_is_unavailable_under_the_request_id_that_was_sent(face: str) -> None:
    error = failure("127.0.0.1:1", face)
    assert type(error) is Unavailable
    assert error.reason == ""
    assert len(error.request_id) == 36


def test_metadata_of_the_reply_can_be_read(backend: Backend) -> None:
    def behave(context: grpc.ServicerContext, attempt: int) -> None:
        context.send_initial_metadata((("x-request-id", "first"),))
        context.set_trailing_metadata((("handfast-staged", "users"),))
        context.abort(grpc.StatusCode.ABORTED, "no")

    backend.behave = behave
    for face in ("sync", "future", "aio"):
        error = failure(backend.address, face)
        assert dict(error.initial_metadata())["x-request-id"] == "first"
        assert dict(error.trailing_metadata())["handfast-staged"] == "users"


def test_an_error_survives_pickling(backend: Backend) -> None:
    backend.fail_with(rich_status(grpc.StatusCode.ALREADY_EXISTS, "taken", error_info("EMAIL_TAKEN"), REQUEST_INFO))
    error = failure(backend.address, "sync")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is AlreadyExists
    assert (str(copy), copy.reason, copy.status_proto) == (str(error), error.reason, error.status_proto)


def test_a_handler_that_crashes_is_unknown_to_its_caller(backend: Backend) -> None:
    def behave(context: grpc.ServicerContext, attempt: int) -> None:
        raise threading.BrokenBarrierError

    backend.behave = behave
    assert type(failure(backend.address, "sync")) is Unknown
