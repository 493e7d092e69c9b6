"""Asks participants whether they hold what a caller is about to commit by hand.

A decision that names what is not there could never be carried out. What was acknowledged is there, and stays until the
transaction is decided; so once a participant says that it is not there, and nothing is decided afterwards either, the
caller has counted wrong. A participant that does not say in time is not waited for: that must not keep anybody from
committing what was acknowledged. (An account call knows by the replies to its stages.)
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from handfast.client.begun_call import begin
from handfast.client.errors import ServiceError
from handfast.server.chassis.cancellation import wait_for
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


class Holdings:
    """`room` is how many calls may wait for participants at once; further ones do not ask, as if nobody said."""

    def __init__(self, participants: Mapping[str, ParticipantServiceStub], room: int) -> None:
        self._participants = participants
        self._room = threading.BoundedSemaphore(room)

    def of(self, commit: Decision) -> Held:
        held = Held(dict.fromkeys(commit.branches))
        if self._room.acquire(blocking=False):
            try:
                self._ask(commit.transaction_id, held)
            finally:
                self._room.release()
        return held

    def _ask(self, transaction_id: str, held: Held) -> None:
        configured = [name for name in held.counts if name in self._participants]
        try:
            asked = {name: self._begin(name, transaction_id) for name in configured}
        except ServiceError:  # no time is left
            return
        for name, begun in asked.items():
            try:
                branch = wait_for(begun).branch
            except ServiceError as error:
                if error.reason == WrongParticipant.reason:
                    held.answered_by[name] = error.metadata["participant"]
            else:
                is_aborted = branch.outcome == pb.TRANSACTION_STATE_ABORTED
                held.counts[name] = 0 if is_aborted else branch.operation_count
                if branch.owner:
                    held.owners[name] = branch.owner

    def _begin(self, participant: str, transaction_id: str) -> Any:
        request = pb.QueryBranchRequest(transaction_id=transaction_id, participant=participant)
        return begin(self._participants[participant].QueryBranch, request, timeout=TIMEOUT_SECONDS)
