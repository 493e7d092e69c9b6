"""One bounded request of a URL."""

from __future__ import annotations

import http.client
import socket
import threading
from contextlib import closing, suppress
from urllib.parse import urlsplit

TIMEOUT = 5.0
"""Seconds in which a connection must be there, and again those in which the answer must be."""
MAX_BYTES = 256 * 1024
"""Of an answer. A set of keys has some hundred bytes for each key."""


def fetch(url: str) -> bytes:
    """What is at `url`, http or https. Follows no redirect, which could lead anywhere, and goes by no proxy.

    Raises OSError where the answer does not come in time, has another status than 200, or is larger than MAX_BYTES.
    """
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    with closing(kind(parts.hostname or "", parts.port, timeout=TIMEOUT)) as connection:
        connection.connect()
        # The timeout of a socket begins anew with each byte that comes.
        is_late = threading.Event()
        watchdog = threading.Timer(TIMEOUT, _shut, (connection.sock, is_late))
        watchdog.daemon = True
        watchdog.start()
        try:
            connection.request("GET", target, headers={"Accept": "application/json", "User-Agent": "handfast"})
            response = connection.getresponse()
            if response.status != 200:
                raise OSError(f"the answer has status {response.status}, not 200")
            body = response.read(MAX_BYTES + 1)
        except http.client.HTTPException as error:
            if not is_late.is_set():
                raise OSError(f"the answer is no HTTP ({type(error).__name__})") from error
        finally:
            watchdog.cancel()
    if is_late.is_set():
        raise OSError(f"the answer took more than {TIMEOUT:g} s")
    if len(body) > MAX_BYTES:
        raise OSError(f"the answer has more than {MAX_BYTES} bytes")
    return body


def _shut(connection: socket.socket, is_late: threading.Event) -> None:
    is_late.set()
    with suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)  # TLS's own would wait for the other end
