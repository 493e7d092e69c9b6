"""What is refused where the clocks of two servers are far apart.

A participant judges by its own clock whether an id is from the future and whether a deadline has passed. It tells that
clock with the refusal, as `server_time`, so that the coordinator can say whose clock is wrong, and by how much.
"""

from __future__ import annotations

from handfast.server.chassis.clock import MICROSECONDS_PER_SECOND
from handfast.server.chassis.errors import InvalidArgument, reason_name
from handfast.server.transactions import wire
from handfast.transactions.v1.reasons_pb2 import Reason


class TransactionFromFuture(InvalidArgument):
    reason = reason_name(Reason, Reason.REASON_TRANSACTION_FROM_FUTURE)


def check_minted(transaction_id: str, now_us: int) -> None:
    """Raises TransactionFromFuture where an id was minted later than now, in microseconds since the epoch, by more than
    clocks may be apart."""
    ahead_us = wire.minted_at(transaction_id) - now_us
    if ahead_us > wire.MAX_CLOCK_SKEW_US:
        message = (
            f"Transaction {transaction_id} was minted {ahead_us / MICROSECONDS_PER_SECOND:.1f} s ahead of the clock of "
            "this server. Either clocks are set wrong, or no coordinator minted it."
        )
        raise TransactionFromFuture(message, transaction_id=transaction_id, server_time=wire.format_time(now_us))
