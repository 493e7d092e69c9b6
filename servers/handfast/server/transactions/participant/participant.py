"""A service's part in transactions, as its handlers use it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

from google.protobuf.message import Message

from handfast.server.chassis.call import current
from handfast.server.chassis.clock import Clock, now
from handfast.server.chassis.data.idempotency import IdempotencyStore, Identified
from handfast.server.transactions import wire
from handfast.server.transactions.participant.finishing import BranchFinisher
from handfast.server.transactions.participant.reads import Reads
from handfast.server.transactions.participant.recovery import Recovery
from handfast.server.transactions.participant.resolver import Resolver
from handfast.server.transactions.participant.resource_type import M, Version
from handfast.server.transactions.participant.store import Store
from handfast.server.transactions.participant.sweeper import Sweeper
from handfast.server.transactions.participant.writes import Change, Writes

Reply = TypeVar("Reply", bound=Message)


class Participant(Generic[M]):
    """Reads and writes one kind of resource, plainly or within a transaction. `threads` is how many calls are served at
    once. The server runs `sweeper` in the background. `server.participant_server` puts all of this together.
    """

    def __init__(
        self, store: Store[M], requests: IdempotencyStore, resolver: Resolver, *, threads: int, clock: Clock = now
    ) -> None:
        self.store, self.requests = store, requests
        self.finisher = BranchFinisher(store)
        recovery = Recovery(store, self.finisher, resolver, clock)
        self.sweeper = Sweeper(store, self.finisher, recovery, requests, clock)
        self.writes = Writes(store, requests, recovery, clock, waiting=max(1, threads // 2))
        self._reads = Reads(store, resolver)

    def write(self, request: Identified, key: str, change: Change[M, Reply], reply_type: type[Reply]) -> Reply:
        """Applies `change` to one resource, or stages it where the call being served carries a transaction. Raises
        what `change` raises, with nothing written; PendingChange where another transaction has an undecided change.
        """
        call = current()
        stage = wire.parse_stage_request(call.metadata, call.method.path, request)
        if stage is None:
            return self.writes.plain(call.method.path, request, key, change, reply_type)
        call.log["transaction_id"] = stage.transaction_id
        reply = self.writes.stage(stage, request, key, change, reply_type)
        call.add_trailer(wire.STAGED_TRAILER, self.store.participant)
        return reply

    def get(self, key: str) -> Version[M] | None:
        """The resource with this key as it is now; None where there is none."""
        return self._reads.get(key)

    def batch(self, keys: Sequence[str]) -> dict[str, Version[M]]:
        """What exists of these, by key."""
        return self._reads.batch(keys)

    def page(self, after: str, limit: int) -> tuple[list[M], str]:
        """See `Reads.page`."""
        return self._reads.page(after, limit)

    def holder(self, value: str) -> M | None:
        """The resource that has a unique value."""
        return self._reads.holder(value)
