"""Reports the state of this process to what started it: to a supervisor on stdin, to systemd by sd_notify(3)."""

from __future__ import annotations

import contextlib
import os
import socket
import sys

from handfast.server.process.stopping import is_supervised

READY = "READY=1"
"""The state of a process that serves calls."""


def notify(state: str) -> None:
    """Sends `state`, such as READY, as a line to the supervisor that holds the other end of this process's stdin, and
    to the socket that `NOTIFY_SOCKET` names; does nothing where there is neither.

    That nobody listens any more is no reason for a server to stop, so failures are passed over.
    """
    if is_supervised():
        with contextlib.suppress(OSError):
            os.write(sys.stdin.fileno(), f"{state}\n".encode())
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # Linux's abstract namespace
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(state.encode(), address)
