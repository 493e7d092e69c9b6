"""Asks participants whether they hold what a caller is about to commit by hand.

A decision that names what is not there could never be carried out. What was acknowledged is there, and stays until the
transaction is decided; so once a participant says that it is not there, and nothing is decided afterwards either, the
caller has counted wrong, or lies. (An account call knows by the replies to its stages.)
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from handfast.client.begun_call import begin
from handfast.client.errors import ServiceError
from handfast.client.propagation import CURRENT
from handfast.server.chassis.cancellation import check_active, wait_for
from handfast.server.transactions.coordinator.errors import WrongParticipant
from handfast.server.transactions.core.model import Decision
from handfast.transactions.v1 import transactions_pb2 as pb
from handfast.transactions.v1.transactions_pb2_grpc import ParticipantServiceStub

TIMEOUT_SECONDS = 1.0


@dataclass(slots=True)
class Held:
    """How many operations each participant holds that a commit names, None where it does not say; those at whose
    addresses others answer, with the names of these; and who has opened the branch of each, where it says so.
    """

    counts: dict[str, int | None]
    answered_by: dict[str, str] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)


class _Participant:
    """One that is asked. It `is_silent` where it did not answer in time when it was asked last."""

    def __init__(self, name: str, stub: ParticipantServiceStub) -> None:
        self.name, self._stub = name, stub
        self.is_silent = False
        self.asked_by_one = threading.Lock()

    def ask(self, transaction_id: str) -> Any:
        request = pb.QueryBranchRequest(transaction_id=transaction_id, participant=self.name)
        return begin(self._stub.QueryBranch, request, timeout=TIMEOUT_SECONDS)


class Holdings:
    """A participant that is silent is asked by one call at a time until it answers. Others would wait for it as well,
    and take all threads from the commits that do not name it.
    """

    def __init__(self, participants: Mapping[str, ParticipantServiceStub]) -> None:
        self._participants = {name: _Participant(name, stub) for name, stub in participants.items()}

    def of(self, commit: Decision) -> Held:
        """Raises as `check_active` does."""
        held = Held(dict.fromkeys(commit.branches))
        named = [self._participants[name] for name in commit.branches if name in self._participants]
        remaining = CURRENT.get().remaining()
        in_full = remaining is None or remaining > TIMEOUT_SECONDS
        with contextlib.ExitStack() as until_answered:
            asked = []
            for each in named:
                if each.is_silent:
                    if not (in_full and each.asked_by_one.acquire(blocking=False)):
                        continue
                    until_answered.callback(each.asked_by_one.release)
                asked.append((each, each.ask(commit.transaction_id)))
            for each, begun in asked:
                try:
                    branch = wait_for(begun).branch
                except ServiceError as error:
                    check_active()
                    if error.reason == WrongParticipant.reason:
                        held.answered_by[each.name] = error.metadata["participant"]
                    elif in_full:  # else it may only have had too little time
                        each.is_silent = True
                        continue
                else:
                    is_aborted = branch.outcome == pb.TRANSACTION_STATE_ABORTED
                    held.counts[each.name] = 0 if is_aborted else branch.operation_count
                    if branch.owner:
                        held.owners[each.name] = branch.owner
                each.is_silent = False
        return held
