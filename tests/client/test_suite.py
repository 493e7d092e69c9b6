"""Finding the services, and closing."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import grpc
import pytest

from handfast.client import Suite, aio, channel, connect
from handfast.client.addresses import check_address, resolve_address
from handfast.client.security.given import CA, CERTIFICATE, KEY, TOKEN_FILE
from handfast.transactions.v1.transactions_pb2 import GetTransactionRequest
from handfast.users.v1.users_pb2 import GetUserRequest
from handfast.users.v1.users_pb2_grpc import UserServiceStub

from .backend import Backend


@pytest.fixture(autouse=True)
def _no_addresses_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for service in ("USERS", "PREFERENCES", "ACCOUNTS"):
        monkeypatch.delenv(f"HANDFAST_{service}_ADDRESS", raising=False)


def test_an_argument_goes_before_the_environment_and_that_before_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_address("preferences", None) == "127.0.0.1:50052"
    monkeypatch.setenv("HANDFAST_PREFERENCES_ADDRESS", "prefs:1")
    assert resolve_address("preferences", None) == "prefs:1"
    assert resolve_address("preferences", "other:2") == "other:2"


@pytest.mark.parametrize(
    "address",
    [
        "localhost:50051", "10.0.0.1:1", "[::1]:50051", "dns:///users.internal:50051", "dns://8.8.8.8/users:50051",
        "dns:users:50051", "ipv4:10.0.0.1:50051,10.0.0.2:50051", "ipv6:[::1]:50051",
        "a:50051,b:50051", "10.0.0.1:1,[::1]:1,a:1", "unix:/run/users.sock",
        "unix-abstract:users", "unix:/run/a,b.sock", "xds:///users", "[fe80::1%eth0]:1", "a_b.c-d.:1",
    ],
)  # fmt: skip
def test_addresses_of_grpc_are_taken(address: str) -> None:
    assert check_address(address, setting="address") == address


@pytest.mark.parametrize(
    "address", ["", " ", "localhost", "localhost:", ":50051", "localhost:0", "localhost:99999", "::1:50051",
                "http://localhost:50051", "localhost:http", "localhost:50051/users", "a:1,b",
                "a:1,,b:1", "a:1,b:1,", "a:1, b:1", "dns:///a:1,b:1", "a:1,unix:/run/b",
                "a:1,dns:///b:1", "unix:/run/a,unix:/run/b", "unix:/run/a,b:1", "ipv4:users:1", "ipv4:[::1]:1",
                "ipv6:10.0.0.1:1", "[zzz]:1", "[10.0.0.1]:1", "a:\u0661", "a?b:1", "bücher.example:1", "a\tb:1"],
)  # fmt: skip
def test_a_bad_address_is_refused_by_the_name_of_its_setting(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    with pytest.raises(ValueError, match=r"^users: "):
        connect(users=address)
    with pytest.raises(ValueError, match=r"^address: "):
        channel(address)
    monkeypatch.setenv("HANDFAST_ACCOUNTS_ADDRESS", address)
    with pytest.raises(ValueError, match=r"^HANDFAST_ACCOUNTS_ADDRESS: "):
        connect()


def test_the_address_of_a_participant_comes_from_an_argument_or_the_environment(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect(participants={"credits": backend.address}) as suite:
        assert suite.stub(UserServiceStub, "credits").GetUser(GetUserRequest(user_id="ada")).user.user_id == "ada"
        assert suite.stub(UserServiceStub, "users").GetUser is not None
        with pytest.raises(ValueError, match=r"^vouchers: where is it\? .*participants.* HANDFAST_VOUCHERS_ADDRESS"):
            suite.stub(UserServiceStub, "vouchers")
        with pytest.raises(ValueError, match=r"^no such: where is it\? .* HANDFAST_NO_SUCH_ADDRESS$"):
            suite.stub(UserServiceStub, "no such")
        with suite.transaction() as tx, pytest.raises(ValueError, match=r"^vouchers: where is it\?"):
            tx.stub(UserServiceStub, "vouchers")
        monkeypatch.setenv("HANDFAST_GIFT_VOUCHERS_ADDRESS", backend.address)
        suite.stub(UserServiceStub, "gift-vouchers").GetUser(GetUserRequest())
        monkeypatch.setenv("HANDFAST_POINTS_ADDRESS", "nowhere")
        with pytest.raises(ValueError, match=r"^HANDFAST_POINTS_ADDRESS: "):
            suite.stub(UserServiceStub, "points")

    async def calls() -> None:
        async with aio.connect(participants={"credits": backend.address}) as suite:
            assert (await suite.stub(UserServiceStub, "credits").GetUser(GetUserRequest())).user.user_id == ""
            with pytest.raises(ValueError, match=r"^vouchers: where is it\?"):
                suite.stub(UserServiceStub, "vouchers")

    asyncio.run(calls())


def test_participants_that_cannot_be_are_refused() -> None:
    for opening in (connect, aio.connect):
        with pytest.raises(ValueError, match=r"^participants\['credits'\]: 'nowhere' is no address"):
            opening(participants={"credits": "nowhere"})
        with pytest.raises(ValueError, match=r"^participants: give the address of users by the argument users"):
            opening(participants={"users": "localhost:1"})
        with pytest.raises(TypeError, match=r"^participants: must be names and addresses, not list"):
            opening(participants=["credits"])  # type: ignore[arg-type]


def test_the_channels_of_participants_are_closed_with_the_suite(backend: Backend) -> None:
    with connect(participants={"credits": backend.address}) as suite:
        stub = suite.stub(UserServiceStub, "credits")
    with pytest.raises(ValueError, match="closed channel"):
        stub.GetUser(GetUserRequest())


def test_a_suite_calls_each_service_where_it_is(backend: Backend) -> None:
    with connect(users=backend.address, accounts=backend.address) as suite:
        assert isinstance(suite, Suite)
        assert suite.users.GetUser(GetUserRequest(user_id="ada")).user.user_id == "ada"
        suite.transactions.GetTransaction(GetTransactionRequest(transaction_id="t"))
    assert [received.method for received in backend.received] == ["GetUser", "GetTransaction"]


def test_an_asyncio_suite_makes_calls_side_by_side(backend: Backend) -> None:
    async def calls() -> None:
        async with aio.connect(users=backend.address) as suite:
            replies = await asyncio.gather(*(suite.users.GetUser(GetUserRequest(user_id=str(i))) for i in range(5)))
            assert [reply.user.user_id for reply in replies] == ["0", "1", "2", "3", "4"]
            call = suite.users.GetUser(GetUserRequest())
            assert await call.code() is grpc.StatusCode.OK
            await call.initial_metadata()
            await call

    asyncio.run(calls())


def test_an_asyncio_call_can_be_cancelled(backend: Backend) -> None:
    async def calls() -> None:
        async with aio.connect(users=backend.address) as suite:
            call = suite.users.GetUser(GetUserRequest())
            assert call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

    asyncio.run(calls())


def test_a_closed_suite_makes_no_calls(backend: Backend) -> None:
    suite = connect(users=backend.address)
    suite.close()
    with pytest.raises(ValueError, match="closed channel"):
        suite.users.GetUser(GetUserRequest())


def test_a_channel_tells_when_it_is_ready(backend: Backend) -> None:
    with channel(backend.address) as opened:
        grpc.channel_ready_future(opened).result(timeout=5)

    async def ready() -> None:
        async with aio.channel(backend.address) as opened:
            await opened.channel_ready()
            assert opened.get_state() is grpc.ChannelConnectivity.READY

    asyncio.run(ready())


def loaded_by(imports: str, names: str) -> list[str]:
    """The modules with such names that a program has loaded after these imports; `names` is a condition on `name`."""
    script = f"import sys, {imports}\nprint(*sorted(name for name in sys.modules if {names}))"
    return subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()


@pytest.mark.parametrize("client", ["handfast.client", "handfast.client.aio"])
def test_a_program_that_calls_one_service_loads_no_stubs_of_the_others(client: str) -> None:
    stubs = "name.startswith('handfast.') and name.endswith('_pb2_grpc')"
    loaded = loaded_by(f"{client}, handfast.users.v1.users_pb2_grpc", stubs)
    assert loaded == ["handfast.users.v1.users_pb2_grpc"]


@pytest.mark.parametrize("client", ["handfast.client", "handfast.client.aio"])
def test_a_program_without_tls_and_a_token_loads_nothing_of_them(monkeypatch: pytest.MonkeyPatch, client: str) -> None:
    for name in (CA, CERTIFICATE, KEY, TOKEN_FILE):
        monkeypatch.delenv(name, raising=False)
    opened = "asyncio.run(connected())" if client.endswith("aio") else "client.connect()"
    script = f"asyncio, {client} as client\nasync def connected(): client.connect()\n{opened}"
    loaded = loaded_by(script, "name.startswith('handfast.client.security.')")
    assert loaded == ["handfast.client.security.given"]


@pytest.mark.parametrize("client", ["handfast.client", "handfast.client.aio"])
def test_the_client_loads_no_protobuf_before_there_is_a_stub(client: str) -> None:
    assert loaded_by(client, "name.startswith('google')") == []
