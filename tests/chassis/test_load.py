"""How many calls a pool takes, and how a server that stops waits for those in flight."""

from __future__ import annotations

import threading

import pytest

from handfast.server.chassis.call import Call, Method, Pool
from handfast.server.chassis.observe.load import Load
from handfast.server.chassis.observe.record import REFUSALS, Record, Refused
from tests.eventually import PATIENCE, eventually

SMALL, LARGE = Pool("small", 1, queue=1), Pool("large", 8, queue=None)


@pytest.fixture
def load() -> Load:
    return Load([SMALL, LARGE])


def record(pool: Pool, refused: Refused | None = None) -> Record:
    call = Call.received(Method("/s/m", "s", "m", "unary", "s", pool), "/s/m", ())
    return Record(call, refused, ())


def test_a_pool_takes_as_many_calls_as_it_has_threads_and_places(load: Load) -> None:
    assert [load.admit(SMALL) for _ in range(4)] == [None, None, Refused.OVERLOADED, Refused.OVERLOADED]
    assert (load.in_flight(SMALL), load.in_flight(REFUSALS), load.shed(SMALL)) == (2, 2, 2)
    load.ended(record(SMALL, Refused.OVERLOADED))
    assert (load.in_flight(SMALL), load.in_flight(REFUSALS)) == (2, 1)
    load.ended(record(SMALL))
    assert load.admit(SMALL) is None
    assert load.shed(SMALL) == 2


def test_a_pool_without_a_limit_takes_all(load: Load) -> None:
    assert {load.admit(LARGE) for _ in range(1000)} == {None}
    assert (load.in_flight(LARGE), load.in_flight(SMALL), load.shed(LARGE)) == (1000, 0, 0)


def test_a_pool_that_drains_takes_no_more_and_the_others_do(load: Load) -> None:
    assert not load.draining
    assert load.drain([SMALL], 0)
    assert load.draining
    assert load.admit(SMALL) is Refused.STOPPING
    assert load.admit(LARGE) is None
    assert load.shed(SMALL) == 0  # which counts overload


def test_to_drain_waits_for_what_is_in_flight(load: Load) -> None:
    load.admit(SMALL)
    drained: list[bool] = []
    draining = threading.Thread(target=lambda: drained.append(load.drain([SMALL], PATIENCE)))
    draining.start()
    assert eventually(lambda: load.draining)
    assert drained == []
    load.ended(record(SMALL))
    draining.join(PATIENCE)
    assert drained == [True]


def test_what_does_not_end_in_time_is_told(load: Load) -> None:
    load.admit(SMALL)
    assert not load.drain([SMALL, LARGE], 0.02)
    assert load.drain([LARGE], 0.02)


def test_to_drain_waits_for_callers_to_stop_coming_but_no_longer_than_it_was_told(load: Load) -> None:
    load.drain([SMALL], 0)
    came: list[None] = []
    stop = threading.Event()

    def come() -> None:
        while not stop.wait(0.001):
            load.admit(SMALL)
            came.append(None)

    coming = threading.Thread(target=come)
    coming.start()
    assert eventually(lambda: came)
    before = len(came)
    assert load.drain([SMALL], 0.3)  # all in flight have ended
    assert len(came) > before
    stop.set()
    coming.join()
    assert load.drain([SMALL], PATIENCE)
