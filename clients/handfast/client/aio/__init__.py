"""The client for asyncio: the same names as in `handfast.client`, the same behaviour, the same errors.

    async with connect() as suite:
        response = await suite.users.GetUser(GetUserRequest(user_id="ada"))

suite.py               `connect`, `Suite`: the suite's own services
channel.py             `channel`: the same for any address
secured.py             … with TLS and a token
multicallables.py      what `stub.Method` is on an asyncio channel
calls.py               what a call gives back
transaction.py         `Transaction`: what is called in it takes effect together or not at all
transaction_calls.py   what `tx.users.GetUser` is, what it gives back, and the order in which calls go out
"""

from typing import TYPE_CHECKING, Any

from handfast.client.aio.channel import channel
from handfast.client.aio.suite import Suite, connect

if TYPE_CHECKING:
    from handfast.client.aio.transaction import Transaction

__all__ = ["Suite", "Transaction", "channel", "connect"]


def __getattr__(name: str) -> Any:
    """Loads what is of transactions when it is first used: most programs have none."""
    if name == "Transaction":
        from handfast.client.aio.transaction import Transaction

        return Transaction
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
