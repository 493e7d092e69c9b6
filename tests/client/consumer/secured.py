"""With a token, and over TLS where the environment says by which files: as a team writes it that has secrets of its own
in place of what `connect` takes from the environment by itself.
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import assert_type

import grpc

from handfast.client import TLS, NotFound, PermissionDenied, Suite, Unauthenticated, aio, channel, connect
from handfast.users.v1.users_pb2 import GetUserRequest, GetUserResponse
from handfast.users.v1.users_pb2_grpc import UserServiceStub

NOBODY = GetUserRequest(user_id="nobody")


def tls() -> TLS | None:
    ca = os.environ.get("TEAM_CA")
    if ca is None:
        return None
    return TLS(ca=ca, certificate=Path(os.environ["TEAM_CERTIFICATE"]), key=Path(os.environ["TEAM_KEY"]))


def new_token() -> str:
    """Is called before the token expires that it gave, and where that is refused."""
    return os.environ.get("TEAM_TOKEN", "a-token")


def main() -> None:
    with connect(tls=tls(), token=new_token) as suite:
        assert_type(suite, Suite)
        refused(suite.users.GetUser)
        with suite.transaction() as tx:
            refused(tx.users.GetUser)
    with channel(os.environ["HANDFAST_USERS_ADDRESS"], tls=tls(), token=new_token()) as opened:
        assert_type(opened, grpc.Channel)
        grpc.channel_ready_future(opened).result(timeout=10)
        refused(UserServiceStub(opened).GetUser)
    asyncio.run(side_by_side())


def refused(get_user: Callable[[GetUserRequest], GetUserResponse]) -> None:
    try:
        get_user(NOBODY)
    except NotFound as error:
        print(error.service, error.reason)
    except (Unauthenticated, PermissionDenied) as error:
        print(error.reason, error.metadata.get("problem"), error.metadata.get("scopes"))


async def side_by_side() -> None:
    async with aio.connect(tls=tls(), token=new_token) as suite:
        assert_type(suite, aio.Suite)
        calls = [suite.users.GetUser(NOBODY) for _ in range(3)]
        for each in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(each, NotFound)
            print(each.service, each.reason)
    async with aio.channel(os.environ["HANDFAST_USERS_ADDRESS"], tls=tls(), token=new_token()) as opened:
        assert_type(opened, grpc.aio.Channel)
        await opened.channel_ready()
        try:
            assert_type(await UserServiceStub(opened).GetUser(NOBODY), GetUserResponse)
        except NotFound as error:
            print(error.service, error.reason)


if __name__ == "__main__":
    main()
