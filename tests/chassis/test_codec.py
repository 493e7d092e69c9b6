from __future__ import annotations

import grpc
import pytest

from handfast.server.chassis.pipeline.layer import metadata_size
from handfast.users.v1 import users_pb2

from .conftest import Failure, Running

GET_USER = "/handfast.users.v1.UserService/GetUser"
TRANSACTION = (("handfast-transaction-id", "t"), ("handfast-operation", "1"))


def refused(running: Running, path: str, request: bytes = b"", metadata: tuple[tuple[str, str], ...] = ()) -> Failure:
    with pytest.raises(grpc.RpcError) as caught:
        running.channel.unary_unary(path)(request, metadata=metadata, timeout=5)
    return Failure(caught.value)


def test_bytes_that_are_no_request_are_refused_with_details(running: Running) -> None:
    failure = refused(running, GET_USER, b"\xff\xff\xff")
    assert (failure.code, failure.info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "UNPARSABLE_REQUEST")
    assert running.call_log(failure.named_request_id)["grpc.code"] == "InvalidArgument"


def test_a_request_that_is_too_large_says_by_how_much(running: Running) -> None:
    failure = refused(running, GET_USER, b"x" * 4_194_305)
    assert (failure.code, failure.info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_TOO_LARGE")
    assert dict(failure.info.metadata) == {"size": "4194305", "limit": "4194304"}


@pytest.mark.parametrize(
    "method",
    ["handfast.users.v1.UserService/Fly", "no.such.Service/Method", "handfast.users.v1.UserService/ListUsers"],
    ids=["unknown method", "unknown service", "in the contract, not implemented"],
)
def test_an_unknown_method_is_refused_by_name(running: Running, method: str) -> None:
    failure = refused(running, "/" + method)
    assert (failure.code, failure.info.reason) == (grpc.StatusCode.UNIMPLEMENTED, "UNKNOWN_METHOD")
    assert dict(failure.info.metadata) == {"method": method}
    line = running.call_log(failure.named_request_id)
    assert f"{line['grpc.service']}/{line['grpc.method']}" == method


def test_unknown_methods_count_under_one_label_however_they_are_called(running: Running) -> None:
    sample = (
        'grpc_server_handled_total{grpc_code="Unimplemented",grpc_method="unknown",'
        'grpc_service="unknown",grpc_type="unknown"}'
    )
    before = running.metric(sample)
    ids = [refused(running, f"/made.Up/Method{number}").request_id for number in range(3)]
    for request_id in ids:
        running.call_log(request_id)
    assert running.metric(sample) == before + 3


def test_a_method_that_takes_no_part_in_transactions_refuses_their_metadata(running: Running) -> None:
    failure = refused(running, GET_USER, metadata=TRANSACTION)
    assert (failure.code, failure.info.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NOT_STAGEABLE")
    assert dict(failure.info.metadata) == {"method": "handfast.users.v1.UserService/GetUser"}


def test_a_stageable_method_gets_its_transaction_metadata(running: Running) -> None:
    request = users_pb2.UpdateUserRequest(user=users_pb2.User(user_id="ada"))
    assert running.stub.UpdateUser(request, metadata=TRANSACTION).user.user_id == "ada"


def test_health_checks_do_not_mind_transaction_metadata(running: Running) -> None:
    reply = running.channel.unary_unary("/grpc.health.v1.Health/Check")(b"", metadata=TRANSACTION)
    assert reply == b"\x08\x01"  # SERVING


def test_metadata_is_counted_as_http_2_does() -> None:
    """RFC 9113, 6.5.2: key, value, and 32 bytes for each entry. `test_accounting.py` finds the limit."""
    assert metadata_size(()) == 0
    assert metadata_size((("one", "12345"), ("two-bin", b"1"))) == 3 + 5 + 32 + 7 + 1 + 32
