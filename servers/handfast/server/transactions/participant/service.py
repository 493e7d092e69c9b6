"""ParticipantService: the coordinator's door to a service's branches."""

from __future__ import annotations

from functools import partial

import grpc
import sqlalchemy as sa

from handfast.server.chassis.call import Pool
from handfast.server.chassis.clock import timestamp
from handfast.server.chassis.errors import Violations
from handfast.server.chassis.requests import fields
from handfast.server.chassis.requests.paging import page_token, require_page
from handfast.server.chassis.security.callers import is_caller
from handfast.server.chassis.server import Service
from handfast.server.transactions import wire
from handfast.server.transactions.core import finishing as rules
from handfast.server.transactions.core.model import Branch, BranchDecision, BranchState, Outcome
from handfast.server.transactions.participant.errors import WrongParticipant
from handfast.server.transactions.participant.finishing import Finished
from handfast.server.transactions.participant.participant import Participant
from handfast.transactions.v1 import transactions_pb2 as pb
from handfast.transactions.v1 import transactions_pb2_grpc as pb_grpc

PARTICIPANT_POOL = Pool("participant", 4)
BRANCHES = "branches"

_Request = pb.FinishTransactionsRequest | pb.QueryBranchRequest | pb.ListBranchesRequest | pb.CloseBranchRequest

_RESULTS = {each: pb.FinishResult.Value(f"FINISH_RESULT_{each.name}") for each in Finished}


class ParticipantServicer(pb_grpc.ParticipantServiceServicer):
    def __init__(self, participant: Participant) -> None:
        self._store, self._finisher = participant.store, participant.finisher

    def FinishTransactions(
        self, request: pb.FinishTransactionsRequest, context: grpc.ServicerContext
    ) -> pb.FinishTransactionsResponse:
        self._check_addressee(request)
        with Violations.collect() as violations:
            ids = [decision.transaction_id for decision in request.decisions]
            if fields.check_batch(violations, "decisions", ids, wire.MAX_BATCH):
                for index, decision in enumerate(request.decisions):
                    _check_decision(violations, f"decisions[{index}]", decision)
        decisions = [_branch_decision(decision) for decision in request.decisions]
        # What is left when nobody waits any more, the coordinator sends again.
        finished = self._finisher.finish_all(decisions, lambda: context.time_remaining() > 0)
        results = [pb.FinishedTransaction(transaction_id=id_, result=_RESULTS[result]) for id_, result in finished]
        return pb.FinishTransactionsResponse(results=results)

    def QueryBranch(self, request: pb.QueryBranchRequest, context: grpc.ServicerContext) -> pb.QueryBranchResponse:
        self._check_addressee(request)
        self._check(request.transaction_id)
        with self._store.database.read() as connection:
            branch = self._store.branches.find(connection, request.transaction_id)
        return pb.QueryBranchResponse(branch=_message(request.transaction_id, branch))

    def ListBranches(self, request: pb.ListBranchesRequest, context: grpc.ServicerContext) -> pb.ListBranchesResponse:
        self._check_addressee(request)
        after, size = require_page(request, BRANCHES)
        with self._store.database.read() as connection:
            found = self._store.branches.unfinished(connection, after, size + 1)
        page = found[:size]
        next_after = page[-1].transaction_id if len(found) > size else ""
        return pb.ListBranchesResponse(
            branches=[_message(branch.transaction_id, branch) for branch in page],
            next_page_token=page_token(BRANCHES, next_after),
        )

    def CloseBranch(self, request: pb.CloseBranchRequest, context: grpc.ServicerContext) -> pb.CloseBranchResponse:
        self._check_addressee(request)
        self._check(request.transaction_id)
        branch = self._store.database.write(partial(self._close, request.transaction_id))
        return pb.CloseBranchResponse(branch=_message(request.transaction_id, branch))

    def _close(self, transaction_id: str, connection: sa.Connection) -> Branch:
        store = self._store
        # Until the latest deadline that it can have nobody aborts it: it may be at other participants alone.
        latest_us = wire.minted_at(transaction_id) + wire.MAX_TIMEOUT_US
        branch = store.branches.lock(connection, rules.unheard_of(transaction_id)._replace(deadline_us=latest_us))
        horizon = "" if branch else store.branches.horizon(connection)
        closed = rules.close(transaction_id, branch, horizon)
        if closed.state is BranchState.CLOSED:
            store.branches.close(connection, transaction_id)
        elif branch is None:
            store.branches.delete(connection, [transaction_id])  # it was inserted for the lock, and has been pruned
        return closed

    def _check_addressee(self, request: _Request) -> None:
        """Raises WrongParticipant where the caller takes this service for another. What it says of that one's branches
        must not be done to the branches here, which can be of the same transaction.
        """
        if request.participant not in ("", self._store.participant):
            raise WrongParticipant(request.participant, self._store.participant)

    @staticmethod
    def _check(transaction_id: str) -> None:
        with Violations.collect() as violations:
            wire.check_transaction_id(violations, "transaction_id", transaction_id)


def _check_decision(violations: Violations, path: str, decision: pb.Decision) -> None:
    wire.check_transaction_id(violations, f"{path}.transaction_id", decision.transaction_id)
    if decision.state not in wire.OUTCOMES:
        violations.add(f"{path}.state", "must be COMMITTED or ABORTED")
    if decision.operation_count < 0:
        violations.add(f"{path}.operation_count", "must not be negative")


def _branch_decision(decision: pb.Decision) -> BranchDecision:
    outcome = wire.OUTCOMES[decision.state]
    count = decision.operation_count if outcome is Outcome.COMMITTED else 0
    return BranchDecision(decision.transaction_id, outcome, count, decision.loss_accepted)


def _message(transaction_id: str, branch: Branch | None) -> pb.Branch:
    if branch is None:
        return pb.Branch(transaction_id=transaction_id, state=pb.BRANCH_STATE_ABSENT)
    return pb.Branch(
        transaction_id=branch.transaction_id,
        state=pb.BranchState.Value(f"BRANCH_STATE_{branch.state.value}"),
        deadline=timestamp(branch.deadline_us) if branch.staged else None,
        operation_count=branch.staged,
        outcome=wire.STATES[branch.outcome] if branch.outcome else pb.TRANSACTION_STATE_UNSPECIFIED,
        owner=branch.owner if is_caller(branch.owner) else "",
    )


def participant_service(participant: Participant, domain: str) -> Service:
    """What a server adds to its services to take part in transactions."""
    return Service(
        pb.DESCRIPTOR.services_by_name["ParticipantService"],
        pb_grpc.add_ParticipantServiceServicer_to_server,
        ParticipantServicer(participant),
        domain,
        PARTICIPANT_POOL,
    )
