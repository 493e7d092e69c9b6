"""Calls in HTTP/1.1, each caller on a connection of its own, with the face of `wire.py`. It knows just what uvicorn
answers: a `content-length`, and no chunks.
"""

from __future__ import annotations

import re
import selectors
import socket
import time
from collections.abc import Iterator

from benchmarks.wire import Ended
from tests import http2

_CHUNK = 1 << 16
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def request(method: str, path: str, body: bytes = b"") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\n"
    if body:
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return f"{head}\r\n".encode() + body


class Http1:
    def __init__(self, address: str, callers: int) -> None:
        self._selector = selectors.DefaultSelector()
        self._sockets = [http2.connect(address) for _ in range(callers)]
        self._began = [0.0] * callers
        self._unread = [b""] * callers
        for caller, each in enumerate(self._sockets):
            self._selector.register(each, selectors.EVENT_READ, caller)

    def call(self, request: bytes, caller: int) -> bool:
        self._began[caller] = time.perf_counter()
        self._sockets[caller].sendall(request)
        return True

    def ended(self, timeout: float) -> Iterator[Ended]:
        """`OK` stands for the status 200."""
        for key, _ in self._selector.select(timeout):
            caller: int = key.data
            self._unread[caller] += _received(self._sockets[caller])
            head, complete, body = self._unread[caller].partition(b"\r\n\r\n")
            length = _LENGTH.search(head)
            if complete and length and len(body) == int(length[1]):
                self._unread[caller] = b""
                status = head.split(b" ", 2)[1].decode()
                code = "OK" if status == "200" else status
                yield Ended(code, time.perf_counter() - self._began[caller], 0.0, caller)

    def flush(self) -> None:
        pass

    def fileno(self) -> int:
        return self._selector.fileno()

    def close(self) -> None:
        for each in self._sockets:
            each.close()
        self._selector.close()


def _received(connection: socket.socket) -> bytes:
    received = connection.recv(_CHUNK)
    if not received:
        raise ConnectionError("the server closed the connection")
    return received
