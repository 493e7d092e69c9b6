"""Calls go round the replicas of a server, those that are there and ready, and no call fails as these come and go."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from cryptography import x509

from handfast.client import TLS, Cancelled, DeadlineExceeded, Unavailable, aio, channel, connect, options, replicas
from handfast.client.replicas import Replicas
from handfast.server.chassis.pipeline import pools
from handfast.users.v1.users_pb2_grpc import UserServiceStub
from tests.eventually import PATIENCE, eventually
from tests.security.authority import Authority
from tests.silence import way_to

from .backend import WITHOUT_CONTRACT, Backend, serve
from .dns import dns_of
from .replicas import ADA, Replica, load_on


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(params=["plain text", "TLS"])
def secured(request: pytest.FixtureRequest, authority: Authority) -> tuple[dict[str, str], TLS | None]:
    """The settings of servers, and what clients are given."""
    if request.param == "plain text":
        return {}, None
    files = authority.server()
    return {"tls_certificate": str(files.certificate), "tls_key": str(files.key)}, TLS(ca=authority.file)


@contextlib.contextmanager
def started(*places: Any, **settings: Any) -> Iterator[list[Replica]]:
    running: list[Replica] = []
    try:
        for place in places:
            running.append(Replica(*place, **settings))
        yield running
    finally:
        for each in running:
            each.stop()


def test_calls_go_round_a_list_and_none_fails_as_replicas_stop_and_fall_ill_and_come_back(
    secured: tuple[dict[str, str], TLS | None],
) -> None:
    settings, tls = secured
    with started((), (), **settings) as (first, second), load_on(f"{first.address},{second.address}", tls):
        assert first.is_called_again()
        assert second.is_called_again()

        first.stop()
        assert second.is_called_again()
        first.start_again()
        assert first.is_called_again()

        second.is_ready = False
        assert second.is_called_no_more()
        second.is_ready = True
        assert second.is_called_again()
        assert first.is_called_again()


def test_no_call_fails_as_a_replica_is_killed_and_another_comes_in_its_place() -> None:
    with (
        started((), ()) as (first, second),
        way_to(first.address) as way,
        load_on(f"{way.address},{second.address}"),
    ):
        assert first.is_called_again()
        way.close()  # as if it were killed: connections break, and it cannot be reached
        assert first.is_called_no_more()
        assert second.is_called_again()
        with way_to(first.address, way.port):
            assert first.is_called_again()


def test_no_call_fails_as_a_replica_goes_silent() -> None:
    """Each call has ten seconds, in which it is made again on the other one."""
    with (
        started((), ()) as (first, second),
        way_to(first.address) as way,
        load_on(f"{way.address},{second.address}"),
    ):
        assert first.is_called_again()
        connections = way.connections
        way.silence()
        assert second.is_called_again()
        assert eventually(lambda: way.connections == 2 * connections)  # all clients have connected anew
        assert first.is_called_again()


def test_not_even_a_call_that_is_made_once_fails_as_a_replica_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "QUIET", 0.5)  # for a machine that pauses
    with started((), ()) as (first, second):
        address = f"{first.address},{second.address}"
        with grpc.insecure_channel(Replicas(address).target, options.plain(address)) as opened:
            users, over, outcomes = UserServiceStub(opened), threading.Event(), Counter[str]()

            def call() -> None:
                while not over.is_set():
                    try:
                        users.GetUser(ADA, timeout=PATIENCE)
                    except grpc.RpcError as error:
                        outcomes[str(error)] += 1

            calling = [threading.Thread(target=call) for _ in range(4)]
            for each in calling:
                each.start()
            for _ in range(2):
                assert first.is_called_again()
                first.stop()
                assert second.is_called_again()
                first.start_again()
            over.set()
            for each in calling:
                each.join()
    assert outcomes == Counter()


class Names:
    """What names stand for, in the look-ups of the client."""

    def __init__(self) -> None:
        self.ips: dict[str, list[str]] = {}
        self.go_on = threading.Event()
        """What names wait for that begin with `slow`."""
        self.waited_in_vain = False

    def look_up(self, name: str, port: int, **options: Any) -> list[Any]:
        if name in HOSTS:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (name, port))]
        if name.startswith("slow") and not self.go_on.wait(PATIENCE):
            self.waited_in_vain = True
        if not self.ips.get(name):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in self.ips[name]]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    """No name of this machine stands for other addresses from one moment to the next."""
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names.look_up)
    monkeypatch.setattr(replicas, "INTERVAL", 0.1)
    yield names
    names.go_on.set()


HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")


def test_a_replica_that_joins_a_name_is_called_soon_and_one_that_leaves_it_no_more(
    names: Names, secured: tuple[dict[str, str], TLS | None], authority: Authority
) -> None:
    settings, _ = secured
    if settings:  # the name is what certificates are checked for, not the addresses
        files = authority.server("named", hosts=[x509.DNSName("users.localhost")])
        settings = {"tls_certificate": str(files.certificate), "tls_key": str(files.key)}
    with (
        started((HOSTS[0],), **settings) as (first,),
        started(*((host, first.port) for host in HOSTS[1:]), **settings) as (second, third),
    ):
        names.ips["users.localhost"] = [HOSTS[0]]
        with load_on(f"dns:///users.localhost:{first.port}", secured[1]):
            assert first.is_called_again()
            names.ips["users.localhost"] += [HOSTS[1], HOSTS[2]]
            assert second.is_called_again()
            assert third.is_called_again()
            names.ips["users.localhost"].remove(HOSTS[0])
            assert first.is_called_no_more()
            assert eventually(lambda: not first.watchers())
            names.ips["users.localhost"] = []  # which is no reason to give up what is there
            assert second.is_called_again()


def test_a_list_of_names_goes_by_all_of_them(names: Names) -> None:
    with started(()) as (first,), started((HOSTS[1],), (HOSTS[2],)) as (second, third):
        names.ips = {"a.test": [HOSTS[0]]}
        with load_on(f"a.test:{first.port},b.test:{second.port},127.0.0.3:{third.port}"):
            assert first.is_called_again()
            assert third.is_called_again()
            names.ips["b.test"] = [HOSTS[1]]
            assert second.is_called_again()


def test_a_list_goes_by_all_but_the_name_whose_look_up_hangs(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "FIRST_PATIENCE", 0.1)
    with (
        started((), (HOSTS[1],), (HOSTS[2],)) as (first, second, third),
        load_on(f"slow.test:{third.port},b.test:{second.port},{first.address}"),
    ):
        assert first.is_called_again()
        names.ips["b.test"] = [HOSTS[1]]
        assert second.is_called_again()
        names.ips["slow.test"] = [HOSTS[2]]
        names.go_on.set()
        assert third.is_called_again()


def test_to_connect_waits_once_for_the_names_of_all_services(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "FIRST_PATIENCE", PATIENCE)
    together = threading.Barrier(3, action=names.go_on.set, timeout=PATIENCE)

    def look_up(name: str, port: int, **options: Any) -> list[Any]:
        if not names.go_on.is_set():
            together.wait()
        return names.look_up(HOSTS[0], port)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    connect(*(f"{name}.test:1,{HOSTS[1]}:1" for name in ("a", "b", "c"))).close()
    assert names.go_on.is_set()


def test_on_asyncio_a_block_waits_for_names_and_holds_up_nobody(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "FIRST_PATIENCE", 2 * PATIENCE)

    async def call(address: str) -> None:
        suite = aio.connect(address, address, address)
        entering = asyncio.ensure_future(suite.__aenter__())
        await asyncio.sleep(0)
        assert not entering.done()
        names.go_on.set()
        await entering
        await suite.users.GetUser(ADA)
        await suite.close()

    with started(()) as (first,):
        names.ips["slow-b.test"] = [HOSTS[0]]
        asyncio.run(call(f"slow-a.test:{first.port},slow-b.test:{first.port}"))
    assert not names.waited_in_vain


def test_calls_go_by_what_the_client_has_found_though_grpc_finds_nothing(names: Names) -> None:
    names.ips["users.invalid"] = [HOSTS[0]]  # which DNS does not know (RFC 6761)
    with started(()) as (first,), channel(f"users.invalid:{first.port}") as opened:
        users = UserServiceStub(opened)
        assert eventually(lambda: not _is_unavailable(users))


def test_a_dns_server_that_is_named_is_asked_when_a_connection_breaks() -> None:
    with (
        started((HOSTS[0],)) as (first,),
        started(*((host, first.port) for host in HOSTS[1:])) as (second, third),
        dns_of(*HOSTS[:2]) as dns,
        load_on(f"dns://127.0.0.1:{dns.port}/users.test:{first.port}"),
    ):
        assert first.is_called_again()
        assert second.is_called_again()
        dns.addresses = HOSTS[1:]
        first.stop()
        assert third.is_called_again()
        first.start_again()  # so that it can be stopped at the end


def test_a_client_watches_the_health_of_each_server_once(names: Names) -> None:
    """Also after a look-up that found another."""
    with started((HOSTS[0],)) as (first,), started((HOSTS[1], first.port)) as (second,):
        names.ips["users.localhost"] = [HOSTS[0]]
        with channel(f"users.localhost:{first.port}") as opened:
            users = UserServiceStub(opened)
            assert eventually(lambda: users.GetUser(ADA) and first.watchers() == 1)
            names.ips["users.localhost"] = [*HOSTS[:2]]
            assert eventually(lambda: users.GetUser(ADA) and second.watchers() == 1)
            assert eventually(lambda: first.watchers() == 1)


def test_no_two_channels_watch_health_by_one_connection() -> None:
    """Where two begin to in the same moment, grpcio crashes the process."""
    with started((), ()) as (first, second):
        address = f"{first.address},{second.address}"
        with channel(address) as one, channel(address) as other:
            users = [UserServiceStub(each) for each in (one, other)]
            assert eventually(lambda: all(each.GetUser(ADA) is not None for each in users) and first.watchers() == 2)


@pytest.mark.usefixtures("short_pauses")
def test_where_no_replica_is_ready_calls_fail_at_once_until_one_is() -> None:
    with (
        started((), ()) as (first, second),
        channel(f"{first.address},{second.address}") as opened,
        channel(first.address) as to_one,
    ):
        users = UserServiceStub(opened)
        users.GetUser(ADA)
        first.is_ready = second.is_ready = False
        assert eventually(lambda: _is_unavailable(users))
        UserServiceStub(to_one).GetUser(ADA)  # an address of one server has nothing to choose from
        second.is_ready = True
        assert eventually(lambda: not _is_unavailable(users))


def _is_unavailable(users: Any) -> bool:
    try:
        users.GetUser(ADA)
    except Unavailable:
        return True
    return False


@pytest.fixture
def streaming() -> Iterator[tuple[Backend, threading.Event]]:
    """A server whose streams wait for an event after their first message."""
    go_on = threading.Event()
    backend = Backend()
    backend.behave = lambda context, attempt: (
        backend.received[attempt - 1].method == "Count" and go_on.wait(60) and b"2"
    )
    server = serve(backend)
    yield backend, go_on
    go_on.set()
    server.stop(0).wait()


NAME = "users.localhost"


def count(opened: Any) -> Any:
    return opened.unary_stream(f"{WITHOUT_CONTRACT}/Count")(b"")


def test_what_is_under_way_goes_on_as_a_name_stands_for_others(
    names: Names, streaming: tuple[Backend, threading.Event]
) -> None:
    backend, go_on = streaming
    port = int(backend.address.rpartition(":")[2])
    names.ips[NAME] = [HOSTS[0]]
    seen: list[grpc.ChannelConnectivity] = []
    with started((HOSTS[1], port)) as (other,), channel(f"{NAME}:{port}") as opened:
        opened.subscribe(seen.append, try_to_connect=True)
        stream = count(opened)
        assert next(stream) == b"1"
        seen.clear()
        names.ips[NAME] = [HOSTS[1]]
        users = UserServiceStub(opened)
        assert eventually(lambda: users.GetUser(ADA) and other.calls)
        assert eventually(lambda: grpc.ChannelConnectivity.READY in seen)  # who watches the channel moves on
        go_on.set()
        assert list(stream) == [b"2"]


def test_closing_a_channel_ends_what_is_under_way_where_its_name_stood_before(
    names: Names, streaming: tuple[Backend, threading.Event]
) -> None:
    backend, _ = streaming
    port = int(backend.address.rpartition(":")[2])
    names.ips[NAME] = [HOSTS[0]]
    with started((HOSTS[1], port)) as (other,), channel(f"{NAME}:{port}") as opened:
        stream = count(opened)
        assert next(stream) == b"1"
        names.ips[NAME] = [HOSTS[1]]
        users = UserServiceStub(opened)
        assert eventually(lambda: users.GetUser(ADA) and other.calls)
        opened.close()
        with pytest.raises(Cancelled):
            next(stream)


def test_what_is_under_way_goes_on_as_a_name_stands_for_others_on_asyncio(
    names: Names, streaming: tuple[Backend, threading.Event]
) -> None:
    backend, go_on = streaming
    port = int(backend.address.rpartition(":")[2])
    names.ips[NAME] = [HOSTS[0]]

    async def call(other: Replica) -> None:
        async with aio.channel(f"{NAME}:{port}") as opened:
            await opened.channel_ready()
            stream = count(opened)
            cut = count(opened)
            assert await stream.read() == await cut.read() == b"1"
            waiting = asyncio.ensure_future(opened.wait_for_state_change(grpc.ChannelConnectivity.READY))
            names.ips[NAME] = [HOSTS[1]]
            await asyncio.wait_for(waiting, PATIENCE)
            await opened.channel_ready()
            users: Any = UserServiceStub(opened)
            await users.GetUser(ADA)
            assert other.calls
            go_on.set()
            assert await stream.read() == b"2"
            cut.cancel()

    with started((HOSTS[1], port)) as (other,):
        asyncio.run(call(other))


def test_addresses_of_both_families_make_one_list() -> None:
    both = Replicas("10.0.0.2:1,[::1]:3,10.0.0.1:2")
    assert both.target == "ipv6:[::ffff:10.0.0.1]:2,[::ffff:10.0.0.2]:1,[::1]:3"
    assert Replicas("10.0.0.2:1,10.0.0.1:2").target == "ipv4:10.0.0.1:2,10.0.0.2:1"
    assert Replicas("[::1]:3").target == "[::1]:3"


def test_a_proxy_is_given_names_and_lists_go_without(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    names.ips["users.example.com"] = [HOSTS[0]]
    replicas = Replicas("users.example.com:50051")
    names.ips["users.example.com"] = [HOSTS[1]]
    with started(()) as (first,), load_on(f"users.example.com:{first.port},127.0.0.1:{first.port}"):
        assert first.is_called_again()
    assert replicas.target == "users.example.com:50051"


@pytest.mark.parametrize("around", [{"no_grpc_proxy": "other.test, Example.com"}, {"grpc_proxy": ""}])
def test_a_name_that_goes_around_the_proxy_is_looked_up_as_others_are(
    names: Names, monkeypatch: pytest.MonkeyPatch, around: dict[str, str]
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    for name, value in around.items():
        monkeypatch.setenv(name, value)
    with started((HOSTS[0],)) as (first,), started((HOSTS[1], first.port)) as (second,):
        names.ips["users.example.com"] = [HOSTS[0]]
        with channel(f"users.example.com:{first.port}", timeout=1) as opened:
            users = UserServiceStub(opened)
            assert eventually(lambda: _is_answered(users) and first.calls)
            names.ips["users.example.com"] = [HOSTS[1]]
            assert eventually(lambda: _is_answered(users) and second.calls)


def _is_answered(users: Any) -> bool:
    with contextlib.suppress(Unavailable, DeadlineExceeded):
        users.GetUser(ADA)
        return True
    return False


def test_by_tls_a_list_of_several_hosts_needs_the_name_that_their_certificates_have(authority: Authority) -> None:
    tls = TLS(ca=authority.file)
    for open_channel in (channel, aio.channel):
        with pytest.raises(ValueError, match=r"^tls\.server_name: is needed for a:1,b:1: "):
            open_channel("a:1,b:1", tls=tls)
        with pytest.raises(ValueError, match=r"^credentials: do not go with a list of several hosts, such as a:1,b:1,"):
            open_channel("a:1,b:1", credentials=grpc.ssl_channel_credentials())
    channel("users.invalid:1,Users.invalid.:2", tls=tls).close()  # which is one name
    for name in ("users:50051", "", "two names"):
        with pytest.raises(ValueError, match=r"^tls\.server_name: must be the name of a host, without a port"):
            TLS(server_name=name)
    with pytest.raises(TypeError, match=r"^tls\.server_name: must be a str, not int"):
        TLS(server_name=1)  # type: ignore[arg-type]

    files = authority.server("replica", hosts=[x509.DNSName("users.internal")])
    settings = {"tls_certificate": str(files.certificate), "tls_key": str(files.key)}
    with started(HOSTS[:1], HOSTS[1:2], **settings) as (first, second):
        address = f"{first.address},{second.address}"
        with load_on(address, TLS(ca=authority.file, server_name="users.internal")):
            assert first.is_called_again()
            assert second.is_called_again()
        with channel(address, tls=TLS(ca=authority.file, server_name="accounts.internal")) as opened:
            assert _is_unavailable(UserServiceStub(opened))


def test_a_token_goes_in_plain_text_to_no_list_with_a_host_that_is_elsewhere(names: Names) -> None:
    names.ips["elsewhere"] = [HOSTS[0]]  # for now
    with pytest.raises(ValueError, match=r"^token: is sent in plain text to this machine only, and 127.+ is elsewhere"):
        channel("127.0.0.1:1,elsewhere:1", token="abc")


class Owner:
    """What an application has that closes its channel as it ends."""

    def __init__(self, owned: grpc.Channel, ended: threading.Event) -> None:
        self.itself = self  # so that only the garbage collector finds it
        self.owned, self.ended = owned, ended

    def __del__(self) -> None:
        self.owned.close()
        self.ended.set()


@pytest.fixture
def collected_on_demand() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("collected_on_demand")
def test_a_channel_can_be_closed_by_the_garbage_collector_as_it_moves(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()
    module: Any = sys.modules[channel.__module__]
    make = module._grpc_channel

    def make_while_collecting(target: str, *arguments: Any) -> grpc.Channel:
        made: grpc.Channel = make(target, *arguments)
        if HOSTS[1] in target:
            gc.collect()
        return made

    monkeypatch.setattr(module, "_grpc_channel", make_while_collecting)
    names.ips[NAME] = [HOSTS[0]]
    with started((HOSTS[0],)) as (first,), started((HOSTS[1], first.port)) as (second,):
        opened = channel(f"{NAME}:{first.port}")
        users = UserServiceStub(opened)
        users.GetUser(ADA)
        Owner(opened, ended)
        names.ips[NAME] = [HOSTS[1]]
        assert ended.wait(PATIENCE)
        assert eventually(lambda: not first.watchers() and not second.watchers())
        with pytest.raises(ValueError, match="closed"):
            users.GetUser(ADA)
