"""An older transaction that waits is not overtaken by younger ones, and goes on as soon as it can."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from handfast.server.chassis.call import CURRENT, Call, Method, Pool
from handfast.server.transactions.core.model import BranchDecision, Outcome
from handfast.server.transactions.participant import UnitOfWork, participant
from handfast.server.transactions.participant.errors import PendingChange
from tests.eventually import PATIENCE, eventually
from tests.transactions.bank import Bank, Work, enter, entries_table, look, opened, put
from tests.transactions.participants import old_id

METHOD = Method("/s/m", "s", "m", "unary", "s", Pool("calls", 1))
OLDEST, OLDER, HOLDER, YOUNGER = (old_id(seconds) for seconds in (50, 40, 30, 20))


@pytest.fixture
def bank(database_url: str) -> Iterator[Bank]:
    with opened(database_url, a=1, b=2) as bank:
        yield bank


def stage_older(bank: Bank, work: Work) -> bytes:
    """In a call, as only calls wait."""
    token = CURRENT.set(Call(METHOD, METHOD.path))
    try:
        return bank.stage(OLDER, 1, work)
    finally:
        CURRENT.reset(token)


@contextmanager
def waiting(bank: Bank, work: Work, *resources: str) -> Iterator[Future[bytes]]:
    """A block in which the older transaction waits for the holder, who has these resources."""
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(stage_older, bank, work)
        try:
            assert eventually(lambda: all(who_waits(bank, each) == OLDER for each in resources))
            yield waits
        finally:
            bank.finish(HOLDER, Outcome.ABORTED)
            waits.result(PATIENCE)
    assert [who_waits(bank, each) for each in resources] == [None for _ in resources]


def who_waits(bank: Bank, resource: str) -> str | None:
    return bank.participant._waiters.older_than(YOUNGER, resource)


def test_a_younger_one_locks_and_changes_nothing_that_an_older_one_waits_for(bank: Bank) -> None:
    bank.lock(HOLDER, 1, bank.read("a"))
    with waiting(bank, put("a", 9), "accounts/a"):
        refusal = f"Transaction {OLDER}, which is older, waits for accounts/a."
        with pytest.raises(PendingChange, match=refusal) as refused:
            bank.lock(YOUNGER, 1, bank.read("a"))
        assert refused.value.retry_after
        with pytest.raises(PendingChange, match=refusal):
            bank.stage(YOUNGER, 1, look("b", "a"))
        bank.stage(YOUNGER, 1, put("b", 3))
        bank.finish(YOUNGER, Outcome.COMMITTED, 1)
    assert bank.finish(OLDER, Outcome.COMMITTED, 1)
    assert (bank.amount("a"), bank.amount("b")) == (9, 3)
    assert bank.left() == []


def test_who_holds_it_goes_on_with_it_and_who_is_older_still_gets_it(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(participant, "FIRST_PAUSE_S", PATIENCE)  # so that it is woken by the holder's end alone, and
    monkeypatch.setattr(participant, "LAST_PAUSE_S", PATIENCE)  # does not meet the oldest, to which it would give way
    bank.lock(HOLDER, 1, bank.read("a"))
    with waiting(bank, put("a", 9), "accounts/a"):
        bank.lock(OLDEST, 1, bank.read("a"))
        bank.finish(OLDEST, Outcome.COMMITTED, 1)
        bank.stage(HOLDER, 2, look("a"))
        bank.stage(HOLDER, 3, put("a", 2))
        bank.stage(HOLDER, 4, put("a", 3))


def test_what_it_had_waited_for_first_is_kept_for_it_while_it_waits_for_the_next(bank: Bank) -> None:
    def both(unit: UnitOfWork) -> None:
        put("a", 8)(unit)
        put("b", 9)(unit)

    bank.lock(YOUNGER, 1, bank.read("a"))
    bank.stage(HOLDER, 1, put("b", 3))
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(stage_older, bank, both)
        assert eventually(lambda: who_waits(bank, "accounts/a") == OLDER)
        bank.finish(YOUNGER, Outcome.COMMITTED, 1)
        assert eventually(lambda: who_waits(bank, "accounts/b") == OLDER)
        with pytest.raises(PendingChange, match=OLDER):
            bank.lock(old_id(10), 1, bank.read("a"))
        bank.finish(HOLDER, Outcome.COMMITTED, 1)
        waits.result(PATIENCE)


def test_a_younger_one_takes_no_unique_value_that_an_older_one_waits_for(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(participant, "FIRST_PAUSE_S", PATIENCE)
    bank.stage(HOLDER, 1, enter("x", "one"))
    with waiting(bank, enter("y", "one"), "unique value entry:one"):
        decision = BranchDecision(HOLDER, Outcome.ABORTED, 0)  # as another replica finishes it, which wakes nobody here
        bank.database.write(lambda connection: bank.participant.finisher.finish_within(connection, [decision]))
        with pytest.raises(PendingChange, match=f"{OLDER}, which is older, waits for a unique value of entries/z"):
            bank.stage(YOUNGER, 1, enter("z", "one"))
        bank.stage(YOUNGER, 1, enter("z", "two"))
        bank.participant._waiters.finished([HOLDER])
    bank.finish(YOUNGER, Outcome.COMMITTED, 1)
    bank.finish(OLDER, Outcome.COMMITTED, 1)
    assert [row.value for row in bank.rows(entries_table)] == ["one", "two"]


@pytest.mark.parametrize("outcome", Outcome)
def test_it_goes_on_as_soon_as_the_younger_one_is_finished_here(
    bank: Bank, outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(participant, "FIRST_PAUSE_S", 3 * PATIENCE)
    bank.stage(HOLDER, 1, put("a", 2))
    with waiting(bank, put("a", 9), "accounts/a") as waits:
        bank.finish(HOLDER, outcome, 1 if outcome is Outcome.COMMITTED else 0)
        waits.result(PATIENCE)


def test_it_goes_on_where_another_replica_has_finished_the_younger_one(bank: Bank) -> None:
    """Which wakes nobody here."""
    bank.stage(HOLDER, 1, put("a", 2))
    with waiting(bank, put("a", 9), "accounts/a") as waits:
        decision = BranchDecision(HOLDER, Outcome.COMMITTED, 1)
        bank.database.write(lambda connection: bank.participant.finisher.finish_within(connection, [decision]))
        waits.result(PATIENCE)


def test_where_one_call_is_served_at_a_time_none_waits(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next call of the transaction that it would wait for could not be served."""
    monkeypatch.setattr(participant, "wait", lambda *_: pytest.fail("it waits"))
    with opened(database_url, threads=1, a=1) as bank:
        bank.stage(HOLDER, 1, put("a", 2))
        with pytest.raises(PendingChange, match=HOLDER):
            stage_older(bank, put("a", 9))


def test_nothing_relies_on_knowing_who_waits(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    """As at another replica, a younger one may still get ahead, and the older one waits for it, too."""
    bank.lock(HOLDER, 1, bank.read("a"))
    with waiting(bank, put("a", 9), "accounts/a") as waits:
        with monkeypatch.context() as patch:
            patch.setattr(type(bank.participant._waiters), "older_than", lambda *_: None)
            bank.lock(YOUNGER, 1, bank.read("a"))
        bank.finish(HOLDER, Outcome.COMMITTED, 1)
        assert not waits.done()
        bank.finish(YOUNGER, Outcome.COMMITTED, 1)
    assert bank.finish(OLDER, Outcome.COMMITTED, 1)
    assert (bank.amount("a"), bank.left()) == (9, [])
