"""The time of day as the servers store it."""

from __future__ import annotations

import time
from collections.abc import Callable

from google.protobuf.timestamp_pb2 import Timestamp

Clock = Callable[[], int]
"""Microseconds since the epoch, UTC."""

MICROSECONDS_PER_SECOND = 1_000_000


def now() -> int:
    return time.time_ns() // 1000


def timestamp(microseconds: int) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMicroseconds(microseconds)
    return stamp
