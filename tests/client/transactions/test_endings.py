"""How a transaction ends, whatever happens to it: committed as a whole, or without a trace."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest

from handfast.client import (
    Aborted,
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    Outcome,
    OutcomeUnknown,
    PermissionDenied,
    ServiceError,
    Unauthenticated,
    options,
)
from handfast.client.transactions import ending
from handfast.users.v1.users_pb2 import GetUserRequest

from ..test_tokens import jwt
from .faces import Asyncio, Face
from .participants import Fakes, refuse
from .test_calls import ADA, ADAS, BOB


async def leave(client: Any, body: Callable[[Any], Awaitable[None]], **options: Any) -> Any:
    """The transaction in which `body` was run, and by what its block was left."""
    error: BaseException | None = None
    try:
        async with client.transaction(**options) as tx:
            await body(tx)
    except Exception as raised:
        error = raised
    return tx, error


async def both(tx: Any) -> None:
    await tx.users.UpdateUser(ADA)
    await tx.preferences.UpdatePreferences(ADAS)


def abort(  # type: ignore[no-untyped-def]
    code: grpc.StatusCode,
    reason: str = "",
    *,
    method: str = "",
    times: int = 1,
    again: float | None = None,
    **metadata: str,
):
    """Fails the next calls, of the method if one is given."""
    left = [times]

    def before(called: str, context: grpc.ServicerContext) -> None:
        if method in ("", called) and left[0] > 0:
            left[0] -= 1
            refuse(context, code, reason, again=again, **metadata)

    return before


def test_an_exception_of_the_block_rolls_back(face: Face, suite: Fakes) -> None:
    async def body(tx: Any) -> None:
        await both(tx)
        raise LookupError("of the block's own")

    async def scenario(client: Any) -> None:
        tx, error = await leave(client, body)
        assert isinstance(error, LookupError)
        assert tx.outcome is Outcome.ABORTED
        assert suite.coordinator.decisions == {tx.id: None}
        request = suite.coordinator.received[-1].request
        assert (request.abort_reason, sorted(request.participants)) == ("ROLLED_BACK", ["preferences", "users"])

    face.run(scenario, **suite.addresses())


def test_rollback_ends_it_and_its_block_is_left_as_always(face: Face, suite: Fakes) -> None:
    async def body(tx: Any) -> None:
        await both(tx)
        await tx.rollback()
        assert tx.outcome is Outcome.ABORTED

    async def scenario(client: Any) -> None:
        tx, error = await leave(client, body)
        assert error is None
        assert suite.coordinator.decisions == {tx.id: None}

    face.run(scenario, **suite.addresses())


def test_a_refused_write_rolls_back_for_its_reason(face: Face, suite: Fakes) -> None:
    suite.preferences.before = abort(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")

    async def scenario(client: Any) -> None:
        tx, error = await leave(client, both)
        assert isinstance(error, InvalidArgument)
        assert (tx.outcome, suite.coordinator.decisions) == (Outcome.ABORTED, {tx.id: None})
        assert suite.coordinator.received[-1].request.abort_reason == "INVALID_FIELDS"

    face.run(scenario, **suite.addresses())


def test_after_a_refused_write_nothing_is_sent_and_leaving_the_block_raises(face: Face, suite: Fakes) -> None:
    suite.users.before = abort(grpc.StatusCode.ALREADY_EXISTS, "USER_ALREADY_EXISTS", again=2.0)

    async def body(tx: Any) -> None:
        with pytest.raises(AlreadyExists):
            await tx.users.UpdateUser(ADA)
        with pytest.raises(Aborted) as raised:
            await tx.preferences.UpdatePreferences(ADAS)
        assert isinstance(raised.value.__cause__, AlreadyExists)

    async def scenario(client: Any) -> None:
        tx, error = await leave(client, body)
        assert isinstance(error, Aborted)
        assert (error.service, error.reason) == ("handfast.transactions", "TRANSACTION_ABORTED")
        assert error.metadata == {"transaction_id": tx.id}
        assert error.retry_after == 2.0  # as the refusal says
        assert "USER_ALREADY_EXISTS" in error.message
        assert suite.coordinator.decisions == {tx.id: None}

    face.run(scenario, **suite.addresses())
    assert suite.preferences.received == []


def test_after_a_write_that_could_not_be_sent_leaving_the_block_raises(face: Face, suite: Fakes) -> None:
    async def body(tx: Any) -> None:
        await tx.preferences.UpdatePreferences(ADAS)
        with pytest.raises(DeadlineExceeded):
            await tx.users.UpdateUser(ADA, timeout=0)

    async def scenario(client: Any) -> None:
        tx, error = await leave(client, body)
        assert isinstance(error, Aborted)
        assert (tx.outcome, suite.coordinator.decisions) == (Outcome.ABORTED, {tx.id: None})

    face.run(scenario, **suite.addresses())
    assert suite.users.received == []


def test_after_a_write_for_which_the_transaction_could_not_begin_leaving_the_block_raises(
    face: Face, suite: Fakes
) -> None:
    suite.coordinator.before = abort(grpc.StatusCode.INTERNAL, method="BeginTransaction")

    async def body(tx: Any) -> None:
        with pytest.raises(ServiceError):
            await tx.users.UpdateUser(ADA)
        with pytest.raises(Aborted):
            await tx.preferences.UpdatePreferences(ADAS)

    async def scenario(client: Any) -> None:
        tx, error = await leave(client, body)
        assert isinstance(error, Aborted)
        assert tx.outcome is Outcome.ABORTED

    face.run(scenario, **suite.addresses())
    assert (suite.users.received, suite.preferences.received) == ([], [])
    assert suite.coordinator.decisions == {}


def test_a_read_for_which_the_transaction_could_not_begin_ends_nothing(face: Face, suite: Fakes) -> None:
    suite.coordinator.before = abort(grpc.StatusCode.INTERNAL, method="BeginTransaction")

    async def body(tx: Any) -> None:
        with pytest.raises(ServiceError):
            await tx.users.GetUser(GetUserRequest(user_id="ada"))
        await tx.users.UpdateUser(ADA)

    async def scenario(client: Any) -> None:
        tx, error = await leave(client, body)
        assert error is None
        assert suite.coordinator.decisions == {tx.id: {"users": 1}}

    face.run(scenario, **suite.addresses())


def test_a_write_that_nobody_waits_for_is_waited_for_in_the_end(face: Face, suite: Fakes) -> None:
    async def body(tx: Any) -> None:
        tx.users.UpdateUser(ADA)
        tx.users.UpdateUser(BOB)
        tx.preferences.UpdatePreferences(ADAS)

    async def scenario(client: Any) -> None:
        tx, error = await leave(client, body)
        assert error is None
        assert suite.coordinator.decisions == {tx.id: {"users": 2, "preferences": 1}}
        suite.preferences.before = abort(grpc.StatusCode.PERMISSION_DENIED)
        tx, error = await leave(client, body)
        assert isinstance(error, PermissionDenied)
        assert suite.coordinator.decisions[tx.id] is None

    face.run(scenario, **suite.addresses())


def test_a_write_that_nobody_waits_for_and_that_cannot_be_sent_is_not_left_out(face: Face, suite: Fakes) -> None:
    async def body(tx: Any) -> None:
        tx.users.UpdateUser(ADA)
        tx.users.UpdateUser(BOB, timeout=-1)

    async def scenario(client: Any) -> None:
        tx, error = await leave(client, body)
        assert isinstance(error, DeadlineExceeded)
        assert suite.coordinator.decisions == {tx.id: None}

    face.run(scenario, **suite.addresses())
    assert suite.users.numbers() == [("UpdateUser", "1")]


def test_a_transaction_that_cannot_begin_does_not_look_committed(face: Face, suite: Fakes) -> None:
    suite.coordinator.before = abort(grpc.StatusCode.PERMISSION_DENIED)

    async def body(tx: Any) -> None:
        tx.users.UpdateUser(ADA)

    async def scenario(client: Any) -> None:
        tx, error = await leave(client, body)
        assert isinstance(error, PermissionDenied)
        assert (tx.id, tx.outcome) == ("", Outcome.ABORTED)

    face.run(scenario, **suite.addresses())


@pytest.mark.parametrize(("confirms_as", "says"), [(None, "did not confirm"), ("preferences", "calls itself")])
def test_a_service_that_does_not_confirm_that_it_staged_makes_it_roll_back(
    face: Face, suite: Fakes, confirms_as: str | None, says: str
) -> None:
    suite.users.confirms_as = confirms_as

    async def scenario(client: Any) -> None:
        tx, error = await leave(client, both)
        assert isinstance(error, FailedPrecondition)
        assert (error.reason, error.metadata, error.retryable) == ("NOT_STAGED", {"participant": "users"}, False)
        assert says in error.message
        assert suite.coordinator.decisions == {tx.id: None}

    face.run(scenario, **suite.addresses())


def test_a_lost_reply_to_a_write_is_asked_for_again_with_the_same_number(face: Face, suite: Fakes) -> None:
    suite.users.after = abort(grpc.StatusCode.UNAVAILABLE)

    async def scenario(client: Any) -> None:
        tx, error = await leave(client, both)
        assert error is None
        assert suite.coordinator.decisions == {tx.id: {"users": 1, "preferences": 1}}

    face.run(scenario, **suite.addresses())
    assert suite.users.numbers() == [("UpdateUser", "1"), ("UpdateUser", "1")]


# The end of the commit itself


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize(
    ("code", "times"),
    [
        (grpc.StatusCode.UNAVAILABLE, options.MAX_ATTEMPTS + 1),  # more often than a channel tries
        (grpc.StatusCode.UNKNOWN, 2),
        (grpc.StatusCode.CANCELLED, 2),
    ],
)
def test_a_lost_reply_to_the_commit_is_looked_up(face: Face, suite: Fakes, code: grpc.StatusCode, times: int) -> None:
    suite.coordinator.after = abort(code, method="CommitTransaction", times=times)

    async def scenario(client: Any) -> None:
        tx, error = await leave(client, both)
        assert error is None
        assert tx.outcome is Outcome.COMMITTED

    face.run(scenario, **suite.addresses())


def test_a_commit_that_a_server_fails_at_is_settled(face: Face, suite: Fakes) -> None:
    fail = abort(grpc.StatusCode.INTERNAL, method="CommitTransaction")

    async def scenario(client: Any) -> None:
        suite.coordinator.before = fail
        tx, error = await leave(client, both)
        assert isinstance(error, ServiceError)
        assert (error.code(), tx.outcome) == (grpc.StatusCode.INTERNAL, Outcome.ABORTED)
        assert suite.coordinator.decisions[tx.id] is None
        suite.coordinator.after = abort(grpc.StatusCode.INTERNAL, method="CommitTransaction")
        tx, error = await leave(client, both)
        assert error is None  # it had committed before it failed
        assert tx.outcome is Outcome.COMMITTED

    face.run(scenario, **suite.addresses())


REFUSALS = {
    "unknown participant": (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS", InvalidArgument),
    "operations missing": (grpc.StatusCode.FAILED_PRECONDITION, "OPERATIONS_MISSING", FailedPrecondition),
    "rolled back by another": (grpc.StatusCode.ABORTED, "TRANSACTION_ABORTED", Aborted),
}


@pytest.mark.parametrize(("code", "reason", "raised"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_refused_commit_is_raised_as_it_is_and_nothing_is_left(
    face: Face, suite: Fakes, code: grpc.StatusCode, reason: str, raised: type[ServiceError]
) -> None:
    suite.coordinator.before = abort(code, reason, method="CommitTransaction")

    async def scenario(client: Any) -> None:
        tx, error = await leave(client, both)
        assert isinstance(error, raised)
        assert (error.reason, tx.outcome) == (reason, Outcome.ABORTED)
        assert suite.coordinator.decisions.get(tx.id) is None

    face.run(scenario, **suite.addresses())


class GivingTheReply(grpc.aio.UnaryUnaryClientInterceptor):
    """Gives what the call gives, and not the call, so that nobody can see its trailers: grpc.aio lets it."""

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await (await continuation(client_call_details, request))


def test_where_an_interceptor_hides_that_a_service_takes_part_it_is_told_so(suite: Fakes) -> None:
    async def read(tx: Any) -> None:
        await tx.users.GetUser(GetUserRequest(user_id="ada"))

    async def scenario(client: Any) -> None:
        for body in (both, read):
            tx, error = await leave(client, body)
            assert isinstance(error, FailedPrecondition)
            assert (error.reason, tx.outcome) == ("NOT_STAGED", Outcome.ABORTED)

    Asyncio().run(scenario, **suite.addresses(), interceptors=[GivingTheReply()])


class RaisingAfterwards(grpc.UnaryUnaryClientInterceptor):
    """A mistaken interceptor, which fails at the reply."""

    def __init__(self, *methods: str) -> None:
        self._methods = methods

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        call = continuation(client_call_details, request)
        call.code()
        if client_call_details.method.rpartition("/")[2] in self._methods:
            raise LookupError("of the interceptor")
        return call


class RaisingAfterwardsAsyncio(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, *methods: str) -> None:
        self._methods = methods

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        call = await continuation(client_call_details, request)
        await call.code()
        if client_call_details.method.decode().rpartition("/")[2] in self._methods:
            raise LookupError("of the interceptor")
        return call


@pytest.mark.parametrize(
    ("fails_at", "raised", "outcome"),
    [
        (("CommitTransaction",), type(None), Outcome.COMMITTED),
        (("CommitTransaction", "RollbackTransaction"), OutcomeUnknown, Outcome.UNKNOWN),
    ],
)
def test_what_an_interceptor_raises_after_the_commit_is_no_proof_that_there_was_none(
    face: Face, suite: Fakes, fails_at: tuple[str, ...], raised: type, outcome: Outcome
) -> None:
    async def scenario(client: Any) -> None:
        tx, error = await leave(client, both)
        assert suite.coordinator.decisions == {tx.id: {"users": 1, "preferences": 1}}
        assert (type(error), tx.outcome) == (raised, outcome)

    raising = RaisingAfterwardsAsyncio if isinstance(face, Asyncio) else RaisingAfterwards
    face.run(scenario, **suite.addresses(), interceptors=[raising(*fails_at)])


@pytest.mark.usefixtures("short_pauses")
def test_the_outcome_is_unknown_only_where_nobody_tells_it(
    face: Face, suite: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending, "LOOK_UP_SECONDS", -29.5)  # half a second after it began
    monkeypatch.setattr(ending, "ROLL_BACK_SECONDS", 0.1)

    def away(method: str, context: grpc.ServicerContext) -> None:
        if method != "BeginTransaction":
            context.abort(grpc.StatusCode.UNAVAILABLE, "on purpose")

    async def scenario(client: Any) -> None:
        suite.coordinator.before = away
        tx, error = await leave(client, both, timeout=30)
        assert isinstance(error, OutcomeUnknown)
        assert (error.reason, error.metadata) == ("OUTCOME_UNKNOWN", {"transaction_id": tx.id})
        assert tx.id in error.message
        assert isinstance(error.__cause__, ServiceError)  # the last try
        assert not error.retryable
        assert tx.outcome is Outcome.UNKNOWN

    face.run(scenario, **suite.addresses())


@pytest.mark.usefixtures("short_pauses")
def test_a_refused_commit_is_no_proof_as_the_channel_may_have_sent_it_before(
    face: Face, suite: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending, "ROLL_BACK_SECONDS", 0.1)

    def refuse(method: str, context: grpc.ServicerContext) -> None:
        if method == "RollbackTransaction":
            context.abort(grpc.StatusCode.UNAVAILABLE, "on purpose")
        if method == "CommitTransaction" and suite.coordinator.decisions:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "another server, which finds fault with it")

    async def scenario(client: Any) -> None:
        suite.coordinator.before = refuse
        suite.coordinator.after = abort(grpc.StatusCode.UNAVAILABLE, method="CommitTransaction")
        tx, error = await leave(client, both)
        assert suite.coordinator.decisions == {tx.id: {"users": 1, "preferences": 1}}
        assert isinstance(error, OutcomeUnknown)
        assert tx.outcome is Outcome.UNKNOWN

    face.run(scenario, **suite.addresses())


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("status", [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED], ids=str)
def test_a_repeated_commit_whose_caller_is_refused_by_then_is_no_proof(
    face: Face, suite: Fakes, status: grpc.StatusCode
) -> None:
    def refuse(method: str, context: grpc.ServicerContext) -> None:
        if method == "RollbackTransaction" or (method == "CommitTransaction" and suite.coordinator.decisions):
            context.abort(status, "a token that has expired since")

    async def scenario(client: Any) -> None:
        suite.coordinator.before = refuse
        suite.coordinator.after = abort(grpc.StatusCode.UNAVAILABLE, method="CommitTransaction")
        tx, error = await leave(client, both)
        assert suite.coordinator.decisions == {tx.id: {"users": 1, "preferences": 1}}
        assert isinstance(error, OutcomeUnknown)
        assert tx.outcome is Outcome.UNKNOWN

    face.run(scenario, **suite.addresses(), token=lambda: "abc")


def test_a_commit_that_was_not_sent_for_want_of_a_token_is_none(
    face: Face, suite: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = time.time()
    answers = iter([jwt("one", exp=now_s + 3600)])

    async def body(tx: Any) -> None:
        await both(tx)
        monkeypatch.setattr(time, "time", lambda: now_s + 3601)

    async def scenario(client: Any) -> None:
        tx, error = await leave(client, body)
        assert isinstance(error, Unauthenticated)
        assert error.message == "token: its function raised StopIteration"
        assert tx.outcome is Outcome.ABORTED
        assert suite.coordinator.decisions == {}

    face.run(scenario, **suite.addresses(), token=lambda: next(answers))


def test_rolling_back_does_not_depend_on_the_coordinator(
    face: Face, suite: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending, "ROLL_BACK_SECONDS", 0.1)
    suite.coordinator.before = abort(grpc.StatusCode.UNAVAILABLE, method="RollbackTransaction", times=100)
    suite.preferences.before = abort(grpc.StatusCode.NOT_FOUND)

    async def scenario(client: Any) -> None:
        tx, error = await leave(client, both)
        assert isinstance(error, ServiceError)
        assert (error.code(), tx.outcome) == (grpc.StatusCode.NOT_FOUND, Outcome.ABORTED)

    face.run(scenario, **suite.addresses())
