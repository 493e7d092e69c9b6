"""Writes lines of the log from a thread of its own, so that a pipe which nobody reads holds up no call."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from typing import BinaryIO

_MAX_WAITING = 10_000
_LOOK_EVERY = 0.002  # seconds
_GATHER = 0.02  # seconds; one write for many lines costs a busy server far less than one each


class LogWriter:
    """Writes lines to `stream` within some 20 ms. While 10,000 wait, further ones are dropped; a line says how many.

    `thread` is the id that the system gives the thread that writes.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lines: deque[bytes] = deque()
        self._dropped = 0
        self._wanted = threading.Event()
        self._writing = False
        thread = threading.Thread(target=self._run, name="log", daemon=True)
        thread.start()
        self.thread = thread.native_id or 0

    def write(self, line: bytes) -> None:
        """Hands over one line, without its end. Never waits."""
        if len(self._lines) >= _MAX_WAITING:
            self._dropped += 1
            return
        self._lines.append(line)
        if not self._wanted.is_set():
            self._wanted.set()

    debug = info = warning = error = critical = write  # structlog gives it lines by their level

    def flush(self, timeout: float = 1.0) -> None:
        """Waits until what was written before is out, but no longer than `timeout` seconds."""
        end = time.monotonic() + timeout
        while (self._lines or self._writing) and time.monotonic() < end:
            self._wanted.set()
            time.sleep(_LOOK_EVERY)

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            time.sleep(_GATHER)
            self._wanted.clear()
            self._writing = True  # before the lines are taken: `flush` looks at these first
            self._write_waiting()
            self._writing = False

    def _write_waiting(self) -> None:
        lines = []
        while self._lines:
            lines.append(self._lines.popleft())
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            lines.append(json.dumps({"level": "error", "event": "log lines dropped", "count": dropped}).encode())
        if not lines:
            return
        try:
            self._stream.write(b"\n".join(lines) + b"\n")
            self._stream.flush()
        except (OSError, ValueError):  # nobody reads any more, or the stream is closed: no reason to stop serving
            return
