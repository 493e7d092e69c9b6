"""`transact` runs a transaction again where that can help, and only there."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc
import pytest

from handfast.client import (
    Aborted,
    DeadlineExceeded,
    FailedPrecondition,
    NotFound,
    OutcomeUnknown,
    TransactionMisuse,
    Unavailable,
    connect,
)
from handfast.client.transaction_metadata import FIRST_ATTEMPT, TRANSACTION_ID
from handfast.client.transactions import ending, reruns
from handfast.users.v1.users_pb2 import GetUserRequest
from tests.client.backend import retry_info, rich_status

from .faces import Face
from .participants import Fakes
from .test_calls import ADA, ADAS
from .test_endings import abort, both

IN_THE_WAY: dict[str, Any] = {"code": grpc.StatusCode.ABORTED, "reason": "PENDING_CHANGE", "again": 0.001}


def test_it_returns_what_the_function_returns(face: Face, suite: Fakes) -> None:
    async def name(tx: Any) -> str:
        return str((await tx.users.UpdateUser(ADA)).user.user_id)

    async def scenario(client: Any) -> None:
        assert await client.transact(name) == "ada"
        assert list(suite.coordinator.decisions.values()) == [{"users": 1}]

    face.run(scenario, **suite.addresses())


RETRYABLE = {
    "another one in the way": IN_THE_WAY,
    "too many": {"code": grpc.StatusCode.RESOURCE_EXHAUSTED, "reason": "TOO_MANY_TRANSACTIONS", "again": 0.001},
    "a read that changed": {"code": grpc.StatusCode.ABORTED, "reason": "READ_CHANGED", "again": 0.0},
}


@pytest.mark.parametrize("refusal", RETRYABLE.values(), ids=RETRYABLE.keys())
def test_it_runs_again_where_a_call_says_that_this_helps(face: Face, suite: Fakes, refusal: dict[str, Any]) -> None:
    suite.preferences.before = abort(**refusal, times=3)

    async def scenario(client: Any) -> None:
        await client.transact(both)

    face.run(scenario, **suite.addresses())
    assert [*suite.coordinator.decisions.values()] == [None, None, None, {"users": 1, "preferences": 1}]
    first, *others = (received.metadata for received in suite.users.received)
    assert {each[FIRST_ATTEMPT] for each in others} == {first[TRANSACTION_ID]}
    assert len({each[TRANSACTION_ID] for each in (first, *others)}) == 4


@pytest.mark.usefixtures("short_pauses")
def test_it_runs_again_where_a_service_is_away_for_a_while(face: Face, suite: Fakes) -> None:
    suite.preferences.before = abort(grpc.StatusCode.UNAVAILABLE, times=7)  # more often than a channel tries

    async def scenario(client: Any) -> None:
        await client.transact(both)

    face.run(scenario, **suite.addresses())
    assert [*suite.coordinator.decisions.values()] == [None, {"users": 1, "preferences": 1}]


def test_it_runs_again_though_the_function_goes_on_after_such_an_error(face: Face, suite: Fakes) -> None:
    suite.users.before = abort(**IN_THE_WAY)

    async def goes_on(tx: Any) -> str:
        try:
            await tx.users.UpdateUser(ADA)
        except Aborted:
            return "made way"
        return "done"

    async def scenario(client: Any) -> None:
        assert await client.transact(goes_on) == "done"

    face.run(scenario, **suite.addresses())


@pytest.mark.usefixtures("short_pauses")
def test_it_runs_again_though_the_function_goes_on_where_a_service_is_away(face: Face, suite: Fakes) -> None:
    suite.users.before = abort(grpc.StatusCode.UNAVAILABLE, times=7)  # more often than a channel tries

    async def goes_on(tx: Any) -> None:
        with contextlib.suppress(Unavailable):
            await tx.users.UpdateUser(ADA)
        await tx.preferences.UpdatePreferences(ADAS)

    async def scenario(client: Any) -> None:
        await client.transact(goes_on)

    face.run(scenario, **suite.addresses())
    assert [*suite.coordinator.decisions.values()] == [None, {"users": 1, "preferences": 1}]


@pytest.mark.parametrize(("others", "expected"), [([], 2), ([LookupError()], 1)], ids=["alone", "with another"])
def test_it_runs_again_for_a_group_of_errors_where_each_says_that_this_helps(
    face: Face, suite: Fakes, others: list[Exception], expected: int
) -> None:
    """asyncio.TaskGroup raises such a group."""
    suite.users.before = abort(**IN_THE_WAY)

    async def in_a_group(tx: Any) -> None:
        try:
            await tx.users.UpdateUser(ADA)
        except Aborted as error:
            raise ExceptionGroup("outer", [ExceptionGroup("inner", [error]), *others]) from None

    async def scenario(client: Any) -> None:
        with pytest.raises(ExceptionGroup) if others else contextlib.nullcontext():
            await client.transact(run)

    run, runs = counted(in_a_group)
    face.run(scenario, **suite.addresses())
    assert len(runs) == expected


async def coroutine(tx: Any) -> None:
    await tx.users.UpdateUser(ADA)


def generator(tx: Any) -> Iterator[None]:
    yield tx.users.UpdateUser(ADA)


async def asynchronous_generator(tx: Any) -> AsyncIterator[None]:
    yield await tx.users.UpdateUser(ADA)


@pytest.mark.parametrize("function", [coroutine, generator, asynchronous_generator])
def test_a_function_that_does_not_run_when_it_is_called_is_refused(suite: Fakes, function: Any) -> None:
    with connect(**suite.addresses()) as client:
        for each in (function, lambda tx: function(tx)):
            with pytest.raises(TransactionMisuse, match="has not run"):
                client.transact(each)
    assert suite.users.received == []


def test_it_runs_again_where_the_commit_says_that_this_helps(face: Face, suite: Fakes) -> None:
    suite.coordinator.before = abort(
        grpc.StatusCode.ABORTED, "TRANSACTION_ABORTED", method="CommitTransaction", again=0
    )

    async def scenario(client: Any) -> None:
        await client.transact(both)

    face.run(scenario, **suite.addresses())
    assert suite.coordinator.methods().count("CommitTransaction") == 2
    assert {"users": 1, "preferences": 1} in suite.coordinator.decisions.values()


def counted(body: Callable[[Any], Awaitable[None]]) -> tuple[Callable[[Any], Awaitable[None]], list[Any]]:
    """`body`, and the transactions in which it was run."""
    runs: list[Any] = []

    async def run(tx: Any) -> None:
        runs.append(tx)
        await body(tx)

    return run, runs


FINAL = {
    "a refusal": {"code": grpc.StatusCode.NOT_FOUND, "reason": "USER_NOT_FOUND"},
    "no confirmation": {"code": grpc.StatusCode.FAILED_PRECONDITION, "reason": "NOT_STAGED"},
    "an abort for good": {"code": grpc.StatusCode.ABORTED, "reason": "TRANSACTION_ABORTED"},
}


@pytest.mark.parametrize("refusal", FINAL.values(), ids=FINAL.keys())
def test_what_does_not_get_better_is_raised_at_once(face: Face, suite: Fakes, refusal: dict[str, Any]) -> None:
    suite.users.before = abort(**refusal, times=100)
    run, runs = counted(both)

    async def scenario(client: Any) -> None:
        with pytest.raises((NotFound, FailedPrecondition, Aborted)) as raised:
            await client.transact(run)
        assert raised.value.reason == refusal["reason"]

    face.run(scenario, **suite.addresses())
    assert len(runs) == 1


def test_what_the_function_raises_by_itself_is_not_run_again(face: Face, suite: Fakes) -> None:
    suite.preferences.before = abort(**IN_THE_WAY, times=100)
    own = Unavailable("of its own")

    async def raises(tx: Any) -> None:
        await tx.users.UpdateUser(ADA)
        raise own

    async def calls_outside(tx: Any) -> None:
        await tx.users.UpdateUser(ADA)
        await clients[0].preferences.UpdatePreferences(ADAS)

    async def wraps(tx: Any) -> None:
        try:
            await tx.preferences.UpdatePreferences(ADAS)
        except Aborted as error:
            raise LookupError from error

    async def scenario(client: Any) -> None:
        clients.append(client)
        for body, expected in ((raises, Unavailable), (calls_outside, Aborted), (wraps, LookupError)):
            run, runs = counted(body)
            with pytest.raises(expected):
                await client.transact(run)
            assert len(runs) == 1

    clients: list[Any] = []
    face.run(scenario, **suite.addresses())


def test_an_unknown_outcome_is_not_run_again(face: Face, suite: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "LOOK_UP_SECONDS", -100.0)
    monkeypatch.setattr(ending, "ROLL_BACK_SECONDS", 0.1)
    suite.coordinator.before = abort(grpc.StatusCode.UNAVAILABLE, method="RollbackTransaction", times=100)
    run, runs = counted(both)

    async def scenario(client: Any) -> None:
        with pytest.raises(OutcomeUnknown):
            await client.transact(run)

    face.run(scenario, **suite.addresses())
    assert len(runs) == 1


def test_what_was_lost_twice_is_locked_as_soon_as_it_is_read(face: Face, suite: Fakes) -> None:
    async def body(tx: Any) -> None:
        await tx.users.GetUser(GetUserRequest(user_id="bob"))
        if len(runs) <= 2:
            suite.users.revisions["users/bob"] += "*"  # somebody is faster
        await tx.users.GetUser(GetUserRequest(user_id="bob"))
        await tx.users.UpdateUser(ADA)

    run, runs = counted(body)

    async def scenario(client: Any) -> None:
        await client.transact(run)
        assert suite.coordinator.decisions[runs[2].id] == {"users": 2}

    face.run(scenario, **suite.addresses())
    assert len(runs) == 3
    assert suite.users.methods() == ["GetUser", "GetUser"] * 2 + ["GetUser", "LockReads", "GetUser", "UpdateUser"]


def test_what_is_found_not_to_be_there_is_locked_at_once_too(face: Face, suite: Fakes) -> None:
    async def body(tx: Any) -> None:
        with pytest.raises(NotFound):
            await tx.users.GetUser(GetUserRequest(user_id="zoe"))
        await tx.users.UpdateUser(ADA)
        if len(runs) <= 2:
            suite.users.revisions["users/ada"] += "*"  # somebody is faster
            await tx.users.GetUser(GetUserRequest(user_id="ada"))

    run, runs = counted(body)
    face.run(lambda client: client.transact(run), **suite.addresses())
    assert len(runs) == 3
    assert suite.users.methods()[-3:] == ["GetUser", "LockReads", "UpdateUser"]


def test_what_a_read_has_found_can_be_asked_for_after_the_end(face: Face, suite: Fakes) -> None:
    async def body(tx: Any) -> None:
        reads[:] = [tx.users.GetUser(GetUserRequest(user_id="bob"))]
        if len(runs) <= 2:
            await tx.users.UpdateUser(ADA)
            suite.users.revisions["users/ada"] += "*"  # somebody is faster
            await tx.users.GetUser(GetUserRequest(user_id="ada"))

    reads: list[Any] = []
    run, runs = counted(body)

    async def scenario(client: Any) -> None:
        await client.transact(run)
        assert (await reads[0]).user.user_id == "bob"

    face.run(scenario, **suite.addresses())
    assert len(runs) == 3


def test_it_gives_up_when_the_time_is_up_and_raises_the_last_error(face: Face, suite: Fakes) -> None:
    suite.users.before = abort(**IN_THE_WAY, times=10_000)
    run, runs = counted(both)

    async def scenario(client: Any) -> None:
        with pytest.raises((Aborted, DeadlineExceeded)):  # the latter where the machine paused
            await client.transact(run, timeout=0.5)

    face.run(scenario, **suite.addresses())
    assert runs


def test_the_pauses_have_a_limit_however_often_it_was_run() -> None:
    attempts = reruns.Reruns(300)
    for _ in range(2000):
        journal = attempts.next()
        error = journal.told(
            Aborted("on purpose", status_proto=rich_status(grpc.StatusCode.ABORTED, "", retry_info(0)))
        )
        pause = attempts.pause(error)
        assert pause is not None
        assert pause <= reruns.LONGEST_PAUSE


def test_all_attempts_have_one_deadline(face: Face, suite: Fakes) -> None:
    suite.users.before = abort(**IN_THE_WAY, times=4)
    run, runs = counted(both)

    async def scenario(client: Any) -> None:
        await client.transact(run, timeout=100)

    face.run(scenario, **suite.addresses())
    first, *others = (tx._journal.deadline_s for tx in runs)
    assert len(others) == 4
    assert others == [first] * 4


async def read_and_write(tx: Any) -> None:
    await tx.users.GetUser(GetUserRequest(user_id="ada"))
    await tx.users.UpdateUser(ADA)


def locked_first(suite: Fakes) -> list[tuple[list[str], list[str]]]:
    requests = [each.request for each in suite.users.received if each.method == "LockResources"]
    return [(list(request.to_read), list(request.to_change)) for request in requests]


@pytest.mark.parametrize("reason", ["PENDING_CHANGE", "READ_CHANGED"])
def test_what_a_write_was_refused_for_the_next_run_locks_first(face: Face, suite: Fakes, reason: str) -> None:
    refusal = {**IN_THE_WAY, "reason": reason, "resource": "users/ada"}
    suite.users.before = abort(**refusal, times=1, method="UpdateUser")

    face.run(lambda client: client.transact(read_and_write), **suite.addresses())
    assert suite.users.methods() == ["GetUser", "UpdateUser", "LockResources", "GetUser", "UpdateUser"]
    assert locked_first(suite) == [(["users/ada"], [])]
    assert {"users": 2} in suite.coordinator.decisions.values()


def test_what_a_write_is_refused_for_though_it_was_locked_for_reading_is_then_locked_for_a_change(
    face: Face, suite: Fakes
) -> None:
    suite.users.before = abort(**IN_THE_WAY, resource="users/ada", times=2, method="UpdateUser")
    face.run(lambda client: client.transact(read_and_write), **suite.addresses())
    assert locked_first(suite) == [(["users/ada"], []), ([], ["users/ada"])]


def test_what_has_changed_between_read_and_write_the_next_run_locks_first(face: Face, suite: Fakes) -> None:
    async def body(tx: Any) -> None:
        await tx.users.GetUser(GetUserRequest(user_id="ada"))
        if len(runs) == 1:
            suite.users.revisions["users/ada"] += "*"  # somebody is faster
        await tx.users.UpdateUser(ADA)

    run, runs = counted(body)
    face.run(lambda client: client.transact(run), **suite.addresses())
    assert locked_first(suite) == [(["users/ada"], [])]


def test_what_could_not_be_locked_in_the_end_the_next_run_locks_first_for_reading(face: Face, suite: Fakes) -> None:
    async def body(tx: Any) -> None:
        await tx.users.GetUser(GetUserRequest(user_id="bob"))
        await tx.users.UpdateUser(ADA)

    suite.users.before = abort(**IN_THE_WAY, resource="users/bob", times=1, method="LockReads")
    face.run(lambda client: client.transact(body), **suite.addresses())
    assert locked_first(suite) == [(["users/bob"], [])]
    assert suite.users.methods()[-3:] == ["LockResources", "GetUser", "UpdateUser"]  # and it is not locked again


def test_what_is_locked_first_has_no_more_time_than_the_call_that_waits_for_it(face: Face, suite: Fakes) -> None:
    async def body(tx: Any) -> None:
        await tx.users.GetUser(GetUserRequest(user_id="ada"), timeout=5)
        await tx.users.UpdateUser(ADA)

    suite.users.before = abort(**IN_THE_WAY, resource="users/ada", times=1, method="UpdateUser")
    face.run(lambda client: client.transact(body, timeout=60), **suite.addresses())
    [lock] = [each for each in suite.users.received if each.method == "LockResources"]
    assert lock.time_remaining < 6  # not 60; gRPC rounds it up


@pytest.mark.usefixtures("short_pauses")
def test_it_runs_again_where_what_it_locks_first_cannot_be_locked(face: Face, suite: Fakes) -> None:
    refused = abort(**IN_THE_WAY, resource="users/ada", times=1, method="UpdateUser")
    away = abort(grpc.StatusCode.UNAVAILABLE, method="LockResources", times=20)  # more often than gRPC tries

    def before(method: str, context: grpc.ServicerContext) -> None:
        refused(method, context)
        away(method, context)

    suite.users.before = before
    face.run(lambda client: client.transact(read_and_write), **suite.addresses())
    assert suite.users.methods()[-3:] == ["LockResources", "GetUser", "UpdateUser"]
    assert suite.users.methods().count("GetUser") == 2  # nothing is sent after a lock that failed
