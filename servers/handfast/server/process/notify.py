"""Tells whoever started this process how it is doing: the notify protocol of systemd, sd_notify(3)."""

from __future__ import annotations

import contextlib
import os
import socket


def notify(state: str) -> None:
    """Sends `state`, such as `READY=1`, to the socket that `NOTIFY_SOCKET` names; does nothing where it is unset.

    That nobody listens any more is no reason for a server to stop, so failures are passed over.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # Linux's abstract namespace
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(state.encode(), address)
