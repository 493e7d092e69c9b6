"""Changes of the same resource go one after the other; those of others do not wait."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from handfast.server.chassis.ids import new_id
from handfast.server.transactions.coordinator import keyed_lock
from handfast.server.transactions.coordinator.errors import TooManyChanges
from handfast.server.transactions.coordinator.keyed_lock import KeyedLock, Turn
from handfast.server.transactions.core.model import Decision, Outcome
from tests.eventually import eventually


@pytest.fixture
def pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(8)


def queued(pool: ThreadPoolExecutor, limited: KeyedLock, resource: str, act: Callable[[], None]) -> Future[None]:
    """One that waits for its turn, which somebody has."""
    waited = limited.waiting

    def take() -> None:
        with limited.holding(resource):
            act()

    future = pool.submit(take)
    assert eventually(lambda: limited.waiting == waited + 1)
    return future


def test_those_of_one_resource_come_in_the_order_of_their_arrival(pool: ThreadPoolExecutor) -> None:
    limited, order = KeyedLock(waiting=8), list[int]()
    with limited.holding("ada"):
        waiting = [queued(pool, limited, "ada", lambda number=number: order.append(number)) for number in range(5)]  # type: ignore[misc]
        assert order == []
    for each in waiting:
        each.result(10)
    assert order == [0, 1, 2, 3, 4]
    assert limited.waiting == 0


def test_who_gets_it_next_learns_what_was_committed_and_who_comes_later_does_not(pool: ThreadPoolExecutor) -> None:
    locks, follows, committed = KeyedLock(waiting=8), list[Decision | None](), Decision(new_id(), Outcome.COMMITTED, {})

    def note(turn: Turn) -> None:
        follows.append(turn.follows)

    def take() -> None:
        with locks.holding("ada") as turn:
            note(turn)

    with locks.holding("ada") as first:
        note(first)
        waiting = [pool.submit(take) for _ in range(2)]
        assert eventually(lambda: locks.waiting == 2)
        first.committed = committed
    for each in waiting:
        each.result(10)
    take()
    assert follows == [None, committed, None, None]


def test_who_takes_it_again_and_again_lets_others_have_their_turn(pool: ThreadPoolExecutor) -> None:
    limited, had_a_turn = KeyedLock(waiting=8), threading.Event()
    with limited.holding("ada"):
        waiting = queued(pool, limited, "ada", had_a_turn.set)
    turns = 0
    while not had_a_turn.is_set():
        with limited.holding("ada"):
            turns += 1
    assert turns <= 1
    waiting.result(10)


def test_those_of_another_resource_do_not_wait() -> None:
    limited = KeyedLock(waiting=1)
    with limited.holding("ada"), limited.holding("grace"):
        assert limited.waiting == 0


def test_an_error_within_a_turn_is_not_taken_for_a_turn_that_did_not_come() -> None:
    limited = KeyedLock(waiting=1)
    with pytest.raises(TimeoutError), limited.holding("ada"):
        raise TimeoutError("of something else")


def test_an_empty_name_waits_for_nobody() -> None:
    limited = KeyedLock(waiting=1)
    with limited.holding(""), limited.holding(""):
        assert limited.waiting == 0


def test_only_so_many_wait_whatever_they_wait_for(pool: ThreadPoolExecutor) -> None:
    limited, done = KeyedLock(waiting=2), threading.Semaphore(0)
    with limited.holding("ada"), limited.holding("grace"):
        waiting = [queued(pool, limited, resource, done.release) for resource in ("ada", "grace")]
        with pytest.raises(TooManyChanges) as refused, limited.holding("ada"):
            pass
        assert refused.value.retry_after
        with limited.holding("alan"):  # for which nobody has to wait
            pass
    for each in waiting:
        each.result(10)
    assert done.acquire(timeout=1)
    assert done.acquire(timeout=1)


def test_who_waits_too_long_is_refused_and_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyed_lock, "PATIENCE_SECONDS", 0.01)
    limited = KeyedLock(waiting=8)
    with limited.holding("ada"):
        with pytest.raises(TooManyChanges), limited.holding("ada"):
            pass
        assert limited.waiting == 0
    with limited.holding("ada"):
        pass


def test_who_fails_lets_the_next_one_have_its_turn() -> None:
    limited = KeyedLock(waiting=8)
    with pytest.raises(ZeroDivisionError), limited.holding("ada"):
        raise ZeroDivisionError
    with limited.holding("ada"):
        pass
