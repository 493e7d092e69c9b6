"""The rules without I/O, as transcripts: what a participant or the coordinator holds, what arrives, what follows.

Each class names the rules of docs/atomic-commit.md that it tests, as each function of the core names those it decides.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from dataclasses import replace
from pathlib import Path
from types import FunctionType

import pytest

from handfast.server.transactions import core
from handfast.server.transactions.core import (
    conflicts,
    coordinator,
    finishing,
    pruning,
    reading,
    staging,
    unique_keys,
)
from handfast.server.transactions.core.finishing import Finish, Unchanged
from handfast.server.transactions.core.model import (
    NO_REVISION,
    Branch,
    BranchDecision,
    BranchState,
    Decision,
    Learnt,
    Operation,
    Outcome,
    Part,
    Read,
    ResourceName,
    StageRequest,
    UniqueKey,
)
from handfast.server.transactions.core.staging import Refusal
from tests.project.readme import dangling_links

PAGE = Path(__file__).parents[2] / "docs" / "atomic-commit.md"
SERVERS = Path(core.__file__).parents[2]

T = "t1"
DEADLINE = 1000
EARLIER, LATER = DEADLINE - 1, DEADLINE + 1

OPEN = Branch(T, BranchState.OPEN, DEADLINE, T)
COMMITTED = Decision(T, Outcome.COMMITTED, {"users": 1})
ABORTED = Decision(T, Outcome.ABORTED, {"users": 0})


def stage(number: int, content: bytes = b"a") -> StageRequest:
    return StageRequest(T, number, DEADLINE, T, content)


def operation(number: int, content: bytes = b"a") -> Operation:
    return Operation(T, number, content, b"reply")


ADA, BOB = ResourceName("users", "ada"), ResourceName("users", "bob")


def change(number: int, resource: ResourceName = ADA, image: bytes | None = b"image") -> Part:
    return Part(number, resource, image)


def lock(number: int, resource: ResourceName = ADA) -> Part:
    return Part(number, resource, None, is_lock=True)


def check(
    branch: Branch | None, known: Operation | None, arriving: StageRequest, now_us: int, horizon: str = ""
) -> Refusal | Operation | None:
    return staging.check_stage(branch, horizon, known, arriving, now_us)


def finish(
    branch: Branch | None,
    parts: list[Part],
    outcome: Outcome | None,
    count: int,
    horizon: str = "",
    *,
    loss_accepted: bool = False,
) -> Finish | Unchanged:
    return finishing.finish(BranchDecision(T, outcome, count, loss_accepted), branch, horizon, parts)


def close(branch: Branch | None, horizon: str = "") -> Branch:
    return finishing.close(T, branch, horizon)


class TestStaging:
    """Rule 1, rule 5 for how much is staged, rule 10 for a branch that is gone."""

    def test_the_first_operation_opens_the_branch(self) -> None:
        assert check(None, None, stage(1), EARLIER) is None
        assert staging.opened_by(stage(1)) == OPEN

    def test_operations_are_staged_in_their_order_without_gaps(self) -> None:
        one_staged = OPEN._replace(staged=1)
        assert check(one_staged, None, stage(2), EARLIER) is None
        assert check(one_staged, None, stage(3), EARLIER) is Refusal.OPERATION_OUT_OF_ORDER

    def test_a_repeat_is_answered_as_before_even_after_the_deadline(self) -> None:
        staged = operation(1)
        assert check(OPEN._replace(staged=1), staged, stage(1), LATER) is staged

    def test_the_same_number_with_another_content_is_refused(self) -> None:
        other = stage(1, content=b"b")
        refusal = check(OPEN._replace(staged=1), operation(1), other, EARLIER)
        assert refusal is Refusal.OPERATION_CHANGED

    @pytest.mark.parametrize("state", [BranchState.CLOSED, BranchState.FINISHED])
    def test_a_branch_that_is_not_open_takes_nothing_not_even_a_repeat(self, state: BranchState) -> None:
        branch = OPEN._replace(state=state, staged=1)
        assert check(branch, operation(1), stage(1), EARLIER) is Refusal.BRANCH_NOT_OPEN

    def test_nothing_is_staged_after_the_deadline(self) -> None:
        assert check(None, None, stage(1), LATER) is Refusal.EXPIRED

    def test_a_branch_takes_so_many_operations_and_no_more(self) -> None:
        full = OPEN._replace(staged=999)
        assert check(full, None, stage(1000), EARLIER) is None
        full = OPEN._replace(staged=1000)
        assert check(full, None, stage(1001), EARLIER) is Refusal.TOO_LARGE

    def test_a_branch_has_room_for_as_many_bytes_as_the_contract_says(self) -> None:
        assert staging.has_room(1, 16 * 1024 * 1024)
        assert not staging.has_room(1, 16 * 1024 * 1024 + 1)

    def test_a_branch_has_room_for_so_many_resources_and_no_more(self) -> None:
        assert staging.has_room(4000, 0)
        assert not staging.has_room(4001, 0)

    def test_below_the_horizon_nothing_is_staged_unless_the_branch_is_still_there(self) -> None:
        assert check(None, None, stage(1), EARLIER, horizon="t2") is Refusal.FORGOTTEN
        assert check(None, None, stage(1), EARLIER, horizon="t1") is None
        assert check(OPEN, None, stage(1), EARLIER, horizon="t2") is None


class TestConflicts:
    """Rules 2, 6 and 7."""

    def test_a_row_is_free_for_one_transaction_at_a_time(self) -> None:
        assert conflicts.blocker(None) is conflicts.blocker(None, mine="t1") is None
        assert conflicts.blocker("t1", mine="t1") is None
        assert conflicts.blocker("t2", mine="t1") == conflicts.blocker("t2") == "t2"

    def test_that_time_is_up_leads_to_an_attempt_to_abort_what_is_undecided(self) -> None:
        assert conflicts.may_abort(OPEN, LATER)
        assert not conflicts.may_abort(OPEN, DEADLINE)

    def test_only_the_older_waits_for_the_younger_so_nobody_waits_in_a_circle(self) -> None:
        undecided = OPEN._replace(first_attempt="t2")
        assert conflicts.may_wait(undecided, "t1")
        assert not conflicts.may_wait(undecided, "t2")
        assert not conflicts.may_wait(undecided, "t3")

    def test_a_plain_write_counts_as_the_youngest(self) -> None:
        assert not conflicts.may_wait(OPEN, "")


class TestFinishing:
    """Rules 4 and 5, rules 1 and 10 for a branch that is closed or gone."""

    def test_what_is_named_is_applied_and_what_is_beyond_is_dropped(self) -> None:
        parts = [change(1, ADA, b"1"), change(2, ADA, b"2"), change(3, BOB, b"3")]
        finished = finish(OPEN._replace(staged=3), parts, Outcome.COMMITTED, count=2)
        assert isinstance(finished, Finish)
        assert finished.applied == {ADA: b"2"}
        assert finished.dropped == {BOB}
        assert finished.outcome is Outcome.COMMITTED

    def test_an_abort_drops_everything(self) -> None:
        finished = finish(OPEN._replace(staged=1), [change(1)], Outcome.ABORTED, count=0)
        assert isinstance(finished, Finish)
        assert not finished.applied
        assert finished.dropped == {ADA}

    def test_an_operation_that_changes_several_resources_counts_as_one(self) -> None:
        parts = [change(1, ADA), change(1, BOB), change(2, BOB, b"2")]
        assert finish(OPEN._replace(staged=2), parts, Outcome.COMMITTED, count=3) is Unchanged.LOST
        finished = finish(OPEN._replace(staged=2), parts, Outcome.COMMITTED, count=2)
        assert isinstance(finished, Finish)
        assert finished.held == 2
        assert finished.applied == {ADA: b"image", BOB: b"2"}

    def test_an_operation_that_has_no_effect_is_held_all_the_same(self) -> None:
        finished = finish(OPEN._replace(staged=1), [Part(1, None, None)], Outcome.COMMITTED, count=1)
        assert finished == Finish(Outcome.COMMITTED, {}, frozenset(), frozenset(), held=1, owner="")

    def test_a_deletion_is_applied_like_any_change(self) -> None:
        finished = finish(OPEN, [change(1, image=None)], Outcome.COMMITTED, count=1)
        assert isinstance(finished, Finish)
        assert finished.applied == {ADA: None}

    def test_an_abort_that_overtakes_the_staged_call_marks_the_branch_so_that_the_call_is_refused(self) -> None:
        finished = finish(None, [], Outcome.ABORTED, count=0)
        assert isinstance(finished, Finish)
        marked = OPEN._replace(state=BranchState.FINISHED, outcome=finished.outcome)
        assert check(marked, None, stage(1), EARLIER) is Refusal.BRANCH_NOT_OPEN

    def test_a_repeat_confirms(self) -> None:
        done = OPEN._replace(staged=1, state=BranchState.FINISHED, outcome=Outcome.COMMITTED)
        assert finish(done, [], Outcome.COMMITTED, 1) is Unchanged.FINISHED
        assert finish(done, [], Outcome.COMMITTED, 2) is Unchanged.LOST

    def test_a_committed_operation_that_is_not_held_is_lost_not_confirmed(self) -> None:
        assert finish(None, [], Outcome.COMMITTED, count=1) is Unchanged.LOST

    def test_a_branch_finished_the_other_way_is_lost_not_confirmed(self) -> None:
        done = OPEN._replace(state=BranchState.FINISHED, outcome=Outcome.ABORTED)
        assert finish(done, [], Outcome.COMMITTED, count=1) is Unchanged.LOST

    def test_what_is_here_is_applied_once_the_loss_of_the_rest_is_accepted(self) -> None:
        branch, parts = OPEN._replace(staged=1), [change(1)]
        assert finish(branch, parts, Outcome.COMMITTED, count=2) is Unchanged.LOST
        accepted = finish(branch, parts, Outcome.COMMITTED, count=2, loss_accepted=True)
        done = branch._replace(state=BranchState.FINISHED, outcome=Outcome.COMMITTED)
        assert accepted == Finish(Outcome.COMMITTED, {ADA: b"image"}, frozenset(), frozenset(), held=1, owner="")
        for outcome, count in ((Outcome.COMMITTED, 2), (Outcome.ABORTED, 0)):
            assert finish(done, [], outcome, count) is Unchanged.LOST
            assert finish(done, [], outcome, count, loss_accepted=True) is Unchanged.FINISHED

    def test_below_the_horizon_a_branch_that_is_not_there_was_finished(self) -> None:
        assert finish(None, [], Outcome.COMMITTED, count=1, horizon="t2") is Unchanged.PRUNED
        assert close(None, horizon="t2").state is BranchState.FINISHED

    def test_what_the_coordinator_has_forgotten_is_finished_or_was_never_committed(self) -> None:
        done = OPEN._replace(staged=1, state=BranchState.FINISHED, outcome=Outcome.COMMITTED)
        assert finish(done, [], None, count=0) is Unchanged.FINISHED
        finished = finish(OPEN._replace(staged=1), [change(1)], None, count=0)
        assert isinstance(finished, Finish)
        assert finished.dropped == {ADA}
        assert finished.outcome is Outcome.ABORTED

    def test_below_the_horizon_a_branch_that_is_there_is_finished_like_any_other(self) -> None:
        finished = finish(OPEN._replace(staged=1), [change(1)], Outcome.COMMITTED, count=1, horizon="t2")
        assert isinstance(finished, Finish)

    def test_closing_stops_an_open_branch_and_leaves_a_finished_one(self) -> None:
        assert close(OPEN).state is close(None).state is BranchState.CLOSED
        done = OPEN._replace(state=BranchState.FINISHED, outcome=Outcome.ABORTED)
        assert close(done) == done


class TestBatches:
    """Rule 5."""

    @staticmethod
    def batches(*sizes: tuple[int, int]) -> list[list[int]]:
        """Which branches go together, by their numbers; each has so many operations, and so many bytes."""
        decisions = [BranchDecision(str(number), Outcome.COMMITTED, 1) for number, _ in enumerate(sizes)]
        batches = finishing.batches(decisions, {str(number): size for number, size in enumerate(sizes)})
        return [[int(each.transaction_id) for each in batch] for batch in batches]

    def test_many_small_branches_go_together(self) -> None:
        assert self.batches(*[(1, 100)] * 100) == [list(range(100))]
        assert self.batches(*[(1, 100)] * 101) == [list(range(100)), [100]]
        assert self.batches(*[(0, 0)] * 101) == [list(range(100)), [100]]

    def test_only_a_branch_alone_holds_more_than_others_can_wait_for(self) -> None:
        assert self.batches((60, 1), (40, 1), (1, 1)) == [[0, 1], [2]]
        assert self.batches((1, 1), (1000, 1), (1, 1)) == [[0], [1], [2]]
        assert self.batches((1, 2**20 - 1), (1, 1), (1, 1), (1, 2**24)) == [[0, 1], [2], [3]]

    def test_of_none_there_is_no_batch(self) -> None:
        assert self.batches() == []


class TestPruning:
    """Rule 10. Ids stand for times: the smaller, the older."""

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

    @pytest.mark.parametrize(
        ("outcome", "loss_accepted", "waits_for"),
        [
            (Outcome.COMMITTED, set(), {"users", "gone"}),
            (
                Outcome.COMMITTED,
                {"users"},
                {"users", "gone"},
            ),  # it is there, and has to confirm that it goes on without
            (Outcome.COMMITTED, {"gone"}, {"users"}),
            (Outcome.ABORTED, set(), {"users"}),
        ],
    )
    def test_a_decision_is_kept_until_those_have_confirmed_that_need_it(
        self, outcome: Outcome, loss_accepted: set[str], waits_for: set[str]
    ) -> None:
        decision = Decision(T, outcome, {"users": 1, "gone": 1}, loss_accepted=frozenset(loss_accepted))
        assert coordinator.waits_for(decision, {"users", "preferences"}) == waits_for


class TestUniqueKeys:
    """Rules 4 and 8."""

    SWAP = (
        UniqueKey("a", "ada", T, {1: None, 2: "bob"}),
        UniqueKey("b", "bob", T, {3: "ada", 2: None}),
        UniqueKey("x", None, T, {1: "ada", 3: None}),
    )

    @pytest.mark.parametrize(
        ("count", "holders"),
        [
            (3, {"a": "bob", "b": "ada", "x": None}),
            (1, {"a": None, "b": "bob", "x": "ada"}),
            (0, {"a": "ada", "b": "bob", "x": None}),
        ],
    )
    def test_a_swap_within_one_transaction_gives_each_the_others_value_as_far_as_it_is_committed(
        self, count: int, holders: dict[str, str | None]
    ) -> None:
        assert {key.value: unique_keys.holder_after(key, count) for key in self.SWAP} == holders

    @staticmethod
    def key(holder: str | None, pending: str | None = None, *holders: str | None, value: str = "a") -> UniqueKey:
        """A unique value; `holders` is what the operations of the transaction that is pending make of it."""
        return UniqueKey(value, holder, pending, dict(enumerate(holders, 1)))

    def test_a_value_is_taken_from_nobody_and_given_back_to_nobody(self) -> None:
        free, held = self.key(None, value="new"), self.key("ada", value="old")
        assert unique_keys.claim({"ada": {"new", "kept"}}, [free, held]) == {"new": "ada", "old": None}

    def test_what_another_resource_holds_is_taken(self) -> None:
        assert unique_keys.claim({"ada": {"a"}}, [self.key("bob")]) == unique_keys.Taken("a")

    def test_what_another_transaction_is_about_to_change_is_a_conflict_and_not_taken(self) -> None:
        for holder in (None, "ada", "bob"):
            key = self.key(holder, "t2", None)
            for mine in (None, "t1"):
                assert unique_keys.claim({"ada": {"a"}}, [key], mine) == unique_keys.Pending("t2")
                assert unique_keys.claim({"ada": set()}, [key], mine) == unique_keys.Pending("t2")

    def test_a_transaction_sees_its_own_changes_the_last_of_them_counting(self) -> None:
        freed, given = self.key("bob", "t1", "cyd", None), self.key(None, "t1", None, "bob")
        assert unique_keys.claim({"ada": {"a"}}, [freed], "t1") == {"a": "ada"}
        assert unique_keys.claim({"ada": {"a"}}, [given], "t1") == unique_keys.Taken("a")
        assert unique_keys.claim({"bob": set()}, [given], "t1") == {"a": None}

    def test_resources_of_one_write_can_swap_their_values(self) -> None:
        of_ada, of_bob = self.key("ada", value="a"), self.key("bob", value="b")
        assert unique_keys.claim({"ada": {"b"}, "bob": {"a"}}, [of_ada, of_bob]) == {"a": "bob", "b": "ada"}
        assert unique_keys.claim({"ada": set(), "bob": {"a"}}, [of_ada]) == {"a": "bob"}

    def test_resources_of_one_write_cannot_share_a_value(self) -> None:
        for holder in (None, "ada"):
            taken = unique_keys.claim({"ada": {"a"}, "bob": {"a"}}, [self.key(holder)])
            assert taken == unique_keys.Taken("a")

    def test_a_value_that_two_had_already_is_left_to_who_holds_it(self) -> None:
        assert unique_keys.claim({"ada": set()}, [self.key("bob")]) == {}


class TestDeciding:
    """Rule 3."""

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
    """Rules 7 and 9, rule 4 for what is seen of a decided change."""

    @pytest.mark.parametrize("learnt", [None, BranchDecision(T, Outcome.ABORTED, 0)])
    def test_before_a_commit_everybody_sees_the_committed_state(self, learnt: Learnt) -> None:
        assert not conflicts.must_read_again(learnt)

    @pytest.mark.parametrize("learnt", [BranchDecision(T, Outcome.COMMITTED, 1), BranchDecision(T, None, 0)])
    def test_a_decision_says_nothing_of_a_row_that_was_read_before_it(self, learnt: Learnt) -> None:
        assert conflicts.must_read_again(learnt)

    def test_after_the_decision_everybody_sees_the_last_operation_it_names(self) -> None:
        parts = [change(2, image=b"2"), change(1), lock(2, BOB), change(3)]
        assert finishing.final_images(parts, committed_count=2) == {ADA: b"2"}
        assert finishing.final_images(parts, committed_count=0) == {}


class TestHolding:
    """Rule 13, rule 5 for what becomes of read locks."""

    def test_a_read_lock_keeps_others_from_writing_and_not_its_own_transaction(self) -> None:
        assert conflicts.lock_blocker([]) is conflicts.lock_blocker([T], mine=T) is None
        assert conflicts.lock_blocker([T]) == conflicts.lock_blocker([T], mine="t2") == T
        assert conflicts.lock_blocker([T, "t2"], mine=T) == "t2"

    @pytest.mark.parametrize("outcome", Outcome)
    def test_read_locks_end_with_their_transaction_however_many_operations_are_named(self, outcome: Outcome) -> None:
        finished = finish(OPEN._replace(staged=3), [change(1), lock(2, BOB), lock(3)], outcome, count=0)
        assert isinstance(finished, Finish)
        assert finished.dropped == {ADA}
        assert finished.released == {ADA, BOB}

    def test_a_transaction_gives_what_it_changes_a_revision_that_no_other_gives(self) -> None:
        assert reading.revision_after("t1") == reading.revision_after("t1") != reading.revision_after("t2")
        assert len(reading.revision_after(T)) == 16

    def test_what_is_read_again_has_the_same_revision_or_cannot_hold(self) -> None:
        seen, held, later = Read(ADA, "r1", False), Read(ADA, "r1", True), Read(ADA, "r2", True)
        other = Read(BOB, NO_REVISION, False)
        assert reading.merged([seen, other, held, seen]) == {ADA: held, BOB: other}
        assert reading.merged([other, seen, later]) == ADA

    def test_what_has_another_revision_has_changed(self) -> None:
        assert not reading.has_changed(Read(ADA, "r1", False), "r1")
        assert reading.has_changed(Read(ADA, NO_REVISION, False), "r1")


class TestOwnership:
    """Rule 14."""

    def test_a_branch_is_for_who_has_opened_it(self) -> None:
        opened = staging.opened_by(stage(1)._replace(owner="ada"))
        assert not staging.is_anothers(opened, "ada")
        assert staging.is_anothers(opened, "bob")

    def test_a_branch_that_nobody_has_opened_is_nobodys(self) -> None:
        assert not staging.is_anothers(None, "bob")
        assert not staging.is_anothers(close(None), "bob")


class TestFromPageToCodeToTest:
    def test_every_rule_is_decided_by_the_core_or_is_said_to_live_elsewhere(self) -> None:
        elsewhere = dict(re.findall(r"^    rule (\d+) +(\S+\.py) ", core.__doc__ or "", re.MULTILINE))
        assert all((SERVERS / path).is_file() for path in elsewhere.values())
        decided = {rule for function in functions() for rule in rules_of(function)}
        assert decided.isdisjoint(elsewhere)
        assert decided.union(elsewhere) == set(re.findall(r"^(\d+)\. \*\*", PAGE.read_text(), re.MULTILINE))

    def test_every_function_of_the_core_names_its_rule_and_a_test_names_it_too(self) -> None:
        tested = {
            rule for name, of_tests in globals().items() if name.startswith("Test") for rule in rules_of(of_tests)
        }
        for function in functions():
            assert rules_of(function), f"{function.__qualname__} names no rule"
            assert rules_of(function) <= tested, f"no test names the rules of {function.__qualname__}"

    def test_the_page_leads_from_each_rule_that_the_core_decides_to_a_function_that_names_it(self) -> None:
        in_words = dict(
            re.findall(r"^(\d+)\. (\*\*.+?)(?=^\d+\. \*\*|^#|^\w)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
        )
        for rule in {rule for function in functions() for rule in rules_of(function)}:
            deciding = {function.__name__ for function in functions() if rule in rules_of(function)}
            assert deciding & {name for name, _ in linked_code(in_words[rule])}, (
                f"rule {rule} has no link to {deciding}"
            )

    def test_files_functions_and_classes_that_the_page_links_to_are_there(self) -> None:
        assert dangling_links(PAGE) == []
        for name, file in linked_code(PAGE.read_text()):
            code = (PAGE.parent / file).read_text()
            for part in name.split("."):
                assert re.search(rf"^ *(def|class) {part}\b", code, re.MULTILINE), f"{file} has no {name}"


def functions() -> list[FunctionType]:
    """Those that the core offers."""
    modules = [importlib.import_module(f"{core.__name__}.{each.name}") for each in pkgutil.iter_modules(core.__path__)]
    return [
        function
        for module in modules
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
    ]


def linked_code(markdown: str) -> list[tuple[str, str]]:
    """What is linked by its name in the code, and the file that the link leads to."""
    return re.findall(r"\[`([\w.]+)`\]\(([^)]+)\)", markdown)


def rules_of(documented: object) -> set[str]:
    """The rules that a docstring names: `rule 7`, `rules 4 and 8`, `rules 2, 6 and 7`."""
    lists = re.findall(r"\brules? (\d+(?:(?:, | and )\d+)*)", inspect.getdoc(documented) or "", re.IGNORECASE)
    return {rule for each in lists for rule in re.findall(r"\d+", each)}
