"""Which ports of this machine can be listened on."""

from __future__ import annotations

import random
import socket
from collections.abc import Sequence

from handfast.server.cli.settings import SERVERS
from handfast.server.process.addresses import split_address
from handfast.server.process.settings import METRICS_PORT_OFFSET

FIRST_PORTS: Sequence[int] = range(20000, 32000, 2 * len(SERVERS))
"""What is tried as a first port: below the range that systems hand out to outgoing connections."""


def why_not_free(address: str) -> str:
    """Why nothing can listen on this HOST:PORT now; empty where it can."""
    host, port = split_address(address)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        # As the servers bind: a connection of an earlier run in TIME_WAIT does not keep the port, a listener does.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.strerror or str(error)
    return ""


def free_first_port() -> int:
    """A first port with which a whole suite finds its ports free, as things stand. Raises OSError if there is none."""
    for first_port in random.sample(FIRST_PORTS, len(FIRST_PORTS)):
        ports = [first_port + place + offset for place in range(len(SERVERS)) for offset in (0, METRICS_PORT_OFFSET)]
        if not any(why_not_free(f"127.0.0.1:{port}") for port in ports):
            return first_port
    raise OSError("no ports are free")
