"""What is wrong with money is found, and nothing in what is right."""

from __future__ import annotations

import pytest
from credits.v1.credits_pb2 import Entry

from tests.crashes.money import ACCOUNTS, BALANCE, START, Transfer, violations
from tests.serializability.history import Outcome
from tests.serializability.history import Transaction as Noted

ONE, OTHER = ACCOUNTS[:2]
SUM = BALANCE * len(ACCOUNTS)
ABORTED, COMMITTED, UNKNOWN = Outcome.ABORTED, Outcome.COMMITTED, Outcome.UNKNOWN


def transfer(mark: str, began: float, outcome: Outcome = COMMITTED, **numbers: int) -> Transfer:
    """By default entry 2 of both accounts."""
    of = {ONE: numbers.get("one", 2), OTHER: numbers.get("other", 2)}
    return Transfer(mark, of, Noted(mark, began, began + 1, outcome, ()), "")


def entries(one: str = "", other: str = "") -> dict[str, list[Entry]]:
    """What each account begins with, and then in these two entries such as `a-5 b+3`."""
    return {account: _entries(account, {ONE: one, OTHER: other}.get(account, "")) for account in ACCOUNTS}


def _entries(account: str, moves: str) -> list[Entry]:
    made, balance = [], 0
    for number, move in enumerate([f"{START}+{BALANCE}", *moves.split()], 1):
        at = max(move.find("+"), move.find("-"))
        balance += int(move[at:])
        entry_id = f"{account}/{number:010}"
        made.append(Entry(entry_id=entry_id, note=move[:at], amount=int(move[at:]), balance=balance))
    return made


RIGHT = {
    "a transfer": ([transfer("a", 1)], entries("a-5", "a+5")),
    "one that was aborted": ([transfer("a", 1, ABORTED)], entries()),
    "one that is unknown, and there": ([transfer("a", 1, UNKNOWN)], entries("a-5", "a+5")),
    "one that is unknown, and not there": ([transfer("a", 1, UNKNOWN)], entries()),
    "two": ([transfer("a", 1), transfer("b", 3, one=3, other=3)], entries("a-5 b+1", "a+5 b-1")),
}
WRONG = {
    "an acknowledged one is lost": ([transfer("a", 1)], entries(), "entry 2 of"),
    "half of one is there": ([transfer("a", 1, UNKNOWN)], entries("a-5"), "transfer a moved"),
    "more came than went": ([transfer("a", 1)], entries("a-5", "a+6"), "transfer a moved"),
    "an aborted one is there": ([transfer("a", 1, ABORTED)], entries("a-5", "a+5"), "G1a"),
    "one that nobody made is there": ([transfer("a", 1)], entries("a-5 b+1", "a+5 b-1"), "garbage"),
    "a balance is below zero": ([transfer("a", 1)], entries("a-500", "a+500"), "entry 2 of"),
    "two orders": (
        [transfer("a", 1, one=2, other=3), transfer("b", 1, one=3, other=2)],
        entries("a-5 b+1", "b-1 a+5"),
        "G0",
    ),
    "the later one first": (
        [transfer("a", 5, one=2, other=2), transfer("b", 1, one=3, other=3)],
        entries("a-5 b+1", "a+5 b-1"),
        "realtime",
    ),
}


@pytest.mark.parametrize(("transfers", "found"), RIGHT.values(), ids=RIGHT.keys())
def test_what_is_right_passes(transfers: list[Transfer], found: dict[str, list[Entry]]) -> None:
    assert list(violations(transfers, [SUM], found)) == []


@pytest.mark.parametrize(("transfers", "found", "what"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_found(transfers: list[Transfer], found: dict[str, list[Entry]], what: str) -> None:
    assert what in "\n".join(map(str, violations(transfers, [SUM], found)))


def test_a_sum_that_has_changed_is_found() -> None:
    (violation,) = violations([transfer("a", 1)], [SUM, SUM - 5], entries("a-5", "a+5"))
    assert "the sum of all accounts was 995" in str(violation)


def test_an_entry_that_is_missing_between_two_is_found() -> None:
    found = entries("a-5 b-1", "a+5 b+1")
    del found[ONE][1]
    told = "\n".join(map(str, violations([transfer("b", 1, one=3, other=3)], [SUM], found)))
    assert f"entry 2 of {ONE} is" in told
