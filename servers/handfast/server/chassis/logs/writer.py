"""Writes lines from a thread of its own: a pipe that nobody empties must not hold up calls."""

from __future__ import annotations

import json
import threading
from collections import deque
from typing import BinaryIO

_MAX_WAITING = 10_000
_GATHER = 0.02  # seconds; one write for many lines costs a busy server far less than one each


class LogWriter:
    """Lines come out within some 20 ms. When too many wait, further ones are dropped, and a line says how many."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lines: deque[bytes] = deque()
        self._dropped = 0
        self._wanted = threading.Event()
        self._writing = threading.Lock()
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def write(self, line: bytes) -> None:
        if len(self._lines) >= _MAX_WAITING:
            self._dropped += 1
            return
        self._lines.append(line)
        if not self._wanted.is_set():
            self._wanted.set()

    def flush(self, timeout: float = 1.0) -> None:
        """Waits until what was written before is out, but no longer than `timeout` seconds."""
        if self._writing.acquire(timeout=timeout):
            try:
                self._write_waiting()
            finally:
                self._writing.release()

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            self._wanted.wait()
            pause.wait(_GATHER)
            self._wanted.clear()
            with self._writing:
                self._write_waiting()

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
