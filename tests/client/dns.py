"""A DNS server on loopback, whose answers a test changes."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import dns.flags
import dns.message
import dns.rdatatype
import dns.rrset


class DNS:
    """Says that every name stands for `addresses`, all of IPv4."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._answer, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # nothing is connected, but this wakes who waits
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _answer(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                query, client = self._socket.recvfrom(4096)
                if not query:
                    return
                self._socket.sendto(self._reply_to(dns.message.from_wire(query)).to_wire(), client)

    def _reply_to(self, query: dns.message.Message) -> dns.message.Message:
        reply = dns.message.make_response(query)
        (asked,) = query.question
        if asked.rdtype == dns.rdatatype.A:
            reply.answer.append(dns.rrset.from_text(asked.name, 1, "IN", "A", *self.addresses))
        return reply


@contextlib.contextmanager
def dns_of(*addresses: str) -> Iterator[DNS]:
    server = DNS(*addresses)
    try:
        yield server
    finally:
        server.close()
