"""TransactionService: begins and decides transactions, and says what was decided."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set

import grpc

from handfast.server.chassis.call import Pool, serving
from handfast.server.chassis.clock import MICROSECONDS_PER_SECOND, Clock, now, timestamp
from handfast.server.chassis.errors import PeerUnavailable, Violations
from handfast.server.chassis.requests import fields
from handfast.server.chassis.requests.paging import check_page, page_token
from handfast.server.chassis.security.callers import current_caller, current_scopes, on_behalf_of
from handfast.server.chassis.security.guard import refuse
from handfast.server.chassis.server import Service
from handfast.server.chassis.tracing.spans import decide_span
from handfast.server.transactions import wire
from handfast.server.transactions.clocks import check_minted
from handfast.server.transactions.coordinator import errors
from handfast.server.transactions.coordinator.decision_store import DecisionRow, DecisionStore
from handfast.server.transactions.coordinator.holdings import Holdings
from handfast.server.transactions.coordinator.notifier import DecisionNotifier
from handfast.server.transactions.coordinator.owned_ids import OwnedIds
from handfast.server.transactions.coordinator.reply_store import ReplyStore
from handfast.server.transactions.core import coordinator as rules
from handfast.server.transactions.core.model import MAX_OPERATIONS, Decision, Outcome
from handfast.server.transactions.crash_points import reached
from handfast.server.transactions.ownership import NotOwner
from handfast.transactions.v1 import transactions_pb2 as pb
from handfast.transactions.v1 import transactions_pb2_grpc as pb_grpc

DOMAIN = "handfast.transactions"
POOL = Pool("transactions", 8)
COMMITS = Pool("commits", 8)
"""Commits ask participants. What participants themselves ask while they serve calls does not wait behind that."""
DEFAULT_TIMEOUT_US = 30 * MICROSECONDS_PER_SECOND
MAX_SECONDS = wire.MAX_TIMEOUT_US // MICROSECONDS_PER_SECOND
MAX_BRANCHES = 32
MAX_FURTHER = 32
MAX_ABORT_REASON = 100
MAX_METHOD = 200
RESOLVE = "transactions.resolve"
"""The scope of participants."""
OF_ANYBODY = frozenset({"transactions.operate", RESOLVE})
"""The scopes of those who may use the transactions of anybody: operators, and participants that resolve."""
LONG_OVER_US = wire.MAX_TIMEOUT_US + wire.MAX_CLOCK_SKEW_US
"""After which no caller can expect a transaction to be undecided."""


class TransactionServicer(pb_grpc.TransactionServiceServicer):
    def __init__(
        self,
        decisions: DecisionStore,
        replies: ReplyStore,
        notifier: DecisionNotifier,
        holdings: Holdings,
        ids: OwnedIds,
        clock: Clock = now,
    ) -> None:
        self._decisions, self._replies, self._notifier = decisions, replies, notifier
        self._holdings, self._ids, self._clock = holdings, ids, clock

    def BeginTransaction(
        self, request: pb.BeginTransactionRequest, context: grpc.ServicerContext
    ) -> pb.BeginTransactionResponse:
        timeout = DEFAULT_TIMEOUT_US
        with Violations.collect() as violations:
            if request.HasField("timeout"):
                timeout = fields.duration_microseconds(violations, "timeout", request.timeout, MAX_SECONDS)
            if not 0 <= request.further <= MAX_FURTHER:
                violations.add("further", f"must be from 0 to {MAX_FURTHER}")
        deadline = timestamp(self._clock() + timeout)
        owner = current_caller()
        ids = [self._ids.mint(owner) for _ in range(1 + request.further)]
        begun = [
            pb.Transaction(transaction_id=id_, state=pb.TRANSACTION_STATE_UNDECIDED, deadline=deadline) for id_ in ids
        ]
        return pb.BeginTransactionResponse(transaction=begun[0], further=begun[1:])

    def CommitTransaction(
        self, request: pb.CommitTransactionRequest, context: grpc.ServicerContext
    ) -> pb.CommitTransactionResponse:
        self._check_owner([request.transaction_id])
        with Violations.collect() as violations:
            wire.check_transaction_id(violations, "transaction_id", request.transaction_id)
            participants = [branch.participant for branch in request.branches]
            if fields.check_batch(violations, "branches", participants, MAX_BRANCHES):
                known = self._known(request.transaction_id, participants)
                for index, branch in enumerate(request.branches):
                    _check_branch(violations, f"branches[{index}]", branch, known)
        branches = {branch.participant: branch.operation_count for branch in request.branches}
        decision = Decision(request.transaction_id, Outcome.COMMITTED, branches)
        self._check_held(decision)
        return pb.CommitTransactionResponse(transaction=self._decide(decision))

    def _check_owner(self, transaction_ids: Iterable[str], *others: str, scopes: Set[str] = frozenset()) -> None:
        """Raises NotOwner where a transaction belongs neither to the caller nor to one of the `others`, unless the
        caller has one of the `scopes`. It comes before the request is validated, as all permissions do.
        """
        caller = current_caller()
        if caller is None or not scopes.isdisjoint(current_scopes()):
            return
        for id_ in transaction_ids:
            if wire.is_transaction_id(id_) and not self._ids.belongs_to(id_, caller, *others):
                refuse(NotOwner(id_))

    def _check_reader(self, transaction_ids: Iterable[str]) -> None:
        """`_check_owner` for those who only ask. They are also told of what AccountService has run for them."""
        caller = current_caller()
        self._check_owner(transaction_ids, *([] if caller is None else [on_behalf_of(caller)]), scopes=OF_ANYBODY)

    def _check_held(self, commit: Decision) -> None:
        """Raises, where nothing is decided: WrongParticipant where another one answers for a participant that is named;
        NotOwner where another caller has staged there; OperationsMissing where one does not hold what is named; and
        PeerUnavailable where one does not say. That is let pass only where anybody may do everything, as then the
        caller's word is as good as any; but not of a transaction so old that participants may have forgotten it.
        """
        held = self._holdings.of(commit)
        missing = {
            name: count for name, count in held.counts.items() if count is not None and count < commit.branches[name]
        }
        call, long_over_us = serving(), wire.minted_at(commit.transaction_id) + LONG_OVER_US
        is_believed = not (call is not None and call.enforced) and self._clock() <= long_over_us
        silent = [] if is_believed else [name for name, count in held.counts.items() if count is None]
        # What a participant does not hold any more can have been decided and finished. All who commit for the first
        # time hold what they name, so only now it is looked up.
        caller = current_caller()
        is_anothers = caller is not None and any(owner != caller for owner in held.owners.values())
        doubtful = held.answered_by or is_anothers or missing or silent
        if doubtful and self._find([commit.transaction_id])[0].state == pb.TRANSACTION_STATE_UNDECIDED:
            for asked, participant in held.answered_by.items():
                raise errors.WrongParticipant(asked, participant)
            if is_anothers:
                refuse(NotOwner(commit.transaction_id))
            if missing:
                raise errors.OperationsMissing(commit.transaction_id, commit.branches, missing)
            if silent:
                names, id_ = ", ".join(sorted(silent)), commit.transaction_id
                raise PeerUnavailable(f"{names} did not say what is staged there of transaction {id_}.")

    def _known(self, transaction_id: str, named: Sequence[str]) -> Set[str]:
        """The participants that a commit may name: those that are configured. Where it repeats one, those that were
        when that was decided, too.
        """
        known = set(self._notifier.by_participant)
        if not known.issuperset(named) and wire.is_transaction_id(transaction_id):
            found, _ = self._decisions.find([transaction_id])
            known.update(*(row.decision.branches for row in found.values()))
        return known

    def RollbackTransaction(
        self, request: pb.RollbackTransactionRequest, context: grpc.ServicerContext
    ) -> pb.RollbackTransactionResponse:
        self._check_owner([request.transaction_id], scopes=OF_ANYBODY)
        with Violations.collect() as violations:
            wire.check_transaction_id(violations, "transaction_id", request.transaction_id)
            if request.abort_reason:
                fields.check_reason(violations, "abort_reason", request.abort_reason, MAX_ABORT_REASON)
            if request.participants:
                fields.check_batch(violations, "participants", request.participants, MAX_BRANCHES)
        named = request.participants or self._notifier.by_participant
        concerned = {name: 0 for name in self._notifier.by_participant if name in named}
        decision = Decision(request.transaction_id, Outcome.ABORTED, concerned, request.abort_reason)
        return pb.RollbackTransactionResponse(transaction=self._decide(decision))

    def _decide(self, decision: Decision) -> pb.Transaction:
        check_minted(decision.transaction_id, self._clock())
        with decide_span(decision.transaction_id, decision.outcome.name.lower()):
            standing = self._decisions.decide(decision)
        reached("coordinator.decided")
        match rules.judge(decision, standing.decision):
            case rules.Verdict.ABORTED_BEFORE:
                raise errors.TransactionAborted(decision.transaction_id)
            case rules.Verdict.COMMITTED_BEFORE:
                raise errors.TransactionCommitted(decision.transaction_id)
            case rules.Verdict.COMMITTED_OTHERWISE:
                raise errors.CommitChanged(decision.transaction_id, standing.decision.branches)
            case rules.Verdict.AS_ASKED:
                self._notifier.decided(standing)
                return self._message(standing)

    def AcceptLoss(self, request: pb.AcceptLossRequest, context: grpc.ServicerContext) -> pb.AcceptLossResponse:
        transaction_id = request.transaction_id
        with Violations.collect() as violations:
            wire.check_transaction_id(violations, "transaction_id", transaction_id)
            fields.check_batch(violations, "participants", request.participants, MAX_BRANCHES)
        found, _ = self._decisions.find([transaction_id])
        if transaction_id not in found:
            state = pb.TransactionState.Name(self._find([transaction_id])[0].state)
            raise errors.TransactionNotDecided(transaction_id, state.removeprefix("TRANSACTION_STATE_"))
        with Violations.collect() as violations:
            for index, participant in enumerate(request.participants):
                if participant not in found[transaction_id].decision.branches:
                    violations.add(f"participants[{index}]", "has no part in what was decided")
        row = self._decisions.accept_loss(transaction_id, request.participants)
        self._notifier.tell_all()
        return pb.AcceptLossResponse(transaction=self._message(row or found[transaction_id]))

    def GetTransaction(
        self, request: pb.GetTransactionRequest, context: grpc.ServicerContext
    ) -> pb.GetTransactionResponse:
        transaction_id = request.transaction_id
        self._check_reader([transaction_id])
        with Violations.collect() as violations:
            if request.request_id or request.method:
                fields.check_request_id(violations, request.request_id)
                fields.check_text(violations, "method", request.method, MAX_METHOD)  # PostgreSQL takes no NUL
                for field in ("request_id", "method"):
                    if not getattr(request, field):
                        violations.add(field, "is required where the other is given")
                if transaction_id:
                    violations.add("transaction_id", "must be empty where request_id is given")
            else:
                wire.check_transaction_id(violations, "transaction_id", transaction_id)
        if request.request_id:
            reply = self._replies.find(request.method, request.request_id)
            if reply is None:
                raise errors.NoTransactionOfRequest(request.request_id)
            transaction_id = reply.transaction_id
        return pb.GetTransactionResponse(transaction=self._find([transaction_id])[0])

    def BatchGetTransactions(
        self, request: pb.BatchGetTransactionsRequest, context: grpc.ServicerContext
    ) -> pb.BatchGetTransactionsResponse:
        self._check_reader(request.transaction_ids[: wire.MAX_BATCH])  # more are refused anyway
        with Violations.collect() as violations:
            if fields.check_batch(violations, "transaction_ids", request.transaction_ids, wire.MAX_BATCH):
                for index, transaction_id in enumerate(request.transaction_ids):
                    wire.check_transaction_id(violations, f"transaction_ids[{index}]", transaction_id)
        return pb.BatchGetTransactionsResponse(transactions=self._find(list(request.transaction_ids)))

    def _find(self, transaction_ids: list[str]) -> list[pb.Transaction]:
        """One for each id."""
        found, horizon = self._decisions.find(transaction_ids)
        transactions = []
        for id_ in transaction_ids:
            if id_ in found:
                transactions.append(self._message(found[id_]))
            else:
                state = pb.TRANSACTION_STATE_FORGOTTEN if id_ < horizon else pb.TRANSACTION_STATE_UNDECIDED
                transactions.append(pb.Transaction(transaction_id=id_, state=state))
        return transactions

    def GetOwnerKeys(self, request: pb.GetOwnerKeysRequest, context: grpc.ServicerContext) -> pb.GetOwnerKeysResponse:
        # Also where permissions are only observed, nobody else is told.
        return pb.GetOwnerKeysResponse(keys=self._ids.keys if RESOLVE in current_scopes() else ())

    def ListTransactions(
        self, request: pb.ListTransactionsRequest, context: grpc.ServicerContext
    ) -> pb.ListTransactionsResponse:
        outcome = wire.OUTCOMES.get(request.state)
        list_name = f"transactions/{request.state}/{int(request.unfinished)}"
        with Violations.collect() as violations:
            start, size = check_page(violations, request, list_name)
            if outcome is None and request.state != pb.TRANSACTION_STATE_UNSPECIFIED:
                violations.add("state", "must be COMMITTED, ABORTED or unspecified")
        found = self._decisions.page(start, size + 1, outcome, unfinished=request.unfinished)
        page = found[:size]
        next_start = page[-1].decision.transaction_id if len(found) > size else ""
        return pb.ListTransactionsResponse(
            transactions=[self._message(row) for row in page], next_page_token=page_token(list_name, next_start)
        )

    def _message(self, row: DecisionRow) -> pb.Transaction:
        decision = row.decision
        configured = self._notifier.by_participant.keys()
        unconfigured = rules.waits_for(decision, configured) - configured
        return pb.Transaction(
            transaction_id=decision.transaction_id,
            state=wire.STATES[decision.outcome],
            branches=[
                pb.TransactionBranch(participant=participant, operation_count=count)
                for participant, count in sorted(decision.branches.items())
                if decision.outcome is Outcome.COMMITTED
            ],
            decide_time=timestamp(row.decide_time),
            finish_time=None if row.finish_time is None else timestamp(row.finish_time),
            abort_reason=decision.abort_reason,
            loss_accepted=sorted(decision.loss_accepted),
            unconfigured_participants=sorted(unconfigured) if row.finish_time is None else (),
        )


def _check_branch(violations: Violations, path: str, branch: pb.TransactionBranch, known: Set[str]) -> None:
    if branch.participant not in known:
        violations.add(f"{path}.participant", f"must be a participant that is configured: {', '.join(sorted(known))}")
    if not 1 <= branch.operation_count <= MAX_OPERATIONS:
        violations.add(f"{path}.operation_count", f"must be from 1 to {MAX_OPERATIONS}")


def transaction_service(
    decisions: DecisionStore,
    replies: ReplyStore,
    notifier: DecisionNotifier,
    participants: Mapping[str, pb_grpc.ParticipantServiceStub],
    ids: OwnedIds,
) -> Service:
    """What the server of a coordinator adds to its services. It has threads of its own, since participants ask it
    while they serve calls that the same server waits for; and others for commits, which wait for participants.
    """
    holdings = Holdings(participants)
    return Service(
        pb.DESCRIPTOR.services_by_name["TransactionService"],
        pb_grpc.add_TransactionServiceServicer_to_server,
        TransactionServicer(decisions, replies, notifier, holdings, ids),
        DOMAIN,
        POOL,
        {"CommitTransaction": COMMITS},
    )
