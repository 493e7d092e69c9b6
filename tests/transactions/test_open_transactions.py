"""Transactions that their callers leave open: so many, and no more."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import pytest

from handfast.server.chassis.ids import new_id
from handfast.server.process.settings import ParticipantLimits
from handfast.server.transactions import wire
from handfast.server.transactions.core.model import OWNER_LENGTH, Outcome
from handfast.server.transactions.participant import open_branches
from handfast.server.transactions.participant.errors import TooManyTransactions
from handfast.server.transactions.participant.open_branches import OpenBranches
from tests.transactions.bank import Bank, put


@pytest.fixture
def bank(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bank]:
    monkeypatch.setattr(open_branches, "RECOUNT_S", 0.0)
    bank = Bank(database_url, OpenBranches(most=4, most_per_caller=2))
    yield bank
    bank.database.close()


def test_no_further_one_of_a_caller_is_opened_until_one_ends(bank: Bank) -> None:
    first, second, third = new_id(), new_id(), new_id()
    bank.stage(first, 1, put("a", 1), owner="ada")
    bank.stage(second, 1, put("b", 1), owner="ada")
    with pytest.raises(TooManyTransactions) as refused:
        bank.stage(third, 1, put("c", 1), owner="ada")
    assert refused.value.values == {"transaction_id": third, "limit": "2", "of": "caller"}
    assert refused.value.retry_after is not None
    bank.stage(new_id(), 1, put("c", 1), owner="bob")
    bank.finish(first, Outcome.ABORTED)
    bank.stage(third, 1, put("d", 1), owner="ada")


def test_one_that_is_open_goes_on(bank: Bank) -> None:
    ids = [new_id(), new_id()]
    for number, id_ in enumerate(ids):
        bank.stage(id_, 1, put(f"a{number}", 1), owner="ada")
    for number, id_ in enumerate(ids):
        bank.stage(id_, 1, put(f"a{number}", 1), owner="ada")  # a repeat
        bank.stage(id_, 2, put(f"b{number}", 1), owner="ada")


def test_no_further_one_of_anybody_is_opened_beyond_the_limit_for_all(bank: Bank) -> None:
    for number in range(4):
        bank.stage(new_id(), 1, put(f"a{number}", 1), owner=f"caller-{number}")
    with pytest.raises(TooManyTransactions) as refused:
        bank.stage(new_id(), 1, put("b", 1), owner="another")
    assert (refused.value.values["limit"], refused.value.values["of"]) == ("4", "all")


def test_what_another_replica_opens_counts_from_the_next_sweep_on(bank: Bank) -> None:
    for number in range(2):
        bank.stage(new_id(), 1, put(f"a{number}", 1), owner="ada")
    bank.participant._open_branches.set({})  # as on a replica that has just started
    bank.participant.sweeper._round()
    with pytest.raises(TooManyTransactions):
        bank.stage(new_id(), 1, put("c", 1), owner="ada")


def test_nobody_is_refused_for_what_another_replica_has_finished(bank: Bank) -> None:
    bank.participant._open_branches.set({"ada": 2, "bob": 2})
    bank.stage(new_id(), 1, put("a", 1), owner="ada")


def test_those_who_are_refused_do_not_have_the_database_count_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_branches, "RECOUNT_S", 3600.0)
    here, counted = OpenBranches(most=1), list[str]()

    def count() -> dict[str, int]:
        counted.append("once more")
        return {"ada": 1}

    for _ in range(3):
        here.recount(count)
        assert here.refusal("ada", "tx") is not None
    assert len(counted) == 1


def test_no_count_and_no_name_is_kept_of_those_who_have_none_open(bank: Bank) -> None:
    for number in range(4):
        id_ = new_id()
        bank.stage(id_, 1, put("a", number), owner=f"caller-{number}")
        bank.finish(id_, Outcome.COMMITTED, 1)
    assert bank.participant._open_branches._by_owner == {}


@pytest.mark.parametrize("host", ["ipv4:127.0.0.1", "ipv6:%5B::1%5D", "unix:/run/" + "handfast" * 20])
def test_a_caller_is_a_connection(host: str) -> None:
    first, second = (wire.connection_of(f"{host}:{port}") for port in (50000, 50001))
    assert first != second
    assert len(first) <= OWNER_LENGTH


def test_the_limits_that_are_written_twice_agree() -> None:
    fields = ParticipantLimits.__dataclass_fields__
    assert fields["max_open_transactions"].default == open_branches.MAX_OPEN
    assert fields["max_open_transactions_per_caller"].default == open_branches.MAX_OPEN_PER_CALLER


def test_the_bound_for_all_holds_whoever_opens_and_finishes() -> None:
    seed = random.randrange(1_000_000)
    print(f"seed {seed}")
    chance, here = random.Random(seed), OpenBranches(most=10, most_per_caller=100)
    open_: list[str] = []
    for _ in range(500):
        if chance.random() < 0.5 and len(open_) < 10:
            open_.append(f"caller-{chance.randrange(5)}")
            here.opened(open_[-1])
        elif chance.random() < 0.8 and open_:
            here.finished([open_.pop(), "somebody at another replica"])
        else:
            here.set({**Counter(open_), "nobody": 0})
        assert (here.refusal("ada", "tx") is None) == (len(open_) < 10)
