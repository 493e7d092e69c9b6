"""Ids of transactions, of which a busy caller gets some ahead, so that not each transaction has to ask for one."""

from __future__ import annotations

import os
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from handfast.transactions.v1.transactions_pb2 import BeginTransactionRequest, BeginTransactionResponse

FRESH_SECONDS = 1.0
"""How old an id may be when it is used. Its age decides who makes way for whom."""
MAX_FURTHER = 32
_ASKED_TIMEOUT_SECONDS = (
    30  # tells the coordinator's clock from the deadline; each transaction has a deadline of its own
)


class Minted(NamedTuple):
    """An id, and what the coordinator's clock (in microseconds since the epoch) and `time.monotonic()` said then."""

    transaction_id: str
    coordinator_time_us: int
    monotonic_s: float

    def deadline(self, remaining_s: float) -> str:
        """The time by the coordinator's clock when so many seconds have passed, by RFC 3339."""
        from google.protobuf.timestamp_pb2 import Timestamp

        since_minted_s = time.monotonic() - self.monotonic_s
        deadline = Timestamp()
        deadline.FromMicroseconds(self.coordinator_time_us + round((since_minted_s + remaining_s) * 1e6))
        return deadline.ToJsonString()


class MintedIds:
    """Those that are there for the next transactions. Safe for threads: all it does is done by single calls of deque.

    How to use it: `take()`, and where that is None, send `request()`, then `add` the response and take its first.
    """

    def __init__(self) -> None:
        self._ahead: deque[Minted] = deque()
        self._process_id = os.getpid()
        self._asked_at = float("-inf")

    def take(self) -> Minted | None:
        """The oldest that is fresh."""
        if self._process_id != os.getpid():  # forked meanwhile, and the process before may use those that are here
            self._ahead.clear()
            self._process_id = os.getpid()
        while self._ahead:
            try:
                minted = self._ahead.popleft()
            except IndexError:  # another thread took the last
                break
            if time.monotonic() - minted.monotonic_s < FRESH_SECONDS:
                return minted
        return None

    def request(self) -> BeginTransactionRequest:
        """For one, and for more where the last request was a moment ago."""
        from handfast.transactions.v1.transactions_pb2 import BeginTransactionRequest

        now = time.monotonic()
        further = MAX_FURTHER if now - self._asked_at < FRESH_SECONDS else 0
        self._asked_at = now
        request = BeginTransactionRequest(further=further)
        request.timeout.seconds = _ASKED_TIMEOUT_SECONDS
        return request

    def add(self, response: BeginTransactionResponse, asked_at_s: float) -> Minted:
        """`asked_at_s` is what `time.monotonic()` said before the request went out: so no deadline is too early."""
        deadline_us = response.transaction.deadline.ToMicroseconds()
        time_us = deadline_us - _ASKED_TIMEOUT_SECONDS * 1_000_000
        self._ahead.extend(Minted(each.transaction_id, time_us, asked_at_s) for each in response.further)
        return Minted(response.transaction.transaction_id, time_us, asked_at_s)
