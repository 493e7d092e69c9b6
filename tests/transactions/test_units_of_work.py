"""Writes of several resources, of several kinds, in one local transaction or one staged operation."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from google.protobuf.wrappers_pb2 import BoolValue, Int64Value, StringValue

from handfast.server.chassis.ids import new_id
from handfast.server.transactions import wire
from handfast.server.transactions.core.model import NO_REVISION, BranchDecision, Outcome
from handfast.server.transactions.participant import UnitOfWork
from handfast.server.transactions.participant.errors import FinishingFailed, PendingChange, ReadChanged, TooManyReads
from handfast.server.transactions.participant.finishing import Finished
from tests.eventually import PATIENCE
from tests.transactions.bank import (
    ABORTED,
    ACCOUNTS,
    COMMITTED,
    ENTRIES,
    Bank,
    Work,
    absent,
    accounts_table,
    delete,
    enter,
    entries_table,
    first_call,
    look,
    opened,
    put,
)
from tests.transactions.participants import old_id


@pytest.fixture
def bank(database_url: str) -> Iterator[Bank]:
    with opened(database_url, a=5, b=0) as bank:
        yield bank


def spend(key: str, amount: int, entry: str) -> Callable[[UnitOfWork], None]:
    def work(unit: UnitOfWork) -> None:
        account = unit.get(ACCOUNTS, key)
        assert account is not None
        if account.value < amount:
            raise ValueError("not enough")
        account.value -= amount
        unit.put(ACCOUNTS, key, account)
        unit.put(ENTRIES, entry, StringValue(value=f"spent by {entry}"))

    return work


def entries(bank: Bank, prefix: str = "") -> list[str]:
    return [entry.value for entry in bank.entries.page("", 100, prefix)[0]]


def test_a_plain_write_does_all_of_it_or_nothing(bank: Bank) -> None:
    bank.write(spend("a", 3, "a/1"))
    with pytest.raises(ValueError, match="not enough"):
        bank.write(spend("a", 3, "a/2"))
    assert bank.amount("a") == 2
    assert entries(bank) == ["spent by a/1"]
    assert bank.left() == []


@pytest.mark.parametrize("outcome", Outcome)
def test_a_staged_one_is_applied_or_dropped_as_a_whole(bank: Bank, outcome: Outcome) -> None:
    tx = new_id()
    bank.stage(tx, 1, spend("a", 3, "a/1"))
    bank.stage(tx, 2, spend("a", 2, "a/2"))
    assert (bank.amount("a"), entries(bank)) == (5, [])
    with pytest.raises(PendingChange):
        bank.write(enter("a/2", "other"))
    assert bank.finish(tx, outcome, 2 if outcome is COMMITTED else 0)
    expected = (0, ["spent by a/1", "spent by a/2"]) if outcome is COMMITTED else (5, [])
    assert (bank.amount("a"), entries(bank)) == expected
    assert bank.left() == []


def test_of_operations_beyond_the_named_ones_no_part_is_applied(bank: Bank) -> None:
    tx = new_id()
    bank.stage(tx, 1, spend("a", 3, "a/1"))
    bank.stage(tx, 2, spend("a", 2, "a/2"))
    assert bank.finish(tx, COMMITTED, 1)
    assert (bank.amount("a"), entries(bank)) == (2, ["spent by a/1"])
    assert bank.left() == []


def test_readers_see_all_parts_once_they_are_committed_and_before_they_are_applied(bank: Bank) -> None:
    tx = new_id()
    bank.stage(tx, 1, spend("a", 3, "a/1"))
    bank.decide(tx, COMMITTED, 1)
    assert (bank.amount("a"), entries(bank)) == (2, ["spent by a/1"])


def test_a_work_sees_what_it_has_made_so_far(bank: Bank) -> None:
    def work(unit: UnitOfWork) -> None:
        assert unit.get(ACCOUNTS, "new") is None
        unit.put(ACCOUNTS, "new", Int64Value(value=1))
        assert unit.get(ACCOUNTS, "new") == Int64Value(value=1)
        unit.delete(ACCOUNTS, "new")
        assert unit.get(ACCOUNTS, "new") is None
        unit.delete(ACCOUNTS, "a")

    bank.write(work)
    assert (bank.amount("new"), bank.amount("a")) == (None, None)
    tx = new_id()
    bank.stage(tx, 1, put("a", 1))
    bank.stage(tx, 2, lambda unit: unit.put(ACCOUNTS, "b", unit.get(ACCOUNTS, "a") or Int64Value()))
    assert bank.finish(tx, COMMITTED, 2)
    assert (bank.amount("a"), bank.amount("b")) == (1, 1)


def test_a_plain_one_leaves_nothing_of_what_it_only_looked_at(bank: Bank) -> None:
    bank.write(look("a", "none"))
    bank.write(lambda unit: unit.lock(ACCOUNTS, ["none", "a", "other"]))
    assert bank.left() == []
    assert bank.accounts.revisions(["none"]) == {"none": NO_REVISION}


@pytest.mark.parametrize("is_staged", [False, True])
def test_resources_of_one_work_can_swap_what_no_two_may_share(bank: Bank, is_staged: bool) -> None:
    bank.write(lambda unit: (enter("x", "one")(unit), enter("y", "two")(unit)))
    swap = lambda unit: (enter("x", "two")(unit), enter("y", "one")(unit))  # noqa: E731
    if is_staged:
        tx = new_id()
        bank.stage(tx, 1, swap)
        assert bank.finish(tx, COMMITTED, 1)
    else:
        bank.write(swap)
    assert entries(bank) == ["two", "one"]
    assert [bank.entries.holder(f"entry:{text}") for text in ("one", "two")] == [
        StringValue(value="one"),
        StringValue(value="two"),
    ]
    with pytest.raises(ValueError, match="entry:one is taken"):
        bank.write(enter("z", "one"))
    assert bank.left() == []


def test_two_resources_of_one_work_do_not_get_the_same_unique_value(bank: Bank) -> None:
    with pytest.raises(ValueError, match="entry:one is taken"):
        bank.write(lambda unit: (enter("x", "one")(unit), enter("y", "one")(unit)))
    assert entries(bank) == []


def test_what_was_read_before_with_another_revision_is_refused(bank: Bank) -> None:
    tx, before = new_id(), bank.read("a")
    bank.write(put("a", 6))
    with pytest.raises(ReadChanged):
        bank.stage(tx, 1, put("a", 7), read_before=[before])
    bank.stage(tx, 1, put("a", 7), read_before=[bank.read("a"), absent("z")])


def test_a_repeat_tells_what_the_first_call_had_read_though_others_have_changed_that(bank: Bank) -> None:
    tx, b = new_id(), bank.read("b")
    first = bank.stage(tx, 1, put("a", 6), read_before=[b])
    bank.write(put("b", 1))
    assert bank.stage(tx, 1, put("a", 6), read_before=[bank.read("b")]) == first


def test_a_list_is_of_those_that_begin_alike(bank: Bank) -> None:
    for key in ("a", "a/1", "a/2", "a0", "b/1", "A/1"):
        bank.write(enter(key, f"text of {key}"))
    assert entries(bank, "a/") == ["text of a/1", "text of a/2"]
    assert entries(bank, "a") == [f"text of {key}" for key in ("a", "a/1", "a/2", "a0")]
    assert bank.entries.page("a/1", 1, "a/") == ([StringValue(value="text of a/2")], "")
    assert bank.entries.page("", 1, "a/") == ([StringValue(value="text of a/1")], "a/1")


def test_read_locks_and_writes_at_the_same_time_leave_nothing(bank: Bank) -> None:
    """Each thread locks, and lets go, what all others lock and write; who is refused goes on."""

    def run(worker: int) -> None:
        for _ in range(8):
            tx = new_id()
            try:
                if worker % 2:
                    bank.write((put if worker % 4 == 1 else lambda key, _: delete(key))("new", worker))
                bank.lock(tx, 1, bank.read("a"), bank.read("new"))
            except (PendingChange, ReadChanged):
                bank.decide(tx, ABORTED)
            else:
                bank.decide(tx, COMMITTED, 1)
            bank.participant.finisher.finish(*filter(None, bank.coordinator.ask([tx]).values()))

    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(run, worker) for worker in range(8)]:
            done.result()
    assert bank.left() == []


def test_a_branch_that_changes_nothing_is_held_and_confirmed(bank: Bank) -> None:
    tx = new_id()
    bank.stage(tx, 1, lambda unit: None)
    assert not bank.participant.finisher.finish(BranchDecision(tx, COMMITTED, 2))[tx]
    assert bank.finish(tx, COMMITTED, 1)


def test_what_is_staged_of_a_kind_that_the_service_gave_up_is_kept_and_not_confirmed(bank: Bank) -> None:
    tx, other = sorted([new_id(), new_id()])
    bank.stage(tx, 1, enter("x", "one"))
    bank.stage(other, 1, put("a", 1))
    store = bank.participant.store
    given_up = store.types.pop("entries"), store.rows.pop("entries")
    decisions = [BranchDecision(id_, COMMITTED, 1) for id_ in (tx, other)]
    assert list(bank.participant.finisher.finish_all(decisions, lambda: True)) == [
        (tx, Finished.FAILED),
        (other, Finished.CONFIRMED),
    ]
    store.types["entries"], store.rows["entries"] = given_up
    assert bank.finish(tx, COMMITTED, 1)
    assert entries(bank) == ["one"]


def test_one_call_of_a_transaction_may_change_many(bank: Bank) -> None:
    tx, before = new_id(), bank.read("a")
    keys = [f"account-{number:03}-of-a-name-as-long-as-those-that-services-have" for number in range(500)]
    every = lambda unit: [put(key, 1)(unit) for key in keys]  # noqa: E731
    trailer = bank.stage(tx, 1, every, read_before=[before])
    assert wire.decode_reads(trailer) == [before]
    with pytest.raises(TooManyReads):
        bank.stage(tx, 2, put("a", 6), read_before=[absent(key + "-") for key in keys])
    assert bank.finish(tx, COMMITTED, 1)
    assert len(bank.rows(accounts_table)) == 502
    assert bank.left() == []


@pytest.mark.parametrize("is_staged", [False, True])
def test_a_reply_of_another_type_is_refused_and_nothing_is_stored(bank: Bank, is_staged: bool) -> None:
    def work(unit: UnitOfWork) -> Any:
        put("a", 6)(unit)
        return BoolValue()

    write = (
        partial(bank.participant.stage, first_call(new_id()))
        if is_staged
        else partial(bank.participant.write_plainly, "/bank/Write")
    )
    with pytest.raises(TypeError, match="the work returns BoolValue, and not StringValue"):
        write(StringValue(), work, StringValue)
    assert bank.amount("a") == 5
    assert bank.left() == []


@pytest.mark.parametrize("is_staged", [False, True])
def test_a_unit_of_work_is_of_no_use_after_its_work(bank: Bank, is_staged: bool) -> None:
    kept: list[UnitOfWork] = []
    if is_staged:
        bank.stage(new_id(), 1, kept.append)
    else:
        bank.write(kept.append)
    for use in (look("a"), put("a", 6), delete("a"), lambda unit: unit.lock(ACCOUNTS, ["a"])):
        with pytest.raises(RuntimeError, match="the unit of work has ended"):
            use(kept[0])


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # SQLite knows no deadlocks
@pytest.mark.parametrize("is_staged", [False, True])
def test_one_that_lost_a_deadlock_first_locks_in_order_what_it_had_looked_at(bank: Bank, is_staged: bool) -> None:
    bank.write(enter("a/1", "first"))
    barrier = threading.Barrier(2)
    locked: list[list[bool]] = []  # by run: whether each of both is locked before the work looks at anything

    def is_locked(key: sa.Column[str], value: str) -> bool:
        with bank.database.engine.begin() as connection:
            unlocked = sa.select(key).where(key == value).with_for_update(skip_locked=True)
            return not connection.execute(unlocked).all()

    def work(first: Work, second: Work) -> Work:
        def both(unit: UnitOfWork) -> None:
            runs = len(locked)
            keys = [(accounts_table.c.account_id, "a"), (entries_table.c.entry_id, "a/1")]
            locked.append([runs >= 2 and is_locked(*key) for key in keys])
            first(unit)
            if runs < 2:
                barrier.wait(PATIENCE)
            second(unit)

        return both

    def account(unit: UnitOfWork) -> None:
        unit.get(ACCOUNTS, "a")

    def entry(unit: UnitOfWork) -> None:
        unit.get(ENTRIES, "a/1")

    def write(order: tuple[Work, Work]) -> None:
        if is_staged:
            bank.stage(new_id(), 1, work(*order))
        else:
            bank.write(work(*order))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, [(account, entry), (entry, account)]))
    assert locked == [[False, False], [False, False], [True, True]]


def test_what_cannot_be_applied_is_tried_less_often_and_ends_once_its_loss_is_accepted(bank: Bank) -> None:
    tx = old_id(60)
    bank.stage(tx, 1, lambda unit: (put("b", 5)(unit), enter("x", "one")(unit)))
    with bank.database.engine.begin() as connection:  # somebody outside makes what the service may not have
        connection.execute(sa.text("CREATE UNIQUE INDEX outside ON accounts (value)"))
    bank.decide(tx, COMMITTED, 1)
    found: list[None] = []
    bank.participant.finisher.on_lost = lambda: found.append(None)
    for _ in range(2):
        bank.participant.sweeper.sweep()
    assert len(found) == 1
    with pytest.raises(FinishingFailed, match="finishing it here fails"):
        bank.write(put("b", 7))
    decision = BranchDecision(tx, COMMITTED, 1)
    assert list(bank.participant.finisher.finish_all([decision], lambda: True)) == [(tx, Finished.FAILED)]
    accepted = replace(decision, loss_accepted=True)
    for _ in range(2):
        assert list(bank.participant.finisher.finish_all([accepted], lambda: True)) == [(tx, Finished.CONFIRMED)]
    assert (bank.amount("a"), bank.amount("b"), entries(bank)) == (5, 0, [])
    assert bank.left() == []
    bank.write(enter("y", "one"))
