"""A service's part in transactions, as its handlers use it."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import Message

from handfast.client import transaction_metadata
from handfast.server.chassis.call import current
from handfast.server.chassis.clock import Clock, now
from handfast.server.chassis.data.idempotency import IdempotencyStore, Identified
from handfast.server.transactions import wire
from handfast.server.transactions.participant.finishing import BranchFinisher
from handfast.server.transactions.participant.reads import Reads
from handfast.server.transactions.participant.resolver import Resolver
from handfast.server.transactions.participant.resource_type import M
from handfast.server.transactions.participant.store import Store
from handfast.server.transactions.participant.sweeper import Sweeper
from handfast.server.transactions.participant.writes import Change, Writes

Reply = TypeVar("Reply", bound=Message)


class Participant(Reads[M]):
    """Reads and writes one kind of resource, plainly or within a transaction. `threads` is how many calls are served at
    once. The server runs `sweeper` in the background. `server.participant_server` puts all of this together.
    """

    def __init__(
        self, store: Store[M], requests: IdempotencyStore, resolver: Resolver, *, threads: int, clock: Clock = now
    ) -> None:
        super().__init__(store, resolver)
        self.requests = requests
        self.finisher = BranchFinisher(store, resolver, clock)
        self.sweeper = Sweeper(store, self.finisher, requests, clock)
        self.writes = Writes(store, requests, self.finisher, clock, waiting=max(1, threads // 2))

    def write(self, request: Identified, key: str, change: Change[M, Reply], reply_type: type[Reply]) -> Reply:
        """Applies `change` to the resource with this key, or stages it where the call being served carries a
        transaction. `change` is a function from the resource before (None where there is none) to the resource after
        (None deletes it) and the reply; it may be called more than once, and must do nothing else. A repeat of
        `request.request_id` is answered as the first call was.

        Raises what `change` raises, with nothing written; what `ResourceType.taken` returns, where another resource
        holds a unique value; PendingChange, where another transaction has an undecided change; CommittedChangeLost;
        CoordinatorUnavailable; and for a staged call what the rules refuse (`errors.py`).
        """
        call = current()
        stage = wire.parse_stage_request(call.metadata, call.method.path, request)
        if stage is None:
            return self.writes.plain(call.method.path, request, key, change, reply_type)
        call.log["transaction_id"] = stage.transaction_id
        reply = self.writes.stage(stage, request, key, change, reply_type)
        call.add_trailer(transaction_metadata.STAGED, self.store.participant)
        return reply
