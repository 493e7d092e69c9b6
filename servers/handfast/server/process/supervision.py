"""A process says that it is ready, to a supervisor on stdin and to systemd by sd_notify(3); and it is asked to stop, by
SIGINT, SIGTERM, SIGHUP, or the end of its supervisor.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable

SUPERVISED = "HANDFAST_SUPERVISED"
"""Environment variable, set to 1 by a supervisor that holds the other end of this process's stdin."""

READY = "READY=1"
"""The state of a process that serves calls."""


def notify(state: str) -> None:
    """Sends `state`, such as READY, as a line to the supervisor, and to the socket that `NOTIFY_SOCKET` names; does
    nothing where there is neither.

    That nobody listens any more is no reason for a server to stop, so failures are passed over.
    """
    if _is_supervised():
        with contextlib.suppress(OSError):
            os.write(sys.stdin.fileno(), f"{state}\n".encode())
    if address := os.environ.get("NOTIFY_SOCKET", ""):
        if address.startswith("@"):  # Linux's abstract namespace
            address = "\0" + address[1:]
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(state.encode(), address)


def when_asked_to_stop(stop: Callable[[], object]) -> None:
    """Calls `stop` once, on a thread of its own, when this process is asked to stop. For the main thread only.

    Signals go through a wakeup descriptor, not a Python handler: that would run between any two bytecodes of the
    main thread, and could wait for a lock which the main thread itself holds.

    A terminal that closes sends SIGHUP; who started this process so that it ignores that (nohup(1)) wants it to go on.

    Where the process is supervised, the end of its stdin counts as well: the kernel closes the other end however the
    supervisor ends, so no orphan survives it.
    """
    signals, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number is not signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: None)

    sources = [signals]
    if _is_supervised():
        sources.append(sys.stdin.fileno())

    def watch() -> None:
        while not any(source == signals or _has_ended(source) for source in select.select(sources, [], [])[0]):
            pass
        stop()

    threading.Thread(target=watch, name="stopping", daemon=True).start()


def _is_supervised() -> bool:
    return os.environ.get(SUPERVISED) == "1"


def _has_ended(source: int) -> bool:
    try:
        return os.read(source, 4096) == b""
    except OSError:  # the other end was closed before all that is written to it was read
        return True
