"""What ends a transaction, by what it has done. No server is needed for that."""

from __future__ import annotations

import pytest

from handfast.client.transactions.state import (
    ABSENT,
    MAX_READS,
    Commit,
    Compare,
    Lock,
    NotConfirmed,
    Nothing,
    ReadChanged,
    RollBack,
    TransactionState,
)
from handfast.transactions.v1.transactions_pb2 import Read

ADA, BOB = Read(resource="users/ada", revision="r1"), Read(resource="users/bob", revision="r2")
ADAS = Read(resource="preferences/ada", revision="r3")
NOBODY, NOBODYS = Read(resource="users/nobody", revision=ABSENT), Read(resource="preferences/nobody", revision=ABSENT)


@pytest.fixture
def state() -> TransactionState:
    return TransactionState()


def held(read: Read) -> Read:
    return Read(resource=read.resource, revision=read.revision, held=True)


def write(state: TransactionState, participant: str, *reads: Read) -> int:
    number = state.operation(participant)
    state.staged(participant, participant, reads)
    return number


def lock(state: TransactionState, step: Lock) -> None:
    for participant, reads in step.reads.items():
        write(state, participant)
        state.locked(participant, reads)


def test_operations_are_numbered_for_each_participant(state: TransactionState) -> None:
    assert [write(state, name) for name in ("users", "users", "preferences", "users")] == [1, 2, 1, 3]
    assert state.next_step() == Commit({"users": 3, "preferences": 1})


def test_nothing_done_is_nothing_to_do(state: TransactionState) -> None:
    assert state.next_step() == Nothing()


def test_what_was_read_and_not_written_is_locked_before_the_commit(state: TransactionState) -> None:
    state.read("users", [ADA, BOB])
    state.read("preferences", [ADAS])
    write(state, "users", held(ADA))
    step = state.next_step()
    assert step == Lock({"users": {"users/bob": "r2"}, "preferences": {"preferences/ada": "r3"}})
    lock(state, step)
    assert state.next_step() == Commit({"users": 2, "preferences": 1})


def test_what_a_write_looked_at_and_does_not_hold_is_locked_too(state: TransactionState) -> None:
    write(state, "users", held(ADA), BOB)
    assert state.next_step() == Lock({"users": {"users/bob": "r2"}})


def test_what_is_held_once_is_held_though_an_earlier_read_is_answered_after_it(state: TransactionState) -> None:
    write(state, "users", held(ADA))
    state.read("users", [ADA])
    assert state.next_step() == Commit({"users": 1})


def test_more_than_goes_into_one_call_is_locked_by_several(state: TransactionState) -> None:
    state.read("users", [Read(resource=f"users/{number}", revision="r") for number in range(2 * MAX_READS + 1)])
    write(state, "preferences")
    sizes = []
    while isinstance(step := state.next_step(), Lock):
        sizes.append(len(step.reads["users"]))
        lock(state, step)
    assert sizes == [MAX_READS, MAX_READS, 1]
    assert step == Commit({"users": 3, "preferences": 1})


def test_what_was_only_read_is_compared(state: TransactionState) -> None:
    state.read("users", [ADA, BOB])
    state.read("preferences", [ADAS])
    step = state.next_step()
    assert step == Compare({"users": {"users/ada": "r1", "users/bob": "r2"}, "preferences": {"preferences/ada": "r3"}})
    for participant, reads in step.reads.items():
        state.compared(participant, reads, [])
    assert state.next_step() == Nothing()


def test_a_single_resource_has_nothing_to_agree_with(state: TransactionState) -> None:
    state.read("users", [ADA])
    state.read("users", [ADA])
    assert state.next_step() == Nothing()


def test_what_does_not_exist_is_compared_before_what_does(state: TransactionState) -> None:
    state.read("users", [NOBODY])
    state.read("preferences", [ADAS])
    steps = []
    while isinstance(step := state.next_step(), Compare):
        steps.append(step.reads)
        for participant, reads in step.reads.items():
            state.compared(participant, reads, [])
    assert steps == [{"users": {"users/nobody": ABSENT}}, {"preferences": {"preferences/ada": "r3"}}]
    assert step == Nothing()


def test_of_several_that_do_not_exist_the_absence_is_locked(state: TransactionState) -> None:
    state.read("users", [NOBODY])
    state.read("preferences", [NOBODYS, ADAS])
    step = state.next_step()
    assert step == Lock(
        {"users": {"users/nobody": ABSENT}, "preferences": {"preferences/nobody": ABSENT, "preferences/ada": "r3"}}
    )
    lock(state, step)
    assert state.next_step() == Commit({"users": 1, "preferences": 1})


def test_another_revision_than_before_dooms(state: TransactionState) -> None:
    state.read("users", [ADA])
    with pytest.raises(ReadChanged) as raised:
        write(state, "users", held(Read(resource="users/ada", revision="r9")))
    assert (raised.value.participant, raised.value.resource) == ("users", "users/ada")
    assert state.doomed is raised.value
    assert state.next_step() == RollBack()


def test_a_change_that_comparing_finds_dooms_and_leaves_nothing_to_roll_back(state: TransactionState) -> None:
    state.read("users", [ADA, BOB])
    with pytest.raises(ReadChanged, match="users/bob"):
        state.compared("users", ["users/ada", "users/bob"], ["users/bob"])
    assert state.next_step() == Nothing()
    assert isinstance(state.doomed, ReadChanged)


@pytest.mark.parametrize(
    ("confirmed", "says"), [(None, "did not confirm"), ("preferences", "calls itself preferences")]
)
def test_a_write_that_the_participant_does_not_confirm_dooms(
    state: TransactionState, confirmed: str | None, says: str
) -> None:
    state.operation("users")
    with pytest.raises(NotConfirmed, match=says):
        state.staged("users", confirmed, [])
    assert state.next_step() == RollBack()


def test_a_read_that_does_not_say_what_it_has_read_dooms(state: TransactionState) -> None:
    with pytest.raises(NotConfirmed, match="did not confirm"):
        state.read("users", None)
    assert state.next_step() == Nothing()  # for the coordinator: nothing was staged
    assert isinstance(state.doomed, NotConfirmed)


def test_an_operation_that_failed_dooms_and_the_first_reason_stays(state: TransactionState) -> None:
    write(state, "preferences")
    state.operation("users")
    first = state.doom(RuntimeError("no answer"))
    state.doom(RuntimeError("another"))
    assert state.doomed is first
    assert state.next_step() == RollBack()
