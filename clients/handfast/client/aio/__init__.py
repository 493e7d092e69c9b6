"""The client for asyncio: the same names as in `handfast.client`, the same behaviour, the same errors.

    async with connect() as suite:
        response = await suite.users.GetUser(GetUserRequest(user_id="ada"))

suite.py             `connect`, `Suite`: the suite's own services
channel.py           `channel`: the same for any address
multicallables.py    what `stub.Method` is on an asyncio channel
calls.py             what a call gives back
"""

from handfast.client.aio.channel import channel
from handfast.client.aio.suite import Suite, connect

__all__ = ["Suite", "channel", "connect"]
