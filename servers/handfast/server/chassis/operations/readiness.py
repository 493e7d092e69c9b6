"""Turns the health of a server off while something that it needs, such as its database, is away.

A check raises when what it looks at is away. While a check raises, or does not return in time, health says NOT_SERVING,
so that load balancers send calls to other replicas. Calls that come nevertheless are served: a check may be wrong.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import structlog
from prometheus_client import CollectorRegistry, Gauge

from handfast.server.chassis.operations.health import Health
from handfast.server.chassis.operations.periodic import Periodic

INTERVAL = 1.0
"""Seconds between two rounds of checks, on average."""
PATIENCE = 3.0
"""Seconds within which all checks must have returned."""

Check = Callable[[], None]
_log = structlog.get_logger()


class Readiness:
    """Runs the checks between `start` and `stop`, for the first time before `start` returns: a server can start without
    all that it needs, such as keys that are published elsewhere.
    """

    def __init__(self, health: Health, checks: Sequence[Check], registry: CollectorRegistry) -> None:
        self._health, self._checks = health, checks
        self._ready = True
        self.serving = False
        """Whether health says SERVING."""
        self._lock = threading.Lock()
        self._periodic = Periodic("readiness", self._check, INTERVAL)
        self._gauge = Gauge("handfast_ready", "Whether health says SERVING.", registry=registry)

    def start(self) -> None:
        if self._checks:
            first = threading.Thread(target=self._check, name="readiness-first", daemon=True)
            first.start()
            first.join(PATIENCE)
            self._periodic.start()
        with self._lock:
            self._tell(serving=self._ready)

    def stop(self) -> None:
        """Turns health NOT_SERVING for good. Does not wait for a check under way."""
        self._periodic.stop(0)
        with self._lock:
            self._tell(serving=False, for_good=True)

    def _check(self) -> None:
        watchdog = threading.Timer(PATIENCE, self._turn, (f"a check took more than {PATIENCE:g} s",))
        watchdog.daemon = True
        watchdog.start()
        why = ""
        try:
            for check in self._checks:
                check()
        except Exception as error:
            why = str(error) or type(error).__name__
        watchdog.cancel()
        watchdog.join()  # or what it says of this round could come after the next line
        self._turn(why)

    def _turn(self, why_not: str) -> None:
        with self._lock:
            if self._periodic.stopping or self._ready is (not why_not):
                return
            self._ready = not why_not
            self._tell(serving=self._ready)
            if self._ready:
                _log.info("ready again")
            else:
                _log.error("not ready", reason=why_not)

    def _tell(self, *, serving: bool, for_good: bool = False) -> None:
        self.serving = serving
        self._health.turn(serving=serving, for_good=for_good)
        self._gauge.set(serving)
