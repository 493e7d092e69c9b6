"""Many connections to a server with TLS that begin at the same moment, while its certificates change.

A server that gives gRPC its certificates anew for each connection crashes here. One that gives it those that have
changed too early crashes here only now and then: that it waits is in `test_transport.py`.
"""

from __future__ import annotations

import socket
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from handfast.server.cli.ports import free_first_port
from handfast.server.process.settings import sqlite_url
from tests.cli.processes import start_process, stop_process
from tests.eventually import PATIENCE
from tests.security.authority import HOUR, Authority

AT_ONCE = 50
BURSTS = 40
THREADS = 4


def test_a_server_outlives_them(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files, client = authority.server(), authority.client()
    port = free_first_port()
    settings = {
        "--listen": f"127.0.0.1:{port}",
        "--database-url": sqlite_url(tmp_path / "users.sqlite3"),
        "--tls-certificate": str(files.certificate),
        "--tls-key": str(files.key),
        "--tls-client-ca": str(authority.file),
    }
    flags = (word for setting in settings.items() for word in setting)
    server = start_process(tmp_path / "stderr", ("serve", "users", *flags), {"HANDFAST_MIGRATE": "true"}, port)
    pair = client.key.read_bytes(), client.certificate.read_bytes()

    def is_served() -> bool:
        credentials = grpc.ssl_channel_credentials(authority.pem, *pair)
        with grpc.secure_channel(f"localhost:{port}", credentials, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE, wait_for_ready=True)
            return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

    def connect() -> None:
        for _ in range(BURSTS):
            with ExitStack() as stack, suppress(OSError):
                for _ in range(AT_ONCE):
                    stack.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE))

    try:
        assert is_served()
        threads = [threading.Thread(target=connect) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive() and server.popen.poll() is None:
                authority.server("next", lasts=2 * HOUR).replace(files)
                thread.join(1.0)
        assert server.popen.poll() is None, server.stderr[-2000:]
        assert is_served()
    finally:
        stop_process(server)
