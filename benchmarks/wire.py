"""Unary calls in HTTP/2 frames (RFC 9113), for a tenth of what a gRPC client costs: who measures a server on its own
machine has to leave the machine to it.

It knows just what grpcio's servers do to unary calls. Headers are sent and asked for without compression, so that a
block of them is made once, and a status can be read where it stands.
"""

from __future__ import annotations

import selectors
import ssl
import struct
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import grpc
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from tests import http2

_ALLOW_TRUE_BINARY_METADATA = 0xFE03  # a setting that gRPC added
_LARGEST_WINDOW = 2**31 - 1
_FIRST_WINDOW = 65_535
_HEADERS: tuple[tuple[bytes, bytes], ...] = ((b"grpc-timeout", b"10S"),)
_CODES = {code.value[0]: code.name for code in grpc.StatusCode}
_CHUNK = 1 << 18
"""More bytes than a record of TLS has. Of one that was read in part, a selector would not know."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A call that is over: its status code, how many seconds it took, after how many more it may be repeated, and which
    caller it was of.
    """

    code: str
    seconds: float
    retry_after: float
    caller: int = 0


@dataclass(frozen=True, slots=True)
class Credentials:
    """What calls show a server: certificates by TLS, and a token where there is one."""

    tls: ssl.SSLContext
    token: str = ""


class Wire:
    """Connections to one method of one server, in plain text where no credentials are given."""

    def __init__(self, address: str, path: str, connections: int, credentials: Credentials | None = None) -> None:
        self._selector = selectors.DefaultSelector()
        self._connections = deque(_Connection(address, path, credentials) for _ in range(connections))
        for connection in self._connections:
            self._selector.register(connection.socket, selectors.EVENT_READ, connection)

    def call(self, request: bytes, caller: int = 0) -> bool:
        """Begins a call on the next connection that has room for one. False where none has."""
        for _ in range(len(self._connections)):
            self._connections.rotate()
            if self._connections[0].call(request, caller):
                return True
        return False

    def fileno(self) -> int:
        """Can be read from when something came back."""
        return self._selector.fileno()

    def ended(self, timeout: float) -> Iterator[Ended]:
        """Sends what was begun, waits up to so many seconds, and gives what came back."""
        self.flush()
        for key, _ in self._selector.select(max(0.0, timeout)):
            yield from key.data.ended()

    def flush(self) -> None:
        for connection in self._connections:
            connection.flush()

    def close(self) -> None:
        for connection in self._connections:
            connection.socket.close()
        self._selector.close()


class _Connection:
    def __init__(self, address: str, path: str, credentials: Credentials | None) -> None:
        self.socket, headers = http2.connect(address), _HEADERS
        if credentials is not None:
            self.socket = credentials.tls.wrap_socket(self.socket, server_hostname=address.rpartition(":")[0])
            if credentials.token:
                headers += ((b"authorization", f"Bearer {credentials.token}".encode()),)
        self._headers = http2.header_block(address, path.encode(), headers)
        settings = http2.settings(
            (http2.HEADER_TABLE_SIZE, 0),
            (http2.INITIAL_WINDOW_SIZE, _LARGEST_WINDOW),
            (_ALLOW_TRUE_BINARY_METADATA, 1),
        )
        larger = struct.pack(">I", _LARGEST_WINDOW - _FIRST_WINDOW)
        self._out = [
            http2.PREFACE,
            http2.frame(http2.SETTINGS, 0, 0, settings),
            http2.frame(http2.WINDOW_UPDATE, 0, 0, larger),
        ]
        self._begun: dict[int, tuple[float, int]] = {}
        self._next_stream, self._most_streams, self._window = 1, 100, _FIRST_WINDOW
        self._unread = b""
        self.flush()
        list(self.ended())  # waits for the server's settings: what it does for a new connection is done by then

    def call(self, request: bytes, caller: int) -> bool:
        size = http2.MESSAGE_HEAD + len(request)
        if len(self._begun) >= self._most_streams or self._window < size:
            return False
        self._window -= size
        self._out.append(http2.call_frames(self._next_stream, self._headers, request))
        self._begun[self._next_stream] = time.perf_counter(), caller
        self._next_stream += 2
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
        while at + http2.FRAME_HEAD <= len(data):
            length = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
            end = at + http2.FRAME_HEAD + length
            if end > len(data):
                break
            kind, flags, (stream,) = data[at + 3], data[at + 4], struct.unpack_from(">I", data, at + 5)
            payload, at = data[at + http2.FRAME_HEAD : end], end
            if not stream:
                self._obey(kind, flags, payload)
            elif kind == http2.HEADERS and flags & http2.END_STREAM:
                yield self._end(stream, *_status(payload))
            elif kind == http2.RST_STREAM and stream in self._begun:  # may also follow an answer
                yield self._end(stream, "CANCELLED", 0.0)
        self._unread = data[at:]

    def _end(self, stream: int, code: str, retry_after: float) -> Ended:
        began, caller = self._begun.pop(stream)
        return Ended(code, time.perf_counter() - began, retry_after, caller)

    def _obey(self, kind: int, flags: int, payload: bytes) -> None:
        """What concerns the whole connection."""
        if kind == http2.WINDOW_UPDATE:
            self._window += int.from_bytes(payload, "big")
        elif kind == http2.GOAWAY:
            raise ConnectionError(f"the server says {payload[8:]!r}")
        elif kind in (http2.SETTINGS, http2.PING) and not flags & http2.ACK:
            self._out.append(http2.frame(kind, http2.ACK, 0, payload if kind == http2.PING else b""))
            for setting, value in struct.iter_unpack(">HI", payload) if kind == http2.SETTINGS else ():
                if setting == http2.MAX_CONCURRENT_STREAMS:
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
