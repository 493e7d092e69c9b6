"""The metrics of a database's writes. On PostgreSQL, where each write is committed by itself, they stay at 0.

handfast_write_group_size       how many writes SQLite committed together
handfast_write_group_seconds    from the BEGIN of such a group to the end of its COMMIT
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from handfast.server.chassis.data.database import Database
from handfast.server.chassis.histogram import Histogram

_SIZES = (1, 2, 4, 8, 16, 32, 64)
_SECONDS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


def export_writes(registry: CollectorRegistry, database: Database) -> None:
    """Observes each group of writes from now on."""
    text = "Writes that were committed together, on SQLite."
    sizes = Histogram(registry, "handfast_write_group_size", text, _SIZES)
    text = "Time from the BEGIN of a group of writes to the end of its COMMIT, on SQLite."
    seconds = Histogram(registry, "handfast_write_group_seconds", text, _SECONDS)

    def committed(size: int, took_s: float) -> None:
        sizes.observe(size)
        seconds.observe(took_s)

    database.observe_groups(committed)
