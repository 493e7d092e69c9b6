"""Asks the coordinator and the participants about transactions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

from handfast.client import DeadlineExceeded, FailedPrecondition, Unavailable, channel
from handfast.client.security import environment
from handfast.server.cli.settings import COORDINATOR
from handfast.server.process.command import Failure
from handfast.transactions.v1 import transactions_pb2 as pb
from handfast.transactions.v1.transactions_pb2_grpc import ParticipantServiceStub, TransactionServiceStub

TIMEOUT = 3.0
"""Seconds that each call may take, with its repeats."""
PAGE = 1000
"""Transactions or branches that are asked for in one call."""
ROLLED_BACK = "ROLLED_BACK_BY_OPERATOR"
"""The reason that the coordinator keeps of a rollback by `handfast transactions resolve`."""
WRONG_PARTICIPANT = "WRONG_PARTICIPANT"

Request = TypeVar("Request")
Reply = TypeVar("Reply")


class NoAnswer(Failure):
    """A server did not answer."""


@dataclass(frozen=True, slots=True)
class Case:
    """One transaction: the coordinator's word, and the branch of each participant, None where it did not answer."""

    transaction: pb.Transaction
    branches: Mapping[str, pb.Branch | None]

    @property
    def id(self) -> str:
        return self.transaction.transaction_id

    @property
    def begun(self) -> datetime:
        """When its id was minted: a UUIDv7 begins with 48 bits of milliseconds (RFC 9562)."""
        return datetime.fromtimestamp((UUID(self.id).int >> 80) / 1000, UTC)

    @property
    def deadline(self) -> datetime | None:
        stated = [branch.deadline for branch in self.branches.values() if branch and branch.HasField("deadline")]
        return stated[0].ToDatetime(UTC) if stated else None

    @property
    def held_by(self) -> list[str]:
        """The participants that still have to apply or drop what is staged."""
        unfinished = (pb.BRANCH_STATE_OPEN, pb.BRANCH_STATE_CLOSED)
        return [name for name, branch in self.branches.items() if branch and branch.state in unfinished]

    @property
    def silent(self) -> list[str]:
        return [name for name, branch in self.branches.items() if branch is None]

    @property
    def unasked(self) -> list[str]:
        """The participants that have a part in it, but were not asked, as their addresses were not given."""
        committed = [each.participant for each in self.transaction.branches]
        return sorted({*committed, *self.transaction.unconfigured_participants} - self.branches.keys())

    @property
    def finished(self) -> bool:
        """Whether the coordinator says so. A transaction that it has forgotten was finished."""
        return self.transaction.HasField("finish_time") or self.transaction.state == pb.TRANSACTION_STATE_FORGOTTEN

    @property
    def unknown(self) -> bool:
        """Whether no server that answers has heard of it: it was never used, or has only begun."""
        absent = (pb.BRANCH_STATE_UNSPECIFIED, pb.BRANCH_STATE_ABSENT)
        return self.transaction.state == pb.TRANSACTION_STATE_UNDECIDED and all(
            branch is None or branch.state in absent for branch in self.branches.values()
        )

    @property
    def contradicting(self) -> list[str]:
        """The participants that finished it otherwise than it is decided: theirs is another coordinator, or somebody's
        database was set back.
        """
        if self.transaction.state == pb.TRANSACTION_STATE_FORGOTTEN:
            return []
        committed = self.transaction.state == pb.TRANSACTION_STATE_COMMITTED
        opposite = pb.TRANSACTION_STATE_ABORTED if committed else pb.TRANSACTION_STATE_COMMITTED
        return [
            name
            for name, branch in self.branches.items()
            if branch and branch.outcome == opposite and name not in self.transaction.loss_accepted
            # To drop what was not committed is no contradiction.
            if not committed or self.committed_count(name)
        ]

    def is_whole_at(self, participant: str) -> bool:
        """Whether the participant has finished it as it is decided, and not without what it had lost."""
        branch = self.branches.get(participant)
        as_decided = branch is not None and branch.outcome == self.transaction.state
        return as_decided and participant not in self.transaction.loss_accepted

    def committed_count(self, participant: str) -> int:
        """How many operations of a participant are committed."""
        return sum(each.operation_count for each in self.transaction.branches if each.participant == participant)


class Inquiry:
    """Asks the servers of a suite, by their `addresses`, about transactions, until it is closed. TLS and a token come
    from the environment, as for `handfast.client.connect`; the constructor raises ValueError where they cannot be used.

    Its methods raise NoAnswer where the coordinator does not answer, Failure where a participant is not at its address,
    and ServiceError where a server refuses.
    """

    def __init__(self, addresses: Mapping[str, str]) -> None:
        self.addresses = addresses
        self._silent: dict[str, NoAnswer] = {}
        tls, token = environment.tls(), environment.token()
        self._channels = {
            name: channel(address, tls=tls, token=token, timeout=TIMEOUT) for name, address in addresses.items()
        }
        self._coordinator = TransactionServiceStub(self._channels[COORDINATOR])
        self._participants = {
            name: ParticipantServiceStub(each) for name, each in self._channels.items() if name != COORDINATOR
        }

    def close(self) -> None:
        for each in self._channels.values():
            each.close()

    def decisions(self, request: pb.ListTransactionsRequest, limit: int) -> list[pb.Transaction]:
        """Those that are asked for, and no more than `limit`."""
        return self._list(COORDINATOR, self._coordinator.ListTransactions, request, "transactions", limit)

    def in_doubt(self, limit: int) -> tuple[list[Case], list[str]]:
        """The oldest that are not decided, or not finished everywhere; and the participants that do not answer."""
        held = self._of_each(lambda name: self._unfinished(name, limit))
        ids = {each.transaction_id for each in self.decisions(pb.ListTransactionsRequest(unfinished=True), limit)}
        oldest = sorted(ids.union(*filter(None, held.values())))[:limit]
        cases = []
        for id_, transaction in self._states(oldest).items():
            of_id = {name: None if each is None else each.get(id_, pb.Branch()) for name, each in held.items()}
            case = Case(transaction, of_id)
            # What was finished between the two questions shows when it is asked for again.
            cases.append(self.case(id_) if case.finished else case)
        silent = [name for name, branches in held.items() if branches is None]
        return [case for case in cases if case.held_by or not case.finished], silent

    def case(self, transaction_id: str) -> Case:
        # Branches first: where one was committed, so was the transaction when the coordinator is asked.
        branches = self._of_each(lambda name: self._branch(name, transaction_id))
        return Case(self._states([transaction_id])[transaction_id], branches)

    def _branch(self, participant: str, transaction_id: str) -> pb.Branch:
        request = pb.QueryBranchRequest(transaction_id=transaction_id, participant=participant)
        return self._ask(participant, self._participants[participant].QueryBranch, request).branch

    def roll_back(self, transaction_id: str) -> bool:
        """Has the coordinator and the participants roll it back. Returns False where it was decided otherwise."""
        request = pb.RollbackTransactionRequest(transaction_id=transaction_id, abort_reason=ROLLED_BACK)
        try:
            self._ask(COORDINATOR, self._coordinator.RollbackTransaction, request)
        except FailedPrecondition:
            return False
        return True

    def accept_loss(self, transaction_id: str, participants: Sequence[str]) -> None:
        """Has participants finish it without what they have lost."""
        request = pb.AcceptLossRequest(transaction_id=transaction_id, participants=participants)
        self._ask(COORDINATOR, self._coordinator.AcceptLoss, request)

    def apply(self, case: Case, participant: str) -> pb.FinishResult.ValueType:
        """Tells a participant to finish a committed transaction."""
        decision = pb.Decision(
            transaction_id=case.id,
            state=pb.TRANSACTION_STATE_COMMITTED,
            operation_count=case.committed_count(participant),
            loss_accepted=participant in case.transaction.loss_accepted,
        )
        request = pb.FinishTransactionsRequest(decisions=[decision], participant=participant)
        results = self._ask(participant, self._participants[participant].FinishTransactions, request).results
        return results[0].result if results else pb.FINISH_RESULT_UNSPECIFIED

    def _of_each(self, ask: Callable[[str], Reply]) -> dict[str, Reply | None]:
        """What each participant answers when it is asked; None where it does not."""
        answers: dict[str, Reply | None] = dict.fromkeys(self._participants)
        for name in answers:
            with contextlib.suppress(NoAnswer):
                answers[name] = ask(name)
        return answers

    def _unfinished(self, participant: str, limit: int) -> dict[str, pb.Branch]:
        """The oldest branches of a participant, by transaction."""
        method = self._participants[participant].ListBranches
        branches = self._list(participant, method, pb.ListBranchesRequest(participant=participant), "branches", limit)
        return {branch.transaction_id: branch for branch in branches}

    def _list(self, server: str, method: Callable[[Any], Any], request: Any, items: str, limit: int) -> list[Any]:
        """The first `limit` of what a method lists in pages, or all where there are fewer; `items` is their field."""
        found: list[Any] = []
        request.page_size = min(limit, PAGE)
        while len(found) < limit:
            page = self._ask(server, method, request)
            found.extend(getattr(page, items))
            request.page_token = page.next_page_token
            if not request.page_token:
                break
        return found[:limit]

    def _states(self, transaction_ids: list[str]) -> dict[str, pb.Transaction]:
        found: dict[str, pb.Transaction] = {}
        for start in range(0, len(transaction_ids), PAGE):
            request = pb.BatchGetTransactionsRequest(transaction_ids=transaction_ids[start : start + PAGE])
            batch = self._ask(COORDINATOR, self._coordinator.BatchGetTransactions, request)
            found |= {each.transaction_id: each for each in batch.transactions}
        return found

    def _ask(self, server: str, method: Callable[[Request], Reply], request: Request) -> Reply:
        """Raises NoAnswer where the server does not answer, which is not asked again then: that would take as long; and
        Failure where another one answers.
        """
        if server in self._silent:
            raise self._silent[server]
        try:
            return method(request)
        except (Unavailable, DeadlineExceeded) as error:
            reason = f" ({error.reason})" if error.reason else ""
            self._silent[server] = NoAnswer(f"no answer from {server} at {self.addresses[server]}{reason}")
            raise self._silent[server] from error
        except FailedPrecondition as error:
            if error.reason == WRONG_PARTICIPANT:
                found = error.metadata["participant"]
                raise Failure(f"{server} is not at {self.addresses[server]}: that is {found}") from error
            raise
