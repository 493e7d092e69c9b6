from __future__ import annotations

import threading

import pytest

from handfast.server.chassis.data.fair_lock import FairLock, TurnTimeout
from tests.eventually import eventually


def test_those_who_wait_come_in_the_order_of_their_arrival() -> None:
    lock = FairLock()
    order: list[int] = []

    def take(number: int) -> None:
        with lock.holding(10):
            order.append(number)

    with lock.holding(1):
        threads = []
        for number in range(5):
            thread = threading.Thread(target=take, args=(number,))
            thread.start()
            threads.append(thread)
            assert eventually(lambda number=number: lock.waiting == number + 1)  # type: ignore[misc]
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3, 4]


def test_who_takes_it_again_and_again_lets_others_have_their_turn() -> None:
    lock = FairLock()
    had_a_turn = threading.Event()

    def once() -> None:
        with lock.holding(10):
            had_a_turn.set()

    turns = 0
    with lock.holding(1):
        threading.Thread(target=once).start()
        assert eventually(lambda: lock.waiting == 1)
    while not had_a_turn.is_set():
        with lock.holding(10):
            turns += 1
    assert turns <= 1


def test_who_waits_too_long_gives_up_and_holds_nobody_up() -> None:
    lock = FairLock()
    with lock.holding(1):
        with pytest.raises(TurnTimeout), lock.holding(0.01):
            pass
        assert lock.waiting == 0
    with lock.holding(0.01):
        pass
