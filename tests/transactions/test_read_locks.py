"""Read locks: what a transaction has read stays as it was until its decision (rule 13)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from handfast.server.chassis.ids import new_id
from handfast.server.transactions.core import model as rules
from handfast.server.transactions.core.model import Outcome, Read, ResourceName
from handfast.server.transactions.participant.errors import (
    OperationChanged,
    PendingChange,
    ReadChanged,
    TransactionTooLarge,
)
from handfast.server.transactions.participant.unit_of_work import UnitOfWork
from tests.transactions.bank import ABORTED, COMMITTED, Bank, Work, absent, accounts_table, delete, look, opened, put


@pytest.fixture
def bank(database_url: str) -> Iterator[Bank]:
    with opened(database_url, a=1, b=2) as bank:
        yield bank


def locks_of(bank: Bank, key: str) -> int:
    """How many the row says that there are."""
    return next((int(row.read_locks) for row in bank.rows(accounts_table) if row.account_id == key), 0)


@pytest.mark.parametrize("change", [put("a", 9), delete("a")])
def test_others_write_only_once_the_transaction_is_decided(bank: Bank, change: Work) -> None:
    reader, writer = new_id(), new_id()
    bank.lock(reader, 1, bank.read("a"))
    with pytest.raises(PendingChange, match=f"accounts/a is changed or locked by transaction {reader}"):
        bank.write(change)
    with pytest.raises(PendingChange):
        bank.stage(writer, 1, change)
    bank.decide(reader, COMMITTED, 1)
    bank.write(change)
    bank.stage(new_id(), 1, put("a", 3))


@pytest.mark.parametrize("outcome", Outcome)
def test_finishing_leaves_nothing_of_them(bank: Bank, outcome: Outcome) -> None:
    reader = new_id()
    bank.lock(reader, 1, bank.read("a"), absent("new"), bank.read("b"))
    assert [locks_of(bank, key) for key in ("a", "b", "new")] == [1, 1, 1]
    assert bank.finish(reader, outcome, 1 if outcome is COMMITTED else 0)
    assert bank.left() == []
    assert bank.amount("a") == 1


def test_what_is_not_named_by_the_decision_is_released_too(bank: Bank) -> None:
    reader = new_id()
    bank.stage(reader, 1, put("b", 3))
    bank.lock(reader, 2, bank.read("a"))
    assert bank.finish(reader, COMMITTED, 1)
    assert bank.left() == []


def test_many_lock_the_same_and_the_last_lets_go(bank: Bank) -> None:
    readers = [new_id() for _ in range(3)]
    for reader in readers:
        bank.lock(reader, 1, bank.read("a"))
    assert locks_of(bank, "a") == 3
    for reader in readers:
        with pytest.raises(PendingChange):
            bank.write(put("a", 9))
        bank.decide(reader, ABORTED)
        assert bank.finish(reader, ABORTED)
    bank.write(put("a", 9))


def test_branches_that_lock_the_same_can_be_finished_together(bank: Bank) -> None:
    readers = [new_id() for _ in range(3)]
    for reader in readers:
        bank.lock(reader, 1, bank.read("a"), absent("new"))
    decisions = [rules.BranchDecision(reader, ABORTED, 0) for reader in readers]
    assert all(bank.participant.finisher.finish(*decisions).values())
    assert bank.left() == []


def test_what_has_changed_since_it_was_read_is_not_locked(bank: Bank) -> None:
    before = bank.read("a"), bank.read("b")
    bank.write(put("b", 3))
    reader = new_id()
    with pytest.raises(ReadChanged) as refused:
        bank.lock(reader, 1, *before)
    assert refused.value.values == {"transaction_id": reader, "resource": "accounts/b"}
    assert refused.value.retry_after is not None
    assert bank.left() == []


def test_what_did_not_exist_and_does_now_is_not_locked_and_the_reverse(bank: Bank) -> None:
    before = bank.read("a")
    bank.write(delete("a"))
    bank.open(new=1)
    for read in (before, absent("new")):
        with pytest.raises(ReadChanged):
            bank.lock(new_id(), 1, read)


def test_what_was_written_back_as_it_was_has_changed_all_the_same(bank: Bank) -> None:
    before = bank.read("a")
    bank.write(put("a", 9))
    bank.write(put("a", 1))
    with pytest.raises(ReadChanged):
        bank.lock(new_id(), 1, before)


def test_what_another_transaction_is_about_to_change_is_waited_for_or_given_way_to(bank: Bank) -> None:
    older, younger = sorted([new_id(), new_id()])
    before = bank.read("a")
    bank.stage(older, 1, put("a", 9))
    with pytest.raises(PendingChange):
        bank.lock(younger, 1, before)
    bank.decide(older, ABORTED)
    bank.lock(younger, 1, before)


def test_a_lock_is_refused_once_a_change_is_committed_that_was_pending(bank: Bank) -> None:
    writer, before = new_id(), bank.read("a")
    bank.stage(writer, 1, put("a", 9))
    bank.decide(writer, COMMITTED, 1)
    with pytest.raises(ReadChanged):
        bank.lock(new_id(), 1, before)


def test_what_is_absent_stays_absent_while_it_is_locked(bank: Bank) -> None:
    reader = new_id()
    bank.lock(reader, 1, absent("new"))
    assert bank.amount("new") is None
    assert bank.accounts.page("", 10)[0] == [version.message for version in bank.accounts.batch(["a", "b"]).values()]
    with pytest.raises(PendingChange):
        bank.open(new=1)
    bank.decide(reader, COMMITTED, 1)
    bank.open(new=1)
    assert bank.amount("new") == 1


def test_what_others_lock_as_absent_stays_locked_when_one_of_them_ends(bank: Bank) -> None:
    first, second = new_id(), new_id()
    bank.lock(first, 1, absent("new"))
    bank.lock(second, 1, absent("new"))
    bank.finish(first, COMMITTED, 1)
    with pytest.raises(PendingChange):
        bank.open(new=1)
    bank.finish(second, ABORTED)
    assert bank.left() == []


def test_the_transaction_itself_writes_what_it_has_locked_and_no_other_does(bank: Bank) -> None:
    tx = new_id()
    bank.lock(tx, 1, bank.read("a"), absent("new"))
    bank.stage(tx, 2, put("a", 9))
    bank.stage(tx, 3, put("new", 1))
    with pytest.raises(PendingChange):
        bank.write(put("a", 3))
    assert bank.finish(tx, COMMITTED, 3)
    assert (bank.amount("a"), bank.amount("new")) == (9, 1)
    assert bank.left() == []


@pytest.mark.parametrize("outcome", Outcome)
def test_the_transaction_itself_deletes_what_it_has_locked(bank: Bank, outcome: Outcome) -> None:
    tx = new_id()
    bank.lock(tx, 1, bank.read("a"))
    bank.stage(tx, 2, delete("a"))
    assert bank.finish(tx, outcome, 2 if outcome is COMMITTED else 0)
    assert bank.amount("a") == (None if outcome is COMMITTED else 1)
    assert bank.left() == []


def test_the_transaction_itself_does_not_write_what_another_has_locked_as_well(bank: Bank) -> None:
    tx, other = sorted([new_id(), new_id()], reverse=True)
    bank.lock(tx, 1, bank.read("a"))
    bank.lock(other, 1, bank.read("a"))
    with pytest.raises(PendingChange, match=other):
        bank.stage(tx, 2, put("a", 9))


def test_what_the_transaction_holds_already_needs_no_further_lock(bank: Bank) -> None:
    tx, before = new_id(), bank.read("a")
    bank.stage(tx, 1, put("a", 9))
    bank.lock(tx, 2, before, bank.read("b"))
    bank.lock(tx, 3, before, bank.read("b"))
    assert (locks_of(bank, "a"), locks_of(bank, "b")) == (0, 1)
    assert bank.finish(tx, COMMITTED, 3)
    assert bank.left() == []


def test_a_repeat_locks_once_and_another_content_is_refused(bank: Bank) -> None:
    tx, a, b = new_id(), bank.read("a"), bank.read("b")
    bank.lock(tx, 1, a)
    bank.lock(tx, 1, a)
    assert locks_of(bank, "a") == 1
    with pytest.raises(OperationChanged):
        bank.lock(tx, 1, b)


def test_what_a_staged_write_looks_at_is_locked_with_it(bank: Bank) -> None:
    tx = new_id()

    def copy(unit: UnitOfWork) -> None:
        look("b", "none")(unit)
        put("a", 2)(unit)

    bank.stage(tx, 1, copy)
    for change in (put("b", 9), put("none", 9), put("a", 9)):
        with pytest.raises(PendingChange):
            bank.write(change)
    assert bank.finish(tx, COMMITTED, 1)
    assert bank.amount("a") == 2
    assert bank.left() == []


def test_a_work_that_changes_nothing_is_an_operation_like_any_other(bank: Bank) -> None:
    tx = new_id()
    bank.stage(tx, 1, lambda unit: None)
    bank.stage(tx, 2, look("a"))
    assert bank.finish(tx, COMMITTED, 2)
    assert bank.left() == []


def test_a_plain_read_sees_what_is_locked(bank: Bank) -> None:
    bank.lock(new_id(), 1, bank.read("a"))
    assert bank.amount("a") == 1


def test_write_skew_is_refused(bank: Bank) -> None:
    """Each reads what the other writes: at most one of them can have both."""
    first, second = sorted([new_id(), new_id()])
    a, b = bank.read("a"), bank.read("b")
    bank.stage(first, 1, put("b", 0))
    bank.stage(second, 1, put("a", 0))
    with pytest.raises(PendingChange):
        bank.lock(second, 2, b)  # the younger gives way
    bank.decide(second, ABORTED)
    bank.lock(first, 2, a)
    assert bank.finish(first, COMMITTED, 2)
    assert (bank.amount("a"), bank.amount("b")) == (1, 0)


def test_a_revision_is_the_same_before_and_after_a_committed_change_is_finished(bank: Bank) -> None:
    tx, before = new_id(), bank.read("a")
    bank.stage(tx, 1, lambda unit: (put("a", 9)(unit), delete("b")(unit)))
    assert bank.read("a") == before
    bank.decide(tx, COMMITTED, 1)
    early = bank.read("a"), bank.read("b")
    assert early[0] != before
    assert early[1] == absent("b")
    assert bank.finish(tx, COMMITTED, 1)
    assert (bank.read("a"), bank.read("b")) == early
    bank.lock(new_id(), 1, *early)


def test_a_transaction_locks_so_much_and_no_more(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "MAX_PARTS", 3)
    tx = new_id()
    bank.lock(tx, 1, bank.read("a"), bank.read("b"))
    with pytest.raises(TransactionTooLarge, match="change or lock up to 3 resources"):
        bank.lock(tx, 2, absent("c"), absent("d"))
    bank.lock(tx, 2, absent("c"))
    assert bank.finish(tx, ABORTED)
    assert bank.left() == []


def test_kinds_are_told_apart(bank: Bank) -> None:
    bank.lock(new_id(), 1, Read(ResourceName("entries", "a"), rules.NO_REVISION, held=False))
    bank.write(put("a", 9))
    assert bank.amount("a") == 9
