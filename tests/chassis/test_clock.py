"""Times as they are stored and as contracts have them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from handfast.server.chassis.clock import now, timestamp


@pytest.mark.parametrize("stored", [0, 1, 999_999, 1_000_000, 1_700_000_000_123_456, -1])
def test_a_time_comes_back_to_the_microsecond(stored: int) -> None:
    stamp = timestamp(stored)
    assert stamp.ToDatetime(UTC) == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=stored)
    assert 0 <= stamp.nanos < 1_000_000_000
    assert stamp.ToMicroseconds() == stored


def test_what_is_finer_than_a_microsecond_is_dropped() -> None:
    assert Timestamp(seconds=1, nanos=1_999).ToMicroseconds() == 1_000_001


def test_now_is_the_time_of_day() -> None:
    before = datetime.now(UTC) - timedelta(microseconds=1)
    assert before <= timestamp(now()).ToDatetime(UTC) <= datetime.now(UTC)
