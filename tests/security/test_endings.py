"""How transactions end where servers demand identities: those that are left open, and those whose caller is not let in
any more when it asks once more to commit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from handfast.client import FailedPrecondition, OutcomeUnknown, Unauthenticated, connect
from handfast.client.propagation import CALLER_KEY
from handfast.server.chassis.ids import new_id
from handfast.server.transactions import wire
from handfast.transactions.v1 import transactions_pb2 as pb
from handfast.transactions.v1.transactions_pb2_grpc import ParticipantServiceStub
from handfast.users.v1.users_pb2 import CreateUserRequest, User
from tests.eventually import eventually
from tests.people import new_email
from tests.security.enforced import ISSUER, OF_CALLERS, SUITE, Metadata, Place, as_caller, digest
from tests.security.issuer import bearer

ADA = as_caller("ada")


def creation(email: str = "") -> CreateUserRequest:
    return CreateUserRequest(user=User(user_id=new_id(), email=email or new_email()))


def test_what_is_left_open_is_rolled_back_after_its_deadline_by_the_participant_that_holds_it(place: Place) -> None:
    client, _ = place
    left: dict[str, str] = {}

    def leave(caller: Metadata) -> None:
        """Begins and stages, and is heard of no more."""
        request = pb.BeginTransactionRequest()
        request.timeout.FromMilliseconds(500)
        begun = client.transactions.BeginTransaction(request, metadata=caller).transaction
        staged, email = wire.stage_metadata(begun.transaction_id, 1, begun.deadline.ToMicroseconds()), new_email()
        client.users.CreateUser(creation(email), metadata=(*staged, *caller))
        left[begun.transaction_id] = email

    of_a_service = (*SUITE, (CALLER_KEY, digest("ada")))  # which calls on behalf of its caller
    for caller in (ADA, of_a_service):
        while True:
            try:
                leave(caller)
                break
            except FailedPrecondition as error:  # the machine has paused for longer than the transaction may take
                if error.reason != "TRANSACTION_EXPIRED":
                    raise
    for transaction_id, email in left.items():

        def branch(transaction_id: str = transaction_id) -> bool:
            query = pb.QueryBranchRequest(transaction_id=transaction_id)
            found = client.stub(ParticipantServiceStub, "users").QueryBranch(query, metadata=SUITE).branch
            return (found.state, found.outcome) == (pb.BRANCH_STATE_FINISHED, pb.TRANSACTION_STATE_ABORTED)

        assert eventually(branch), "by its sweeper"
        get = pb.GetTransactionRequest(transaction_id=transaction_id)
        decided = client.transactions.GetTransaction(get, metadata=SUITE).transaction
        assert (decided.state, decided.abort_reason) == (pb.TRANSACTION_STATE_ABORTED, "TRANSACTION_EXPIRED")
        client.users.CreateUser(creation(email), metadata=ADA)  # what it held is free


class NoAnswer(grpc.RpcError):
    """Nothing came back."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return "the connection was lost"


class LosesTheCommit(grpc.UnaryUnaryClientInterceptor):
    """Sends a token that has expired by the time when the answer to the first commit is lost."""

    def __init__(self) -> None:
        self.ended: list[grpc.StatusCode] = []
        """How each commit did end."""
        self._token = bearer(ISSUER.token("ada", OF_CALLERS))

    def intercept_unary_unary(
        self, continuation: Callable[[Any, Any], Any], client_call_details: Any, request: Any
    ) -> Any:
        metadata = (*(client_call_details.metadata or ()), *self._token)
        call = continuation(client_call_details._replace(metadata=metadata), request)
        if client_call_details.method.endswith("/CommitTransaction"):
            self.ended.append(call.code())
            if len(self.ended) == 1:
                self._token = bearer(ISSUER.token("ada", OF_CALLERS, exp=int(time.time()) - 3600))
                raise NoAnswer
        return call


def test_a_commit_that_is_repeated_with_a_token_that_has_expired_since_is_not_taken_for_refused(place: Place) -> None:
    client, addresses = place
    loses = LosesTheCommit()
    with (
        connect(**addresses, interceptors=[loses]) as own,
        pytest.raises(OutcomeUnknown) as unknown,
        own.transaction() as tx,
    ):
        tx.users.CreateUser(creation())
    assert loses.ended == [grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED]
    assert isinstance(unknown.value.__cause__, Unauthenticated)
    assert unknown.value.metadata == {"transaction_id": tx.id}
    # With another token its owner learns what became of it.
    get = pb.GetTransactionRequest(transaction_id=tx.id)
    found = client.transactions.GetTransaction(get, metadata=ADA).transaction
    assert found.state == pb.TRANSACTION_STATE_COMMITTED
