"""A way between client and server that can go silent, as a NAT does that forgot a connection: what was connected stays
so and carries nothing any more, while new connections work. Or it is cut, as a cable is: nothing passes until it is
mended.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator


class Way:
    """A TCP proxy on loopback. `address` leads to the server, which is HOST:PORT or a socket that is a file;
    `connections` counts those that were made by it.
    """

    def __init__(self, server: str, port: int = 0) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", port))
        self._silent = threading.Event()  # of the connections there are
        self._whole = threading.Event()
        self._whole.set()
        self._sockets: list[socket.socket] = []
        self.port = self._listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def silence(self) -> None:
        """Nothing passes any more by the connections there are, in neither direction, and neither end is told."""
        self._silent.set()
        self._silent = threading.Event()

    def cut(self) -> None:
        """Nothing passes any more, by no connection, and neither end is told."""
        self._whole.clear()

    def mend(self) -> None:
        """What was sent meanwhile arrives, as TCP sends it again."""
        self._whole.set()

    def close(self) -> None:
        self._whole.set()
        for each in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):  # the other end was faster
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                try:
                    server = self._connect()
                except OSError:  # nobody is there
                    client.close()
                    continue
                self._sockets += (client, server)
                self.connections += 1
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=self._forward, args=(source, target, self._silent), daemon=True).start()

    def _connect(self) -> socket.socket:
        if self._server.startswith("/"):
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._server)
            return server
        host, _, port = self._server.rpartition(":")
        return socket.create_connection((host, int(port)))

    def _forward(self, source: socket.socket, target: socket.socket, silent: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._whole.wait()
                if not silent.is_set():
                    target.sendall(data)
        self._whole.wait()
        if not silent.is_set():
            with contextlib.suppress(OSError):  # closed
                target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def way_to(server: str, port: int = 0) -> Iterator[Way]:
    way = Way(server, port)
    try:
        yield way
    finally:
        way.close()
