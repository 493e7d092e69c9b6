"""Asks participants whether they hold what a caller is about to commit by hand.

A decision that names what is not there could never be carried out. What was acknowledged is there, and stays until the
transaction is decided; so once a participant says that it is not there, and nothing is decided afterwards either, the
caller has counted wrong. A participant that does not say in time is not waited for: that must not keep anybody from
committing what was acknowledged. (An account call knows by the replies to its stages.)
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from handfast.client.begun_call import begin
from handfast.client.errors import ServiceError
from handfast.server.chassis.cancellation import wait_for
from handfast.server.transactions.core.model import Decision
from handfast.transactions.v1 import transactions_pb2 as pb
from handfast.transactions.v1.transactions_pb2_grpc import ParticipantServiceStub

TIMEOUT_SECONDS = 1.0


class Holdings:
    """`room` is how many calls may wait for participants at once; further ones do not ask, as if nobody said."""

    def __init__(self, participants: Mapping[str, ParticipantServiceStub], room: int) -> None:
        self._participants = participants
        self._room = threading.BoundedSemaphore(room)

    def of(self, commit: Decision) -> Mapping[str, int | None]:
        """How many operations the participants hold that `commit` names; None of those that do not say."""
        held = dict[str, int | None].fromkeys(commit.branches)
        if self._room.acquire(blocking=False):
            try:
                held |= self._ask(commit)
            finally:
                self._room.release()
        return held

    def _ask(self, commit: Decision) -> Mapping[str, int | None]:
        request = pb.QueryBranchRequest(transaction_id=commit.transaction_id)
        configured = [name for name in commit.branches if name in self._participants]
        try:
            asked = {
                name: begin(self._participants[name].QueryBranch, request, timeout=TIMEOUT_SECONDS)
                for name in configured
            }
        except ServiceError:  # no time is left
            return {}
        return {name: _held(begun) for name, begun in asked.items()}


def _held(begun: Any) -> int | None:
    """None where it does not say."""
    try:
        branch = wait_for(begun).branch
    except ServiceError:
        return None
    return 0 if branch.outcome == pb.TRANSACTION_STATE_ABORTED else branch.operation_count
