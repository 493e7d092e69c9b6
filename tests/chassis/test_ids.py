"""Ids sort by when they were minted, and are never ahead of the clock."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from uuid import RFC_4122, UUID

import pytest

from handfast.server.chassis.ids import Ids, new_id

MILLISECONDS = 1000
"""Microseconds in one."""
SECONDS = 1_000_000


def millisecond(id_: str) -> int:
    return UUID(id_).int >> 80


class Hands:
    """A clock that shows what it is set to, in microseconds."""

    def __init__(self) -> None:
        self.time = 1_800_000_000 * SECONDS

    def __call__(self) -> int:
        return self.time


def test_an_id_is_a_uuid_of_version_7_that_has_the_clocks_milliseconds() -> None:
    clock = Hands()
    id_ = Ids(clock).mint()
    assert (UUID(id_).version, UUID(id_).variant, str(UUID(id_))) == (7, RFC_4122, id_)
    assert millisecond(id_) == clock.time // MILLISECONDS


def test_a_hundred_thousand_ids_of_one_millisecond_sort_and_stay_within_it() -> None:
    clock = Hands()
    ids = Ids(clock)
    minted = [ids.mint() for _ in range(100_000)]
    assert minted == sorted(minted)
    assert len(set(minted)) == len(minted)
    assert {millisecond(id_) for id_ in minted} == {clock.time // MILLISECONDS}
    clock.time += MILLISECONDS
    assert ids.mint() > minted[-1]


@pytest.mark.parametrize("bit", [0, 1])
def test_ids_sort_and_stay_within_their_millisecond_whatever_is_drawn(
    monkeypatch: pytest.MonkeyPatch, bit: int
) -> None:
    monkeypatch.setattr("secrets.randbits", lambda bits: bit * ((1 << bits) - 1))
    clock = Hands()
    ids = Ids(clock)
    minted = [ids.mint() for _ in range(10_000)]
    assert minted == sorted(set(minted))
    assert {(UUID(id_).version, UUID(id_).variant) for id_ in minted} == {(7, RFC_4122)}
    assert {millisecond(id_) for id_ in minted} == {clock.time // MILLISECONDS}


def test_ids_are_not_ahead_of_the_clock_however_fast_they_are_minted() -> None:
    minted = []
    before = time.time_ns() // 1_000_000
    for _ in range(20_000):
        minted.append(new_id())
        assert before <= millisecond(minted[-1]) <= time.time_ns() // 1_000_000
    assert minted == sorted(minted)


def test_ids_follow_a_clock_that_was_ahead_and_is_set_right() -> None:
    clock = Hands()
    ids = Ids(clock)
    clock.time += 60 * SECONDS
    ids.mint()
    clock.time -= 60 * SECONDS
    assert millisecond(ids.mint()) == clock.time // MILLISECONDS


def test_no_two_threads_mint_the_same() -> None:
    ids = Ids(Hands())
    together = threading.Barrier(4)

    def some(_: int) -> list[str]:
        together.wait()
        minted = [ids.mint() for _ in range(5_000)]
        assert minted == sorted(minted)
        return minted

    with ThreadPoolExecutor(4) as pool:
        minted = [id_ for some_ids in pool.map(some, range(4)) for id_ in some_ids]
    assert len(set(minted)) == 20_000
