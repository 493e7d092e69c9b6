"""Calls by hand, in HTTP/2 frames (RFC 9113): header bytes that no gRPC library sends, callers that do not read."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterable, Iterator

from tests.eventually import PATIENCE

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
HEADER_TABLE_SIZE, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 1, 3, 4
FRAME_HEAD = 9
"""Bytes before a frame's payload."""
MESSAGE_HEAD = 5
"""Bytes that gRPC puts before a message."""
_STREAM = 1


def send(address: str, path: bytes, request: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    """Returns when the server has ended the call, whatever it says: what it made of it, its log tells."""
    with connect(address) as connection, contextlib.suppress(ConnectionError):
        for kind, flags, stream in _call(connection, address, path, request, headers, b""):
            ends = stream == _STREAM and kind in (DATA, HEADERS) and flags & END_STREAM
            if ends or kind in (RST_STREAM, GOAWAY):
                return


def is_answered(
    address: str, path: bytes, request: bytes, headers: list[tuple[bytes, bytes]], tls: ssl.SSLContext | None
) -> bool:
    """Whether the server answers a call, in any way, and not only ends the connection."""
    with contextlib.suppress(ConnectionError, ssl.SSLError), connect(address, tls) as connection:
        for kind, _flags, stream in _call(connection, address, path, request, headers, b""):
            if stream == _STREAM and kind in (DATA, HEADERS, RST_STREAM):
                return True
    return False


@contextlib.contextmanager
def unread(
    address: str, path: bytes, request: bytes, headers: list[tuple[bytes, bytes]], tls: ssl.SSLContext | None = None
) -> Iterator[None]:
    """A call that has begun, and lets the server send no message: its window for them has 0 bytes."""
    with connect(address, tls) as connection:
        for kind, _flags, stream in _call(
            connection, address, path, request, headers, settings((INITIAL_WINDOW_SIZE, 0))
        ):
            if (kind, stream) == (HEADERS, _STREAM):  # the initial metadata, for which there is no window
                break
        yield


def connect(address: str, tls: ssl.SSLContext | None = None) -> socket.socket:
    host, port = address.rsplit(":", 1)
    connection = socket.create_connection((host, int(port)), PATIENCE)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if tls is None:
        return connection
    try:
        return tls.wrap_socket(connection, server_hostname=host)
    except BaseException:
        connection.close()
        raise


def _call(
    connection: socket.socket,
    address: str,
    path: bytes,
    request: bytes,
    headers: list[tuple[bytes, bytes]],
    own_settings: bytes,
) -> Iterator[tuple[int, int, int]]:
    """Kind, flags and stream of each frame that comes back, until the server closes the connection."""
    block = header_block(address, path, headers)
    connection.sendall(PREFACE + frame(SETTINGS, 0, 0, own_settings) + call_frames(_STREAM, block, request))
    with connection.makefile("rb") as frames:
        while head := frames.read(FRAME_HEAD):
            frames.read(int.from_bytes(head[:3], "big"))
            yield head[3], head[4], int.from_bytes(head[5:], "big")


def call_frames(stream: int, block: bytes, request: bytes) -> bytes:
    """The frames of a unary call: its headers, made by `header_block`, and its request."""
    message = b"\0" + len(request).to_bytes(MESSAGE_HEAD - 1, "big") + request
    return frame(HEADERS, END_HEADERS, stream, block) + frame(DATA, END_STREAM, stream, message)


def header_block(address: str, path: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The headers of a gRPC call, with these after those that it has to have; nothing is compressed."""
    usual = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", address.encode()),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    ]
    return b"".join(_literal(name, value) for name, value in (*usual, *headers))


def settings(*values: tuple[int, int]) -> bytes:
    return b"".join(name.to_bytes(2, "big") + value.to_bytes(4, "big") for name, value in values)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
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
