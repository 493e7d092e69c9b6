"""Which servers an address stands for now: its names are looked up again every few seconds.

gRPC looks a name up again only when a connection breaks, so it would not find a replica that is added, and it takes no
list of names. What is looked up here reaches it as a list of IP addresses.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterable
from weakref import ref

from handfast.client.addresses import Host, hosts_of, is_ip
from handfast.client.proxy import may_go_by_proxy

INTERVAL = 5.0
"""Seconds between two look-ups."""
FIRST_PATIENCE = 2.0
"""Seconds that the first look-up may take, until calls go by what is found by then."""


class Replicas:
    """`target` is what gRPC is to be given for an address. It may change until this is closed or lost.

    Each name is looked up by itself, so that none waits for another that takes its time. Until one is found, gRPC looks
    for the first. One behind a proxy, which is given names, and one with a DNS server of its own
    (`dns://server/name`) are left to gRPC.
    """

    def __init__(self, address: str) -> None:
        self.target = address
        self.looked_up = threading.Event()
        """Each name has been looked up once."""
        self._patient_until_s = time.monotonic() + FIRST_PATIENCE
        self._tell: Callable[[], object] | None = None
        self._closed = threading.Event()
        self._lock = threading.Lock()
        hosts = hosts_of(address)
        self._found = {each: frozenset({each} if is_ip(each.name) else ()) for each in hosts}
        names = {each for each in hosts if not is_ip(each.name)}
        if len(hosts) > 1:
            self.target = self._known() or f"dns:///{hosts[0]}"  # whose error callers see, where nothing is found
        elif may_go_by_proxy(address):
            names.clear()
        self._not_looked_up = names.copy()
        if not self._not_looked_up:
            self.looked_up.set()
        for name in names:
            arguments = (ref(self), name, self._closed)
            threading.Thread(target=_keep_looking_up, args=arguments, name="handfast-look-ups", daemon=True).start()

    def _known(self) -> str:
        """The target with all that is found; empty where nothing is."""
        found = frozenset[Host]().union(*self._found.values())
        return _target(found) if found else ""

    def take(self, name: Host, found: frozenset[Host]) -> None:
        """A name that is not found any more is still where it was."""
        with self._lock:
            self._found[name] = found or self._found[name]
            self.target = self._known() or self.target
            if self._tell is not None:
                self._tell()
            self._not_looked_up.discard(name)
            if not self._not_looked_up:
                self.looked_up.set()

    def when_looked_up(self, tell: Callable[[], object]) -> None:
        """`tell` is called now, and in another thread after each look-up."""
        with self._lock:
            self._tell = tell
            tell()

    def wait(self) -> None:
        """Until it is `looked_up`, or that has taken too long."""
        if not self.looked_up.is_set():
            self.looked_up.wait(max(0.0, self._patient_until_s - time.monotonic()))

    def close(self) -> None:
        self._closed.set()


def _keep_looking_up(replicas: ref[Replicas], name: Host, closed: threading.Event) -> None:
    while True:
        found = _addresses(name)
        held = replicas()
        if held is None or closed.is_set():
            return
        try:
            held.take(name, found)
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
