"""TLS and mutual TLS by files, which are read anew when they change, without a call that fails for that."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest

from handfast.client import TLS, Unavailable, aio, channel, connect
from handfast.client.security import secret_files
from handfast.client.security import tls as tls_module
from handfast.server.chassis.peers import peer_channel
from handfast.server.chassis.start_errors import StartError
from handfast.server.process.settings import ServerSettings
from handfast.users.v1 import users_pb2_grpc
from handfast.users.v1.users_pb2 import GetUserRequest
from handfast.users.v1.users_pb2_grpc import UserServiceStub
from tests.eventually import PATIENCE, eventually
from tests.security.authority import Authority, Files, replace

from .backend import Backend, UserService

ADA = GetUserRequest(user_id="ada")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("first"), "first")


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("second"), "second")


def client_of(authority: Authority, name: str) -> Files:
    return authority.client(name, spiffe="")


def write(folder: Path, ca: Authority, client: Files) -> None:
    """The three files of a client, each replaced as a whole."""
    replace(folder / "ca.pem", ca.pem)
    client.replace(Files(folder / "client.pem", folder / "client.key"))


class SecureBackend(Backend):
    """Takes what the authorities `trusted` have issued, and proves itself by a certificate of `issuer`."""

    def start(self, issuer: Authority, *trusted: Authority, port: int = 0) -> None:
        own = issuer.server()
        pair = own.key.read_bytes(), own.certificate.read_bytes()
        roots = b"".join(each.pem for each in trusted)
        credentials = grpc.ssl_server_credentials([pair], roots, require_client_auth=True)
        self.server = grpc.server(futures.ThreadPoolExecutor(8), options=(("grpc.so_reuseport", 0),))
        users_pb2_grpc.add_UserServiceServicer_to_server(UserService(self), self.server)  # type: ignore[abstract]
        self.address = f"localhost:{self.server.add_secure_port(f'127.0.0.1:{port}', credentials)}"
        self.server.start()

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])


@pytest.fixture
def backend(first: Authority, second: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[SecureBackend]:
    monkeypatch.setattr(tls_module, "CHECK_SECONDS", 0.0)
    backend = SecureBackend()
    backend.start(first, first, second)
    yield backend
    backend.server.stop(0).wait()


@pytest.fixture
def files(first: Authority, tmp_path: Path) -> TLS:
    write(tmp_path, first, client_of(first, "one.client"))
    return TLS(tmp_path / "ca.pem", tmp_path / "client.pem", tmp_path / "client.key")


def callers(backend: Backend) -> list[tuple[str, str]]:
    """The connection and the last name in the certificate of each call, as `name_callers` took them down."""
    return [(str(each.metadata["peer"]), str(each.metadata["name"])) for each in backend.received]


def name_callers(backend: Backend) -> None:
    def behave(context: grpc.ServicerContext, attempt: int) -> None:
        names: Any = context.auth_context().get(
            "peer_dns", context.auth_context().get("x509_subject_alternative_name", [])
        )
        backend.received[attempt - 1].metadata.update(peer=context.peer(), name=names[-1].decode())

    backend.behave = behave


def test_new_files_are_used_at_once_by_a_new_connection(
    backend: SecureBackend, files: TLS, second: Authority, first: Authority, tmp_path: Path
) -> None:
    name_callers(backend)
    with channel(backend.address, tls=files) as opened:
        users = UserServiceStub(opened)
        users.GetUser(ADA)
        users.GetUser(ADA)
        write(tmp_path, first, client_of(second, "two.client"))
        users.GetUser(ADA)
    (one, name), (same, _), (other, new_name) = callers(backend)
    assert (one == same, one == other) == (True, False)
    assert (name, new_name) == ("one.client", "two.client")


def test_asyncio_uses_new_files_at_once_too(
    backend: SecureBackend, files: TLS, second: Authority, first: Authority, tmp_path: Path
) -> None:
    name_callers(backend)

    async def call() -> None:
        async with aio.channel(backend.address, tls=files) as opened:
            users: Any = UserServiceStub(opened)
            await users.GetUser(ADA)
            write(tmp_path, first, client_of(second, "two.client"))
            await users.GetUser(ADA)

    asyncio.run(call())
    assert [name for _, name in callers(backend)] == ["one.client", "two.client"]


def hold(backend: Backend) -> tuple[threading.Event, threading.Event]:
    """The first call is answered when the second event is set; the first says that it has come."""
    came, go_on = threading.Event(), threading.Event()

    def behave(context: grpc.ServicerContext, attempt: int) -> None:
        if attempt == 1:
            came.set()
            go_on.wait(PATIENCE)

    backend.behave = behave
    return came, go_on


def connections(port: int) -> int:
    """Established ones to a port of this machine, of this process and all others."""
    tables = (Path("/proc/net") / name for name in ("tcp", "tcp6"))
    ends = [line.split()[2:4] for table in tables for line in table.read_text().splitlines()[1:]]
    return sum(remote.endswith(f"0100007F:{port:04X}") and state == "01" for remote, state in ends)


@pytest.mark.parametrize("way", ["blocking", "future", "begun"])
def test_a_call_in_flight_ends_on_the_old_connection_which_is_closed_then(
    backend: SecureBackend, files: TLS, first: Authority, tmp_path: Path, way: str
) -> None:
    came, go_on = hold(backend)
    with channel(backend.address, tls=files) as opened, futures.ThreadPoolExecutor(1) as pool:
        method: Any = UserServiceStub(opened).GetUser
        ways: dict[str, Any] = {"blocking": lambda: pool.submit(method, ADA), "future": lambda: method.future(ADA)}
        begun = ways.get(way, lambda: method.begin(ADA))()
        assert came.wait(PATIENCE)
        write(tmp_path, first, client_of(first, "two.client"))
        method(ADA)
        assert connections(backend.port) == 2
        go_on.set()
        assert begun.result().user.user_id == "ada"
        del begun
        assert eventually(lambda: connections(backend.port) == 1)


def test_an_asyncio_call_in_flight_ends_on_the_old_connection_which_is_closed_then(
    backend: SecureBackend, files: TLS, first: Authority, tmp_path: Path
) -> None:
    came, go_on = hold(backend)

    async def call() -> None:
        async with aio.channel(backend.address, tls=files) as opened:
            users: Any = UserServiceStub(opened)
            begun = asyncio.ensure_future(users.GetUser(ADA))
            await asyncio.to_thread(came.wait, PATIENCE)
            write(tmp_path, first, client_of(first, "two.client"))
            await users.GetUser(ADA)
            assert connections(backend.port) == 2
            go_on.set()
            assert (await begun).user.user_id == "ada"
            del begun
            assert await asyncio.to_thread(eventually, lambda: connections(backend.port) == 1)

    asyncio.run(call())


def test_who_watches_the_connectivity_moves_on_to_the_new_connection(
    backend: SecureBackend, files: TLS, second: Authority, first: Authority, tmp_path: Path
) -> None:
    seen: list[grpc.ChannelConnectivity] = []
    with channel(backend.address, tls=files) as opened:
        opened.subscribe(seen.append, try_to_connect=True)
        assert eventually(lambda: seen[-1:] == [grpc.ChannelConnectivity.READY])
        write(tmp_path, first, client_of(second, "two.client"))
        UserServiceStub(opened).GetUser(ADA)
        assert eventually(lambda: connections(backend.port) == 1)
        seen.clear()
        backend.server.stop(0).wait()
        assert eventually(lambda: len(seen) > 0)
        opened.unsubscribe(seen.append)


@pytest.mark.usefixtures("short_pauses")
def test_who_waits_for_a_channel_to_be_ready_moves_on_to_the_new_connection(
    backend: SecureBackend, files: TLS, second: Authority, first: Authority, tmp_path: Path
) -> None:
    write(tmp_path, second, client_of(first, "one.client"))  # which does not vouch for the server
    with channel(backend.address, tls=files) as opened:
        ready = grpc.channel_ready_future(opened)
        with pytest.raises(Unavailable):
            UserServiceStub(opened).GetUser(ADA)
        write(tmp_path, first, client_of(first, "one.client"))
        UserServiceStub(opened).GetUser(ADA)
        ready.result(PATIENCE)


def test_who_waits_for_an_asyncio_channel_to_be_ready_moves_on_to_the_new_connection(
    backend: SecureBackend,
    files: TLS,
    second: Authority,
    first: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tls_module, "CHECK_SECONDS", 0.01)
    write(tmp_path, second, client_of(first, "one.client"))  # which does not vouch for the server

    async def wait() -> None:
        async with aio.channel(backend.address, tls=files) as opened:
            ready = asyncio.ensure_future(opened.channel_ready())
            while opened.get_state() is not grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                await asyncio.sleep(0.01)
            write(tmp_path, first, client_of(first, "one.client"))
            await asyncio.wait_for(ready, PATIENCE)
            assert opened.get_state() is grpc.ChannelConnectivity.READY

    asyncio.run(wait())


@pytest.mark.usefixtures("short_pauses")
def test_a_server_of_another_authority_is_found_by_files_that_changed_since(
    backend: SecureBackend,
    files: TLS,
    second: Authority,
    first: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tls_module, "CHECK_SECONDS", 1e9)
    with channel(backend.address, tls=files) as opened:
        users = UserServiceStub(opened)
        users.GetUser(ADA)
        port = backend.port
        backend.server.stop(0).wait()
        backend.start(second, first, second, port=port)
        with pytest.raises(Unavailable):
            users.GetUser(ADA)
        write(tmp_path, second, client_of(second, "two.client"))
        assert users.GetUser(ADA).user.user_id == "ada"


def test_files_that_do_not_fit_together_are_left_alone_until_they_do(
    backend: SecureBackend, files: TLS, first: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name_callers(backend)
    two = client_of(first, "two.client")
    with channel(backend.address, tls=files) as opened:
        users = UserServiceStub(opened)
        users.GetUser(ADA)
        (tmp_path / "client.pem").write_bytes(two.certificate.read_bytes())
        users.GetUser(ADA)
        assert "cannot be used; the old ones stay in use" in caplog.text
        (tmp_path / "client.key").write_bytes(two.key.read_bytes())
        users.GetUser(ADA)
    assert [name for _, name in callers(backend)] == ["one.client", "one.client", "two.client"]


def test_files_that_change_while_they_are_read_are_read_again(
    backend: SecureBackend, files: TLS, first: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_key, two = (tmp_path / "client.key").read_bytes(), client_of(first, "two.client")
    replace(tmp_path / "client.pem", two.certificate.read_bytes())
    read, given = secret_files.read_secret, list[tuple[bytes | None, ...]]()

    def replaced_when_read(path: Path, setting: str) -> bytes:
        content = read(path, setting)
        replace(path, two.key.read_bytes())
        monkeypatch.setattr(tls_module, "read_secret", read)
        return content

    def keep(*pem: bytes | None) -> grpc.ChannelCredentials:
        given.append(pem)
        return grpc.local_channel_credentials()

    monkeypatch.setattr(tls_module, "read_secret", replaced_when_read)
    monkeypatch.setattr(grpc, "ssl_channel_credentials", keep)
    with channel(backend.address, tls=files):
        ((_, key, certificate),) = given
    assert key != one_key
    assert (key, certificate) == (two.key.read_bytes(), two.certificate.read_bytes())


def test_a_token_goes_with_it(backend: SecureBackend, files: TLS) -> None:
    with channel(backend.address, tls=files, token=lambda: "abc") as opened:
        UserServiceStub(opened).GetUser(ADA)
        UserServiceStub(opened).GetUser(ADA)
    assert [each.metadata["authorization"] for each in backend.received] == ["Bearer abc"] * 2


def test_the_environment_names_the_files(backend: SecureBackend, files: TLS, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANDFAST_CA", str(files.ca))
    monkeypatch.setenv("HANDFAST_CERTIFICATE", str(files.certificate))
    with pytest.raises(ValueError, match=r"^HANDFAST_KEY: is needed, too: a certificate is used with its key$"):
        connect()
    monkeypatch.setenv("HANDFAST_KEY", str(files.key))
    with connect(users=backend.address) as suite:
        assert suite.users.GetUser(ADA).user.user_id == "ada"

    async def call() -> None:
        async with aio.connect(users=backend.address) as suite:
            assert (await suite.users.GetUser(ADA)).user.user_id == "ada"

    asyncio.run(call())


def test_errors_name_the_variable_or_the_flag_that_is_at_fault(
    files: TLS, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def opened_by_environment(value: str) -> None:
        monkeypatch.setenv("HANDFAST_SERVER_NAME", value)
        connect(users="a:1,b:1")

    def opened_by_flags(value: str) -> None:
        settings = ServerSettings(name="users", listen="127.0.0.1:0", peer_ca=str(files.ca), peer_server_name=value)
        peer_channel(settings, "a:1,b:1")

    monkeypatch.setenv("HANDFAST_CA", str(files.ca))
    for opened, name in (
        (opened_by_environment, "^HANDFAST_SERVER_NAME: "),
        (opened_by_flags, "^cannot call a:1,b:1 by the settings --peer-…: --peer-server-name: "),
    ):
        for value, says in (("", "is needed for a:1,b:1"), ("a:1", "must be the name of a host, without a port, not")):
            with pytest.raises((ValueError, StartError), match=name + says):
                opened(value)
    nothing = tmp_path / "nothing.pem"
    nothing.write_text("nothing")
    monkeypatch.setenv("HANDFAST_CA", str(nothing))
    monkeypatch.delenv("HANDFAST_SERVER_NAME")
    with pytest.raises(ValueError, match=r"^HANDFAST_CA: .*nothing\.pem has no certificate in PEM"):
        connect()


def test_servers_call_each_other_by_their_settings(backend: SecureBackend, files: TLS, tmp_path: Path) -> None:
    name_callers(backend)
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text("abc\n")
    own: dict[str, Any] = {"tls_certificate": str(files.certificate), "tls_key": str(files.key)}
    settings = ServerSettings(name="users", listen="127.0.0.1:0", peer_ca=str(files.ca), peer_token=str(token), **own)
    with peer_channel(settings, backend.address) as opened:
        UserServiceStub(opened).GetUser(ADA)
    assert [name for _, name in callers(backend)] == ["one.client"]
    assert backend.received[0].metadata["authorization"] == "Bearer abc"


def test_a_server_sends_no_token_in_plain_text_to_another_machine(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text("abc\n")
    settings = ServerSettings(name="users", listen="127.0.0.1:0", peer_token=str(token))
    with pytest.raises(StartError, match=r"^cannot call users\.example\.com:1 .*to this machine only"):
        peer_channel(settings, "users.example.com:1")


def test_a_key_that_others_can_reach_is_refused_until_it_is_its_owners_alone(
    backend: SecureBackend, files: TLS, first: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name_callers(backend)
    key = tmp_path / "client.key"
    says = f"tls.key: {key} can be reached by others than its owner (mode 0640); say chmod 600 {key}"
    key.chmod(0o640)
    with pytest.raises(ValueError, match=f"^{re.escape(says)}$"):
        channel("localhost:1", tls=files)
    key.chmod(0o600)
    with channel(backend.address, tls=files) as opened:
        users = UserServiceStub(opened)
        write(tmp_path, first, client_of(first, "two.client"))
        key.chmod(0o640)
        users.GetUser(ADA)
        assert says in caplog.text
        key.chmod(0o600)
        users.GetUser(ADA)
    assert [name for _, name in callers(backend)] == ["one.client", "two.client"]


def test_files_that_cannot_be_used_are_named(files: TLS, first: Authority, tmp_path: Path) -> None:
    other = tmp_path / "other.key"
    replace(other, client_of(first, "other").key.read_bytes())
    nothing = tmp_path / "nothing.pem"
    nothing.write_text("nothing")
    for wrong, says in (
        (TLS(ca=tmp_path / "absent.pem"), r"^tls\.ca: cannot read .*absent\.pem: No such file"),
        (TLS(ca=nothing), r"^tls\.ca: .*nothing\.pem has no certificate in PEM"),
        (TLS(files.ca, files.certificate, other), r"^tls\.certificate: .*other\.key are no certificate and its key"),
    ):
        with pytest.raises(ValueError, match=says):
            channel("localhost:1", tls=wrong)
    with pytest.raises(ValueError, match=r"^tls\.key: is needed, too"):
        TLS(certificate=files.certificate)
    with pytest.raises(ValueError, match=r"^tls: cannot be given beside credentials"):
        channel("localhost:1", tls=files, credentials=grpc.ssl_channel_credentials())
