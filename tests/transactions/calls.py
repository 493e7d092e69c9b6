"""Transactions as a caller drives them by hand: begin, staged calls, commit or roll back."""

from __future__ import annotations

from typing import Any

from handfast.client import Suite, transaction_metadata
from handfast.server.accounts import tables
from handfast.server.chassis.data.database import Database
from handfast.server.transactions import wire
from handfast.server.transactions.coordinator.decision_store import DecisionStore
from handfast.server.transactions.core.model import Decision, Outcome
from handfast.transactions.v1 import transactions_pb2 as pb


class Transaction:
    """One transaction. `stage` sends a call under it and checks that the service took it as staged."""

    def __init__(self, client: Suite, timeout_seconds: int = 30) -> None:
        self._client = client
        request = pb.BeginTransactionRequest()
        request.timeout.seconds = timeout_seconds
        self.begun = client.transactions.BeginTransaction(request).transaction
        self.id = self.begun.transaction_id
        self.counts: dict[str, int] = {}

    def metadata(self, number: int) -> tuple[tuple[str, str], ...]:
        return wire.stage_metadata(self.id, number, self.begun.deadline.ToMicroseconds())

    def stage(self, participant: str, method: Any, request: Any) -> Any:
        number = self.counts.get(participant, 0) + 1
        reply, call = method.with_call(request, metadata=self.metadata(number))
        assert (transaction_metadata.STAGED, participant) in [(key, value) for key, value in call.trailing_metadata()]
        self.counts[participant] = number
        return reply

    def commit(self, **counts: int) -> pb.Transaction:
        """Commits what was staged, or where given these counts."""
        branches = [
            pb.TransactionBranch(participant=participant, operation_count=count)
            for participant, count in (counts or self.counts).items()
        ]
        request = pb.CommitTransactionRequest(transaction_id=self.id, branches=branches)
        return self._client.transactions.CommitTransaction(request).transaction

    def rollback(self) -> pb.Transaction:
        request = pb.RollbackTransactionRequest(transaction_id=self.id, abort_reason="TEST")
        return self._client.transactions.RollbackTransaction(request).transaction

    def state(self) -> pb.TransactionState.ValueType:
        request = pb.GetTransactionRequest(transaction_id=self.id)
        return self._client.transactions.GetTransaction(request).transaction.state


def commit_unasked(database_url: str, transaction_id: str, **counts: int) -> None:
    """Decides in the coordinator's database, as it does where a participant does not say what it holds."""
    database = Database(database_url)
    DecisionStore(database, tables.coordinator).decide(Decision(transaction_id, Outcome.COMMITTED, counts))
    database.close()
