"""How many calls each caller may make."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_status import rpc_status

from handfast.server.chassis.errors import TooManyCalls
from handfast.server.chassis.security.identity import Identity
from handfast.server.chassis.security.rate import MAX_IDENTITIES, CallRate
from handfast.server.process.settings import ServerSettings, SettingsError
from handfast.users.v1.users_pb2 import GetUserRequest, GetUserResponse
from handfast.users.v1.users_pb2_grpc import UserServiceStub
from tests.chassis.conftest import new_server, new_users
from tests.security.issuer import Issuer, bearer

ADA, BOB = Identity.of_token("issuer", "ada", ["users.read"]), Identity.of_token("issuer", "bob", ["users.read"])


class Clock:
    seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def calls(rate: CallRate, identity: Identity) -> int:
    """How many calls it can make at once; 1000 stands for any number."""
    for count in range(1000):
        try:
            rate.check(identity)
        except TooManyCalls:
            return count
    return 1000


def test_a_caller_may_make_so_many_calls_at_once_and_then_so_many_a_second() -> None:
    clock = Clock()
    rate = CallRate(10, 5, clock)
    assert calls(rate, ADA) == 5
    clock.seconds += 0.3
    assert calls(rate, ADA) == 3
    clock.seconds += 3600
    assert calls(rate, ADA) == 5


def test_the_caller_is_told_when_the_next_call_is_let_in() -> None:
    clock = Clock()
    rate = CallRate(4, 1, clock)
    rate.check(ADA)
    with pytest.raises(TooManyCalls) as refused:
        rate.check(ADA)
    assert refused.value.retry_after == pytest.approx(0.25)
    clock.seconds += 0.25
    rate.check(ADA)


def test_one_caller_takes_nothing_from_another() -> None:
    rate = CallRate(1, 3, Clock())
    assert (calls(rate, ADA), calls(rate, BOB)) == (3, 3)


def test_servers_of_the_suite_are_not_counted_as_they_call_for_others() -> None:
    rate = CallRate(1, 1, Clock())
    for scope in ("callers.forward", "branches.write", "transactions.resolve"):
        assert calls(rate, Identity.of_certificate("spiffe://example.test/server", [scope])) == 1000


def test_so_many_callers_are_kept_and_those_who_were_not_here_for_longest_are_forgotten() -> None:
    rate = CallRate(1, 1, Clock())
    rate.check(ADA)
    for number in range(MAX_IDENTITIES - 1):
        rate.check(Identity.of_token("issuer", str(number), []))
    assert calls(rate, ADA) == 0
    rate.check(BOB)
    assert len(rate._full_at_s) == MAX_IDENTITIES
    assert calls(rate, ADA) == 1


def test_without_authentication_there_is_no_rate() -> None:
    with pytest.raises(SettingsError, match=r"--calls-per-second-per-caller .* needs --authentication"):
        ServerSettings(name="users", listen="127.0.0.1:0", calls_per_second_per_caller=1)


@pytest.fixture
def stub(issuer: Issuer, tmp_path: Path) -> Iterator[UserServiceStub]:
    """Of a server that lets each caller make two calls, and then one a second."""
    users = new_users()
    users.behavior = lambda request, context: GetUserResponse()
    server = new_server(users, calls_per_second_per_caller=1, calls_burst_per_caller=2, **issuer.settings(tmp_path))
    server.start()
    with closing(grpc.insecure_channel(server.address)) as channel:
        yield UserServiceStub(channel)
    server.stop()


def test_a_server_refuses_calls_beyond_the_rate_before_it_reads_them(stub: UserServiceStub, issuer: Issuer) -> None:
    ada, bob = (bearer(issuer.token(each, ["users.read"])) for each in ("ada", "bob"))
    codes = []
    for _ in range(20):  # on a machine that stands still for a second, one more of these is let in
        try:
            stub.GetUser(GetUserRequest(user_id="ada"), metadata=ada)
        except grpc.RpcError as error:
            codes.append(error.code())
            status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert grpc.StatusCode.RESOURCE_EXHAUSTED in codes
    assert status is not None
    info, retry = ErrorInfo(), RetryInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    assert any(detail.Unpack(retry) for detail in status.details)
    assert info.reason == "TOO_MANY_CALLS"
    assert 0 < retry.retry_delay.ToMilliseconds() <= 1000
    stub.GetUser(GetUserRequest(user_id="ada"), metadata=bob)
