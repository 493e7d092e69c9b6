"""What asks a process to stop: SIGINT, SIGTERM, SIGHUP, or the end of its supervisor."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Callable

SUPERVISED = "HANDFAST_SUPERVISED"
"""Environment variable, set to 1 by a supervisor that holds the other end of this process's stdin."""


def is_supervised() -> bool:
    return os.environ.get(SUPERVISED) == "1"


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
    if is_supervised():
        sources.append(sys.stdin.fileno())

    def watch() -> None:
        while True:
            for source in select.select(sources, [], [])[0]:
                if source == signals or _has_ended(source):
                    stop()
                    return

    threading.Thread(target=watch, name="stopping", daemon=True).start()


def _has_ended(source: int) -> bool:
    try:
        return os.read(source, 4096) == b""
    except OSError:  # the other end was closed before all that is written to it was read
        return True
