"""What a server trusts, read again while it runs: keys, revoked tokens, grants.

Each comes from a file, or keys from a URL. A file that changes is read when it has not changed again from one look to
the next: one that is still being written may be empty, and would for a moment revoke nothing. One that never stays the
same is read all the same after a while, since what is added to it has to count. Where it cannot be read, or breaks a
rule, what was read before stays in force. The log says so once for each cause, and the metrics for as long as it lasts.
"""

from __future__ import annotations

import math
import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

import structlog

from handfast.server.chassis.logs.tracebacks import in_one_line
from handfast.server.chassis.security.fetching import fetch
from handfast.server.process.addresses import is_url
from handfast.server.process.secrets import check_writers

FILE_INTERVAL = 1.0
"""Seconds between two looks at a file."""
LONGEST_WRITE = 5.0
"""Seconds after which a file that changes from each look to the next is read all the same."""
URL_INTERVAL = 300.0
"""Seconds between two requests of a URL."""
URL_RETRY = 10.0
"""Seconds after a request that failed."""
ASK_INTERVAL = 60.0
"""Seconds in which callers can make a server ask a URL once out of turn."""

T = TypeVar("T")
_log = structlog.get_logger()


class Source(Generic[T]):
    """What is at `place`, a file or a URL, as `parse` makes it of its bytes. `parse` raises ValueError where they break
    a rule.

    name       what it is, for the log and the metrics, such as `token_keys`
    value      None until something was read
    failure    why it could not be read last; empty if it could
    failures   how often it could not be read

    Between `start` and `stop` a thread reads it again and again. `on_change` is called after each change.
    """

    def __init__(self, name: str, place: str, parse: Callable[[bytes], T], on_change: Callable[[], None]) -> None:
        self.name = name
        self.value: T | None = None
        self.failure = "it was not read yet"
        self.failures = 0
        self.is_remote = is_url(place)
        self._place, self._parse, self._on_change = place, parse, on_change
        self._data: bytes | None = None
        self._version: object = None  # of the file, as it was read
        self._seen: object = None  # … as the last look has found it
        self._read_by_monotonic_s = math.inf  # though it keeps changing
        self._read_at_monotonic_s = -math.inf
        self._asked_at_monotonic_s = -math.inf
        self._is_awaited = False
        self._lock = threading.Lock()
        self._wake, self._tried = threading.Event(), threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"security-{name}", daemon=True)

    @property
    def age_s(self) -> float:
        """Seconds since it was last read, or seen unchanged; infinite before the first time."""
        return time.monotonic() - self._read_at_monotonic_s

    def start(self, patience: float) -> None:
        """Waits up to `patience` seconds for the first attempt to read it."""
        self._thread.start()
        self._tried.wait(patience)

    def stop(self, timeout: float) -> None:
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def ask(self) -> bool:
        """Has a URL asked out of turn, but once in ASK_INTERVAL at most. Returns whether an answer is awaited."""
        if not self.is_remote:
            return False
        with self._lock:
            now = time.monotonic()
            if now - self._asked_at_monotonic_s >= ASK_INTERVAL:
                self._asked_at_monotonic_s = now
                self._is_awaited = True
                self._wake.set()
            return self._is_awaited

    def read(self) -> None:
        """Reads it, unless it is a file that has not changed, or has just now. Raises OSError or ValueError."""
        version = None if self.is_remote else file_version(self._place)
        if version is None or version != self._version:
            if self.value is not None and self._is_being_written(version):
                return
            data = fetch(self._place) if self.is_remote else _read(self._place)
            if data != self._data:
                self.value = self._parse(data)
                self._data = data
                self._on_change()
            self._version = version
        self._read_at_monotonic_s = time.monotonic()
        if self.failure:
            self.failure = ""
            _log.info("trust was read", source=self.name)

    def _is_being_written(self, version: object) -> bool:
        now = time.monotonic()
        if version == self._seen or now >= self._read_by_monotonic_s:
            self._read_by_monotonic_s = math.inf
            return False
        self._seen = version
        self._read_by_monotonic_s = min(self._read_by_monotonic_s, now + LONGEST_WRITE)
        return True

    def _run(self) -> None:
        while True:
            self._wake.clear()
            if self._stopping:
                return
            pause = self._try()
            self._tried.set()
            with self._lock:
                self._is_awaited = self._wake.is_set()  # by who asked while the last answer was on its way
            self._wake.wait(pause * random.uniform(0.8, 1.2))  # not in step with other replicas

    def _try(self) -> float:
        """Reads it. Returns the seconds until the next attempt."""
        try:
            self.read()
        except Exception as error:
            self.failures += 1
            cause = in_one_line(error)
            if cause != self.failure:
                self.failure = cause
                _log.error("trust could not be read", source=self.name, **{"error.cause": cause})
            return URL_RETRY if self.is_remote else FILE_INTERVAL
        return URL_INTERVAL if self.is_remote else FILE_INTERVAL


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        check_writers(os.stat(file.fileno()))
        return file.read()


def file_version(path: str) -> object:
    """Another one after each change of the file, also where a symbolic link leads elsewhere, as in Kubernetes; None
    where there is no such file."""
    with suppress(OSError):
        found = os.stat(path)
        return found.st_mtime_ns, found.st_size, found.st_ino
    return None
