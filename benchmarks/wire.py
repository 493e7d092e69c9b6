"""Unary calls in HTTP/2 frames (RFC 9113), for a tenth of what a gRPC client costs: who measures a server on its own
machine has to leave the machine to it.

It knows just what grpcio's servers do to unary calls. Headers are sent and asked for without compression, so that a
block of them is made once, and a status can be read where it stands.
"""

from __future__ import annotations

import selectors
import socket
import struct
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import grpc
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_HEADER_TABLE_SIZE, _MAX_CONCURRENT_STREAMS, _INITIAL_WINDOW_SIZE, _ALLOW_TRUE_BINARY_METADATA = 1, 3, 4, 0xFE03
_LARGEST_WINDOW = 2**31 - 1
_FIRST_WINDOW = 65_535
_TIMEOUT = b"10S"
_CODES = {code.value[0]: code.name for code in grpc.StatusCode}
_CHUNK = 1 << 18


@dataclass(frozen=True, slots=True)
class Ended:
    """A call that is over: its status code, how many seconds it took, and after how many more it may be repeated."""

    code: str
    seconds: float
    retry_after: float


class Wire:
    """Connections to one method of one server."""

    def __init__(self, address: str, path: str, connections: int) -> None:
        self._selector = selectors.DefaultSelector()
        self._connections = deque(_Connection(address, path) for _ in range(connections))
        for connection in self._connections:
            self._selector.register(connection.socket, selectors.EVENT_READ, connection)

    def call(self, request: bytes) -> bool:
        """Begins a call on the next connection that has room for one. False where none has."""
        for _ in range(len(self._connections)):
            self._connections.rotate()
            if self._connections[0].call(request):
                return True
        return False

    def ended(self, timeout: float) -> Iterator[Ended]:
        """Sends what was begun, waits up to so many seconds, and gives what came back."""
        for connection in self._connections:
            connection.flush()
        for key, _ in self._selector.select(max(0.0, timeout)):
            yield from key.data.ended()

    def close(self) -> None:
        for connection in self._connections:
            connection.socket.close()
        self._selector.close()


class _Connection:
    def __init__(self, address: str, path: str) -> None:
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._headers = b"".join(
            _literal(name, value)
            for name, value in (
                (b":method", b"POST"),
                (b":scheme", b"http"),
                (b":path", path.encode()),
                (b":authority", address.encode()),
                (b"content-type", b"application/grpc"),
                (b"te", b"trailers"),
                (b"grpc-timeout", _TIMEOUT),
            )
        )
        settings = ((_HEADER_TABLE_SIZE, 0), (_INITIAL_WINDOW_SIZE, _LARGEST_WINDOW), (_ALLOW_TRUE_BINARY_METADATA, 1))
        self._out = [
            _PREFACE,
            _frame(_SETTINGS, 0, 0, b"".join(struct.pack(">HI", *setting) for setting in settings)),
            _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _LARGEST_WINDOW - _FIRST_WINDOW)),
        ]
        self._begun: dict[int, float] = {}
        self._next_stream, self._most_streams, self._window = 1, 100, _FIRST_WINDOW
        self._unread = b""

    def call(self, request: bytes) -> bool:
        if len(self._begun) >= self._most_streams or self._window < len(request) + 5:
            return False
        stream = self._next_stream
        self._next_stream += 2
        body = struct.pack(">BI", 0, len(request)) + request
        self._window -= len(body)
        self._out += (
            _frame(_HEADERS, _END_HEADERS, stream, self._headers),
            _frame(_DATA, _END_STREAM, stream, body),
        )
        self._begun[stream] = time.perf_counter()
        return True

    def flush(self) -> None:
        if self._out:
            self.socket.sendall(b"".join(self._out))
            self._out.clear()

    def ended(self) -> Iterator[Ended]:
        received = self.socket.recv(_CHUNK)
        if not received:
            raise ConnectionError("the server closed the connection")
        data = self._unread + received
        at = 0
        while at + 9 <= len(data):
            length = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
            end = at + 9 + length
            if end > len(data):
                break
            kind, flags, (stream,) = data[at + 3], data[at + 4], struct.unpack_from(">I", data, at + 5)
            payload, at = data[at + 9 : end], end
            if not stream:
                self._obey(kind, flags, payload)
            elif kind == _HEADERS and flags & _END_STREAM:
                yield self._end(stream, *_status(payload))
            elif kind == _RST_STREAM and stream in self._begun:  # also follows an answer before the request was read
                yield self._end(stream, "CANCELLED", 0.0)
        self._unread = data[at:]

    def _end(self, stream: int, code: str, retry_after: float) -> Ended:
        return Ended(code, time.perf_counter() - self._begun.pop(stream), retry_after)

    def _obey(self, kind: int, flags: int, payload: bytes) -> None:
        """What concerns the whole connection."""
        if kind == _WINDOW_UPDATE:
            self._window += int.from_bytes(payload, "big")
        elif kind == _GOAWAY:
            raise ConnectionError(f"the server says {payload[8:]!r}")
        elif kind in (_SETTINGS, _PING) and not flags & _ACK:
            self._out.append(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
            for setting, value in struct.iter_unpack(">HI", payload) if kind == _SETTINGS else ():
                if setting == _MAX_CONCURRENT_STREAMS:
                    self._most_streams = value


def _status(trailers: bytes) -> tuple[str, float]:
    """The name of the status code, and the delay of its RetryInfo in seconds."""
    code = _CODES[int(_value(trailers, b"grpc-status") or b"2")]
    details = _value(trailers, b"grpc-status-details-bin")
    retry = RetryInfo()
    if details is not None:
        any(detail.Unpack(retry) for detail in Status.FromString(details[1:]).details)  # after 0, for: not in base64
    return code, retry.retry_delay.ToNanoseconds() / 1e9


def _value(headers: bytes, name: bytes) -> bytes | None:
    """The value of a header field whose name is spelled out (RFC 7541, 5.2 and 6.2)."""
    _, found, rest = headers.partition(bytes([len(name)]) + name)
    if not found:
        return None
    length, at = rest[0], 1
    if length == 0x7F:
        shift = 0
        while rest[at] & 0x80:
            length += (rest[at] & 0x7F) << shift
            shift, at = shift + 7, at + 1
        length, at = length + (rest[at] << shift), at + 1
    return rest[at : at + length]


def _literal(name: bytes, value: bytes) -> bytes:
    assert len(value) < 0x7F
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">IBBI", len(payload), kind, flags, stream)[1:] + payload
