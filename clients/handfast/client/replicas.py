"""Which servers an address stands for now: its names are looked up again every few seconds.

gRPC looks a name up again only when a connection breaks, so it would not find a replica that is added, and it takes no
list of names. What is looked up here reaches it as a list of IP addresses.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from weakref import ref

from handfast.client.addresses import Host, hosts_of, is_ip, is_on_this_machine

INTERVAL = 5.0
"""Seconds between two look-ups."""
FIRST_PATIENCE = 2.0
"""Seconds that the first look-up of a list may take, until calls go by what is found by then."""
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")


class Replicas:
    """`target` is what gRPC is to be given for an address. It may change until this is closed or lost.

    A single name is gRPC's own to look up until its addresses change. So is one behind a proxy, which is given names,
    and one with a DNS server of its own (`dns://server/name`).
    """

    def __init__(self, address: str) -> None:
        self.target = address
        self._tell: Callable[[], object] | None = None
        self._closed = threading.Event()
        self._hosts = hosts_of(address)
        self._found: list[frozenset[Host]] | None = None
        if len(self._hosts) > 1 and all(is_ip(each.name) for each in self._hosts):
            self.target = _target(self._hosts)
        elif len(self._hosts) > 1 or (self._hosts and not is_ip(self._hosts[0].name) and not _goes_by_proxy(address)):
            self._look_up()

    def _look_up(self) -> None:
        if len(self._hosts) > 1:
            self.target = f"dns:///{self._hosts[0]}"  # whose error callers see, where nothing is found
        first = threading.Event()
        arguments = (ref(self), self._hosts, self._closed, first)
        threading.Thread(target=_keep_looking_up, args=arguments, name="handfast-look-ups", daemon=True).start()
        if len(self._hosts) > 1:
            first.wait(FIRST_PATIENCE)

    def take(self, found: list[frozenset[Host]], first: threading.Event) -> None:
        """A host that is not found is still where it was."""
        before, self._found = self._found, [new or old for new, old in zip(found, self._found or found, strict=True)]
        everywhere = frozenset[Host]().union(*self._found)
        is_known_to_grpc = before is None and len(self._hosts) == 1
        if everywhere and self._found != before and not is_known_to_grpc:
            self.target = _target(everywhere)
        first.set()
        if self._tell is not None:
            self._tell()

    def when_looked_up(self, tell: Callable[[], object]) -> None:
        """`tell` is called now, and in another thread after each look-up."""
        self._tell = tell
        tell()

    def close(self) -> None:
        self._closed.set()


def _keep_looking_up(
    replicas: ref[Replicas], hosts: Sequence[Host], closed: threading.Event, first: threading.Event
) -> None:
    while True:
        found = [_addresses(each) for each in hosts]
        held = replicas()
        if held is None or closed.is_set():
            return
        try:
            held.take(found, first)
        except (RuntimeError, ValueError):  # what was to move is closed, or its event loop
            return
        del held
        if closed.wait(INTERVAL):
            return


def _addresses(host: Host) -> frozenset[Host]:
    """None at all where the name is not found."""
    try:
        found = socket.getaddrinfo(host.name, host.port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    except (OSError, UnicodeError):
        return frozenset()
    return frozenset(Host(str(address[0]), host.port) for *_, address in found)


def _target(hosts: Iterable[Host]) -> str:
    """https://github.com/grpc/grpc/blob/master/doc/naming.md: a list is of one family, which IPv6 is for both."""
    found = sorted({(ipaddress.ip_address(each.name), each.port) for each in hosts}, key=str)
    if all(ip.version == 4 for ip, _ in found):
        return "ipv4:" + ",".join(f"{ip}:{port}" for ip, port in found)
    mapped = ((ip if ip.version == 6 else f"::ffff:{ip}", port) for ip, port in found)
    return "ipv6:" + ",".join(f"[{ip}]:{port}".replace("%", "%25") for ip, port in mapped)


def _goes_by_proxy(address: str) -> bool:
    return not is_on_this_machine(address) and any(os.environ.get(each) for each in _PROXIES)
