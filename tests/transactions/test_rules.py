"""The rules without I/O, as transcripts: what a participant or the coordinator holds, what arrives, what follows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from handfast.server.transactions.core import coordinator, participant, pruning, reading
from handfast.server.transactions.core.model import (
    Branch,
    BranchState,
    ClaimChange,
    Decision,
    Operation,
    Outcome,
    StageRequest,
)

T = "t1"
DEADLINE = 1000
EARLIER, LATER = DEADLINE - 1, DEADLINE + 1

OPEN = Branch(T, BranchState.OPEN, DEADLINE, T)
COMMITTED = Decision(T, Outcome.COMMITTED, {"users": 1})
ABORTED = Decision(T, Outcome.ABORTED, {"users": 0})


def stage(number: int, content: bytes = b"a") -> StageRequest:
    return StageRequest(T, number, DEADLINE, T, content)


def operation(number: int, resource: str = "ada", image: bytes | None = b"image", content: bytes = b"a") -> Operation:
    return Operation(T, number, resource, content, image, b"reply")


def admit(
    branch: Branch | None, known: Operation | None, arriving: StageRequest, now: int, horizon: str = ""
) -> participant.Proceed | participant.Repeat | participant.Refusal:
    return participant.admit(branch, horizon, known, arriving, now)


def finish(
    branch: Branch | None, operations: list[Operation], outcome: Outcome | None, named: int, horizon: str = ""
) -> participant.Finished | participant.Confirmed | participant.Lost:
    return participant.finish(T, branch, horizon, operations, outcome, named)


def close(branch: Branch | None, horizon: str = "") -> Branch:
    return participant.close(T, branch, horizon)


class TestStaging:
    def test_the_first_operation_opens_the_branch(self) -> None:
        assert admit(None, None, stage(1), EARLIER) == participant.Proceed(replace(OPEN, staged=1))

    def test_operations_are_staged_in_their_order_without_gaps(self) -> None:
        one_staged = replace(OPEN, staged=1)
        assert admit(one_staged, None, stage(2), EARLIER) == participant.Proceed(replace(OPEN, staged=2))
        assert admit(one_staged, None, stage(3), EARLIER) is participant.Refusal.OPERATION_OUT_OF_ORDER

    def test_a_repeat_is_answered_as_before_even_after_the_deadline(self) -> None:
        staged = operation(1)
        assert admit(replace(OPEN, staged=1), staged, stage(1), LATER) == participant.Repeat(staged)

    def test_the_same_number_with_another_content_is_refused(self) -> None:
        other = stage(1, content=b"b")
        refusal = admit(replace(OPEN, staged=1), operation(1), other, EARLIER)
        assert refusal is participant.Refusal.OPERATION_CHANGED

    @pytest.mark.parametrize("state", [BranchState.CLOSED, BranchState.FINISHED])
    def test_a_branch_that_is_not_open_takes_nothing_not_even_a_repeat(self, state: BranchState) -> None:
        branch = replace(OPEN, state=state, staged=1)
        assert admit(branch, operation(1), stage(1), EARLIER) is participant.Refusal.BRANCH_NOT_OPEN

    def test_nothing_is_staged_after_the_deadline(self) -> None:
        assert admit(None, None, stage(1), LATER) is participant.Refusal.EXPIRED

    def test_a_branch_takes_so_many_operations_and_no_more(self) -> None:
        full = replace(OPEN, staged=999)
        assert isinstance(admit(full, None, stage(1000), EARLIER), participant.Proceed)
        full = replace(OPEN, staged=1000)
        assert admit(full, None, stage(1001), EARLIER) is participant.Refusal.TOO_LARGE

    def test_a_branch_has_room_for_as_many_bytes_as_the_contract_says(self) -> None:
        assert participant.has_room(16 * 1024 * 1024)
        assert not participant.has_room(16 * 1024 * 1024 + 1)

    def test_below_the_horizon_nothing_is_staged_unless_the_branch_is_still_there(self) -> None:
        assert admit(None, None, stage(1), EARLIER, horizon="t2") is participant.Refusal.FORGOTTEN
        assert admit(None, None, stage(1), EARLIER, horizon="t1") == participant.Proceed(replace(OPEN, staged=1))
        assert admit(OPEN, None, stage(1), EARLIER, horizon="t2") == participant.Proceed(replace(OPEN, staged=1))


class TestWaiting:
    def test_only_the_older_waits_for_the_younger_so_nobody_waits_in_a_circle(self) -> None:
        assert participant.may_wait("t1", "t2")
        assert not participant.may_wait("t2", "t1")
        assert not participant.may_wait("t1", "t1")


class TestFinishing:
    def test_what_is_named_is_applied_and_what_is_beyond_is_dropped(self) -> None:
        operations = [operation(1, "ada", b"1"), operation(2, "ada", b"2"), operation(3, "bob", b"3")]
        finished = finish(replace(OPEN, staged=3), operations, Outcome.COMMITTED, named=2)
        assert isinstance(finished, participant.Finished)
        assert finished.applied == {"ada": b"2"}
        assert finished.dropped == {"bob"}
        assert (finished.branch.state, finished.branch.outcome) == (BranchState.FINISHED, Outcome.COMMITTED)

    def test_an_abort_drops_everything(self) -> None:
        finished = finish(replace(OPEN, staged=1), [operation(1)], Outcome.ABORTED, named=0)
        assert isinstance(finished, participant.Finished)
        assert not finished.applied
        assert finished.dropped == {"ada"}

    def test_a_deletion_is_applied_like_any_change(self) -> None:
        finished = finish(OPEN, [operation(1, image=None)], Outcome.COMMITTED, named=1)
        assert isinstance(finished, participant.Finished)
        assert finished.applied == {"ada": None}

    def test_an_abort_that_overtakes_the_staged_call_marks_the_branch_so_that_the_call_is_refused(self) -> None:
        finished = finish(None, [], Outcome.ABORTED, named=0)
        assert isinstance(finished, participant.Finished)
        assert admit(finished.branch, None, stage(1), EARLIER) is participant.Refusal.BRANCH_NOT_OPEN

    def test_a_repeat_confirms(self) -> None:
        done = replace(OPEN, staged=1, state=BranchState.FINISHED, outcome=Outcome.COMMITTED)
        assert finish(done, [], Outcome.COMMITTED, 1) is participant.Confirmed.CONFIRMED
        assert finish(done, [], Outcome.COMMITTED, 2) is participant.Lost.LOST

    def test_a_committed_operation_that_is_not_held_is_lost_not_confirmed(self) -> None:
        assert finish(None, [], Outcome.COMMITTED, named=1) is participant.Lost.LOST

    def test_a_branch_finished_the_other_way_is_lost_not_confirmed(self) -> None:
        done = replace(OPEN, state=BranchState.FINISHED, outcome=Outcome.ABORTED)
        assert finish(done, [], Outcome.COMMITTED, named=1) is participant.Lost.LOST

    def test_what_is_here_is_applied_once_the_loss_of_the_rest_is_accepted(self) -> None:
        branch, operations = replace(OPEN, staged=1), [operation(1)]
        assert finish(branch, operations, Outcome.COMMITTED, named=2) is participant.Lost.LOST
        accepted = participant.finish(T, branch, "", operations, Outcome.COMMITTED, named=2, loss_accepted=True)
        done = replace(branch, state=BranchState.FINISHED, outcome=Outcome.COMMITTED)
        assert accepted == participant.Finished(done, {"ada": b"image"}, frozenset())
        for outcome, named in ((Outcome.COMMITTED, 2), (Outcome.ABORTED, 0)):
            assert finish(done, [], outcome, named) is participant.Lost.LOST
            confirmed = participant.finish(T, done, "", [], outcome, named, loss_accepted=True)
            assert confirmed is participant.Confirmed.CONFIRMED

    def test_below_the_horizon_a_branch_that_is_not_there_was_finished(self) -> None:
        assert finish(None, [], Outcome.COMMITTED, named=1, horizon="t2") is participant.Confirmed.CONFIRMED
        assert close(None, horizon="t2").state is BranchState.FINISHED

    def test_what_the_coordinator_has_forgotten_is_finished_or_was_never_committed(self) -> None:
        done = replace(OPEN, staged=1, state=BranchState.FINISHED, outcome=Outcome.COMMITTED)
        assert finish(done, [], None, named=0) is participant.Confirmed.CONFIRMED
        finished = finish(replace(OPEN, staged=1), [operation(1)], None, named=0)
        assert isinstance(finished, participant.Finished)
        assert finished.dropped == {"ada"}
        assert finished.branch.outcome is Outcome.ABORTED

    def test_below_the_horizon_a_branch_that_is_there_is_finished_like_any_other(self) -> None:
        finished = finish(replace(OPEN, staged=1), [operation(1)], Outcome.COMMITTED, named=1, horizon="t2")
        assert isinstance(finished, participant.Finished)

    def test_closing_stops_an_open_branch_and_leaves_a_finished_one(self) -> None:
        assert close(OPEN).state is close(None).state is BranchState.CLOSED
        done = replace(OPEN, state=BranchState.FINISHED, outcome=Outcome.ABORTED)
        assert close(done) == done


class TestPruning:
    """Ids stand for times: the smaller, the older."""

    def test_nothing_is_forgotten_from_the_oldest_on_that_is_not_done(self) -> None:
        assert pruning.limit("t5", None) == "t5"
        assert pruning.limit("t5", "t3") == "t3"
        assert pruning.limit("t2", "t3") == "t2"

    def test_the_horizon_goes_as_far_as_what_is_forgotten_and_never_back(self) -> None:
        assert pruning.next_horizon("", "t3") == "t3"
        assert pruning.next_horizon("t4", "t3") == "t4"

    def test_below_the_horizon_no_decision_is_inserted(self) -> None:
        assert coordinator.may_insert("t2", horizon="t2")
        assert not coordinator.may_insert("t1", horizon="t2")


class TestUniqueValues:
    SWAP = (
        ClaimChange(1, "a", None),
        ClaimChange(1, "x", "ada"),
        ClaimChange(2, "b", None),
        ClaimChange(2, "a", "bob"),
        ClaimChange(3, "x", None),
        ClaimChange(3, "b", "ada"),
    )

    def test_a_swap_within_one_transaction_gives_each_the_others_value(self) -> None:
        holders = {"a": "bob", "b": "ada", "x": None}
        assert participant.holders_after(self.SWAP, named=3) == holders
        assert participant.holders_after(reversed(self.SWAP), named=3) == holders

    def test_operations_beyond_the_named_ones_change_no_holder(self) -> None:
        assert participant.holders_after(self.SWAP, named=1) == {"a": None, "x": "ada"}
        assert participant.holders_after(self.SWAP, named=0) == {}


class TestDeciding:
    def test_the_first_decision_stands(self) -> None:
        assert coordinator.judge(COMMITTED, standing=COMMITTED) is coordinator.Verdict.AS_ASKED
        assert coordinator.judge(COMMITTED, standing=ABORTED) is coordinator.Verdict.ABORTED_BEFORE
        assert coordinator.judge(ABORTED, standing=COMMITTED) is coordinator.Verdict.COMMITTED_BEFORE
        assert coordinator.judge(ABORTED, standing=ABORTED) is coordinator.Verdict.AS_ASKED

    @pytest.mark.parametrize("branches", [{"users": 2}, {"preferences": 1}, {"users": 1, "preferences": 1}, {}])
    def test_a_repeated_commit_of_other_operations_is_not_answered_as_the_first(self, branches: dict[str, int]) -> None:
        other = replace(COMMITTED, branches=branches)
        assert coordinator.judge(other, standing=COMMITTED) is coordinator.Verdict.COMMITTED_OTHERWISE


class TestReading:
    def test_before_the_decision_everybody_sees_the_committed_state(self) -> None:
        assert reading.first_look(None) is reading.Look.COMMITTED
        assert reading.first_look(ABORTED) is reading.Look.COMMITTED

    @pytest.mark.parametrize("learnt", [COMMITTED, reading.Forgotten.FORGOTTEN])
    def test_a_decision_says_nothing_of_a_row_that_was_read_before_it(self, learnt: reading.Learnt) -> None:
        assert reading.first_look(learnt) is reading.Look.READ_AGAIN

    def test_after_the_decision_everybody_sees_the_last_operation_it_names(self) -> None:
        operations = [operation(2), operation(1), operation(3)]
        two_named = replace(COMMITTED, branches={"users": 2})
        assert reading.second_look(operations, two_named, "users") == operation(2)
        assert reading.second_look(operations, two_named, "preferences") is reading.Look.COMMITTED

    def test_a_change_of_a_forgotten_transaction_was_never_committed(self) -> None:
        look = reading.second_look([operation(1)], reading.Forgotten.FORGOTTEN, "users")
        assert look is reading.Look.COMMITTED
