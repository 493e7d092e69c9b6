"""Servers by TLS: who gets in, by which certificates, and that these can be renewed while the server runs."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import os
import shutil
import socket
import ssl
import struct
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import Info

from handfast.server.chassis.operations import endpoint
from handfast.server.chassis.security import transport
from handfast.server.chassis.server import Server
from handfast.server.process.settings import ServerSettings
from tests.eventually import eventually
from tests.security.authority import HOUR, Authority, Files, replace

PATIENCE = 20.0
SERVING = health_pb2.HealthCheckResponse.SERVING
FAILURES = "handfast_certificate_reload_failures_total"


class Place:
    """A server with files of its own, and those who call it."""

    def __init__(self, folder: Path, *, mutual: bool = True, **settings: Any) -> None:
        self.folder = folder
        self.authority = Authority(folder)
        self.files = self.authority.server()
        self.client = self.authority.client()
        self.ca = folder / "client-ca.pem"
        replace(self.ca, self.authority.pem)
        self.server = Server(
            ServerSettings(
                name="users",
                listen="127.0.0.1:0",
                tls_client_ca=os.fspath(self.ca) if mutual else "",
                grace=0.5,
                **{"tls_certificate": os.fspath(self.files.certificate), "tls_key": os.fspath(self.files.key)}
                | settings,
            ),
            domain="handfast.users",
            services=[],
        )
        self.server.start()

    def channel(self, ca: bytes | None = None, client: Files | None = None) -> grpc.Channel:
        pair = (None, None) if client is None else (client.key.read_bytes(), client.certificate.read_bytes())
        credentials = grpc.ssl_channel_credentials(ca or self.authority.pem, *pair)
        # Or channels to the same address would share a connection.
        return grpc.secure_channel(self.server.address, credentials, [("grpc.use_local_subchannel_pool", 1)])

    def code(self, channel: grpc.Channel) -> grpc.StatusCode:
        """The status of a call, OK where it was served."""
        with channel:
            try:
                assert check(channel).status == SERVING
            except grpc.RpcError as error:
                return error.code()
        return grpc.StatusCode.OK

    def metric(self, name: str, **labels: str) -> float | None:
        for metric in self.server.metrics.registry.collect():
            for sample in metric.samples:
                if sample.name == name and sample.labels == labels:
                    return float(sample.value)
        return None

    def shown_certificate(self) -> bytes:
        """The certificate that the server shows to who connects now, in PEM."""
        context = self.context(self.client)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with self.connected(context) as connection:
            shown = connection.getpeercert(binary_form=True)
        assert shown is not None
        return ssl.DER_cert_to_PEM_cert(shown).encode()

    def context(self, client: Files | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.authority.file)
        context.set_alpn_protocols(["h2"])
        if client is not None:
            context.load_cert_chain(client.certificate, client.key)
        return context

    @contextlib.contextmanager
    def connected(
        self, context: ssl.SSLContext, session: ssl.SSLSession | None = None, port: int | None = None
    ) -> Iterator[ssl.SSLSocket]:
        with (
            socket.create_connection(("127.0.0.1", port or self.server.port), PATIENCE) as plain,
            context.wrap_socket(plain, server_hostname="localhost", session=session) as connection,
        ):
            yield connection

    def get(self, path: str, client: Files | None = None) -> tuple[int, str]:
        url = self.server.metrics_url.removesuffix("/metrics") + path
        context = self.context(client)
        context.set_alpn_protocols(["http/1.1"])
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE, context=context) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


def check(channel: grpc.Channel) -> health_pb2.HealthCheckResponse:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    reply: health_pb2.HealthCheckResponse = stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
    return reply


def connected_by_a_brief_certificate(place: Place) -> grpc.Channel:
    """On a machine that pauses, one of a few seconds may expire before it is shown."""
    for seconds in (3, 10, 30):
        lasts = datetime.timedelta(seconds=seconds)
        channel = place.channel(client=place.authority.client("brief", lasts=lasts))
        with contextlib.suppress(grpc.RpcError):
            check(channel)
            break
        channel.close()
    return channel


@pytest.fixture(scope="module")
def mutual(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A server that asks for certificates, and whose files nobody changes."""
    place = Place(tmp_path_factory.mktemp("mutual"))
    yield place
    place.server.stop()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A server whose files a test may change."""
    place = Place(tmp_path)
    yield place
    place.server.stop()


class TestWhoGetsIn:
    def test_who_has_a_certificate_of_the_ca_gets_in(self, mutual: Place) -> None:
        assert mutual.code(mutual.channel(client=mutual.client)) is grpc.StatusCode.OK

    @pytest.mark.parametrize("caller", ["plain text", "no certificate", "another CA", "expired", "not yet valid"])
    def test_nobody_else_does(self, caller: str, mutual: Place, tmp_path: Path) -> None:
        minute = datetime.timedelta(minutes=1)
        ways: dict[str, Callable[[], grpc.Channel]] = {
            "plain text": lambda: grpc.insecure_channel(mutual.server.address),
            "no certificate": mutual.channel,
            "another CA": lambda: mutual.channel(client=Authority(tmp_path).client()),
            "expired": lambda: mutual.channel(client=mutual.authority.client("late", lasts=-minute)),
            "not yet valid": lambda: mutual.channel(
                client=mutual.authority.client("early", starts=HOUR, lasts=2 * HOUR)
            ),
        }
        assert mutual.code(ways[caller]()) is grpc.StatusCode.UNAVAILABLE
        assert mutual.code(mutual.channel(client=mutual.client)) is grpc.StatusCode.OK

    def test_a_caller_does_not_take_a_server_of_another_ca_for_it(self, mutual: Place, tmp_path: Path) -> None:
        stranger = Authority(tmp_path)
        assert mutual.code(mutual.channel(stranger.pem, mutual.client)) is grpc.StatusCode.UNAVAILABLE

    def test_without_a_ca_of_callers_no_certificate_is_asked_for(self, tmp_path: Path) -> None:
        place = Place(tmp_path, mutual=False)
        try:
            assert place.code(place.channel()) is grpc.StatusCode.OK
            assert place.code(grpc.insecure_channel(place.server.address)) is grpc.StatusCode.UNAVAILABLE
            assert place.get("/metrics")[0] == 200
        finally:
            place.server.stop()

    @pytest.mark.parametrize(("port", "refused"), [("calls", 2), ("metrics", 3)])
    def test_tls_is_1_2_at_least_and_1_3_for_metrics(self, port: str, refused: int, mutual: Place) -> None:
        number = mutual.server.port if port == "calls" else mutual.server.metrics_port
        context = mutual.context(mutual.client)
        context.set_ciphers("ALL:@SECLEVEL=0")  # or this end would not even offer the old versions
        for place, version in enumerate(("TLSv1", "TLSv1_1", "TLSv1_2", "TLSv1_3")):
            context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
            context.maximum_version = ssl.TLSVersion[version]
            if place < refused:
                with pytest.raises((ssl.SSLError, ConnectionError)), mutual.connected(context, port=number):
                    pass
            else:
                with mutual.connected(context, port=number) as connection:
                    assert connection.version() == version.replace("_", ".")

    def session(self, context: ssl.SSLContext, place: Place, port: int) -> ssl.SSLSession | None:
        with place.connected(context, port=port) as connection:
            if port == place.server.metrics_port:
                connection.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
            connection.recv(1)  # what the server tells of the session comes before that
            return connection.session

    @pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
    def test_a_caller_proves_itself_anew_after_some_minutes(
        self, version: str, mutual: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An earlier session that is taken up again passes though its certificate has expired meanwhile."""
        context = mutual.context(mutual.client)
        context.maximum_version = ssl.TLSVersion[version]
        session = self.session(context, mutual, mutual.server.port)
        with mutual.connected(context, session) as connection:
            connection.recv(1)
            assert connection.session_reused
            session = connection.session
        monkeypatch.setattr(transport, "SESSION_LIFETIME", 0.0)  # as if as long had passed
        with mutual.connected(context, session) as connection:
            assert not connection.session_reused

    def test_nobody_takes_up_a_session_of_a_ca_that_counts_no_more(self, place: Place, tmp_path: Path) -> None:
        context = place.context(place.client)
        session = self.session(context, place, place.server.port)
        replace(place.ca, Authority(tmp_path, "new").pem)
        answer = b""
        with (
            contextlib.suppress(ssl.SSLError, ConnectionError),
            place.connected(context, session) as connection,
        ):
            answer = connection.recv(1)
        assert answer == b""

    def test_who_leaves_before_metrics_end_leaves_no_trace_in_the_log(
        self, mutual: Place, capfd: pytest.CaptureFixture[str]
    ) -> None:
        mutual.server.metrics.registry.register(info := Info("large", "More than buffers take"))
        info.info({"text": "x" * 20_000_000})
        try:
            with mutual.connected(mutual.context(mutual.client), port=mutual.server.metrics_port) as connection:
                connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
                connection.recv(1)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            served: Any = mutual.server._endpoint
            assert eventually(lambda: not served._server._ends_monotonic_s)
        finally:
            mutual.server.metrics.registry.unregister(info)
        assert capfd.readouterr().err == ""

    def test_for_metrics_each_connection_proves_itself_anew(self, mutual: Place) -> None:
        context = mutual.context(mutual.client)
        session = self.session(context, mutual, mutual.server.metrics_port)
        with mutual.connected(context, session, mutual.server.metrics_port) as connection:
            assert not connection.session_reused


class TestMetrics:
    def test_probes_need_no_certificate_and_metrics_do(self, mutual: Place) -> None:
        assert mutual.server.metrics_url.startswith("https://")
        assert mutual.get("/livez") == (200, "ok\n")
        assert mutual.get("/readyz") == (200, "ok\n")
        assert mutual.get("/metrics") == (403, "Metrics are for those who have a client certificate.\n")
        status, text = mutual.get("/metrics", mutual.client)
        assert status == 200
        assert "grpc_server_started_total" in text
        assert mutual.get("/other")[0] == 404

    def test_a_certificate_that_is_not_good_does_not_pass_for_none(self, mutual: Place, tmp_path: Path) -> None:
        with pytest.raises((urllib.error.URLError, OSError)):
            mutual.get("/livez", Authority(tmp_path).client())

    def test_who_connects_and_says_nothing_keeps_nobody_waiting(self, mutual: Place) -> None:
        with socket.create_connection(("127.0.0.1", mutual.server.metrics_port), PATIENCE):
            assert mutual.get("/livez")[0] == 200

    def test_probes_are_answered_beside_many_who_are_slow(self, mutual: Place) -> None:
        before = threading.active_count()
        address = ("127.0.0.1", mutual.server.metrics_port)
        with contextlib.ExitStack() as stack:
            for _ in range(5 * endpoint.MAX_CONNECTIONS):
                slow = stack.enter_context(socket.create_connection(address, PATIENCE))
                with contextlib.suppress(ConnectionError):
                    slow.sendall(b"\x16")  # where a handshake begins
            assert mutual.get("/livez")[0] == 200
            assert threading.active_count() <= before + endpoint.MAX_CONNECTIONS

    def test_a_connection_has_an_end_though_bytes_keep_coming(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(endpoint, "TIMEOUT", 0.3)
        place = Place(tmp_path, mutual=False, tls_certificate="", tls_key="")
        try:
            with socket.create_connection(("127.0.0.1", place.server.metrics_port), PATIENCE) as slow:

                def has_ended() -> bool:
                    try:
                        slow.sendall(b"G")
                    except ConnectionError:
                        return True
                    return False

                assert eventually(has_ended)
        finally:
            place.server.stop()

    def test_they_tell_when_certificates_expire(self, mutual: Place) -> None:
        own = mutual.server.settings.own_certificates()
        assert own is not None
        for role in ("tls_certificate", "tls_client_ca"):
            expiry = mutual.metric("handfast_certificate_expiry_timestamp_seconds", role=role)
            assert expiry == own.expiry[role]


class TestRenewal:
    def test_certificates_wait_for_the_connections_that_have_asked_before(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without that the process crashes, at one change in some hundred while connections come and go."""
        paused: list[float] = []
        monkeypatch.setattr(time, "sleep", paused.append)
        tls = transport.ServerTls(place.server.settings)
        handover = transport._Handover(lambda: tls.watched.current().calls, mutual=True)
        assert handover._ask() is None
        place.authority.server("next").replace(place.files)
        assert handover._ask() is tls.watched.current().calls
        assert paused == [transport.SETTLING]
        assert handover._ask() is None

    def test_the_next_connection_gets_the_new_certificate(self, place: Place) -> None:
        before = place.shown_certificate()
        place.authority.server("next", lasts=2 * HOUR).replace(place.files)
        after = place.shown_certificate()
        assert after != before
        assert after.strip() in place.files.certificate.read_bytes()
        assert place.get("/livez") == (200, "ok\n")
        own = place.server.settings.own_certificates()
        assert own is not None
        role = {"role": "tls_certificate"}
        assert place.metric("handfast_certificate_expiry_timestamp_seconds", **role) == own.expiry["tls_certificate"]
        assert place.metric(FAILURES) == 0

    def test_while_key_and_certificate_do_not_match_the_last_good_ones_stay(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(transport, "RETRY_INTERVAL", 3600.0)
        before = place.shown_certificate()
        following = place.authority.server("next")
        replace(place.files.certificate, following.certificate.read_bytes())
        assert place.shown_certificate() == before
        assert place.shown_certificate() == before
        assert place.get("/livez")[0] == 200
        assert place.metric(FAILURES) == 1, "the same files are not tried again at once"
        replace(place.files.key, following.key.read_bytes())
        assert place.shown_certificate() != before
        assert place.metric(FAILURES) == 1

    @pytest.mark.parametrize("harm", ["removed", "emptied", "readable by others", "expired"])
    def test_what_cannot_be_used_is_not(self, harm: str, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(transport, "RETRY_INTERVAL", 3600.0)
        before = place.shown_certificate()
        match harm:
            case "removed":
                place.files.key.unlink()
            case "emptied":
                place.ca.write_bytes(b"")
            case "readable by others":
                replace(place.files.key, place.files.key.read_bytes())
                place.files.key.chmod(0o644)
            case "expired":
                place.authority.server("late", lasts=-datetime.timedelta(minutes=1)).replace(place.files)
        assert place.shown_certificate() == before
        assert place.code(place.channel(client=place.client)) is grpc.StatusCode.OK
        assert place.metric(FAILURES) == 1
        place.server._tls.watched._retry_at_monotonic_s = 0.0  # type: ignore[union-attr]  # as if it were long ago
        assert place.metric(FAILURES) == 2

    def test_files_that_kubernetes_mounts_are_taken_when_it_swaps_them(self, tmp_path: Path) -> None:
        """A secret there is a folder of links to files beneath `..data`, a link that is replaced in one step."""
        authority, volume = Authority(tmp_path), tmp_path / "volume"
        volume.mkdir()

        def swap(version: str) -> Files:
            files = authority.server(version)
            (volume / version).mkdir()
            shutil.copy(files.certificate, volume / version / "tls.crt")
            shutil.copy(files.key, volume / version / "tls.key")
            (volume / "..data_tmp").symlink_to(version)
            (volume / "..data_tmp").rename(volume / "..data")
            return files

        swap("..2026_11_26")
        for name in ("tls.crt", "tls.key"):
            (volume / name).symlink_to(Path("..data", name))
        mounted = {"tls_certificate": str(volume / "tls.crt"), "tls_key": str(volume / "tls.key")}
        place = Place(tmp_path, mutual=False, **mounted)
        try:
            before = place.shown_certificate()
            after = swap("..2026_11_27")
            assert place.shown_certificate().strip() in after.certificate.read_bytes()
            assert place.shown_certificate() != before
            assert place.metric(FAILURES) == 0
        finally:
            place.server.stop()

    def test_a_file_of_cas_may_say_in_any_language_whose_they_are(self, place: Place, tmp_path: Path) -> None:
        new = Authority(tmp_path, "new")
        replace(place.ca, "# Autorité de certification\n".encode() + new.pem)
        assert place.code(place.channel(client=new.client())) is grpc.StatusCode.OK
        assert place.get("/metrics", new.client())[0] == 200
        assert place.metric(FAILURES) == 0

    def test_an_old_ca_and_a_new_one_stand_side_by_side(self, place: Place, tmp_path: Path) -> None:
        new = Authority(tmp_path, "new")
        old_client, new_client = place.client, new.client()
        assert place.code(place.channel(client=new_client)) is grpc.StatusCode.UNAVAILABLE
        replace(place.ca, place.authority.pem + new.pem)
        assert place.code(place.channel(client=old_client)) is grpc.StatusCode.OK
        assert place.code(place.channel(client=new_client)) is grpc.StatusCode.OK
        replace(place.ca, new.pem)
        assert place.code(place.channel(client=old_client)) is grpc.StatusCode.UNAVAILABLE
        assert place.code(place.channel(client=new_client)) is grpc.StatusCode.OK

    def test_a_peer_whose_certificate_expires_goes_with_the_age_of_its_connection(self, tmp_path: Path) -> None:
        place = Place(tmp_path, max_connection_age=0.5)
        try:
            channel = connected_by_a_brief_certificate(place)
            with channel:

                def is_refused() -> bool:
                    try:
                        check(channel)
                    except grpc.RpcError as error:
                        return error.code() is grpc.StatusCode.UNAVAILABLE
                    return False

                assert eventually(is_refused, timeout=3 * PATIENCE)
            assert place.code(place.channel(client=place.client)) is grpc.StatusCode.OK
        finally:
            place.server.stop()

    def test_renewing_fails_no_call_that_may_be_sent_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Both ends change to a new CA by way of both side by side, while connections come and go."""
        place = Place(tmp_path, max_connection_age=0.2, max_connection_age_grace=5.0)
        new = Authority(tmp_path, "new")
        both = place.authority.pem + new.pem
        policy = """{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 5, "initialBackoff": "0.1s",
            "maxBackoff": "1s", "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}}]}"""
        callers = [place.client, new.client()]
        served = [0, 0]
        failures: list[grpc.RpcError] = []
        done = threading.Event()
        connections = itertools.count()
        last_connection = 0
        assert place.server._tls is not None
        watched = place.server._tls.watched
        look = watched.current

        def counted() -> Any:
            nonlocal last_connection
            last_connection = next(connections)
            return look()

        monkeypatch.setattr(watched, "current", counted)

        def call(number: int) -> None:
            pair = (callers[number].key.read_bytes(), callers[number].certificate.read_bytes())
            options = [("grpc.service_config", policy), ("grpc.use_local_subchannel_pool", 1)]
            credentials = grpc.ssl_channel_credentials(both, *pair)
            with grpc.secure_channel(place.server.address, credentials, options) as channel:
                while not done.is_set():
                    try:
                        check(channel)
                        served[number] += 1
                    except grpc.RpcError as error:
                        failures.append(error)

        def some_more_are_served() -> bool:
            goal, last = [count + 20 for count in served], last_connection + 4
            return bool(eventually(lambda: served[0] >= goal[0] and served[1] >= goal[1] and last_connection >= last))

        replace(place.ca, both)
        threads = [threading.Thread(target=call, args=(number,)) for number in range(2)]
        try:
            for thread in threads:
                thread.start()
            assert some_more_are_served()
            for issuer in (new, place.authority, new):
                issuer.server("renewed").replace(place.files)
                shown = place.shown_certificate()
                assert shown.strip() in place.files.certificate.read_bytes()
                assert some_more_are_served()
        finally:
            done.set()
            for thread in threads:
                thread.join(PATIENCE)
            place.server.stop()
        assert failures == []
