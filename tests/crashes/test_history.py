"""The checker finds what is planted, and nothing in what is right. Times are in the order of the arguments."""

from __future__ import annotations

from typing import Any

import pytest

from tests.crashes.history import Event, check
from tests.serializability.history import Outcome, Read, Write

REGISTER = "joint/ada"
DONE, REFUSED, UNKNOWN = Outcome.COMMITTED, Outcome.ABORTED, Outcome.UNKNOWN
OUT_OF_ORDER = "G-single-realtime"
"""What was acknowledged is lost, or an older value came back."""


def write(value: str, began: float, ended: float, outcome: Outcome = DONE, **more: Any) -> Event:
    return Event("write", began, ended, outcome, (Write(REGISTER, value),), **more)


def read(value: str, began: float, ended: float, register: str = REGISTER, **more: Any) -> Event:
    return Event("read", began, ended, DONE, (Read(register, value),), **more)


def found(*history: Event) -> list[str]:
    return [violation.name for violation in check(history, lambda register: "start")]


RIGHT = {
    "nothing happens": [],
    "the value before the first write is read": [read("start", 0, 1), write("a", 2, 3)],
    "a write is read": [write("a", 0, 1), read("a", 2, 3)],
    "while a write runs, either value is read": [write("a", 0, 10), read("start", 1, 2), read("a", 3, 4)],
    "reads that overlap each other may differ": [write("a", 0, 10), read("a", 1, 5), read("start", 2, 6)],
    "writes that overlap take effect in either order": [write("a", 0, 5), write("b", 1, 4), read("a", 6, 7)],
    "an unknown write has no effect": [write("a", 0, 1, UNKNOWN), read("start", 2, 3)],
    "an unknown write has its effect later": [write("a", 0, 1, UNKNOWN), read("start", 2, 3), read("a", 4, 5)],
    "a refused write has none": [write("a", 0, 1, REFUSED), read("start", 2, 3)],
    "a value is overwritten unseen": [write("a", 0, 1), write("b", 2, 3), read("b", 4, 5)],
}
WRONG = {
    "a write that nobody made": ([read("a", 0, 1)], "garbage read"),
    "a refused write is seen": ([write("a", 0, 1, REFUSED), read("a", 2, 3)], "aborted read"),
    "a write is seen before it was made": ([read("a", 0, 1), write("a", 2, 3)], "G1c-realtime"),
    "an acknowledged write is lost": ([write("a", 0, 1), read("start", 2, 3)], OUT_OF_ORDER),
    "an acknowledged write is lost later": (
        [write("a", 0, 1), read("a", 2, 3), write("b", 4, 5), read("a", 6, 7)],
        OUT_OF_ORDER,
    ),
    "two readers disagree on what is newer": (
        [write("a", 0, 20), read("a", 1, 2), read("start", 3, 4)],
        OUT_OF_ORDER,
    ),
    "an unknown write comes and goes": (
        [write("a", 0, 1, UNKNOWN), read("a", 2, 3), read("start", 4, 5)],
        OUT_OF_ORDER,
    ),
    "a value comes back": (
        [write("a", 0, 1), write("b", 0, 1), read("a", 2, 3), read("b", 4, 5), read("a", 6, 7)],
        OUT_OF_ORDER,
    ),
    "a dropped write comes to life": (
        [write("a", 0, 1, UNKNOWN), write("b", 2, 3), read("a", 4, 5), read("b", 6, 7), read("a", 8, 9)],
        OUT_OF_ORDER,
    ),
}


@pytest.mark.parametrize("history", RIGHT.values(), ids=RIGHT.keys())
def test_what_is_right_passes(history: list[Event]) -> None:
    assert found(*history) == []


@pytest.mark.parametrize(("history", "what"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_found(history: list[Event], what: str) -> None:
    (violation,) = check(history, lambda register: "start")
    assert what in violation.name
    assert REGISTER in str(violation)


def test_the_witnesses_of_a_violation_are_shown() -> None:
    lost, stale = write("a", 1, 2), read("start", 3, 4)
    (violation,) = check([lost, stale, write("b", 5, 6)], lambda register: "start")
    assert set(violation.transactions) == {lost, stale}


def test_registers_do_not_concern_each_other() -> None:
    assert found(write("a", 0, 1), read("start", 2, 3, "joint/bob")) == []


def test_what_is_read_together_is_of_one_moment() -> None:
    both = (Read(REGISTER, "start"), Read("joint/bob", "b"))
    writes = write("a", 0, 1), Event("write", 2, 3, DONE, (Write("joint/bob", "b"),))
    assert found(*writes, Event("account", 0, 9, DONE, both)) == [OUT_OF_ORDER]
    assert found(*writes, Event("list", 0, 9, DONE, both, apart=True)) == []


def test_what_a_client_found_wrong_itself_counts() -> None:
    torn = "torn: joint/ada is both a and start"
    assert found(write("a", 0, 1), read("a", 2, 3, faults=[torn])) == [torn]


def test_an_etag_stands_for_one_state() -> None:
    (violation,) = found(read("start", 0, 1, etags={"e1": "content"}), read("start", 2, 3, etags={"e1": "other"}))
    assert violation == "etag e1 stands for two states: content, other"


def test_of_two_writers_that_go_by_the_same_etag_one_is_refused() -> None:
    assert found(write("a", 0, 1, replaces=["e1"]), write("b", 2, 3, REFUSED, replaces=["e1"])) == []
    assert found(write("a", 0, 1, replaces=["e1"]), write("b", 2, 3, replaces=["e1"])) == ["etag e1 was replaced twice"]
