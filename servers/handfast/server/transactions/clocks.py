"""Clocks of different servers, which transactions are judged by: what is refused where they are far apart, and what
shows it before.

A participant judges by its own clock whether an id is from the future and whether a deadline has passed. It tells that
clock with the refusal, as `server_time`, so that the coordinator can say whose clock is wrong, and by how much.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge

from handfast.server.chassis.clock import MICROSECONDS_PER_SECOND, Clock, now
from handfast.server.chassis.errors import InvalidArgument, reason_name
from handfast.server.transactions import wire
from handfast.transactions.v1.reasons_pb2 import Reason


class TransactionFromFuture(InvalidArgument):
    reason = reason_name(Reason, Reason.REASON_TRANSACTION_FROM_FUTURE)

    def __init__(self, transaction_id: str, now_us: int) -> None:
        ahead = (wire.minted_at(transaction_id) - now_us) / MICROSECONDS_PER_SECOND
        super().__init__(
            f"Transaction {transaction_id} was minted {ahead:.1f} s ahead of the clock of this server. Either clocks "
            "are set wrong, or no coordinator minted it.",
            transaction_id=transaction_id,
            server_time=wire.format_time(now_us),
        )


def check_minted(transaction_id: str, now_us: int) -> None:
    """Raises TransactionFromFuture where an id was minted later than now, in microseconds since the epoch, by more than
    clocks may be apart."""
    if wire.minted_at(transaction_id) > now_us + wire.MAX_CLOCK_SKEW_US:
        raise TransactionFromFuture(transaction_id, now_us)


def export_clock(registry: CollectorRegistry, clock: Clock = now) -> None:
    """Shows what the clock says, for who compares those of all servers."""
    gauge = Gauge("handfast_clock_seconds", "The clock of the server, in seconds since the epoch.", registry=registry)
    gauge.set_function(lambda: clock() / MICROSECONDS_PER_SECOND)
