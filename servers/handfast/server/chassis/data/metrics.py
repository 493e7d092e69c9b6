"""The metrics of a database's writes. On PostgreSQL, where each write is committed by itself, they stay at 0.

handfast_write_group_size       how many writes SQLite committed together
handfast_write_group_seconds    from the BEGIN of such a group to the end of its COMMIT
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Histogram

if TYPE_CHECKING:
    from handfast.server.chassis.data.database import Database

_SIZES = (1, 2, 4, 8, 16, 32, 64)
_SECONDS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


class GroupMetrics(CollectorRegistry):
    """Those of one database."""

    def __init__(self) -> None:
        super().__init__()
        text = "Writes that were committed together, on SQLite."
        self._sizes = Histogram("handfast_write_group_size", text, registry=self, buckets=_SIZES)
        text = "Time from the BEGIN of a group of writes to the end of its COMMIT, on SQLite."
        self._seconds = Histogram("handfast_write_group_seconds", text, registry=self, buckets=_SECONDS)

    def add(self, size: int, seconds: float) -> None:
        """Counts a group that was committed."""
        self._sizes.observe(size)
        self._seconds.observe(seconds)


def export_writes(registry: CollectorRegistry, database: Database) -> None:
    """Shows how writes are committed."""
    registry.register(database.backend.group_metrics)
