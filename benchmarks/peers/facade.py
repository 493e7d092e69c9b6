"""A server that makes the two updates of UpdateUserAndPreferences without the guarantee: on the chassis, both calls at
the same time, nothing if one of them fails. The callers of the suite call it as they call the suite.

    python -m benchmarks.peers.facade USERS PREFERENCES      their addresses
"""

from __future__ import annotations

import sys
from typing import Any

import grpc

from benchmarks.peers.chassis import run
from handfast.accounts.v1 import accounts_pb2 as pb
from handfast.accounts.v1.accounts_pb2_grpc import AccountServiceServicer, add_AccountServiceServicer_to_server
from handfast.preferences.v1.preferences_pb2 import UpdatePreferencesRequest
from handfast.preferences.v1.preferences_pb2_grpc import PreferencesServiceStub
from handfast.server.chassis import ServerSettings, Service, current
from handfast.users.v1.users_pb2 import UpdateUserRequest
from handfast.users.v1.users_pb2_grpc import UserServiceStub


class Facade(AccountServiceServicer):
    def __init__(self, users: str, preferences: str) -> None:
        self._users: Any = UserServiceStub(grpc.insecure_channel(users))
        self._preferences: Any = PreferencesServiceStub(grpc.insecure_channel(preferences))

    def UpdateUserAndPreferences(
        self, request: pb.UpdateUserAndPreferencesRequest, context: grpc.ServicerContext
    ) -> pb.UpdateUserAndPreferencesResponse:
        given = {"timeout": context.time_remaining(), "metadata": (("x-request-id", current().request_id),)}
        user = self._users.UpdateUser.future(UpdateUserRequest(user=request.user), **given)
        preferences = self._preferences.UpdatePreferences.future(
            UpdatePreferencesRequest(preferences=request.preferences), **given
        )
        account = pb.Account(user=user.result().user, preferences=preferences.result().preferences)
        return pb.UpdateUserAndPreferencesResponse(account=account)


def main(users: str, preferences: str) -> None:
    service = Service(
        pb.DESCRIPTOR.services_by_name["AccountService"],
        add_AccountServiceServicer_to_server,
        Facade(users, preferences),  # type: ignore[abstract]
        "facade",
    )
    run(ServerSettings(name="facade", listen="127.0.0.1:0"), service)


if __name__ == "__main__":
    main(*sys.argv[1:])
