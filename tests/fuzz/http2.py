"""Calls by hand, in HTTP/2 frames (RFC 9113): header bytes that no gRPC library sends, callers that do not read."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _GOAWAY = 0, 1, 3, 4, 7
_END_STREAM, _END_HEADERS = 1, 4
_STREAM = 1
_INITIAL_WINDOW_SIZE = 4
PATIENCE = 20.0


def send(address: str, path: bytes, request: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    """Returns when the server has ended the call, whatever it says: what it made of it, its log tells."""
    with _connect(address) as connection, contextlib.suppress(ConnectionError):
        for kind, flags, stream in _call(connection, address, path, request, headers, b""):
            ends = stream == _STREAM and kind in (_DATA, _HEADERS) and flags & _END_STREAM
            if ends or kind in (_RST_STREAM, _GOAWAY):
                return


@contextlib.contextmanager
def unread(address: str, path: bytes, request: bytes, headers: list[tuple[bytes, bytes]]) -> Iterator[None]:
    """A call that has begun, and lets the server send no message: its window for them has 0 bytes."""
    settings = _INITIAL_WINDOW_SIZE.to_bytes(2, "big") + bytes(4)
    with _connect(address) as connection:
        for kind, _flags, stream in _call(connection, address, path, request, headers, settings):
            if (kind, stream) == (_HEADERS, _STREAM):  # the initial metadata, for which there is no window
                break
        yield


def _connect(address: str) -> socket.socket:
    host, port = address.rsplit(":", 1)
    connection = socket.create_connection((host, int(port)), PATIENCE)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _call(
    connection: socket.socket,
    address: str,
    path: bytes,
    request: bytes,
    headers: list[tuple[bytes, bytes]],
    settings: bytes,
) -> Iterator[tuple[int, int, int]]:
    """Kind, flags and stream of each frame that comes back, until the server closes the connection."""
    usual = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", address.encode()),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    ]
    block = b"".join(_literal(name, value) for name, value in (*usual, *headers))
    body = b"\0" + len(request).to_bytes(4, "big") + request
    connection.sendall(
        _PREFACE
        + _frame(_SETTINGS, 0, 0, settings)
        + _frame(_HEADERS, _END_HEADERS, _STREAM, block)
        + _frame(_DATA, _END_STREAM, _STREAM, body)
    )
    with connection.makefile("rb") as frames:
        while head := frames.read(9):
            frames.read(int.from_bytes(head[:3], "big"))
            yield head[3], head[4], int.from_bytes(head[5:9], "big")


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _literal(name: bytes, value: bytes) -> bytes:
    """A header field without indexing (RFC 7541, 6.2.2)."""
    return b"\0" + _length(name) + name + _length(value) + value


def _length(text: bytes) -> bytes:
    limit = 0x7F
    if len(text) < limit:
        return bytes([len(text)])
    rest = len(text) - limit
    encoded = bytearray([limit])
    while rest > 0x7F:
        encoded.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*encoded, rest])
