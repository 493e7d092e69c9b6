"""Bare `grpc.server`: `echo` answers GetUser with a constant message, `echo-by-tls CERTIFICATE KEY CA` does so by
mutual TLS, `empty` answers with an empty message, and `get-user URL` reads the user as the suite does, with SQLAlchemy
Core.

    python -m benchmarks.peers.bare echo
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from benchmarks.peers import database
from handfast.users.v1.users_pb2 import GetUserRequest, GetUserResponse, User
from handfast.users.v1.users_pb2_grpc import UserServiceServicer, add_UserServiceServicer_to_server

THREADS = 16  # as many as the suite's servers have

ECHO = GetUserResponse(
    user=User(
        user_id="user-10000000",
        email="user-10000000@example.com",
        display_name="Ada Lovelace",
        locale="en-GB",
        time_zone="Europe/London",
        etag="0123456789abcdef",
    )
)


class Constant(UserServiceServicer):
    def __init__(self, response: GetUserResponse) -> None:
        self._response = response

    def GetUser(self, request: GetUserRequest, context: grpc.ServicerContext) -> GetUserResponse:
        return self._response


class Reading(UserServiceServicer):
    def __init__(self, url: str) -> None:
        self._engine = database.engine(url, THREADS)

    def GetUser(self, request: GetUserRequest, context: grpc.ServicerContext) -> GetUserResponse:
        if not 1 <= len(request.user_id) <= 64:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "user_id must have 1 to 64 characters")
        with self._engine.connect() as connection:
            row = connection.execute(database.SELECT_USER, {"id_": request.user_id}).mappings().one_or_none()
        if row is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"There is no user {request.user_id}.")
            raise AssertionError
        return GetUserResponse(user=database.user(row), last_transaction_id=row["last_transaction_id"])


def main(kind: str, *arguments: str) -> None:
    servicer: UserServiceServicer
    credentials = None
    match kind:
        case "echo":
            servicer = Constant(ECHO)  # type: ignore[abstract]  # other methods answer UNIMPLEMENTED
        case "echo-by-tls":
            servicer = Constant(ECHO)  # type: ignore[abstract]
            certificate, key, ca = (Path(file).read_bytes() for file in arguments)
            credentials = grpc.ssl_server_credentials([(key, certificate)], ca, require_client_auth=True)
        case "empty":
            servicer = Constant(GetUserResponse())  # type: ignore[abstract]
        case _:
            servicer = Reading(*arguments)  # type: ignore[abstract]
    server = grpc.server(ThreadPoolExecutor(THREADS))
    add_UserServiceServicer_to_server(servicer, server)
    at = "127.0.0.1:0"
    port = server.add_secure_port(at, credentials) if credentials else server.add_insecure_port(at)
    server.start()
    print(f"127.0.0.1:{port}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main(*sys.argv[1:])
