"""A bare `grpc.server` that answers GetUser with a constant message: the least that a call can cost in Python."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import grpc

from handfast.users.v1.users_pb2 import GetUserRequest, GetUserResponse, User
from handfast.users.v1.users_pb2_grpc import UserServiceServicer, add_UserServiceServicer_to_server

THREADS = 16  # as many as the suite's servers have


class Echo(UserServiceServicer):
    def GetUser(self, request: GetUserRequest, context: grpc.ServicerContext) -> GetUserResponse:
        return _RESPONSE


_RESPONSE = GetUserResponse(
    user=User(
        user_id="user-10000000",
        email="user-10000000@example.com",
        display_name="Ada Lovelace",
        locale="en-GB",
        time_zone="Europe/London",
        etag="0123456789abcdef",
    )
)


def serve(servicer: UserServiceServicer) -> None:
    """Until the process ends."""
    server = grpc.server(ThreadPoolExecutor(THREADS))
    add_UserServiceServicer_to_server(servicer, server)
    print(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}", flush=True)
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    serve(Echo())  # type: ignore[abstract]  # other methods answer UNIMPLEMENTED
