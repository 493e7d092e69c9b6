"""A call that is over while it waits gives its place back: places are few, and nobody else would get it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context

import pytest

from handfast.server.chassis.call import CURRENT, Call, Method, Pool
from handfast.server.chassis.cancellation import Canceller, wait
from handfast.server.chassis.errors import CallCancelled
from handfast.server.transactions.coordinator.keyed_lock import KeyedLock
from handfast.server.transactions.core.model import Outcome
from handfast.server.transactions.participant import participant
from handfast.server.transactions.participant.circuit import Circuit
from tests.eventually import PATIENCE, eventually
from tests.transactions.participants import Users, old_id

METHOD = Method("/s/m", "s", "m", "unary", "s", Pool("calls", 1))
TIMES = 3


def interrupted(canceller: Canceller, wait: Callable[[], object], waits: Callable[[], bool]) -> None:
    """Serves a call that waits, and whose caller leaves then."""
    call = Call(METHOD, METHOD.path)

    def serve() -> None:
        CURRENT.set(call)
        canceller.watch(call)
        try:
            wait()
        finally:
            canceller.forget(call)

    with ThreadPoolExecutor(1) as pool:
        served = pool.submit(copy_context().run, serve)
        assert eventually(waits)
        canceller.grpc_ended(call)
        with pytest.raises(CallCancelled):
            served.result(PATIENCE)


def test_a_write_that_waits_for_a_younger_transaction(
    users: Users, canceller: Canceller, monkeypatch: pytest.MonkeyPatch
) -> None:
    older, younger = old_id(60), old_id(50)
    users.stage(younger, "ada")
    waiting = threading.Event()

    def pausing(event: threading.Event, _seconds: float) -> None:
        waiting.set()
        wait(event, PATIENCE)

    with monkeypatch.context() as patch:
        patch.setattr(participant, "wait", pausing)
        for _ in range(TIMES):  # more often than there are places
            waiting.clear()
            interrupted(canceller, lambda: users.stage(older, "ada", email="older@example.com"), waiting.is_set)
    with ThreadPoolExecutor(1) as pool:
        call = Call(METHOD, METHOD.path)

        def stage() -> None:
            CURRENT.set(call)
            users.stage(older, "ada", email="older@example.com")

        staged = pool.submit(copy_context().run, stage)
        with pytest.raises(TimeoutError):
            staged.result(0.1)
        users.finish(younger, Outcome.ABORTED, 0)
        staged.result(PATIENCE)


def test_an_account_call_that_waits_for_its_turn(canceller: Canceller) -> None:
    turns = KeyedLock(waiting=1)

    def wait() -> None:
        with turns.holding("ada"):
            pytest.fail("somebody else has the turn")

    with turns.holding("ada"):
        for _ in range(TIMES):
            interrupted(canceller, wait, lambda: turns.waiting == 1)
            assert turns.waiting == 0
    with turns.holding("ada"):
        pass


def test_a_call_that_waits_for_the_coordinator() -> None:
    circuit = Circuit(room=1)
    patience = []
    for _ in range(TIMES):
        with suppress(CallCancelled), circuit.waiting() as seconds:
            patience.append(seconds)
            raise CallCancelled("")
    assert len(set(patience)) == 1, "there is always room"
