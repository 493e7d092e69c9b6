"""ParticipantService: the coordinator's door to a service's branches."""

from __future__ import annotations

from typing import Generic

import grpc
import sqlalchemy as sa

from handfast.server.chassis.call import Pool
from handfast.server.chassis.clock import timestamp
from handfast.server.chassis.errors import Violations
from handfast.server.chassis.errors.database import is_conflict
from handfast.server.chassis.requests import fields
from handfast.server.chassis.requests.paging import page_size, page_start, page_token
from handfast.server.chassis.server import Service
from handfast.server.transactions import wire
from handfast.server.transactions.core import participant as rules
from handfast.server.transactions.core.model import Branch, BranchState, Outcome
from handfast.server.transactions.participant.finishing import FinishResult, log_left_for_later
from handfast.server.transactions.participant.participant import Participant
from handfast.server.transactions.participant.resources import M
from handfast.transactions.v1 import transactions_pb2 as pb
from handfast.transactions.v1.transactions_pb2_grpc import (
    ParticipantServiceServicer,
    add_ParticipantServiceServicer_to_server,
)

MAX_DECISIONS = 1000
PARTICIPANT_POOL = Pool("participant", 4)
BRANCHES = "branches"

_OUTCOMES = {pb.TRANSACTION_STATE_COMMITTED: Outcome.COMMITTED, pb.TRANSACTION_STATE_ABORTED: Outcome.ABORTED}
_RESULTS = {FinishResult.CONFIRMED: pb.FINISH_RESULT_CONFIRMED, FinishResult.LOST: pb.FINISH_RESULT_LOST}


class _Pruned(Exception):
    """Rolls back what was inserted for the lock: the branch was finished, and pruned."""


class ParticipantServicer(ParticipantServiceServicer, Generic[M]):
    def __init__(self, participant: Participant[M]) -> None:
        self._store, self._finishing = participant.store, participant.finishing

    def FinishTransactions(
        self, request: pb.FinishTransactionsRequest, context: grpc.ServicerContext
    ) -> pb.FinishTransactionsResponse:
        with Violations.collect() as violations:
            ids = [decision.transaction_id for decision in request.decisions]
            if fields.check_batch(violations, "decisions", ids, MAX_DECISIONS):
                for index, decision in enumerate(request.decisions):
                    _check_decision(violations, f"decisions[{index}]", decision)
        results = []
        for decision in request.decisions:
            if context.time_remaining() <= 0:
                break  # nobody waits any more; what is left will be told again
            try:
                results.append(self._finish(decision))
            except Exception as error:
                if not is_conflict(error):
                    raise
                log_left_for_later(decision.transaction_id, error)  # it will be told again, and holds up no other
        return pb.FinishTransactionsResponse(results=results)

    def _finish(self, decision: pb.Decision) -> pb.FinishedTransaction:
        outcome = _OUTCOMES[decision.state]
        named = decision.operation_count if outcome is Outcome.COMMITTED else 0
        result = self._finishing.finish(decision.transaction_id, outcome, named, decision.loss_accepted)
        return pb.FinishedTransaction(transaction_id=decision.transaction_id, result=_RESULTS[result])

    def QueryBranch(self, request: pb.QueryBranchRequest, context: grpc.ServicerContext) -> pb.QueryBranchResponse:
        self._check(request.transaction_id)
        with self._store.database.read() as connection:
            branch = self._store.branches.find(connection, request.transaction_id)
        return pb.QueryBranchResponse(branch=_message(request.transaction_id, branch))

    def ListBranches(self, request: pb.ListBranchesRequest, context: grpc.ServicerContext) -> pb.ListBranchesResponse:
        with Violations.collect() as violations:
            size = page_size(violations, request.page_size)
            after = page_start(violations, request.page_token, BRANCHES)
        with self._store.database.read() as connection:
            found = self._store.branches.unfinished(connection, after, size + 1)
        page = found[:size]
        next_after = page[-1].transaction_id if len(found) > size else ""
        return pb.ListBranchesResponse(
            branches=[_message(branch.transaction_id, branch) for branch in page],
            next_page_token=page_token(BRANCHES, next_after),
        )

    def CloseBranch(self, request: pb.CloseBranchRequest, context: grpc.ServicerContext) -> pb.CloseBranchResponse:
        self._check(request.transaction_id)

        def work(connection: sa.Connection) -> Branch:
            store, transaction_id = self._store, request.transaction_id
            branch = store.branches.lock(connection, Branch(transaction_id, BranchState.OPEN, deadline=0))
            horizon = "" if branch else store.horizon.seen(connection)
            closed = rules.close(transaction_id, branch, horizon)
            if branch is None and closed.state is BranchState.FINISHED:
                raise _Pruned
            store.branches.save(connection, closed)
            return closed

        try:
            branch = self._store.database.write(work)
        except _Pruned:
            branch = Branch(request.transaction_id, BranchState.FINISHED, deadline=0)
        return pb.CloseBranchResponse(branch=_message(request.transaction_id, branch))

    @staticmethod
    def _check(transaction_id: str) -> None:
        with Violations.collect() as violations:
            wire.check_transaction_id(violations, "transaction_id", transaction_id)


def _check_decision(violations: Violations, path: str, decision: pb.Decision) -> None:
    wire.check_transaction_id(violations, f"{path}.transaction_id", decision.transaction_id)
    if decision.state not in _OUTCOMES:
        violations.add(f"{path}.state", "must be COMMITTED or ABORTED")
    if decision.operation_count < 0:
        violations.add(f"{path}.operation_count", "must not be negative")


_STATES = {
    BranchState.OPEN: pb.BRANCH_STATE_OPEN,
    BranchState.CLOSED: pb.BRANCH_STATE_CLOSED,
    BranchState.FINISHED: pb.BRANCH_STATE_FINISHED,
}
_STATE_OF_OUTCOME = {outcome: state for state, outcome in _OUTCOMES.items()}


def _message(transaction_id: str, branch: Branch | None) -> pb.Branch:
    if branch is None:
        return pb.Branch(transaction_id=transaction_id, state=pb.BRANCH_STATE_ABSENT)
    return pb.Branch(
        transaction_id=branch.transaction_id,
        state=_STATES[branch.state],
        deadline=timestamp(branch.deadline) if branch.deadline else None,
        operation_count=branch.staged,
        outcome=_STATE_OF_OUTCOME[branch.outcome] if branch.outcome else pb.TRANSACTION_STATE_UNSPECIFIED,
    )


def participant_service(participant: Participant[M], domain: str) -> Service:
    """What a server adds to its services to take part in transactions."""
    return Service(
        pb.DESCRIPTOR.services_by_name["ParticipantService"],
        add_ParticipantServiceServicer_to_server,
        ParticipantServicer(participant),
        domain,
        PARTICIPANT_POOL,
    )
