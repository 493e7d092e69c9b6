"""What a transaction has read still holds when it commits, or it does not commit."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from handfast.client import Aborted, FailedPrecondition, NotFound, Outcome
from handfast.client.transaction_metadata import OPERATION, TRANSACTION_ID
from handfast.preferences.v1.preferences_pb2 import GetPreferencesRequest
from handfast.users.v1.users_pb2 import GetUserRequest

from .faces import Face
from .participants import Fakes
from .test_calls import ADA, BOB, wait
from .test_endings import leave

READ_ADA, READ_BOB, READ_NOBODY = (GetUserRequest(user_id=name) for name in ("ada", "bob", "nobody"))
READ_ADAS, READ_NOBODYS = (GetPreferencesRequest(user_id=name) for name in ("ada", "nobody"))


def test_reads_are_not_numbered_and_name_their_transaction(face: Face, suite: Fakes) -> None:
    async def scenario(client: Any) -> None:
        async with client.transaction() as tx:
            assert (await tx.users.GetUser(READ_ADA)).user.user_id == "ada"

    face.run(scenario, **suite.addresses())
    (received,) = suite.users.received
    assert TRANSACTION_ID in received.metadata
    assert OPERATION not in received.metadata
    assert suite.coordinator.methods() == ["BeginTransaction"]  # of a single resource there is nothing to compare


def test_reads_go_out_at_once_but_not_before_the_writes_they_are_to_see(face: Face, suite: Fakes) -> None:
    readers = threading.Barrier(2, timeout=20)
    suite.users.before = lambda method, context: wait(readers) if method == "GetUser" else None

    async def scenario(client: Any) -> None:
        async with client.transaction() as tx:
            calls = [
                tx.users.UpdateUser(ADA),
                tx.users.GetUser(READ_ADA),
                tx.users.GetUser(READ_BOB),
                tx.users.UpdateUser(BOB),
            ]
            for call in reversed(calls):
                await call

    face.run(scenario, **suite.addresses())
    assert suite.users.methods() == ["UpdateUser", "GetUser", "GetUser", "UpdateUser"]


def test_what_was_read_and_not_written_is_locked_before_the_commit(face: Face, suite: Fakes) -> None:
    async def body(tx: Any) -> None:
        await tx.users.GetUser(READ_ADA)
        await tx.users.GetUser(READ_BOB)
        await tx.preferences.GetPreferences(READ_ADAS)
        await tx.users.UpdateUser(ADA)

    async def scenario(client: Any) -> None:
        tx, error = await leave(client, body)
        assert error is None
        assert suite.coordinator.decisions == {tx.id: {"users": 2, "preferences": 1}}

    face.run(scenario, **suite.addresses())
    assert suite.users.numbers() == [("UpdateUser", "1"), ("LockReads", "2")]
    assert suite.preferences.numbers() == [("LockReads", "1")]
    assert [read.resource for read in suite.users.received[-1].request.reads] == ["users/bob"]


def test_what_was_only_read_is_compared_in_the_end(face: Face, suite: Fakes) -> None:
    async def body(tx: Any) -> None:
        await tx.users.GetUser(READ_ADA)
        await tx.preferences.GetPreferences(READ_ADAS)

    async def scenario(client: Any) -> None:
        tx, error = await leave(client, body)
        assert error is None
        assert tx.outcome is Outcome.COMMITTED

    face.run(scenario, **suite.addresses())
    assert suite.users.methods() == ["GetUser", "CompareReads"]
    assert suite.preferences.methods() == ["GetPreferences", "CompareReads"]
    assert suite.coordinator.methods() == ["BeginTransaction"]


def check_changed(error: BaseException | None, tx: Any, resource: str) -> None:
    assert isinstance(error, Aborted)
    assert (error.service, error.reason) == ("handfast.transactions", "READ_CHANGED")
    assert error.metadata == {"transaction_id": tx.id, "resource": resource}
    assert error.retryable
    assert tx.outcome is Outcome.ABORTED


def test_a_change_of_what_was_only_read_is_found_in_the_end(face: Face, suite: Fakes) -> None:
    async def body(tx: Any) -> None:
        suite.preferences.revisions["preferences/ada"] = "p1"
        await tx.preferences.GetPreferences(READ_ADAS)
        await tx.users.GetUser(READ_ADA)
        suite.preferences.revisions["preferences/ada"] = "p2"

    async def scenario(client: Any) -> None:
        tx, error = await leave(client, body)
        check_changed(error, tx, "preferences/ada")
        assert suite.coordinator.decisions == {}  # nothing was staged

    face.run(scenario, **suite.addresses())


def test_a_change_between_a_read_and_the_write_of_the_same_is_found(face: Face, suite: Fakes) -> None:
    async def body(tx: Any) -> None:
        await tx.users.GetUser(READ_ADA)
        suite.users.revisions["users/ada"] += "*"
        await tx.users.UpdateUser(ADA)

    async def scenario(client: Any) -> None:
        tx, error = await leave(client, body)
        check_changed(error, tx, "users/ada")
        assert suite.coordinator.decisions == {tx.id: None}

    face.run(scenario, **suite.addresses())


def test_two_reads_of_the_same_that_differ_are_found_at_once(face: Face, suite: Fakes) -> None:
    async def body(tx: Any) -> None:
        await tx.users.GetUser(READ_ADA)
        suite.users.revisions["users/ada"] += "*"
        await tx.users.GetUser(READ_ADA)

    async def scenario(client: Any) -> None:
        tx, error = await leave(client, body)
        check_changed(error, tx, "users/ada")

    face.run(scenario, **suite.addresses())


def test_a_change_before_the_lock_is_found(face: Face, suite: Fakes) -> None:
    async def body(tx: Any) -> None:
        await tx.users.GetUser(READ_BOB)
        await tx.users.UpdateUser(ADA)
        suite.users.revisions["users/bob"] += "*"

    async def scenario(client: Any) -> None:
        tx, error = await leave(client, body)
        assert isinstance(error, Aborted)  # in the words of the participant
        assert (error.reason, error.retryable) == ("READ_CHANGED", True)
        assert suite.coordinator.decisions == {tx.id: None}

    face.run(scenario, **suite.addresses())


def test_a_change_is_no_reason_to_fail_when_it_is_run_again(face: Face, suite: Fakes) -> None:
    async def body(tx: Any) -> str:
        await tx.users.GetUser(READ_BOB)
        await tx.users.UpdateUser(ADA)
        if not runs:
            suite.users.revisions["users/bob"] += "*"
        runs.append(tx.id)
        return "done"

    runs: list[str] = []

    async def scenario(client: Any) -> None:
        runs.clear()
        assert await client.transact(body) == "done"
        assert len(runs) == 2

    face.run(scenario, **suite.addresses())


def test_that_something_does_not_exist_is_read_as_well(face: Face, suite: Fakes) -> None:
    async def body(tx: Any) -> None:
        with pytest.raises(NotFound):
            await tx.users.GetUser(READ_NOBODY)
        await tx.users.UpdateUser(ADA)

    async def scenario(client: Any) -> None:
        tx, error = await leave(client, body)
        assert error is None
        (read,) = suite.users.received[-1].request.reads
        assert (read.resource, read.revision) == ("users/nobody", "-")
        assert suite.coordinator.decisions == {tx.id: {"users": 2}}

    face.run(scenario, **suite.addresses())


def test_the_absence_of_several_is_locked_though_nothing_is_written(face: Face, suite: Fakes) -> None:
    async def body(tx: Any) -> None:
        with pytest.raises(NotFound):
            await tx.users.GetUser(READ_NOBODY)
        await tx.preferences.GetPreferences(READ_NOBODYS)

    async def scenario(client: Any) -> None:
        tx, error = await leave(client, body)
        assert error is None
        assert suite.coordinator.decisions == {tx.id: {"users": 1, "preferences": 1}}

    face.run(scenario, **suite.addresses())


def test_a_read_that_does_not_say_what_it_has_read_is_an_error(face: Face, suite: Fakes) -> None:
    suite.users.tells_reads = False

    async def body(tx: Any) -> None:
        await tx.users.GetUser(READ_ADA)

    async def scenario(client: Any) -> None:
        tx, error = await leave(client, body)
        assert isinstance(error, FailedPrecondition)
        assert (error.reason, error.metadata) == ("NOT_STAGED", {"participant": "users"})
        assert "GetUser" in error.message
        assert tx.outcome is Outcome.ABORTED

    face.run(scenario, **suite.addresses())


def test_a_write_that_does_not_say_what_it_has_read_is_an_error(face: Face, suite: Fakes) -> None:
    suite.users.tells_reads = False

    async def body(tx: Any) -> None:
        await tx.users.UpdateUser(ADA)

    async def scenario(client: Any) -> None:
        tx, error = await leave(client, body)
        assert isinstance(error, FailedPrecondition)
        assert suite.coordinator.decisions == {tx.id: None}

    face.run(scenario, **suite.addresses())


def test_a_read_that_fails_is_no_reason_to_roll_back(face: Face, suite: Fakes) -> None:
    async def body(tx: Any) -> None:
        with pytest.raises(NotFound):
            await tx.users.GetUser(READ_NOBODY)

    async def scenario(client: Any) -> None:
        tx, error = await leave(client, body)
        assert error is None
        assert tx.outcome is Outcome.COMMITTED

    face.run(scenario, **suite.addresses())
