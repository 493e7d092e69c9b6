"""Asks the coordinator what became of a transaction. Never called inside a local transaction."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from handfast.client.errors import FailedPrecondition, ServiceError
from handfast.server.chassis.interrupts import answer_of
from handfast.server.transactions.core.model import Decision, Outcome
from handfast.server.transactions.core.reading import Forgotten, Learnt
from handfast.server.transactions.participant.errors import CoordinatorUnavailable
from handfast.transactions.v1 import transactions_pb2 as pb
from handfast.transactions.v1.transactions_pb2_grpc import TransactionServiceStub


class Resolver(Protocol):
    def ask(self, transaction_ids: Collection[str]) -> dict[str, Learnt]:
        """What is known of each transaction. Raises CoordinatorUnavailable."""

    def abort(self, transaction_id: str) -> Learnt:
        """Aborts a transaction unless it is decided, and tells how it is decided. Raises CoordinatorUnavailable."""


class CoordinatorResolver:
    """Asks by TransactionService."""

    def __init__(self, stub: TransactionServiceStub) -> None:
        self._stub = stub

    def ask(self, transaction_ids: Collection[str]) -> dict[str, Learnt]:
        request = pb.BatchGetTransactionsRequest(transaction_ids=sorted(transaction_ids))
        try:
            found = answer_of(self._stub.BatchGetTransactions.future(request)).transactions
        except ServiceError as error:
            raise _unavailable(min(transaction_ids)) from error
        return {transaction.transaction_id: learnt(transaction) for transaction in found}

    def abort(self, transaction_id: str) -> Learnt:
        request = pb.RollbackTransactionRequest(transaction_id=transaction_id, abort_reason="TRANSACTION_EXPIRED")
        try:
            return learnt(answer_of(self._stub.RollbackTransaction.future(request)).transaction)
        except FailedPrecondition:
            return self.ask([transaction_id])[transaction_id]
        except ServiceError as error:
            raise _unavailable(transaction_id) from error


def learnt(transaction: pb.Transaction) -> Learnt:
    """A state that is not known here counts as undecided."""
    match transaction.state:
        case pb.TRANSACTION_STATE_COMMITTED:
            branches = {branch.participant: branch.operation_count for branch in transaction.branches}
            return Decision(transaction.transaction_id, Outcome.COMMITTED, branches)
        case pb.TRANSACTION_STATE_ABORTED:
            return Decision(transaction.transaction_id, Outcome.ABORTED, {})
        case pb.TRANSACTION_STATE_FORGOTTEN:
            return Forgotten.FORGOTTEN
        case _:
            return None


def _unavailable(transaction_id: str) -> CoordinatorUnavailable:
    return CoordinatorUnavailable(
        f"The coordinator did not say what became of transaction {transaction_id}.", transaction_id=transaction_id
    )
